//! The board and the rules for Prometheus: right by its own tools, and answered by real daemons.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use edge_common::verdict::Verdict;
use serde_json::Value;
use tests::{
    echo::{Echo, round_trip},
    i6pn,
    lab::PATIENCE,
    process::{Start as _, wait_for},
    prometheus_server::PrometheusServer,
    promql::selectors,
    region::{Plan, Region, Scene, Underlay},
    tls::{TlsClient, converse, host},
    visitors::Visitors,
};

/// Where every daemon of the test shows its metrics.
const METRICS: u16 = 9464;

#[test]
fn promtool_takes_rules_and_configuration_and_each_rule_fires_when_it_must() {
    for words in [
        ["check", "rules", "alerts.yml"],
        ["check", "config", "prometheus.yml"],
        ["test", "rules", "alerts.test.yml"],
    ] {
        Command::new("promtool").args(words).current_dir(shipped()).output_of().ok();
    }
    // A rule that no test makes fire is not tested.
    let tests = text("alerts.test.yml");
    let rules = text("alerts.yml");
    let names: Vec<_> = rules.lines().filter_map(|line| line.split("- alert: ").nth(1)).collect();
    assert!(!names.is_empty());
    for name in names {
        let fires = format!("ALERTS{{alertname=\"{name}\", alertstate=\"firing\"");
        assert!(tests.contains(&fires), "no test in which {name} fires");
    }
}

#[test]
fn the_board_is_whole() {
    let board = board();
    let panels = board["panels"].as_array().expect("panels");
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len(), "two panels have one id");
    let mut taken = BTreeSet::new();
    for panel in panels {
        let place = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64());
        let [x, y, w, h] = place.map(|side| side.expect("a place on the grid"));
        assert!(x + w <= 24, "{} is beyond the edge", panel["title"]);
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(cell), "{} lies on another panel", panel["title"]);
        }
        for target in panel["targets"].as_array().into_iter().flatten() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
        }
    }
    // The board tells refusals by naming what is none.
    let passing: Vec<_> =
        Verdict::ALL.iter().filter(|one| !one.is_refusal()).map(|one| one.label()).collect();
    let passing = format!("verdict!~\"{}\"", passing.join("|"));
    assert!(queries(&board).iter().any(|(_, query)| query.contains(&passing)), "{passing}");
}

#[test]
fn a_real_prometheus_answers_every_query_of_the_board_and_alerts_on_a_host_that_goes() {
    let mut region = region();
    let places = region.machines().map(|machine| format!("{}:{METRICS}", machine.place.public));
    let places: Vec<_> = places.collect();
    let prometheus = PrometheusServer::start(&region.scene.internet, &shipped(), &places);
    // A rate begins with what was there before.
    seen(&prometheus, "count(count_over_time(edge_ready[5m]) > 1) == 3");
    let tenants = traffic(&region);
    for query in [
        "sum(edge_tunnels) == 1",
        "sum(edge_containers) == 5",
        "count(edge_host_up == 1) == 3",
        "sum(rate(edge_relay_bytes_total{path=\"tls\",direction=\"out\"}[5m])) > 0",
        "sum(rate(edge_tls_handshakes_total{outcome=\"full\"}[5m])) > 0",
        "sum(rate(edge_verdict_packets_total{verdict=\"tunnel\"}[5m])) > 0",
        "sum(rate(edge_verdict_packets_total{verdict=\"i6pn\"}[5m])) > 0",
        "sum(rate(edge_verdict_packets_total{verdict=\"other_workspace\"}[5m])) > 0",
        "sum(rate(edge_tunnel_start_seconds_count[5m])) > 0",
        "sum(rate(edge_proxy_connections_total[5m])) > 0",
        "sum(edge_proxy_path_round_trip_seconds) > 0",
    ] {
        seen(&prometheus, query);
    }

    let known = |expression: &str, who: &str| {
        for selector in selectors(expression) {
            let series = prometheus.query(&format!("count({selector})"));
            assert!(
                !series.is_empty(),
                "{who}: edge exports no {selector}, which is in {expression}"
            );
        }
    };
    let board = board();
    let queries = queries(&board);
    assert!(!queries.is_empty());
    for (panel, query) in &queries {
        known(query, panel);
        wait_for(&format!("a number in {panel}: {query}"), PATIENCE, || {
            prometheus.query(query).iter().any(|value| value.is_finite()).then_some(())
        });
    }
    for query in variables(&board) {
        known(&query, "a variable of the board");
    }
    let rules = wait_for("all rules to have been asked", PATIENCE, || {
        let rules = prometheus.rules();
        rules.iter().all(|rule| rule["health"] == "ok").then_some(rules)
    });
    assert_eq!(rules.len(), text("alerts.yml").matches("- alert: ").count());
    for rule in &rules {
        known(rule["query"].as_str().expect("a query"), &rule["name"].to_string());
    }
    wait_for("no alert", PATIENCE, || {
        // How fast this machine is just now is no promise.
        let alerts = prometheus.query("ALERTS{alertname!=\"EdgeTunnelStartsSlow\"}");
        let up = prometheus.rules().into_iter().filter(|rule| rule["state"] != "inactive");
        // Seen only if it waits in vain.
        up.for_each(|rule| println!("{} is {}", rule["name"], rule["state"]));
        alerts.is_empty().then_some(())
    });

    drop(tenants);
    let mut gone = region.hosts.pop().expect("two hosts");
    gone.edge.stop();
    seen(&prometheus, "count(ALERTS{alertname=\"EdgeHostAway\",role=\"host\"}) == 1");
    let down =
        format!("ALERTS{{alertname=\"EdgeDown\",instance=\"{}:{METRICS}\"}}", gone.place.public);
    seen(&prometheus, &down);
}

#[test]
fn selectors_are_found_wherever_they_stand() {
    let found = selectors(
        "1e3 * sum by (a, b) (rate(one{x=\"1\", y=~\"p|q\",z=~\".*\"}[5m])) / on (a) group_left (b) two > 5 or three offset 5m",
    );
    let whole = "one{x=\"1\", y=~\"p|q\",z=~\".*\"}";
    let each = ["one{x=\"1\"}", "one{y=\"p\"}", "one{y=\"q\"}"];
    assert_eq!(found, [&[whole], &each[..], &["two", "three"]].concat());
}

/// A gateway and two hosts whose metrics the internet may read, with a proxy.
fn region() -> Region {
    let admin = format!("0.0.0.0:{METRICS}");
    let admin = ["--admin", &admin];
    let plan = Plan::over(Underlay::V4).hosts(2);
    let serving = [&admin[..], &["--proxy-addresses", "192.0.2.64/28"]].concat();
    let region = plan.gateway_arguments_more(&serving).host_arguments_more(&admin).up();
    region.gateway().edge.cli(&["proxy", "create", "db", "--ip", "192.0.2.65"]).ok();
    region
}

/// A TLS tunnel, a raw one, a ping on the private network, a refusal and a proxy; what is given back
/// keeps it all alive.
fn traffic(region: &Region) -> impl Sized + use<> {
    let [first, second] = [&region.hosts[0], &region.hosts[1]];
    let server = first.tenant("server", &["--unencrypted-port", "8000"]);
    let echo = Echo::serve(&server.netns, 8000);
    let tunnel = first.tunnel(&server, 8000);
    let internet = &region.scene.internet;
    round_trip(internet, region.gateway().raw(&tunnel)[0], 1 << 20);
    let authority = region.gateway().edge.folder().join("ca/ca.pem");
    let client = TlsClient::new(internet, &authority);
    let client = client.to(&region.gateway().place.public.to_string());
    let said = converse(&mut client.connect(host(&tunnel.url)), b"hello");
    assert_eq!(said, b"hello");
    let (a, b) = (first.private("a"), second.private("b"));
    i6pn::ping(&a, &b);
    let other = second.tenant("other", &["--i6pn", "--workspace", "two"]);
    assert_eq!(i6pn::refusal(&a, other.i6pn()), Some(libc::EACCES));
    let proxied = second.tenant("proxied", &["--proxy", "db"]);
    let visitors = Visitors::at(internet, Scene::CLIENT);
    visitors.visited_by(&proxied.netns, 3);
    (echo, server, a, b, other, proxied)
}

/// Waits until a comparison holds.
#[track_caller]
fn seen(prometheus: &PrometheusServer, comparison: &str) {
    wait_for(comparison, PATIENCE, || (!prometheus.query(comparison).is_empty()).then_some(()));
}

/// Every query of the board with the title of its panel, as Grafana asks it when nothing is chosen.
fn queries(board: &Value) -> Vec<(String, String)> {
    let mut names: Vec<_> = board["templating"]["list"]
        .as_array()
        .expect("variables")
        .iter()
        .filter(|one| one["type"] == "query")
        .map(|one| (format!("${}", one["name"].as_str().expect("a name")), ".*"))
        .collect();
    names.push(("$__rate_interval".to_owned(), "5m"));
    let of_panel = |panel: &Value| {
        let title = panel["title"].as_str().unwrap_or("a panel without a title").to_owned();
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        targets.into_iter().map(move |target| (title.clone(), target))
    };
    let with_nested = |panel: &Value| {
        let nested = panel["panels"].as_array().cloned().unwrap_or_default();
        [vec![panel.clone()], nested].concat()
    };
    let panels = board["panels"].as_array().expect("panels").iter().flat_map(with_nested);
    let targets = panels.flat_map(|panel| of_panel(&panel).collect::<Vec<_>>());
    targets
        .map(|(title, target)| {
            let query = target["expr"].as_str().expect("an expression");
            let asked = names
                .iter()
                .fold(query.to_owned(), |query, (name, value)| query.replace(name, value));
            assert!(
                !asked.contains('$'),
                "{title}: a variable that the board does not have: {asked}"
            );
            (title, asked)
        })
        .collect()
}

/// What the board's variables choose from.
fn variables(board: &Value) -> Vec<String> {
    let all = board["templating"]["list"].as_array().expect("variables").iter();
    all.filter(|one| one["type"] == "query")
        .map(|one| {
            let query = one["query"]["query"].as_str().expect("a query");
            let inner = query.strip_prefix("label_values(").and_then(|rest| rest.rsplit_once(", "));
            let (selector, label) = inner.unwrap_or_else(|| panic!("not label_values: {query}"));
            let label = label.trim_end_matches(')');
            format!("count by ({label}) ({})", selector.replace("$job", ".*"))
        })
        .collect()
}

fn board() -> Value {
    serde_json::from_str(&text("edge.json")).expect("a board in JSON")
}

fn text(name: &str) -> String {
    fs::read_to_string(shipped().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// What users find in the tree.
fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../dashboards")
}
