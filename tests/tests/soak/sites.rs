//! Containers that stay, with a tunnel of each kind.

use std::net::SocketAddr;

use tests::{
    edge::Tunnel, exchange::Exchange, lab::Lab, netns::NetNs, process::Running, tenant::Tenant,
    tls::host,
};

/// One container for each kind, so that nobody's counters mix.
pub(crate) struct Sites {
    /// TLS only.
    pub(crate) web: Site,
    /// Raw TCP that the kernel carries.
    pub(crate) kernel: Site,
    /// Raw TCP that the userspace listener carries.
    pub(crate) userspace: Site,
    /// A tunnel for 192.0.2.20 only.
    pub(crate) listed: Site,
    /// Without a tunnel of its own; on its port 9000 is a server.
    pub(crate) forwarder: Tenant,
    /// HTTP/2.
    pub(crate) h2: Tunnel,
    _h2: Running,
    _server: Exchange,
}

/// A container and its tunnel.
pub(crate) struct Site {
    pub(crate) tunnel: Tunnel,
    tenant: Tenant,
    _server: Exchange,
}

impl Sites {
    #[track_caller]
    pub(crate) fn new(lab: &Lab) -> Self {
        let server = env!("CARGO_BIN_EXE_h2c_server");
        let options = ["--name", "h2", "--h2-port", "8443"];
        let (mut program, h2) = lab.serve(&options, 8443, &[server, "8443"]);
        program.wait_line("listening", tests::lab::PATIENCE);
        let raw = ["--unencrypted-port", "8000"];
        let listed = [&raw[..], &["--allow", "192.0.2.20/32"]].concat();
        let forwarder = Tenant::new(&lab.edge, "forwarder", &[]);
        let server = Exchange::serve(&forwarder.netns, 9000);
        Self {
            web: Site::new(lab, "web", &["--encrypted-port", "8000"]),
            kernel: Site::new(lab, "kernel", &raw),
            userspace: Site::new(lab, "userspace", &raw),
            listed: Site::new(lab, "listed", &listed),
            forwarder,
            h2,
            _h2: program,
            _server: server,
        }
    }

    /// How many there are.
    pub(crate) fn tunnels(&self) -> usize {
        5
    }

    /// See [`Self::tunnels`].
    pub(crate) fn containers(&self) -> usize {
        6
    }
}

impl Site {
    #[track_caller]
    fn new(lab: &Lab, name: &str, options: &[&str]) -> Self {
        let tenant = Tenant::new(&lab.edge, name, options);
        let server = Exchange::serve(&tenant.netns, 8000);
        let tunnel = lab.edge.tunnels().into_iter().find(|tunnel| tunnel.container == name);
        Self { tunnel: tunnel.expect("its tunnel"), tenant, _server: server }
    }

    /// The name that TLS clients ask for.
    pub(crate) fn name(&self) -> String {
        host(&self.tunnel.url).to_owned()
    }

    /// The raw port, on one of the machine's addresses.
    pub(crate) fn at(&self, address: &str) -> SocketAddr {
        SocketAddr::new(address.parse().expect("an address"), self.tunnel.raw_port())
    }

    /// The container's inside.
    pub(crate) fn netns(&self) -> &NetNs {
        &self.tenant.netns
    }
}
