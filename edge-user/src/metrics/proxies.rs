//! Proxies, when they are scraped: which of their addresses this machine serves, and what went
//! under them.

use std::sync::Arc;

use prometheus::{
    IntCounterVec, IntGaugeVec, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use crate::proxy::{
    board::Board,
    counts::{Counts, Dropped},
    plan::Problem,
};

/// The addresses of proxies that this machine knows.
pub struct Addresses {
    board: Arc<Board>,
    /// Of this machine.
    host: u16,
    up: IntGaugeVec,
    problem: IntGaugeVec,
    containers: IntGaugeVec,
    packets: IntCounterVec,
    bytes: IntCounterVec,
    connections: IntCounterVec,
    unsolicited: IntCounterVec,
    dropped: IntCounterVec,
}

impl Addresses {
    /// As a board has them.
    ///
    /// # Errors
    /// If the names will not do, which they do.
    pub fn new(board: Arc<Board>, host: u16) -> prometheus::Result<Self> {
        let own = ["workspace", "proxy", "address"];
        let gauge = |name, help| IntGaugeVec::new(Opts::new(name, help), &own);
        let counter =
            |name, help, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let ways = ["workspace", "proxy", "address", "direction"];
        Ok(Self {
            board,
            host,
            up: gauge(
                "edge_proxy_address_up",
                "Whether what this machine sends under an address of a proxy leaves under it.",
            )?,
            problem: IntGaugeVec::new(
                Opts::new(
                    "edge_proxy_address_problem",
                    "Why nothing of this machine leaves under an address: 1 at the reason.",
                ),
                &["workspace", "proxy", "address", "reason"],
            )?,
            containers: gauge(
                "edge_proxy_containers",
                "Containers of this machine that leave under an address, or would if it were \
                 served.",
            )?,
            packets: counter(
                "edge_proxy_packets_total",
                "Packets that this gateway sent and received under an address.",
                &ways,
            )?,
            bytes: counter(
                "edge_proxy_bytes_total",
                "Bytes of IP packets that this gateway sent and received under an address.",
                &ways,
            )?,
            connections: counter(
                "edge_proxy_connections_total",
                "Connections that source NAT began under an address; UDP and ICMP have some, too.",
                &own,
            )?,
            unsolicited: counter(
                "edge_proxy_unsolicited_packets_total",
                "Packets from the internet to an address that answered nothing, and were dropped.",
                &own,
            )?,
            dropped: counter(
                "edge_proxy_dropped_packets_total",
                "Packets that the table of proxies' source NAT dropped on this machine, by reason.",
                &["reason"],
            )?,
        })
    }
}

impl Collector for Addresses {
    fn desc(&self) -> Vec<&Desc> {
        let mut all = [self.up.desc(), self.containers.desc(), self.packets.desc()].concat();
        all.extend(self.problem.desc());
        all.extend([self.bytes.desc(), self.connections.desc()].concat());
        all.extend([self.unsolicited.desc(), self.dropped.desc()].concat());
        all
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for gauge in [&self.up, &self.problem, &self.containers] {
            gauge.reset();
        }
        for counter in [&self.packets, &self.bytes, &self.connections, &self.unsolicited] {
            counter.reset();
        }
        let Counts { traffic, dropped } = self.board.counts();
        self.dropped.reset();
        for reason in Dropped::ALL {
            let count = dropped.get(&reason).copied().unwrap_or(0);
            self.dropped.with_label_values(&[reason.label()]).inc_by(count);
        }
        let users = self.board.users();
        for proxy in self.board.known().values() {
            let record = &proxy.record;
            for address in &record.addresses {
                let ip = address.ip.to_string();
                let own = [record.workspace.as_str(), &record.name, &ip];
                let (_, problem) = self.board.status(proxy, address);
                self.up.with_label_values(&own).set(problem.is_none().into());
                for reason in Problem::LABELS {
                    let is_it = problem.is_some_and(|problem| problem.label() == reason);
                    let labels = [own[0], own[1], own[2], reason];
                    self.problem.with_label_values(&labels).set(is_it.into());
                }
                let count = users.get(&address.ip).copied().unwrap_or(0);
                self.containers
                    .with_label_values(&own)
                    .set(i64::try_from(count).unwrap_or(i64::MAX));
                if proxy.holders.get(&address.ip) != Some(&self.host) {
                    continue;
                }
                let row = traffic.get(&address.ip).copied().unwrap_or_default();
                for (direction, packets, bytes) in
                    [("out", row.packets_out, row.bytes_out), ("in", row.packets_in, row.bytes_in)]
                {
                    let way = [own[0], own[1], own[2], direction];
                    self.packets.with_label_values(&way).inc_by(packets);
                    self.bytes.with_label_values(&way).inc_by(bytes);
                }
                self.connections.with_label_values(&own).inc_by(row.connections);
                self.unsolicited.with_label_values(&own).inc_by(row.unsolicited);
            }
        }
        let all = [self.up.collect(), self.containers.collect(), self.packets.collect()];
        let counters = [&self.bytes, &self.connections, &self.unsolicited, &self.dropped];
        let all = all.into_iter().chain([self.problem.collect()]);
        all.chain(counters.map(Collector::collect)).flatten().collect()
    }
}
