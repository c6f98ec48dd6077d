//! The ports that edge takes, and who has them already.

use std::{
    collections::HashMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{Finding, Subject, kernel::process_name};
use crate::{
    cli::{up::Datapath, values::PortRange},
    daemon::listeners,
    host::{
        links::{LinkError, Links},
        sockets::{self, Listener},
        sysctl, uplink,
    },
};

/// Where `edge up` shows its metrics unless told otherwise.
const METRICS: u16 = 9464;
/// So many programs are named; the rest is counted.
const NAMED: usize = 5;

/// Who has a port.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Holder {
    Nobody,
    Daemon,
    Other(String),
}

/// Every port.
pub(super) async fn look(links: &Links, subject: &Subject) -> Result<Vec<Finding>, LinkError> {
    let mut own: Vec<IpAddr> = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    for wanted in &subject.uplinks {
        // What is wrong with an uplink is said where uplinks are looked at.
        if let Ok(found) = uplink::find(links, wanted, Datapath::Auto, subject.pool).await {
            own.extend(found.addresses);
        }
    }
    let listeners = match sockets::listeners() {
        Ok(listeners) => listeners,
        Err(error) => {
            return Ok(vec![Finding::slower(
                "ports",
                error,
                "nobody knows which of edge's ports are taken",
                "see that this process may open netlink sockets",
            )]);
        }
    };
    let owners = owners(&listeners);
    let holder = |port: u16, addresses: &[IpAddr]| {
        let takes = |listener: &&Listener| {
            let ip = listener.address.ip().to_canonical();
            listener.address.port() == port && (ip.is_unspecified() || addresses.contains(&ip))
        };
        let found = listeners.iter().find(takes);
        found.map_or(Holder::Nobody, |listener| hold(listener, &owners, subject.daemon))
    };
    let loopback = [Ipv4Addr::LOCALHOST.into()];
    let others: Vec<_> = listeners
        .iter()
        .filter(|listener| subject.raw_ports.contains(listener.address.port()))
        .filter_map(|listener| match hold(listener, &owners, subject.daemon) {
            Holder::Other(who) => Some(format!("{} by {who}", listener.address)),
            Holder::Nobody | Holder::Daemon => None,
        })
        .collect();
    let range = sysctl::read("net/ipv4/ip_local_port_range").unwrap_or_default();
    Ok(vec![
        public("tls-port", "--tls-port", listeners::tls_ports(), |port| holder(port, &own)),
        public("http-port", "--http-port", listeners::http_ports(), |port| holder(port, &own)),
        metrics(holder(METRICS, &loopback), subject.daemon.is_some()),
        raw(subject.raw_ports, &others),
        local_range(subject.raw_ports, &range),
    ])
}

fn hold(listener: &Listener, owners: &HashMap<u32, u32>, daemon: Option<u32>) -> Holder {
    match owners.get(&listener.inode) {
        Some(pid) if Some(*pid) == daemon => Holder::Daemon,
        Some(pid) => {
            let name = process_name(*pid).unwrap_or_else(|| "a program".into());
            Holder::Other(format!("{name} (process {pid})"))
        }
        None => Holder::Other("a program that is not visible from here".into()),
    }
}

/// The processes that hold these sockets, by inode, as far as this process may see.
fn owners(listeners: &[Listener]) -> HashMap<u32, u32> {
    let mut owners = HashMap::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        for file in files {
            let Ok(target) = fs::read_link(file.path()) else { continue };
            let inode = target.to_str().and_then(|text| {
                text.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u32>().ok()
            });
            if let Some(inode) = inode
                && listeners.iter().any(|listener| listener.inode == inode)
            {
                owners.entry(inode).or_insert(pid);
            }
        }
    }
    owners
}

/// A port of which edge takes the first that is free.
fn public(
    name: &str,
    option: &str,
    usual: impl Iterator<Item = u16>,
    holder: impl Fn(u16) -> Holder,
) -> Finding {
    let held: Vec<_> = usual.map(|port| (port, holder(port))).collect();
    let daemon = held.iter().find(|(_, holder)| *holder == Holder::Daemon);
    let chosen = daemon.or_else(|| held.iter().find(|(_, holder)| *holder == Holder::Nobody));
    let (first, by) = match held.first() {
        Some((port, Holder::Other(who))) => (*port, format!("{port} is taken by {who}")),
        Some((port, _)) => (*port, format!("{port} is free")),
        None => (0, String::new()),
    };
    match chosen {
        Some((port, Holder::Daemon)) if *port == first => {
            Finding::ok(name, format_args!("{port} is the daemon's"), "as it should be")
        }
        Some((port, _)) if *port == first => {
            Finding::ok(name, by, "`edge up` takes it, and no name needs a port number")
        }
        Some((port, _)) => Finding::slower(
            name,
            by,
            format_args!("edge takes {port}, so clients must name the port"),
            format_args!("free {first} and start edge again, or choose one with {option}"),
        ),
        None => Finding::broken(
            name,
            by,
            "none of the usual ports is free, so edge does not start",
            format_args!("free one, or choose another with {option}"),
        ),
    }
}

fn metrics(holder: Holder, daemon_answers: bool) -> Finding {
    const NAME: &str = "metrics-port";
    match holder {
        Holder::Nobody => Finding::ok(NAME, format_args!("{METRICS} is free"), "for /metrics"),
        Holder::Daemon => Finding::ok(NAME, format_args!("{METRICS} is the daemon's"), "as it is"),
        Holder::Other(who) if daemon_answers => {
            Finding::ok(NAME, format_args!("{METRICS} is that of {who}"), "the daemon has another")
        }
        Holder::Other(who) => Finding::broken(
            NAME,
            format_args!("{METRICS} is taken by {who}"),
            "edge does not start without its metrics",
            "choose another, as with --admin 127.0.0.1:9465",
        ),
    }
}

fn raw(range: PortRange, others: &[String]) -> Finding {
    const NAME: &str = "raw-ports";
    if others.is_empty() {
        return Finding::ok(NAME, format_args!("{range} is free"), "raw tunnels get these ports");
    }
    let mut found = others.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if let Some(more) = others.len().checked_sub(NAMED).filter(|more| *more > 0) {
        found += &format!(" and {more} more");
    }
    Finding::slower(
        NAME,
        found,
        format_args!("edge gives tunnels other ports of {range}, and leaves these to the programs"),
        "move the programs to other ports, or choose another range with --raw-ports",
    )
}

/// The range is as the kernel prints it: two numbers.
fn local_range(raw: PortRange, range: &str) -> Finding {
    const NAME: &str = "local-port-range";
    let mut numbers = range.split_whitespace().map_while(|number| number.parse::<u16>().ok());
    let (Some(first), Some(last)) = (numbers.next(), numbers.next()) else {
        return Finding::ok(NAME, "not visible from here", "the ports of outgoing connections");
    };
    let found = format!("{first}-{last}");
    let both = u32::from(last.min(raw.last)) + 1;
    let overlap = both.saturating_sub(first.max(raw.first).into());
    let left = (u32::from(last) + 1).saturating_sub(first.into()) - overlap;
    if overlap == 0 {
        return Finding::ok(NAME, found, format_args!("outgoing connections keep off {raw}"));
    }
    let remedy = "choose other ports with --raw-ports, or move the range: sysctl \
                  net.ipv4.ip_local_port_range=\"32768 60999\"";
    let meaning = format!(
        "edge reserves the raw ports {raw} while it runs, which leaves {left} for outgoing \
         connections"
    );
    if left == 0 {
        return Finding::broken(NAME, found, meaning, remedy);
    }
    Finding::slower(NAME, found, meaning, remedy)
}

#[cfg(test)]
mod tests {
    use super::{super::State, *};

    fn range(text: &str) -> PortRange {
        text.parse().unwrap()
    }

    #[test]
    fn the_first_free_port_is_taken_and_a_taken_one_is_named() {
        let judge = |holders: &[Holder]| {
            let port = |port| holders[usize::from(port - 1)].clone();
            public("tls-port", "--tls-port", (1..).take(holders.len()), port)
        };
        let nginx = Holder::Other("nginx (process 7)".into());
        assert_eq!(judge(&[Holder::Nobody]).state, State::Ok);
        assert_eq!(judge(&[Holder::Daemon, Holder::Nobody]).state, State::Ok);
        let second = judge(&[nginx.clone(), Holder::Nobody]);
        assert_eq!(second.state, State::Slower);
        assert_eq!(second.found, "1 is taken by nginx (process 7)");
        assert!(second.meaning.contains("edge takes 2"), "{second:?}");
        let held = judge(&[Holder::Nobody, nginx.clone(), Holder::Daemon]);
        assert!(held.meaning.contains("edge takes 3"), "{held:?}");
        assert_eq!(judge(&[nginx.clone(), nginx.clone()]).state, State::Broken);
        assert_eq!(metrics(nginx.clone(), false).state, State::Broken);
        assert_eq!(metrics(nginx, true).state, State::Ok);
    }

    #[test]
    fn programs_among_the_raw_ports_are_named_up_to_a_few() {
        assert_eq!(raw(range("20000-29999"), &[]).state, State::Ok);
        let others: Vec<_> = (0..7).map(|n| format!("0.0.0.0:2000{n} by x")).collect();
        let finding = raw(range("20000-29999"), &others);
        assert_eq!(finding.state, State::Slower);
        assert!(finding.found.starts_with("0.0.0.0:20000 by x, "), "{finding:?}");
        assert!(finding.found.ends_with("20004 by x and 2 more"), "{finding:?}");
    }

    #[test]
    fn an_overlap_costs_outgoing_connections_and_may_cost_all() {
        let raw = range("20000-29999");
        assert_eq!(local_range(raw, "32768\t60999").state, State::Ok);
        assert_eq!(local_range(raw, "1024\t19999").state, State::Ok);
        let some = local_range(raw, "29999 40000");
        assert_eq!(some.state, State::Slower);
        assert!(some.meaning.contains("leaves 10001 for"), "{some:?}");
        assert_eq!(local_range(raw, "20000 29999").state, State::Broken);
        assert_eq!(local_range(raw, "").state, State::Ok);
    }
}
