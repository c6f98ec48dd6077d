//! A region of several machines in network namespaces: an internet with a client in it, gateways,
//! hosts, and the underlay between them.

mod keeper;
mod machine;
mod plan;
mod scene;
mod underlay;

use std::net::IpAddr;

pub use keeper::Keeper;
pub use machine::Machine;
pub use plan::Plan;
pub use scene::{Place, Scene};
pub use underlay::Underlay;

use crate::{
    edge::{Edge, Role, Tunnel},
    lab::PATIENCE,
    netns::NetNs,
    process::{Output, Running, Start as _, wait_for},
};

/// All of it, with real daemons; it goes with this guard.
pub struct Region {
    /// The first one makes the region.
    pub gateways: Vec<Machine>,
    /// In the order in which they joined.
    pub hosts: Vec<Machine>,
    /// Of a region with several gateways.
    pub keeper: Option<Keeper>,
    /// What they stand in.
    pub scene: Scene,
    plan: Plan,
    joined: u8,
}

impl Region {
    /// Three hosts and a gateway.
    #[track_caller]
    pub fn over(underlay: Underlay) -> Self {
        Plan::over(underlay).up()
    }

    #[track_caller]
    fn new(plan: Plan) -> Self {
        let scene = Scene::new(&plan);
        let several = plan.gateways > 1;
        let keeper = several.then(|| Keeper::at(scene.place("store", Scene::STORE)));
        let (gateways, hosts) = Default::default();
        let mut region = Self { gateways, hosts, keeper, scene, plan, joined: 0 };
        for _ in 0..region.plan.gateways {
            let mut gateway = region.stopped_gateway(&[]);
            gateway.edge.start();
            region.gateways.push(gateway);
        }
        for _ in 0..region.plan.hosts {
            region.join();
        }
        region.wait_for_all();
        region
    }

    /// One more gateway, whose daemon waits to be started, with further arguments.
    #[track_caller]
    pub fn stopped_gateway(&self, arguments: &[&str]) -> Machine {
        let number = u8::try_from(self.gateways.len()).expect("a few gateways") + 1;
        let place = self.scene.place(&format!("gateway{number}"), number);
        let mut all = self.plan.gateway_arguments();
        if let Some(keeper) = &self.keeper {
            all.extend(["--store".to_owned(), keeper.store()]);
        }
        let edge =
            Edge::of(Role::Gateway, &place.netns, &[words(&all), arguments.to_vec()].concat());
        Machine { edge, place }
    }

    /// Lets one more host join, and waits until it is ready, not until all know of it.
    #[track_caller]
    pub fn join(&mut self) -> &mut Machine {
        let token = self.token();
        self.join_by(&token)
    }

    /// The same with this token.
    #[track_caller]
    pub fn join_by(&mut self, token: &str) -> &mut Machine {
        self.joined += 1;
        let number = self.joined;
        // The gateways have the numbers below.
        let place = self.scene.place(&format!("host{number}"), Scene::FIRST_HOST + number);
        let arguments = self.plan.host_arguments();
        let mut edge = Edge::of(Role::Host, &place.netns, &words(&arguments));
        edge.set_token(token);
        edge.start();
        self.hosts.push(Machine { edge, place });
        self.hosts.last_mut().expect("it was pushed just now")
    }

    /// A token for one host.
    #[track_caller]
    pub fn token(&self) -> String {
        self.gateway().edge.cli(&["token", "create"]).ok().stdout_str().to_owned()
    }

    /// The first gateway.
    pub fn gateway(&self) -> &Machine {
        &self.gateways[0]
    }

    /// Every machine, gateways first.
    pub fn machines(&self) -> impl Iterator<Item = &Machine> {
        self.gateways.iter().chain(&self.hosts)
    }

    /// Waits until every machine hears of every other that is here, and of no more that live.
    #[track_caller]
    pub fn wait_for_all(&self) {
        let count = self.machines().count();
        for machine in self.machines() {
            let what = format!("{} to hear of {count} machines", machine.place.name);
            wait_for(&what, PATIENCE, || {
                let alive = machine.edge.hosts().into_iter().filter(|host| host.alive).count();
                (alive == count).then_some(())
            });
        }
    }

    /// Runs a program in a container of a machine, with tunnels, and waits for the one to `port`.
    #[track_caller]
    pub fn serve(
        &self,
        on: &Machine,
        options: &[&str],
        port: u16,
        program: &[&str],
    ) -> (Running, Tunnel) {
        on.edge.serve(options, port, program)
    }

    /// Asks for a tunnel's URL by curl through a gateway's address, trusting the region's
    /// authority; until it answers.
    #[track_caller]
    pub fn curl(&self, from: &NetNs, to: IpAddr, arguments: &[&str]) -> Output {
        wait_for(&format!("curl {arguments:?} by {to}"), PATIENCE, || {
            let output = self.try_curl(from, to, arguments);
            output.status.success().then_some(output)
        })
    }

    /// The same, once.
    #[track_caller]
    pub fn try_curl(&self, from: &NetNs, to: IpAddr, arguments: &[&str]) -> Output {
        let authority = self.gateway().edge.folder().join("ca/ca.pem");
        let to = match to {
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) => format!("[{v6}]"),
        };
        from.command("curl")
            .args(["--silent", "--show-error", "--max-time", "10"])
            .args(["--connect-to", &format!("::{to}:443"), "--cacert"])
            .arg(authority)
            .args(arguments)
            .output_of()
    }
}

fn words(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}
