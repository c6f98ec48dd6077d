//! Namespaces that are containers by `edge attach`: a test can work inside them itself.

use std::net::{Ipv4Addr, Ipv6Addr};

use nix::sys::signal::Signal;

use crate::{
    edge::{Container, Edge},
    lab::PATIENCE,
    netns::NetNs,
    process::{Running, Start as _, wait_for},
    tap::Tap,
};

/// An attached namespace; it is detached when this guard goes.
#[derive(Debug)]
pub struct Tenant {
    /// Its inside.
    pub netns: NetNs,
    /// As `edge containers` lists it.
    pub container: Container,
    attach: Running,
}

impl Tenant {
    /// Makes a namespace, attaches it under this name and waits until it is on the wire.
    #[track_caller]
    pub fn new(edge: &Edge, name: &str, options: &[&str]) -> Self {
        let netns = NetNs::new(name);
        let path = netns.path();
        let mut command = edge.command();
        command.args(["attach", "--name", name, "--netns"]).arg(&path).args(options);
        let mut attach = command.running();
        wait_for(&format!("{name} to be attached"), PATIENCE, || {
            if let Some(status) = attach.ended() {
                panic!("`edge attach` ended: {status}\n{}", attach.printed());
            }
            attach.printed().contains("is attached").then_some(())
        });
        let found = edge.containers().into_iter().find(|one| one.netns == path.to_string_lossy());
        Self { netns, container: found.expect("an attached container is listed"), attach }
    }

    /// Its IPv4 address.
    pub fn ipv4(&self) -> Ipv4Addr {
        self.container.ipv4.parse().expect("an IPv4 address")
    }

    /// Its private IPv6 address.
    pub fn i6pn(&self) -> Ipv6Addr {
        self.container.i6pn.parse().expect("an IPv6 address")
    }

    /// The `edge attach` that holds it.
    pub fn attach(&self) -> &Running {
        &self.attach
    }

    /// A tap on its one interface.
    #[track_caller]
    pub fn tap(&self) -> Tap {
        Tap::on(&self.netns, "eth0")
    }

    /// Detaches it, as an operator would with Ctrl-C; the namespace stays.
    #[track_caller]
    pub fn detach(mut self) -> NetNs {
        self.attach.signal(Signal::SIGINT);
        let status = self.attach.wait(PATIENCE);
        assert!(status.success(), "`edge attach` ended with {status}");
        self.netns
    }
}
