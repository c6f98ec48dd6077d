//! What a region should be like.

use super::{Region, Scene, Underlay};

/// Knobs. Whatever is not said: three hosts, a gateway, one link of 1500 bytes each.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What is between the machines.
    pub underlay: Underlay,
    /// How many gateways.
    pub(super) gateways: u8,
    /// How many hosts.
    pub(super) hosts: u8,
    /// Underlay links of each machine.
    pub(super) links: u8,
    /// Bytes of a packet on the underlay.
    pub(super) mtu: u32,
    /// Whether wires carry whole frames with finished checksums, as those of NICs do.
    pub(super) whole_frames: bool,
    /// Whether the internet itself is the underlay.
    pub(super) over_internet: bool,
    /// Whether the underlay is a wire between two machines.
    pub(super) wired: bool,
    gateway_arguments: Vec<String>,
    host_arguments: Vec<String>,
}

impl Plan {
    /// Over this underlay.
    pub fn over(underlay: Underlay) -> Self {
        Self {
            underlay,
            gateways: 1,
            hosts: 3,
            links: 1,
            mtu: 1500,
            whole_frames: false,
            over_internet: false,
            wired: false,
            gateway_arguments: Vec::new(),
            host_arguments: Vec::new(),
        }
    }

    /// So many hosts.
    pub fn hosts(self, hosts: u8) -> Self {
        Self { hosts, ..self }
    }

    /// So many gateways.
    pub fn gateways(self, gateways: u8) -> Self {
        Self { gateways, ..self }
    }

    /// So many links between each machine and the underlay.
    pub fn links(self, links: u8) -> Self {
        Self { links, ..self }
    }

    /// The MTU of the underlay.
    pub fn mtu(self, mtu: u32) -> Self {
        Self { mtu, ..self }
    }

    /// Lets every wire carry what a NIC's would: needed where XDP is forced.
    pub fn whole_frames(self) -> Self {
        Self { whole_frames: true, ..self }
    }

    /// No underlay of its own: machines speak over the internet, and the region has a key.
    pub fn over_internet(self) -> Self {
        Self { over_internet: true, ..self }
    }

    /// Two machines that are wired to each other: no switch or router has a part in it.
    pub fn wired(self) -> Self {
        Self { wired: true, ..self }
    }

    /// Further arguments of `edge gateway`.
    pub fn gateway_arguments_more(mut self, arguments: &[&str]) -> Self {
        self.gateway_arguments.extend(arguments.iter().map(ToString::to_string));
        self
    }

    /// Further arguments of `edge host`.
    pub fn host_arguments_more(mut self, arguments: &[&str]) -> Self {
        self.host_arguments.extend(arguments.iter().map(ToString::to_string));
        self
    }

    /// Makes it, and waits until every machine knows of every other.
    #[track_caller]
    pub fn up(self) -> Region {
        Region::new(self)
    }

    pub(super) fn gateway_arguments(&self) -> Vec<String> {
        let mut arguments = vec!["--uplink".to_owned(), Scene::UPLINK.to_owned()];
        arguments.extend(["--carriage".to_owned(), self.underlay.carriage().to_owned()]);
        if self.over_internet {
            arguments.push("--region-key".to_owned());
        }
        arguments.extend(self.underlays());
        arguments.extend_from_slice(&self.gateway_arguments);
        arguments
    }

    pub(super) fn host_arguments(&self) -> Vec<String> {
        let mut arguments = self.underlays();
        arguments.extend_from_slice(&self.host_arguments);
        arguments
    }

    fn underlays(&self) -> Vec<String> {
        let own = (0..self.links).map(underlay_interface);
        let names = if self.over_internet { vec![Scene::UPLINK.to_owned()] } else { own.collect() };
        names.into_iter().flat_map(|name| ["--underlay".to_owned(), name]).collect()
    }
}

/// What a machine calls its interface towards a link of the underlay.
pub(super) fn underlay_interface(link: u8) -> String {
    format!("un{link}")
}
