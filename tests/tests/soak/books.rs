//! What all clients counted, and that the daemon counted the same.

use std::{
    fs, io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tests::{
    edge::{Edge, Tunnel},
    lab::Lab,
    ledger::{Ledger, Sum},
    metrics::Metrics,
    netns::NetNs,
    tls::{TlsClient, TlsStream},
};

use crate::sites::Sites;

/// Bytes of headers around a connection's few packets, and around its answers.
const HEADERS: u64 = 4096;

/// Everything that was done to the daemon.
#[derive(Debug, Default)]
pub(crate) struct Books {
    /// Clients of each site.
    pub(crate) web: Ledger,
    pub(crate) h2: Ledger,
    pub(crate) kernel: Ledger,
    pub(crate) userspace: Ledger,
    /// Clients of tunnels that are gone.
    pub(crate) guests_tls: Ledger,
    pub(crate) guests_userspace: Ledger,
    /// TCP connections to the TLS port, whatever for.
    pub(crate) greeted: Tally,
    /// Of these, those that are refused by name.
    pub(crate) malformed: Tally,
    pub(crate) nameless: Tally,
    pub(crate) unknown: Tally,
    pub(crate) denied_tls: Tally,
    /// Connections to the userspace listener that are refused.
    pub(crate) denied_userspace: Tally,
    /// Packets that the kernel refuses.
    pub(crate) not_allowed: Tally,
}

/// A count. Clones are handles to the same one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally(Arc<AtomicU64>);

/// A TLS client that counts its connections.
pub(crate) struct Greeter {
    client: TlsClient,
    greeted: Tally,
}

impl Books {
    /// Panics unless the daemon's counters say what the clients saw. To be called when nothing
    /// is under way any more.
    #[track_caller]
    pub(crate) fn assert_settled(&self, edge: &Edge, sites: &Sites, before: &Metrics) {
        let now = edge.metrics();
        let since = |metric: &str, labels: &[&str]| {
            let change = now.sum(metric, labels) - before.sum(metric, labels);
            // Far below 2^52: exact.
            change as u64
        };
        let handshakes = |outcome: &str| {
            since("edge_tls_handshakes_total", &[&format!("outcome=\"{outcome}\"")])
        };
        let context = || format!("{self:#?}\n{:#?}", now.since(before));

        assert_eq!(since("edge_tls_handshakes_total", &[]), self.greeted.get(), "{}", context());
        assert_eq!(handshakes("malformed"), self.malformed.get(), "{}", context());
        assert_eq!(handshakes("no_name"), self.nameless.get(), "{}", context());
        assert_eq!(handshakes("unknown_name"), self.unknown.get(), "{}", context());
        assert_eq!(handshakes("denied"), self.denied_tls.get(), "{}", context());
        for outcome in ["too_long", "timeout", "displaced", "failed"] {
            assert_eq!(handshakes(outcome), 0, "{outcome}: {}", context());
        }
        let denied = self.denied_tls.get() + self.denied_userspace.get();
        assert_eq!(since("edge_clients_denied_total", &[]), denied, "{}", context());
        let packets = ["verdict=\"not_allowed\""];
        let refused = since("edge_verdict_packets_total", &packets);
        assert_eq!(refused, self.not_allowed.get(), "{}", context());

        let tunnels = edge.tunnels();
        let listed = |tunnel: &Tunnel| tunnels.iter().find(|one| one.id == tunnel.id).cloned();
        let row = |tunnel: &Tunnel| listed(tunnel).expect("a tunnel that stays");
        assert_relayed(&row(&sites.web.tunnel), self.web.sum());
        assert_relayed(&row(&sites.h2), self.h2.sum());
        assert_relayed(&row(&sites.userspace.tunnel), self.userspace.sum());
        assert_relayed(&row(&sites.listed.tunnel), Sum::default());
        assert_steered(&row(&sites.kernel.tunnel), self.kernel.sum(), sites.kernel.netns());

        for (path, ledgers) in [
            ("tls", &[&self.web, &self.h2, &self.guests_tls][..]),
            ("userspace", &[&self.userspace, &self.guests_userspace]),
        ] {
            let path = format!("path=\"{path}\"");
            let all: Sum = ledgers.iter().map(|ledger| ledger.sum()).sum();
            let bytes = |direction| since("edge_relay_bytes_total", &[&path, direction]);
            assert_eq!(bytes("direction=\"in\""), all.sent, "{path}: {}", context());
            assert_eq!(bytes("direction=\"out\""), all.received, "{path}: {}", context());
        }
    }
}

/// Userspace counts payload: to the byte.
#[track_caller]
fn assert_relayed(tunnel: &Tunnel, clients: Sum) {
    let Tunnel { connections, bytes_in: sent, bytes_out: received, .. } = *tunnel;
    assert_eq!(Sum { connections, sent, received }, clients, "{tunnel:?}");
}

/// The kernel counts packets with their headers, and each SYN-ACK that had to be repeated.
#[track_caller]
fn assert_steered(tunnel: &Tunnel, clients: Sum, container: &NetNs) {
    let made = clients.connections;
    let most = made + repeated_syns(container);
    assert!((made..=most).contains(&tunnel.connections), "{made} to {most}: {tunnel:?}");
    // Acknowledgements of what goes the other way are in it.
    let headers = made * HEADERS + (clients.sent + clients.received) / 4;
    for (payload, counted) in
        [(clients.sent, tunnel.bytes_in), (clients.received, tunnel.bytes_out)]
    {
        let most = payload + headers;
        assert!((payload..=most).contains(&counted), "{payload} to {most}: {tunnel:?}");
    }
}

/// SYNs and SYN-ACKs that a namespace sent again.
#[track_caller]
fn repeated_syns(netns: &NetNs) -> u64 {
    let table = netns.enter(|| fs::read_to_string("/proc/thread-self/net/netstat"));
    let table = table.expect("the namespace's counters");
    let mut lines = table.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let mut columns = names.split_whitespace().zip(values.split_whitespace());
    let value = columns.find(|(name, _)| *name == "TCPSynRetrans").map(|(_, value)| value.parse());
    value.expect("TCPSynRetrans").expect("a number")
}

impl Tally {
    /// Counts.
    pub(crate) fn one_more(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Greeter {
    /// From the internet's first address.
    #[track_caller]
    pub(crate) fn new(lab: &Lab, greeted: &Tally) -> Self {
        Self { client: lab.tls(), greeted: greeted.clone() }
    }

    /// Offers these protocols.
    pub(crate) fn alpn(self, protocols: &[&str]) -> Self {
        Self { client: self.client.alpn(protocols), ..self }
    }

    /// Connects, counts, and shakes hands.
    ///
    /// # Errors
    /// What the gateway did instead.
    pub(crate) fn connect(&self, name: &str) -> io::Result<TlsStream> {
        let tcp = self.client.tcp()?;
        self.greeted.one_more();
        self.client.greet(tcp, name)
    }
}
