//! What `BPF_PROG_TEST_RUN` cannot show: programs on real interfaces, with metadata from one to
//! the next and with VLAN tags beside the frame.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use edge_common::{
    native::Rows,
    verdict::{Hook, Verdict},
};
use edge_user::datapath::UplinkMode;
use etherparse::{SlicedPacket, TransportSlice};
use socket2::{Domain, Socket, Type};
use tests::{
    netns::NetNs,
    packets::{
        build::tagged,
        kernel::Kernel,
        plan::{mss, syn, syn_ack, tcp},
        raw::{self, RawEnd},
        run,
        scene::{self, CLIENT, CLIENT_V6, INNER, INNER_V6, MSS, MSS_V6, PUBLIC, PUBLIC_V6, SERVER},
    },
    process::wait_for,
    wire::Wire,
};

const PATIENCE: Duration = Duration::from_secs(5);
/// Long enough for a frame that does come: it is handed over before `send` returns.
const MOMENT: Duration = Duration::from_millis(300);

/// The scene's rows on real interfaces: the uplink `up0` and one container's `ct0`.
struct Host {
    kernel: Kernel,
    internet: RawEnd,
    container: RawEnd,
    _wires: [Wire; 2],
    machine: NetNs,
    inside: NetNs,
}

impl Host {
    fn new(name: &str, mode: UplinkMode) -> Self {
        let [machine, internet, container] =
            ["machine", "internet", "container"].map(|end| NetNs::new(&format!("{name}-{end}")));
        // The kernel says nothing of its own accord: every packet that is counted is the test's.
        for end in [&machine, &internet, &container] {
            end.sysctl("net/ipv6/conf/default/disable_ipv6", "1");
        }
        let wires = [
            Wire::new(&machine, "up0", &["192.0.2.10/24"], &internet, "eth0", &["192.0.2.20/24"])
                .offloads_off(),
            Wire::new(&machine, "ct0", &[], &container, "eth0", &[]),
        ];
        machine.ip(&["link", "set", "up0", "address", "02:00:00:00:00:02"]);
        // Frames that the test makes come from an interface that nobody resolves.
        machine.ip(&["route", "add", "default", "via", "192.0.2.20"]);
        let hardware = "02:00:00:00:00:01";
        machine.ip(&["neigh", "replace", "192.0.2.20", "lladdr", hardware, "dev", "up0"]);
        let (uplink, veth) = machine.enter(|| (raw::index("up0"), raw::index("ct0")));
        let kernel = Kernel::load_with(name, &on(uplink, veth));
        machine.enter(|| {
            kernel.datapath.attach_uplink("up0", mode).expect("programs on the uplink");
            kernel.datapath.attach_container("ct0").expect("a program on the veth");
        });
        let inside = container.clone();
        let (internet, container) =
            (RawEnd::open(&internet, "eth0"), RawEnd::open(&container, "eth0"));
        Self { kernel, internet, container, _wires: wires, machine, inside }
    }

    /// Gives the container a stack of its own, as the daemon wires it, and the machine a way out.
    fn wire_stacks(&self) {
        self.inside.ip(&["link", "set", "eth0", "address", "02:00:00:00:00:0a"]);
        for (netns, interface) in [(&self.inside, "eth0"), (&self.machine, "up0")] {
            netns.sysctl(&format!("net/ipv6/conf/{interface}/disable_ipv6"), "0");
            netns.sysctl(&format!("net/ipv6/conf/{interface}/accept_dad"), "0");
        }
        self.inside.ip(&["address", "add", "100.64.0.2/32", "dev", "eth0"]);
        self.inside.ip(&["address", "add", "fdaa:0:1:5:1::2/128", "dev", "eth0", "nodad"]);
        self.machine.ip(&["address", "add", "2001:db8::10/64", "dev", "up0", "nodad"]);
        for (netns, interface, gateway) in [
            (&self.inside, "eth0", "169.254.1.1"),
            (&self.inside, "eth0", "fe80::1"),
            (&self.machine, "up0", "2001:db8::20"),
        ] {
            let via = ["route", "add", "default", "via", gateway, "dev", interface, "onlink"];
            netns.ip(&via);
            let hardware = "02:00:00:00:00:01";
            netns.ip(&["neigh", "replace", gateway, "lladdr", hardware, "dev", interface]);
        }
        // The kernel puts an IPv6 address to use some time after it has taken it.
        for (netns, address) in [(&self.inside, "fdaa:0:1:5:1::2"), (&self.machine, "2001:db8::10")]
        {
            wait_for(address, PATIENCE, || {
                let routes = netns.ip(&["-6", "route", "show", "table", "local"]);
                routes.contains(&format!("local {address} ")).then_some(())
            });
        }
    }

    fn packets(&self, hook: Hook, verdict: Verdict) -> u64 {
        let verdicts = self.kernel.datapath.verdicts().expect("counters");
        let of = |row: &&(Hook, Verdict, _)| (row.0, row.1) == (hook, verdict);
        verdicts.iter().find(of).map_or(0, |(_, _, count)| count.packets)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Pins would keep the programs attached for as long as the interfaces live.
        self.machine.enter(|| ["up0", "ct0"].map(|name| self.kernel.datapath.detach(name)));
    }
}

/// The scene's rows with the interfaces' own numbers.
fn on(uplink: u32, veth: u32) -> Rows {
    let mut rows = scene::rows();
    rows.addresses.values_mut().for_each(|row| row.ifindex = veth);
    rows.tunnels.values_mut().for_each(|row| row.ifindex = veth);
    rows.forwards.values_mut().filter(|row| row.uplink != 0).for_each(|row| row.uplink = uplink);
    rows
}

fn to_container(mut frame: Vec<u8>) -> Vec<u8> {
    frame[..6].copy_from_slice(&SERVER.mac);
    frame
}

#[test]
fn a_frame_that_xdp_judged_is_delivered_behind_it() {
    let host = Host::new("judged", UplinkMode::Xdp);
    host.internet.send(&syn(CLIENT, PUBLIC, &mss(1460)).build());
    let arrives = to_container(syn(CLIENT, INNER, &mss(MSS)).build());
    host.container.expect(&arrives, PATIENCE);
    assert_eq!(host.packets(Hook::XdpUplink, Verdict::Tunnel), 1);
    assert_eq!(host.packets(Hook::TcUplink, Verdict::Delivered), 1);
    assert_eq!(host.packets(Hook::TcUplink, Verdict::Tunnel), 0, "it was judged twice");
}

#[test]
fn a_frame_that_only_tcx_sees_is_the_same_inside_and_its_reply_goes_out() {
    let host = Host::new("tcx", UplinkMode::Tcx);
    host.internet.send(&syn(CLIENT, PUBLIC, &mss(1460)).build());
    let arrives = to_container(syn(CLIENT, INNER, &mss(MSS)).build());
    host.container.expect(&arrives, PATIENCE);
    assert_eq!(host.packets(Hook::TcUplink, Verdict::Tunnel), 1);

    host.container.send(&syn_ack(INNER, CLIENT, &mss(1460)).build());
    let mut leaves = syn_ack(PUBLIC, CLIENT, &mss(MSS)).build();
    leaves[..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    leaves[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 2]);
    host.internet.expect(&leaves, PATIENCE);
    assert_eq!(host.packets(Hook::TcContainer, Verdict::Reply), 1);
}

#[test]
fn a_vlan_is_another_network_on_both_sides() {
    for mode in [UplinkMode::Tcx, UplinkMode::Xdp] {
        let host = Host::new("vlan", mode);
        let sent = tcp(CLIENT, PUBLIC).build();
        host.internet.send(&tagged(&sent, 100));
        let arrives = to_container(tcp(CLIENT, INNER).build());
        assert!(!host.container.sees(&arrives, MOMENT), "{mode:?}: from a VLAN of the uplink");
        assert_eq!(host.packets(Hook::TcUplink, Verdict::NotOurs), 1, "{mode:?}");

        // The container must not choose a VLAN of the uplink for its replies.
        host.container.send(&tagged(&tcp(INNER, CLIENT).build(), 100));
        assert_eq!(host.packets(Hook::TcContainer, Verdict::Reply), 0, "{mode:?}");
        assert_eq!(host.packets(Hook::TcContainer, Verdict::NotIp), 1, "{mode:?}");

        host.internet.send(&sent);
        host.container.expect(&arrives, PATIENCE);
    }
}

/// A stack leaves checksums for the NIC to finish; what it finishes must be what was rewritten.
/// The uplink's end has no such offload, so the kernel finishes them just before the wire.
#[test]
fn checksums_that_a_nic_finishes_are_right() {
    let host = Host::new("partial", UplinkMode::Tcx);
    host.wire_stacks();
    for (client, public, inner, limit) in
        [(CLIENT, PUBLIC, INNER, MSS), (CLIENT_V6, PUBLIC_V6, INNER_V6, MSS_V6)]
    {
        let _listener = host.inside.enter(|| TcpListener::bind(inner).expect("a listener"));
        host.internet.send(&syn(client, public, &mss(1400)).build());
        let accepts = |frame: &[u8]| {
            let packet = SlicedPacket::from_ethernet(frame).ok();
            let transport = packet.and_then(|packet| packet.transport);
            matches!(transport, Some(TransportSlice::Tcp(tcp)) if tcp.syn() && tcp.ack())
        };
        let left = host.internet.find(PATIENCE, accepts).expect("an answer to the client");
        assert_eq!(run::wrong_checksum(&left), None, "{public}");
        let clamped = mss(limit);
        assert!(left.windows(clamped.len()).any(|bytes| bytes == clamped), "{public}: no MSS");
    }
}

#[test]
fn a_forwarded_port_that_connects_out_is_refused_at_once() {
    let host = Host::new("refused", UplinkMode::Tcx);
    host.wire_stacks();
    for (inner, client) in [(INNER, CLIENT), (INNER_V6, CLIENT_V6)] {
        let (inner, client): (SocketAddr, SocketAddr) =
            (inner.parse().expect("an end"), client.parse().expect("an end"));
        let refused = host.inside.enter(|| {
            let socket = Socket::new(Domain::for_address(inner), Type::STREAM, None)?;
            socket.bind(&inner.into())?;
            socket.connect_timeout(&client.into(), PATIENCE)
        });
        let error = refused.expect_err("a forwarded port connected out");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{inner}: {error}");
    }
    assert_eq!(host.packets(Hook::TcContainer, Verdict::ConnectFromForwardedPort), 2);
}
