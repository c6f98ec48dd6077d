//! A one-machine region with an internet behind its uplink: the scene of most promises.

use std::time::Duration;

use crate::{
    edge::{Edge, Tunnel},
    netns::NetNs,
    process::{Output, Running, Start as _, wait_for},
    tap::Tap,
    wire::Wire,
};

/// How long anything that should work at once may take on a busy machine; less than a drain, whose
/// end is no way to work at once.
pub const PATIENCE: Duration = Duration::from_secs(28);

/// The machine with the daemon, a namespace that plays the internet, and the wire between them.
pub struct Lab {
    /// The daemon.
    pub edge: Edge,
    /// The machine: `up0` has 192.0.2.10 and 2001:db8::10.
    pub machine: NetNs,
    /// The internet: `eth0` has 192.0.2.20 and 2001:db8::20.
    pub internet: NetNs,
    /// Between `up0` and `eth0`.
    pub wire: Wire,
}

impl Lab {
    /// The machine's IPv4 address.
    pub const PUBLIC: &str = "192.0.2.10";
    /// The machine's IPv6 address.
    pub const PUBLIC_V6: &str = "2001:db8::10";
    /// The client's IPv4 address.
    pub const CLIENT: &str = "192.0.2.20";
    /// The client's IPv6 address.
    pub const CLIENT_V6: &str = "2001:db8::20";

    /// With `up0` as the uplink, and further arguments of `edge up`.
    pub fn new(arguments: &[&str]) -> Self {
        Self::with_wire(arguments, |wire| wire)
    }

    /// The same, with the wire changed before the daemon looks at it.
    pub fn with_wire(arguments: &[&str], change: impl FnOnce(Wire) -> Wire) -> Self {
        let mut lab = Self::prepared(arguments, change);
        lab.edge.start();
        lab
    }

    /// The same, but that the daemon has not been started yet.
    pub fn stopped(arguments: &[&str]) -> Self {
        Self::prepared(arguments, |wire| wire)
    }

    fn prepared(arguments: &[&str], change: impl FnOnce(Wire) -> Wire) -> Self {
        let machine = NetNs::new("machine");
        let internet = NetNs::new("internet");
        let ours = [format!("{}/24", Self::PUBLIC), format!("{}/64", Self::PUBLIC_V6)];
        let theirs = [format!("{}/24", Self::CLIENT), format!("{}/64", Self::CLIENT_V6)];
        let wire = change(Wire::new(
            &machine,
            "up0",
            &[&ours[0], &ours[1]],
            &internet,
            "eth0",
            &[&theirs[0], &theirs[1]],
        ));
        machine.ip(&["route", "add", "default", "via", Self::CLIENT]);
        machine.ip(&["route", "add", "default", "via", Self::CLIENT_V6]);
        let edge = Edge::stopped(&machine, &[&["--uplink", "up0"], arguments].concat());
        Self { edge, machine, internet, wire }
    }

    /// Runs a program in a container with tunnels, and waits for the tunnel to `port`.
    pub fn serve(&self, options: &[&str], port: u16, program: &[&str]) -> (Running, Tunnel) {
        self.edge.serve(options, port, program)
    }

    /// A tap of the internet, whose frames go to the machine.
    #[track_caller]
    pub fn tap_to_machine(&self) -> Tap {
        Tap::on(&self.internet, "eth0").towards(self.machine.mac("up0"))
    }

    /// Asks for a URL by curl, in a namespace, trusting the region's authority; until it answers.
    pub fn curl(&self, from: &NetNs, arguments: &[&str]) -> Output {
        wait_for(&format!("curl {arguments:?}"), PATIENCE, || {
            let output = self.try_curl(from, arguments);
            output.status.success().then_some(output)
        })
    }

    /// The same, once.
    pub fn try_curl(&self, from: &NetNs, arguments: &[&str]) -> Output {
        let authority = self.edge.folder().join("ca/ca.pem");
        from.command("curl")
            .args(["--silent", "--show-error", "--max-time", "10", "--cacert"])
            .arg(authority)
            .args(arguments)
            .output_of()
    }
}
