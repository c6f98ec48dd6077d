//! Namespaces that are containers by `edge attach`: a test can work inside them itself.

use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};

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

    /// The response code with which edge's DNS answers a question for an address (RFC 1035).
    #[track_caller]
    pub fn dns_code(&self, name: &str) -> u8 {
        let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            query.push(u8::try_from(label.len()).expect("a short label"));
            query.extend(label.as_bytes());
        }
        query.extend([0, 0, 1, 0, 1]);
        let socket = self.netns.enter(|| UdpSocket::bind("0.0.0.0:0").expect("a port"));
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket.send_to(&query, "169.254.20.10:53").expect("the way to DNS");
        let mut reply = [0; 512];
        socket.recv(&mut reply).expect("an answer");
        assert_eq!(reply[..2], query[..2]);
        reply[3] & 0x0f
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
