//! Proxies as they are printed: for programs, and for people.

use serde::Serialize;
use tabled::Tabled;

use crate::{
    commands::output::or_dash,
    wire::admin::{Proxy, ProxyIp, ProxyPath, ProxyTraffic},
};

/// A proxy as `--json` prints it. Programs read this: names stay.
#[derive(Debug, Serialize)]
pub(super) struct Record {
    pub(super) id: String,
    pub(super) workspace: String,
    pub(super) name: String,
    pub(super) created: u64,
    pub(super) spread: String,
    pub(super) ips: Vec<IpRecord>,
    pub(super) paths: Vec<PathRecord>,
    /// Null where it was not asked for.
    pub(super) refused_packets: Option<u64>,
}

#[derive(Debug, Serialize)]
pub(super) struct IpRecord {
    pub(super) ip: String,
    /// The IPv6 address beside it.
    pub(super) beside: Option<String>,
    pub(super) status: String,
    pub(super) created: u64,
    pub(super) gateway: Option<u32>,
    pub(super) containers: u32,
    pub(super) problem: Option<String>,
    /// Null where its gateway was not asked, or did not answer.
    pub(super) traffic: Option<TrafficRecord>,
    /// Of this machine's way to its gateway.
    pub(super) handshake_age_ms: Option<u64>,
}

#[derive(Debug, Serialize)]
pub(super) struct TrafficRecord {
    pub(super) packets_out: u64,
    pub(super) bytes_out: u64,
    pub(super) packets_in: u64,
    pub(super) bytes_in: u64,
    pub(super) connections: u64,
    pub(super) unsolicited_packets: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct PathRecord {
    pub(super) machine: u32,
    pub(super) toward: String,
    pub(super) handshake_age_ms: Option<u64>,
    pub(super) round_trip_us: Option<u64>,
    pub(super) bytes_sent: u64,
    pub(super) bytes_received: u64,
}

#[derive(Tabled)]
#[tabled(rename_all = "UPPERCASE")]
pub(super) struct Row {
    pub(super) workspace: String,
    pub(super) name: String,
    pub(super) id: String,
    pub(super) spread: String,
    pub(super) ips: String,
}

#[derive(Tabled)]
#[tabled(rename_all = "UPPERCASE")]
pub(super) struct IpRow {
    pub(super) ip: String,
    pub(super) status: String,
    pub(super) gateway: String,
    pub(super) containers: u32,
    #[tabled(rename = "OUT")]
    pub(super) bytes_out: String,
    #[tabled(rename = "IN")]
    pub(super) bytes_in: String,
    #[tabled(rename = "CONNS")]
    pub(super) connections: String,
    pub(super) unsolicited: String,
    #[tabled(rename = "HANDSHAKE S")]
    pub(super) handshake: String,
}

#[derive(Tabled)]
#[tabled(rename_all = "UPPERCASE")]
pub(super) struct HostRow {
    pub(super) host: u32,
    #[tabled(rename = "HANDSHAKE S")]
    pub(super) handshake: String,
    #[tabled(rename = "IN")]
    pub(super) received: u64,
    #[tabled(rename = "OUT")]
    pub(super) sent: u64,
}

impl From<Proxy> for Record {
    fn from(proxy: Proxy) -> Self {
        let Proxy { id, workspace, name, created, spread, ips, paths, .. } = proxy;
        let paths: Vec<_> = paths.into_iter().map(PathRecord::from).collect();
        let age = |gateway: Option<u32>| {
            let mut to = paths.iter().filter(|path| path.toward == "gateway");
            to.find(|path| Some(path.machine) == gateway)?.handshake_age_ms
        };
        let ips = ips.into_iter().map(|one| {
            let one = IpRecord::from(one);
            IpRecord { handshake_age_ms: age(one.gateway), ..one }
        });
        let ips = ips.collect();
        Self { id, workspace, name, created, spread, ips, paths, refused_packets: None }
    }
}

impl From<ProxyIp> for IpRecord {
    fn from(one: ProxyIp) -> Self {
        let gateway = Some(one.gateway).filter(|gateway| *gateway != 0);
        let ProxyIp { ip, beside, status, created, containers, problem, traffic, .. } = one;
        let (traffic, handshake_age_ms) = (traffic.map(TrafficRecord::from), None);
        Self {
            ip,
            beside,
            status,
            created,
            gateway,
            containers,
            problem,
            traffic,
            handshake_age_ms,
        }
    }
}

impl From<ProxyTraffic> for TrafficRecord {
    fn from(traffic: ProxyTraffic) -> Self {
        let ProxyTraffic { packets_out, bytes_out, packets_in, bytes_in, .. } = traffic;
        let ProxyTraffic { connections, unsolicited: unsolicited_packets, .. } = traffic;
        Self { packets_out, bytes_out, packets_in, bytes_in, connections, unsolicited_packets }
    }
}

impl From<ProxyPath> for PathRecord {
    fn from(path: ProxyPath) -> Self {
        let ProxyPath { machine, toward, handshake_age, round_trip, sent, received } = path;
        Self {
            machine,
            toward,
            handshake_age_ms: handshake_age,
            round_trip_us: round_trip,
            bytes_sent: sent,
            bytes_received: received,
        }
    }
}

impl From<PathRecord> for HostRow {
    fn from(path: PathRecord) -> Self {
        let handshake = seconds(path.handshake_age_ms);
        let PathRecord { machine: host, bytes_sent: sent, bytes_received: received, .. } = path;
        Self { host, handshake, received, sent }
    }
}

impl From<Proxy> for Row {
    fn from(proxy: Proxy) -> Self {
        let ips: Vec<_> = proxy.ips.iter().map(shown).collect();
        let ips = or_dash(Some(&ips.join(" ")));
        let Proxy { workspace, name, id, spread, .. } = proxy;
        Self { workspace, name, id, spread, ips }
    }
}

impl From<IpRecord> for IpRow {
    fn from(one: IpRecord) -> Self {
        let gateway = or_dash(one.gateway.map(|gateway| gateway.to_string()).as_deref());
        let traffic = one.traffic.as_ref();
        Self {
            ip: paired(&one.ip, one.beside.as_deref()),
            status: one.status,
            gateway,
            containers: one.containers,
            bytes_out: cell(traffic.map(|traffic| traffic.bytes_out)),
            bytes_in: cell(traffic.map(|traffic| traffic.bytes_in)),
            connections: cell(traffic.map(|traffic| traffic.connections)),
            unsolicited: cell(traffic.map(|traffic| traffic.unsolicited_packets)),
            handshake: seconds(one.handshake_age_ms),
        }
    }
}

/// An address as it is typed.
pub(super) fn shown(one: &ProxyIp) -> String {
    paired(&one.ip, one.beside.as_deref())
}

fn paired(ip: &str, beside: Option<&str>) -> String {
    beside.map_or_else(|| ip.to_owned(), |beside| format!("{ip},{beside}"))
}

/// A cell of a time that may not be known.
fn seconds(milliseconds: Option<u64>) -> String {
    cell(milliseconds.map(|milliseconds| milliseconds / 1000))
}

/// A cell of a number that may not be known.
fn cell(number: Option<u64>) -> String {
    or_dash(number.map(|number| number.to_string()).as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_names_and_nulls_are_stable() {
        let traffic =
            Some(ProxyTraffic { bytes_out: 5, unsolicited: 1, ..ProxyTraffic::default() });
        let ips = vec![
            ProxyIp { ip: "192.0.2.1".into(), ..ProxyIp::default() },
            ProxyIp {
                ip: "192.0.2.2".into(),
                beside: Some("2001:db8::2".into()),
                gateway: 3,
                traffic,
                ..ProxyIp::default()
            },
        ];
        let handshake_age = Some(7);
        let path = |toward: &str, handshake_age| {
            let toward = toward.to_owned();
            ProxyPath { machine: 3, toward, handshake_age, ..ProxyPath::default() }
        };
        let paths = vec![path("host", None), path("gateway", handshake_age)];
        let record = Record::from(Proxy { id: "pr-1".into(), ips, paths, ..Proxy::default() });
        let expected = serde_json::json!({
            "id": "pr-1", "workspace": "", "name": "", "created": 0, "spread": "",
            "ips": [
                {"ip": "192.0.2.1", "beside": null, "status": "", "created": 0, "gateway": null,
                 "containers": 0, "problem": null, "traffic": null, "handshake_age_ms": null},
                {"ip": "192.0.2.2", "beside": "2001:db8::2", "status": "", "created": 0, "gateway": 3,
                 "containers": 0, "problem": null, "handshake_age_ms": 7,
                 "traffic": {"packets_out": 0, "bytes_out": 5, "packets_in": 0, "bytes_in": 0,
                             "connections": 0, "unsolicited_packets": 1}},
            ],
            "paths": [
                {"machine": 3, "toward": "host", "handshake_age_ms": null, "round_trip_us": null,
                 "bytes_sent": 0, "bytes_received": 0},
                {"machine": 3, "toward": "gateway", "handshake_age_ms": 7, "round_trip_us": null,
                 "bytes_sent": 0, "bytes_received": 0},
            ],
            "refused_packets": null,
        });
        assert_eq!(serde_json::to_value(record).unwrap(), expected);
    }
}
