//! A region with two gateways and its state in etcd: both serve all tunnels, and either may go.

use std::net::SocketAddr;

use tests::{
    echo::{Echo, round_trip},
    edge::Tunnel,
    i6pn,
    lab::PATIENCE,
    process::{Start as _, wait_for},
    region::{Keeper, Machine, Plan, Region, Scene, Underlay},
};

const RAW: [&str; 3] = ["--unencrypted-port", "8000", "--native-ipv6"];

#[test]
fn both_gateways_serve_raw_tunnels_of_every_machine() {
    let region = Plan::over(Underlay::V4).gateways(2).hosts(1).up();
    let (mut ports, mut paths) = (Vec::new(), Vec::new());
    for (number, machine) in region.machines().enumerate() {
        let tenant = machine.tenant(&format!("server{number}"), &RAW);
        let echo = Echo::serve(&tenant.netns, 8000);
        let tunnel = machine.tunnel(&tenant, 8000);
        ports.push(tunnel.raw_port());
        for gateway in &region.gateways {
            for to in gateway.raw(&tunnel) {
                round_trip(&region.scene.internet, to, 1 << 20);
            }
        }
        // By the gateway whose address the tunnel has, in the kernel.
        assert!(echo.saw(&Scene::CLIENT.to_string()), "{:?}", echo.clients());
        paths.extend(region.gateways.iter().map(|gateway| path(gateway, &tunnel)));
        drop(tenant);
    }
    // By the other in userspace. The host's tunnel has the gateway that the host asked.
    assert_eq!(paths, ["tcx", "userspace", "userspace", "tcx", "tcx", "userspace"]);
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 3, "two tunnels have one raw port");
}

#[test]
fn one_authority_stands_behind_both_gateways() {
    let region = Plan::over(Underlay::Direct).gateways(2).hosts(1).up();
    let tenant = region.hosts[0].tenant("server", &["--encrypted-port", "8000"]);
    let mut server = tenant.netns.command("python3");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("name"), "server").unwrap();
    server.args(["-m", "http.server", "8000"]).current_dir(folder.path());
    let _server = server.running();
    let url = format!("{}/name", region.hosts[0].tunnel(&tenant, 8000).url);
    for gateway in &region.gateways {
        // Checked with the first one's authority.
        let to = gateway.place.public.into();
        let page = region.curl(&region.scene.internet, to, &["--fail", &url]);
        assert_eq!(page.stdout, "server");
    }
    let [one, two] = [0, 1].map(|number: usize| {
        let folder = region.gateways[number].edge.folder();
        ["ca/ca.pem", "ca/ca-key.pem", "region-authority.pem", "region-authority-key.pem"]
            .map(|name| std::fs::read(folder.join(name)).unwrap())
    });
    assert!(one == two, "the gateways' authorities differ");
}

#[test]
fn with_one_gateway_dead_hosts_go_on_by_the_other() {
    for dead in [0, 1] {
        let mut region = Plan::over(Underlay::V6).gateways(2).hosts(2).up();
        let other = 1 - dead;
        let [a, b] = [0, 1].map(|host: usize| region.hosts[host].private(&format!("c{host}")));
        region.gateways[dead].edge.kill9();
        wait_for("every machine to hear of the death", 2 * PATIENCE, || {
            let there = region.gateways.iter().enumerate();
            let there = there.filter(|(number, _)| *number != dead).map(|(_, one)| one);
            let mut there = there.chain(&region.hosts);
            there.all(|machine| alive(machine) == 3).then_some(())
        });
        i6pn::everything(&a, &b);
        // A new tunnel, and a new container, are the other gateway's to make.
        let new = region.hosts[1].tenant("new", &RAW);
        let echo = Echo::serve(&new.netns, 8000);
        let tunnel = region.hosts[1].tunnel(&new, 8000);
        for to in region.gateways[other].raw(&tunnel) {
            round_trip(&region.scene.internet, to, 1 << 20);
        }
        assert!(echo.saw(&Scene::CLIENT.to_string()), "{:?}", echo.clients());
        // A host joins by the other one.
        let token = region.gateways[other].edge.cli(&["token", "create"]).ok();
        let joined = region.join_by(token.stdout_str());
        assert!(alive(joined) >= 3);

        region.gateways[dead].edge.start();
        region.wait_for_all();
        for gateway in &region.gateways {
            for to in gateway.raw(&tunnel) {
                round_trip(&region.scene.internet, to, 1 << 20);
            }
        }
    }
}

#[test]
fn a_host_finds_gateways_that_its_token_did_not_know() {
    let mut region = Plan::over(Underlay::Direct).gateways(2).hosts(1).up();
    let mut third = region.stopped_gateway(&[]);
    third.edge.start();
    region.gateways.push(third);
    region.wait_for_all();
    region.gateways.drain(..2).for_each(drop);
    wait_for("the host to hear of two deaths by the third", 3 * PATIENCE, || {
        (alive(&region.hosts[0]) == 2).then_some(())
    });
    let tenant = region.hosts[0].tenant("server", &RAW);
    let _echo = Echo::serve(&tenant.netns, 8000);
    for to in region.gateways[0].raw(&region.hosts[0].tunnel(&tenant, 8000)) {
        round_trip(&region.scene.internet, to, 1 << 20);
    }
}

#[test]
fn while_etcd_is_away_what_runs_goes_on_and_afterwards_everything_is_true() {
    let mut region = Plan::over(Underlay::V4).gateways(2).hosts(2).up();
    let server = region.hosts[0].tenant("server", &RAW);
    let _echo = Echo::serve(&server.netns, 8000);
    let raw: Vec<SocketAddr> = region
        .gateways
        .iter()
        .flat_map(|gateway| gateway.raw(&region.hosts[0].tunnel(&server, 8000)))
        .collect();
    let [a, b] = [0, 1].map(|host: usize| region.hosts[host].private(&format!("c{host}")));
    keeper(&mut region).kill();
    i6pn::everything(&a, &b);
    // New connections through gateways that cannot ask anybody.
    for to in &raw {
        round_trip(&region.scene.internet, *to, 1 << 20);
    }
    let late = region.hosts[1].private("late");
    i6pn::everything(&late, &b);
    keeper(&mut region).start();
    region.wait_for_all();
    for to in &raw {
        round_trip(&region.scene.internet, *to, 1 << 20);
    }
    i6pn::everything(&late, &a);
    let new = region.hosts[1].tenant("new", &RAW);
    let _echo = Echo::serve(&new.netns, 8000);
    for gateway in &region.gateways {
        for to in gateway.raw(&region.hosts[1].tunnel(&new, 8000)) {
            round_trip(&region.scene.internet, to, 1 << 20);
        }
    }
}

#[test]
fn a_gateway_that_was_told_something_else_is_refused() {
    let region = Plan::over(Underlay::V4).gateways(2).hosts(1).up();
    for (option, value) in [
        ("--domain", "other.example"),
        ("--raw-ports", "30000-30099"),
        ("--ipv4-pool", "10.200.0.0/16"),
    ] {
        let third = region.stopped_gateway(&[option, value]);
        let mut daemon = third.edge.attempt();
        let status = daemon.wait(PATIENCE);
        let printed = daemon.printed();
        assert_eq!(status.code(), Some(69), "{printed}");
        assert!(printed.contains(option) && printed.contains("gateway 1"), "{printed}");
    }
    region.wait_for_all();
}

/// What a raw packet meets first on this gateway.
fn path(gateway: &Machine, tunnel: &Tunnel) -> String {
    let listed = gateway.edge.cli(&["tunnels", "--region", "--json"]).ok();
    let listed: Vec<Tunnel> = serde_json::from_str(&listed.stdout).expect("JSON");
    listed.into_iter().find(|one| one.id == tunnel.id).expect("a tunnel of the region").path
}

fn keeper(region: &mut Region) -> &mut Keeper {
    region.keeper.as_mut().expect("two gateways share a store")
}

fn alive(machine: &Machine) -> usize {
    machine.edge.hosts().into_iter().filter(|host| host.alive).count()
}
