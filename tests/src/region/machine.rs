//! A machine with its daemon.

use std::net::SocketAddr;

use super::Place;
use crate::{
    edge::{Container, Edge, Tunnel},
    tenant::Tenant,
};

/// A gateway or a host; dropped it is a machine that lost its power.
pub struct Machine {
    /// The daemon.
    pub edge: Edge,
    /// Where it runs.
    pub place: Place,
}

impl Machine {
    /// A container on the private network, in the workspace "main".
    #[track_caller]
    pub fn private(&self, name: &str) -> Tenant {
        self.tenant(name, &["--i6pn"])
    }

    /// A container.
    #[track_caller]
    pub fn tenant(&self, name: &str, options: &[&str]) -> Tenant {
        Tenant::new(&self.edge, name, options)
    }

    /// The tunnel to a container's port.
    #[track_caller]
    pub fn tunnel(&self, tenant: &Tenant, port: u16) -> Tunnel {
        let tunnels = self.edge.tunnels();
        let Container { name, workspace, .. } = &tenant.container;
        let found = tunnels.iter().find(|tunnel| {
            (&tunnel.container, &tunnel.workspace, tunnel.port) == (name, workspace, port)
        });
        found.unwrap_or_else(|| panic!("no tunnel to port {port} among {tunnels:#?}")).clone()
    }

    /// Its WireGuard interface whose name ends so: `-in` is where hosts come in, `-g1` leads to
    /// gateway 1.
    pub fn wireguard(&self, ending: &str) -> Option<String> {
        let links = self.place.netns.ip(&["-oneline", "link", "show"]);
        let mut names = links.lines().filter_map(|line| line.split(": ").nth(1));
        names.find(|name| name.starts_with("ew") && name.ends_with(ending)).map(str::to_owned)
    }

    /// Where clients find a raw tunnel on this gateway.
    #[track_caller]
    pub fn raw(&self, tunnel: &Tunnel) -> [SocketAddr; 2] {
        let port = tunnel.raw_port();
        [(self.place.public, port).into(), (self.place.public_v6, port).into()]
    }
}
