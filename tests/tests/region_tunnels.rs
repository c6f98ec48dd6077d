//! Tunnels of containers on any host: by the gateway over TLS and in the kernel, with the client's
//! address, and to their end.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr},
};

use tests::{
    echo::{Echo, dial, round_trip},
    lab::PATIENCE,
    netns::NetNs,
    process::{Start as _, wait_for},
    region::{Plan, Region, Scene, Underlay},
    tenant::Tenant,
};

const RAW: [&str; 3] = ["--unencrypted-port", "8000", "--native-ipv6"];
/// Far more than any buffer on the way holds.
const LARGE: usize = 8 << 20;

#[test]
fn raw_tcp_reaches_every_host_and_shows_the_client() {
    for underlay in Underlay::ALL {
        let region = Plan::over(underlay).hosts(2).up();
        let before = region.gateway().edge.metrics();
        for (number, machine) in region.machines().enumerate() {
            let tenant = machine.tenant(&format!("server{number}"), &RAW);
            let echo = Echo::serve(&tenant.netns, 8000);
            for to in region.gateway().raw(&machine.tunnel(&tenant, 8000)) {
                round_trip(&region.scene.internet, to, LARGE);
            }
            for client in [IpAddr::from(Scene::CLIENT), Scene::CLIENT_V6.into()] {
                let seen = echo.clients();
                assert!(echo.saw(&client.to_string()), "{underlay}: {client} is not in {seen:?}");
            }
        }
        let after = region.gateway().edge.metrics();
        let counted = |hook: &str, verdict: &str| {
            after.packets(hook, verdict) - before.packets(hook, verdict)
        };
        let relayed = after.sum("edge_relay_bytes_total", &[]);
        assert_eq!(relayed, 0.0, "{underlay}: userspace relayed something");
        let [tunnel, reply] = ["tunnel", "reply"].map(|verdict| counted("tc_uplink", verdict));
        assert!(tunnel > 100.0 && reply > 100.0, "{underlay}: {tunnel} in, {reply} out");
    }
}

#[test]
fn xdp_carries_tunnels_to_other_hosts_too() {
    for underlay in [Underlay::V4, Underlay::V6] {
        let xdp = ["--datapath", "xdp"];
        let plan = Plan::over(underlay).hosts(1).whole_frames().host_arguments_more(&xdp);
        let region = plan.gateway_arguments_more(&xdp).up();
        let tenant = region.hosts[0].tenant("server", &RAW);
        let echo = Echo::serve(&tenant.netns, 8000);
        for to in region.gateway().raw(&region.hosts[0].tunnel(&tenant, 8000)) {
            round_trip(&region.scene.internet, to, LARGE);
        }
        assert!(echo.saw(&Scene::CLIENT.to_string()), "{:?}", echo.clients());
    }
}

#[test]
fn tls_and_http_reach_every_host() {
    for underlay in Underlay::ALL {
        let region = Plan::over(underlay).hosts(2).up();
        let names = region.machines().map(|machine| machine.place.name.clone());
        for (machine, name) in region.machines().zip(names) {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("name"), &name).unwrap();
            let tenant = machine.tenant(&name, &["--encrypted-port", "8000"]);
            let mut server = tenant.netns.command("python3");
            server.args(["-m", "http.server", "8000"]).current_dir(folder.path());
            let _server = server.running();
            let url = format!("{}/name", machine.tunnel(&tenant, 8000).url);
            for client in [&region.scene.internet, &region.hosts[0].place.netns] {
                let to = region.gateway().place.public.into();
                let page = region.curl(client, to, &["--fail", &url]);
                assert_eq!(page.stdout, name, "{underlay}");
            }
        }
    }
}

#[test]
fn a_port_where_nothing_listens_is_named_though_it_is_on_another_host() {
    let region = Plan::over(Underlay::V4).hosts(1).up();
    let tenant = region.hosts[0].tenant("idle", &["--encrypted-port", "8000"]);
    let url = region.hosts[0].tunnel(&tenant, 8000).url;
    let to = region.gateway().place.public.into();
    let words = ["--write-out", "%{http_code}", &url];
    let page = wait_for("the gateway's answer", PATIENCE, || {
        let page = region.try_curl(&region.scene.internet, to, &words);
        page.status.success().then_some(page)
    });
    assert!(page.stdout.ends_with("502"), "{page}");
    assert!(page.stdout.contains("port 8000"), "{page}");
    // A name that nobody has.
    let name = url.replacen("https://", "https://x", 1);
    region.try_curl(&region.scene.internet, to, &[&name]).refused();
}

#[test]
fn replies_leave_directly_where_the_operator_says_so() {
    for underlay in Underlay::ALL {
        let direct = ["--reply", "direct", "--uplink", Scene::UPLINK];
        let region = Plan::over(underlay).hosts(1).host_arguments_more(&direct).up();
        let tenant = region.hosts[0].tenant("server", &RAW);
        let echo = Echo::serve(&tenant.netns, 8000);
        for to in region.gateway().raw(&region.hosts[0].tunnel(&tenant, 8000)) {
            round_trip(&region.scene.internet, to, LARGE);
        }
        assert!(echo.saw(&Scene::CLIENT.to_string()), "{:?}", echo.clients());
        let [host, gateway] = [&region.hosts[0], region.gateway()].map(|one| one.edge.metrics());
        assert!(host.packets("tc_container", "reply") > 100.0, "{underlay}");
        assert_eq!(gateway.packets("tc_uplink", "reply"), 0.0, "{underlay}");
    }
}

#[test]
fn clients_inside_the_region_are_served_too() {
    let region = Plan::over(Underlay::V4).hosts(2).up();
    let tenant = region.hosts[0].tenant("server", &RAW);
    let client = region.hosts[1].tenant("client", &[]);
    let neighbour = region.hosts[0].tenant("neighbour", &[]);
    let at_gateway = region.gateway().tenant("guest", &[]);
    let _echo = Echo::serve(&tenant.netns, 8000);
    let [public, _] = region.gateway().raw(&region.hosts[0].tunnel(&tenant, 8000));
    let machines = region.machines().map(|machine| &machine.place.netns);
    let containers = [&client, &neighbour, &at_gateway].map(|tenant| &tenant.netns);
    for from in machines.chain(containers) {
        round_trip(from, public, 1 << 20);
    }
}

#[test]
fn the_end_of_a_tunnel_on_another_host_resets_its_connections_and_only_those() {
    for underlay in Underlay::ALL {
        let region = Plan::over(underlay).hosts(1).up();
        let host = &region.hosts[0];
        let options = ["--unencrypted-port", "8000", "--native-ipv6"];
        let ended = host.tenant("ended", &options);
        let kept = host.tenant("kept", &options);
        let echoes = [&ended, &kept].map(|tenant| Echo::serve(&tenant.netns, 8000));
        let ways = |tenant: &Tenant| region.gateway().raw(&host.tunnel(tenant, 8000));
        let (to_ended, to_kept) = (ways(&ended), ways(&kept));
        let open = |to: SocketAddr| {
            let mut stream = dial(&region.scene.internet, to).expect("a connection");
            stream.write_all(b"half a request").expect("a live connection");
            stream
        };
        let (broken, whole) = (to_ended.map(open), to_kept.map(open));
        wait_for("both servers to have their clients", PATIENCE, || {
            echoes.iter().all(|echo| echo.clients().len() == 2).then_some(())
        });
        let _namespace = ended.detach();
        for (mut stream, to) in broken.into_iter().zip(to_ended) {
            let error = stream.read(&mut [0; 64]).expect_err("an orderly end, not a reset");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{underlay}, {to}: {error}");
        }
        to_ended.iter().for_each(|to| is_closed(&region.scene.internet, *to));
        for mut stream in whole {
            stream.write_all(b", whole").expect("a live connection");
            stream.shutdown(std::net::Shutdown::Write).expect("half-closing");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("an answer");
            assert_eq!(answer, "half a request, whole");
        }
    }
}

#[test]
fn a_host_that_dies_takes_its_tunnels_with_it() {
    let mut region = Region::over(Underlay::V4);
    let tenant = region.hosts[2].tenant("server", &RAW);
    let echo = Echo::serve(&tenant.netns, 8000);
    let [public, _] = region.gateway().raw(&region.hosts[2].tunnel(&tenant, 8000));
    round_trip(&region.scene.internet, public, 1 << 20);
    drop(echo);
    drop(region.hosts.pop());
    // After its lease the gateway knows.
    is_closed(&region.scene.internet, public);
}

/// Nobody answers there any more: a connection is refused at once.
#[track_caller]
fn is_closed(from: &NetNs, to: SocketAddr) {
    wait_for(&format!("{to} to refuse"), 2 * PATIENCE, || {
        let second = std::time::Duration::from_secs(1);
        let tried = from.enter(|| std::net::TcpStream::connect_timeout(&to, second));
        (tried.err()?.kind() == ErrorKind::ConnectionRefused).then_some(())
    });
}
