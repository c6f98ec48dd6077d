//! Daemons of a region go and come back, are replaced, and miss each other: not one flow breaks,
//! and what happened meanwhile is true everywhere afterwards.

use std::{fs, net::SocketAddr};

use tests::{
    edge::Container,
    i6pn,
    lab::PATIENCE,
    process::wait_for,
    region::{Machine, Plan, Region, Underlay},
    tenant::Tenant,
    traffic::{Arrivals, Mirror, Transfers},
};

/// Long enough for a test: containers are kept for owners that claim them again.
const LEASE: [&str; 2] = ["--lease", "10m"];

/// Two hosts with a container each, flows between them and from the internet to the second.
struct Flows {
    region: Region,
    tenants: [Tenant; 2],
    _mirrors: [Mirror; 2],
    private: [Transfers; 2],
    tunnel: Transfers,
    public: SocketAddr,
}

impl Flows {
    fn over(underlay: Underlay) -> Self {
        let plan = Plan::over(underlay).hosts(2).host_arguments_more(&LEASE);
        let region = plan.gateway_arguments_more(&LEASE).up();
        let tenants = [0, 1].map(|host| {
            let options = ["--i6pn", "--unencrypted-port", "8000"];
            region.hosts[host].tenant(&format!("c{host}"), &options)
        });
        let mirrors = tenants.each_ref().map(|tenant| Mirror::serve(&tenant.netns, 8000));
        let tunnel = region.hosts[1].tunnel(&tenants[1], 8000);
        let [public, _] = region.gateway().raw(&tunnel);
        let between = |from: usize, to: usize| {
            let to = SocketAddr::from((tenants[to].i6pn(), 8000));
            Transfers::start(&tenants[from].netns, to, 2)
        };
        let private = [between(0, 1), between(1, 0)];
        let tunnel = Transfers::start(&region.scene.internet, public, 2);
        let flows = Self { tenants, _mirrors: mirrors, private, tunnel, public, region };
        flows.go_on("the start");
        flows
    }

    /// After this, which is shown if one of them breaks.
    #[track_caller]
    fn go_on(&self, after: &str) {
        println!("after {after}: the private network");
        self.private.iter().for_each(Transfers::wait_for_more);
        println!("after {after}: the tunnel");
        self.tunnel.wait_for_more();
    }

    #[track_caller]
    fn finish(self) {
        self.private.into_iter().chain([self.tunnel]).for_each(Transfers::finish);
    }
}

#[test]
fn killed_daemons_break_no_flow_on_a_shared_link() {
    killed_daemons_break_no_flow(Underlay::Direct);
}

#[test]
fn killed_daemons_break_no_flow_over_ipv4() {
    killed_daemons_break_no_flow(Underlay::V4);
}

#[test]
fn killed_daemons_break_no_flow_over_ipv6() {
    killed_daemons_break_no_flow(Underlay::V6);
}

fn killed_daemons_break_no_flow(underlay: Underlay) {
    let mut flows = Flows::over(underlay);
    let arrivals = Arrivals::start(&flows.region.scene.internet, flows.public, 50);
    for _ in 0..if tests::edge::long() { 50 } else { 2 } {
        // One after the other, then all at once.
        for machine in [Which::Gateway, Which::Host(0), Which::Host(1)] {
            machine.of(&mut flows.region).edge.kill9();
            flows.go_on(&format!("the death of {machine:?}"));
            arrivals.wait_for_more(10);
            machine.of(&mut flows.region).edge.start();
            flows.go_on(&format!("the return of {machine:?}"));
        }
        for machine in [Which::Host(1), Which::Gateway, Which::Host(0)] {
            machine.of(&mut flows.region).edge.kill9();
        }
        flows.go_on("the death of all");
        arrivals.wait_for_more(10);
        // Hosts first: they have what they remember.
        for machine in [Which::Host(0), Which::Host(1), Which::Gateway] {
            machine.of(&mut flows.region).edge.start();
        }
        flows.go_on("the return of all");
        flows.region.wait_for_all();
    }
    arrivals.finish();
    flows.finish();
}

#[derive(Debug, Clone, Copy)]
enum Which {
    Gateway,
    Host(usize),
}

impl Which {
    fn of(self, region: &mut Region) -> &mut Machine {
        match self {
            Self::Gateway => &mut region.gateways[0],
            Self::Host(number) => &mut region.hosts[number],
        }
    }
}

#[test]
fn replaced_daemons_break_no_flow_and_refuse_no_client() {
    let mut flows = Flows::over(Underlay::V4);
    let arrivals = Arrivals::start(&flows.region.scene.internet, flows.public, 50);
    for machine in [Which::Host(0), Which::Gateway, Which::Host(1), Which::Gateway] {
        let mut old = machine.of(&mut flows.region).edge.replace(&[]);
        flows.go_on(&format!("the successor of {machine:?}"));
        arrivals.wait_for_more(10);
        let status = old.wait(PATIENCE);
        assert!(status.success(), "{status}\n{}", old.printed());
        flows.go_on(&format!("the end of the former {machine:?}"));
    }
    flows.region.wait_for_all();
    arrivals.finish();
    flows.finish();
}

#[test]
fn without_a_gateway_flows_go_on_containers_start_and_all_of_it_is_true_afterwards() {
    let mut flows = Flows::over(Underlay::V4);
    let early = flows.region.hosts[0].private("early");
    flows.region.gateways[0].edge.kill9();
    flows.go_on("the gateway's death");
    // Names of their own, and addresses, with nobody to ask; who ends is not missed.
    let late = flows.region.hosts[0].private("late");
    let many: Vec<_> =
        (0..20).map(|number| flows.region.hosts[1].private(&format!("late{number}"))).collect();
    drop(early);
    i6pn::everything(&late, &flows.tenants[0]);
    i6pn::everything(&late, &flows.tenants[1]);
    i6pn::everything(&many[19], &late);
    flows.go_on("what happened without it");

    flows.region.gateways[0].edge.start();
    flows.region.wait_for_all();
    let counts = || -> Vec<usize> {
        let hosts = flows.region.gateway().edge.hosts();
        hosts
            .into_iter()
            .filter(|host| host.role != "gateway")
            .map(|host| host.containers)
            .collect()
    };
    wait_for("the gateway to know all containers", PATIENCE, || {
        let mut counts = counts();
        counts.sort_unstable();
        (counts == [2, 21]).then_some(())
    });
    // New ones, of every machine, and their tunnels.
    let new = flows.region.hosts[1].tenant("new", &["--i6pn", "--unencrypted-port", "8000"]);
    let _mirror = Mirror::serve(&new.netns, 8000);
    let [public, _] = flows.region.gateway().raw(&flows.region.hosts[1].tunnel(&new, 8000));
    let transfers = Transfers::start(&flows.region.scene.internet, public, 1);
    transfers.wait_for_more();
    transfers.finish();
    unique(flows.region.machines().flat_map(|machine| machine.edge.containers()).collect());
    flows.finish();
}

fn unique(containers: Vec<Container>) {
    let addresses = containers.iter().flat_map(|one| [one.ipv4.clone(), one.i6pn.clone()]);
    let mut addresses: Vec<_> = addresses.collect();
    let count = addresses.len();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), count, "two containers have one address: {containers:#?}");
}

#[test]
fn a_host_that_restarts_without_a_gateway_goes_on_from_memory() {
    let mut flows = Flows::over(Underlay::V6);
    flows.region.gateways[0].edge.kill9();
    flows.region.hosts[0].edge.kill9();
    flows.go_on("the death of both");
    flows.region.hosts[0].edge.start();
    flows.go_on("the return of the host");
    let late = flows.region.hosts[0].private("late");
    i6pn::everything(&late, &flows.tenants[1]);
    flows.region.gateways[0].edge.start();
    flows.region.wait_for_all();
    flows.go_on("the return of the gateway");
    flows.finish();
}

#[test]
fn tables_of_another_layout_are_filled_anew_on_a_host_too() {
    let mut flows = Flows::over(Underlay::V4);
    let host = &mut flows.region.hosts[1].edge;
    let own = host.pins();
    host.kill9();
    fs::rename(&own, own.with_file_name("v0")).expect("pins of this layout");
    flows.private.iter().for_each(Transfers::wait_for_more);
    let host = &mut flows.region.hosts[1].edge;
    host.start();
    let printed = host.daemon().printed();
    assert!(printed.contains("of layout v0"), "{printed}");
    assert!(!own.with_file_name("v0").exists(), "the old layout is left");
    flows.go_on("the new layout");
    flows.finish();
}
