//! Tunnels that not everybody may send to, or not as often as they like. What becomes of a packet
//! depends on those before it, so these tables are run in turn, each way with rows of its own.

use edge_common::{
    admit::{ListKey, Pace, PaceRow},
    decide::Passage,
    native::Rows,
    tables::TunnelRow,
    verdict::Verdict,
};
use edge_user::datapath::{Datapath, DatapathError};
use ipnet::IpNet;

use super::{
    Case,
    plan::{ACK, FIN, Plan, RST, SYN, syn, syn_ack, tcp},
    refused,
    scene::{self, ACCOUNTS, CLIENT, CLIENT_V6, INNER, INNER_V6, Region, SERVER, endpoint, padded},
};

/// A tunnel with a list, both families.
pub const LISTED: [&str; 2] = ["192.0.2.10:20005", "[2001:db8::10]:20005"];
/// A tunnel that lets three connections of a source open, and another an hour later.
pub const PACED: [&str; 2] = ["192.0.2.10:20006", "[2001:db8::10]:20006"];
/// The same, and five of all sources together.
pub const SHARED: [&str; 2] = ["192.0.2.10:20007", "[2001:db8::10]:20007"];
/// One connection of all sources together, and a list.
pub const BOTH: [&str; 2] = ["192.0.2.10:20008", "[2001:db8::10]:20008"];
/// A tunnel whose list has every IPv6 address and no IPv4 address.
pub const ONLY_V6: [&str; 2] = ["192.0.2.10:20009", "[2001:db8::10]:20009"];
/// One connection of a source every twentieth of a second.
pub const QUICK: &str = "192.0.2.10:20010";

/// The places of these tunnels in the traffic counters.
pub const SLOTS: [u32; 6] = [11, 12, 13, 14, 15, 16];

/// Nanoseconds.
const HOUR: u64 = 3_600_000_000_000;
/// See [`QUICK`].
pub const TWENTIETH: u64 = 50_000_000;

/// What is on their lists, by slot.
pub const LISTS: &[(u32, &str)] = &[
    (11, "198.51.100.7/32"),
    (11, "203.0.113.0/25"),
    (11, "2001:db8:1::/48"),
    // Another tunnel's list is nothing to this one.
    (12, "198.51.100.0/24"),
    (14, "198.51.100.7/32"),
    (14, "2001:db8:1::7/128"),
    (15, "::/0"),
];

/// So many at once, and one an hour.
pub const fn hourly(burst: u64) -> Pace {
    Pace { interval: HOUR, slack: HOUR * (burst - 1) }
}

fn paces() -> Vec<(u32, PaceRow)> {
    let none = Pace::default();
    let row = |source, tunnel, generation| PaceRow { source, tunnel, generation, reserved: 0 };
    vec![
        (12, row(hourly(3), none, 1)),
        (13, row(hourly(3), hourly(5), 2)),
        (14, row(none, hourly(1), 3)),
        (16, row(Pace { interval: TWENTIETH, slack: 0 }, none, 4)),
    ]
}

/// The scene's rows and these tunnels'.
pub fn rows() -> Rows {
    rows_in(Region::Alone)
}

/// The same in a region of several hosts.
pub fn rows_in(region: Region) -> Rows {
    let mut rows = scene::rows_in(region);
    for (publics, slot, flags) in [
        (&LISTED[..], 11, TunnelRow::LISTED),
        (&PACED, 12, TunnelRow::PACED),
        (&SHARED, 13, TunnelRow::PACED),
        (&BOTH, 14, TunnelRow::LISTED | TunnelRow::PACED),
        (&ONLY_V6, 15, TunnelRow::LISTED),
        (&[QUICK], 16, TunnelRow::PACED),
    ] {
        for public in publics {
            let inner = if public.starts_with('[') { INNER_V6 } else { INNER };
            let (container, mac) = (endpoint(inner), padded(SERVER.mac));
            let (ifindex, [account, ..]) = (SERVER.ifindex, ACCOUNTS);
            let row = TunnelRow { container, host: 0, ifindex, slot, flags, account, mac };
            rows.tunnels.insert(endpoint(public), row);
        }
    }
    for (slot, network) in LISTS {
        let network: IpNet = network.parse().expect("a network");
        let listed = ListKey::network(*slot, network.network().into(), network.prefix_len());
        rows.lists.push(listed);
    }
    rows.paces.extend(paces());
    rows
}

/// Writes the lists and paces into the kernel's tables; the rest is the scene's.
pub fn install(datapath: &Datapath) -> Result<(), DatapathError> {
    for slot in SLOTS {
        let own = LISTS.iter().filter(|(one, _)| *one == slot);
        let own: Vec<_> = own.map(|(_, network)| network.parse().expect("a network")).collect();
        datapath.set_list(slot, &own)?;
    }
    for (slot, row) in paces() {
        datapath.set_pace(slot, row)?;
    }
    Ok(())
}

fn inside(plan: Plan) -> Plan {
    let v4 = plan.destination.is_ipv4();
    plan.to(if v4 { INNER } else { INNER_V6 })
}

fn passes(name: &str, plan: &Plan, slot: u32) -> Case {
    let after = inside(plan.clone()).build();
    Case::delivered(name, plan.build(), after, Verdict::Tunnel, SERVER).counted(Passage::In, slot)
}

/// Who may send.
pub fn lists() -> Vec<Case> {
    let [to, to_v6] = LISTED;
    let mut cases = Vec::new();
    for client in [CLIENT, "198.51.100.7:1", "203.0.113.0:9", "203.0.113.127:9"] {
        cases.push(passes(client, &tcp(client, to), 11));
    }
    for client in ["198.51.100.6:40000", "198.51.100.8:40000", "203.0.113.128:9", "8.8.8.8:53"] {
        cases.push(refused(client, &tcp(client, to), Verdict::NotAllowed));
    }
    for client in [CLIENT_V6, "[2001:db8:1:ffff:ffff:ffff:ffff:ffff]:9"] {
        cases.push(passes(client, &tcp(client, to_v6), 11));
    }
    for client in ["[2001:db8:2::7]:40000", "[2001:db8:0:ffff::]:1", "[2600::1]:1"] {
        cases.push(refused(client, &tcp(client, to_v6), Verdict::NotAllowed));
    }
    // Every packet is looked at: nothing behind a list answers a stranger.
    for (name, flags) in [("SYN", SYN), ("ACK", ACK), ("RST", RST), ("FIN", FIN | ACK), ("none", 0)]
    {
        let plan = |client| tcp(client, to).flags(flags);
        cases.push(passes(name, &plan(CLIENT), 11));
        cases.push(refused(name, &plan("8.8.8.8:53"), Verdict::NotAllowed));
    }
    let forged = tcp("100.64.0.9:1", to);
    cases.push(refused("an inner address", &forged, Verdict::ForgedSource));
    let fragment = tcp("8.8.8.8:53", to).fragment(0, true);
    cases.push(refused("a stranger's fragment", &fragment, Verdict::Fragment));
    let [v4, v6] = ONLY_V6;
    cases.push(passes("any IPv6 address", &tcp("[2600::1]:1", v6), 15));
    cases.push(refused("IPv4 in ::/0", &tcp(CLIENT, v4), Verdict::NotAllowed));
    cases
}

/// How often connections open.
pub fn rates() -> Vec<Case> {
    let mut cases = Vec::new();
    let [to, to_v6] = PACED;
    for (to, client, sibling, other) in [
        (to, CLIENT, "198.51.100.7:2", "198.51.100.8:2"),
        (to_v6, CLIENT_V6, "[2001:db8:1::ffff]:2", "[2001:db8:1:1::7]:2"),
    ] {
        for (name, source) in [("first", client), ("second", client), ("third", sibling)] {
            cases.push(passes(name, &syn(source, to, &[]), 12));
        }
        for (name, source) in [("fourth", client), ("fifth", sibling)] {
            cases.push(refused(name, &syn(source, to, &[]), Verdict::SourceRate));
        }
        // What does not open a connection is free, even then.
        cases.push(passes("established", &tcp(client, to), 12));
        cases.push(passes("SYN-ACK", &syn_ack(client, to, &[]), 12));
        cases.push(passes("another source", &syn(other, to, &[]), 12));
    }
    // A refused source takes nothing from the others of its tunnel, and no tunnel from another.
    let [to, to_v6] = SHARED;
    for name in ["first", "second", "third"] {
        cases.push(passes(name, &syn(CLIENT, to, &[]), 13));
    }
    for name in ["fourth", "fifth", "sixth"] {
        cases.push(refused(name, &syn(CLIENT, to, &[]), Verdict::SourceRate));
    }
    cases.push(passes("fourth of all", &syn("203.0.113.1:1", to, &[]), 13));
    cases.push(passes("fifth of all", &syn(CLIENT_V6, to_v6, &[]), 13));
    cases.push(refused("sixth of all", &syn("203.0.113.2:1", to, &[]), Verdict::TunnelRate));
    cases.push(refused("seventh of all", &syn(CLIENT_V6, to_v6, &[]), Verdict::TunnelRate));
    cases.push(passes("established", &tcp("203.0.113.2:1", to), 13));
    // Nor do strangers.
    let [to, to_v6] = BOTH;
    for client in ["8.8.8.8:1", "8.8.8.9:1"] {
        cases.push(refused("a stranger", &syn(client, to, &[]), Verdict::NotAllowed));
    }
    cases.push(passes("first", &syn(CLIENT, to, &[]), 14));
    cases.push(refused("second", &syn(CLIENT_V6, to_v6, &[]), Verdict::TunnelRate));
    cases.push(refused("a stranger", &syn("8.8.8.8:1", to, &[]), Verdict::NotAllowed));
    cases
}
