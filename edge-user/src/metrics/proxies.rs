//! Proxies, when they are scraped: which of their addresses this machine serves, and what went
//! under them.

use std::sync::Arc;

use prometheus::{
    IntCounterVec, IntGaugeVec, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use crate::proxy::board::Board;

/// The addresses of proxies that this machine knows.
pub struct Addresses {
    board: Arc<Board>,
    /// Of this machine.
    host: u16,
    up: IntGaugeVec,
    containers: IntGaugeVec,
    packets: IntCounterVec,
    bytes: IntCounterVec,
    connections: IntCounterVec,
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
                "Whether a gateway serves an address of a proxy that this machine knows.",
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
        })
    }
}

impl Collector for Addresses {
    fn desc(&self) -> Vec<&Desc> {
        let mut all = [self.up.desc(), self.containers.desc(), self.packets.desc()].concat();
        all.extend([self.bytes.desc(), self.connections.desc()].concat());
        all
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for gauge in [&self.up, &self.containers] {
            gauge.reset();
        }
        for counter in [&self.packets, &self.bytes, &self.connections] {
            counter.reset();
        }
        let carried = self.board.carried();
        let users = self.board.users();
        for proxy in self.board.known().values() {
            let record = &proxy.record;
            for address in &record.addresses {
                let ip = address.ip.to_string();
                let own = [record.workspace.as_str(), &record.name, &ip];
                let holder = proxy.holders.get(&address.ip);
                self.up.with_label_values(&own).set(holder.is_some().into());
                let count = users.get(&address.ip).copied().unwrap_or(0);
                self.containers
                    .with_label_values(&own)
                    .set(i64::try_from(count).unwrap_or(i64::MAX));
                if holder != Some(&self.host) {
                    continue;
                }
                let row = carried.get(&address.ip).copied().unwrap_or_default();
                for (direction, packets, bytes) in
                    [("out", row.packets_out, row.bytes_out), ("in", row.packets_in, row.bytes_in)]
                {
                    let way = [own[0], own[1], own[2], direction];
                    self.packets.with_label_values(&way).inc_by(packets);
                    self.bytes.with_label_values(&way).inc_by(bytes);
                }
                self.connections.with_label_values(&own).inc_by(row.connections);
            }
        }
        let all = [self.up.collect(), self.containers.collect(), self.packets.collect()];
        [all.concat(), self.bytes.collect(), self.connections.collect()].concat()
    }
}
