//! Programs that people run, on several hosts, with each other's names.

use tests::{
    edge::Edge,
    lab::PATIENCE,
    postgres::Database,
    process::{Output, Running, wait_for},
    region::{Plan, Region, Underlay},
};

#[test]
fn iperf3_measures_between_hosts() {
    for underlay in Underlay::ALL {
        let region = Plan::over(underlay).hosts(2).up();
        let _server = run(&region.hosts[0].edge, "server", &["iperf3", "--server"]);
        let words = ["iperf3", "--client", "server", "-6", "--time", "1", "--json"];
        for more in [&[][..], &["--reverse"], &["--udp", "--bitrate", "50M"]] {
            let words = [&words[..], more].concat();
            // With --json it ends well even if there is no server yet.
            wait_for(&format!("{underlay}: iperf3 {more:?}"), 2 * PATIENCE, || {
                let output = ask(&region.hosts[1].edge, &words);
                let result: serde_json::Value = serde_json::from_str(&output.stdout).ok()?;
                let bytes = result["end"]["sum_received"]["bytes"].as_f64();
                let bytes = bytes.or_else(|| result["end"]["sum"]["bytes"].as_f64());
                bytes.is_some_and(|bytes| bytes > 1e6).then_some(())
            });
        }
    }
}

#[test]
fn redis_replicates_by_name() {
    let region = Region::over(Underlay::V4);
    let [db, replica, client] = [0, 1, 2].map(|host: usize| &region.hosts[host].edge);
    let server = ["redis-server", "--bind", "::", "--protected-mode", "no", "--save", ""];
    let _db = run(db, "db", &server);
    let _replica = run(
        replica,
        "replica",
        &[&server[..], &["--replicaof", "db.main.edge.internal", "6379"]].concat(),
    );
    let value = "carried from host to host";
    until_it_works(client, &["redis-cli", "-h", "db", "set", "greeting", value]);
    wait_for("the replica to have it", 2 * PATIENCE, || {
        let output = ask(client, &["redis-cli", "-h", "replica", "get", "greeting"]);
        output.stdout.contains(value).then_some(())
    });
}

#[test]
fn psql_finds_postgresql_on_another_host() {
    let region = Plan::over(Underlay::Direct).hosts(2).up();
    let database = Database::new("host all all fdaa::/16 trust");
    let server = database.server();
    let server: Vec<_> = server.iter().map(String::as_str).collect();
    let _server = run(&region.hosts[0].edge, "pg", &server);
    let query = ["psql", "-h", "pg.main.edge.internal", "-U", "postgres", "-Atc"];
    let output = until_it_works(&region.hosts[1].edge, &[&query[..], &["select 6 * 7"]].concat());
    assert_eq!(output.stdout_str(), "42");
    // Larger than any buffer on the way.
    let large = "select length(string_agg(md5(n::text), '')) from generate_series(1, 200000) n";
    let output = until_it_works(&region.hosts[1].edge, &[&query[..], &[large]].concat());
    assert_eq!(output.stdout_str(), "6400000");
}

/// A private container, for as long as the guard.
#[track_caller]
fn run(edge: &Edge, name: &str, program: &[&str]) -> Running {
    edge.run(&[&["--i6pn", "--name", name, "--"], program].concat())
}

/// A private container that runs a program to its end.
#[track_caller]
fn ask(edge: &Edge, program: &[&str]) -> Output {
    edge.cli(&[&["run", "--i6pn", "--"], program].concat())
}

/// The same, until the server is there and known.
#[track_caller]
fn until_it_works(edge: &Edge, program: &[&str]) -> Output {
    let mut last = None;
    wait_for(&format!("{program:?}"), 2 * PATIENCE, || {
        let output = ask(edge, program);
        let works = output.status.success();
        last = Some(output);
        works.then_some(())
    });
    last.expect("it ran at least once")
}
