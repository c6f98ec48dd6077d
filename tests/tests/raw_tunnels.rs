//! Raw TCP tunnels: from the internet through the kernel, from the machine itself by userspace;
//! byte-exact on every path, and the container sees who the client is.

use std::net::{IpAddr, SocketAddr};

use tests::{
    echo::{Echo, round_trip},
    edge::Tunnel,
    lab::{Lab, PATIENCE},
    process::wait_for,
    tenant::Tenant,
};

const SERVER: &[&str] = &["python3", "-u", "-m", "http.server", "--bind", "::", "8000"];
/// Far more than any buffer on the way holds.
const LARGE: usize = 50 << 20;

#[test]
fn a_client_on_the_uplink_is_served_by_the_kernel_and_seen_by_the_container() {
    let lab = Lab::new(&[]);
    let (container, tunnel) = lab.serve(&["--unencrypted-port", "8000"], 8000, SERVER);
    assert_eq!(tunnel.path, "tcx");
    let before = lab.edge.metrics();

    let socket = tunnel.tcp.expect("a raw socket");
    lab.curl(&lab.internet, &[&format!("http://{socket}/")]);

    let logged = format!("{} - -", Lab::CLIENT);
    wait_for("the client's address in the server's log", PATIENCE, || {
        container.printed().contains(&logged).then_some(())
    });
    let after = lab.edge.metrics();
    let counted = |hook, verdict| after.packets(hook, verdict) - before.packets(hook, verdict);
    assert!(counted("tc_uplink", "tunnel") >= 4.0, "no packets through tc_uplink");
    assert!(counted("tc_container", "reply") >= 3.0, "no packets through tc_container");
    assert_eq!(after.sum("edge_relay_bytes_total", &[]), 0.0, "userspace relayed something");
    let listed = &lab.edge.tunnels()[0];
    assert!(listed.connections >= 1 && listed.bytes_in > 0 && listed.bytes_out > 0, "{listed:?}");
}

#[test]
fn clients_on_the_machine_itself_and_ipv6_clients_are_served_by_userspace() {
    let lab = Lab::new(&[]);
    let (_container, tunnel) = lab.serve(&["--unencrypted-port", "8000"], 8000, SERVER);
    let socket = tunnel.tcp.expect("a raw socket");
    let (_, port) = socket.rsplit_once(':').expect("a port");
    for address in ["127.0.0.1", "[::1]", Lab::PUBLIC] {
        lab.curl(&lab.machine, &[&format!("http://{address}:{port}/")]);
    }
    lab.curl(&lab.internet, &[&format!("http://[{}]:{port}/", Lab::PUBLIC_V6)]);
    assert!(lab.edge.metrics().sum("edge_relay_bytes_total", &["path=\"userspace\""]) > 0.0);
}

#[test]
fn tcx_carries_large_transfers_of_both_families_unchanged() {
    let lab = Lab::new(&["--datapath", "tcx"]);
    let (tenant, echo, tunnel) = echo(&lab);
    assert_eq!(tunnel.path, "tcx");
    large_transfers_show_the_client(&lab, &echo, &tunnel);
    let counts = lab.edge.metrics();
    assert!(counts.packets("tc_uplink", "tunnel") > 0.0);
    assert_eq!(counts.packets("xdp_uplink", "tunnel"), 0.0);
    drop(tenant);
}

#[test]
fn xdp_judges_and_tcx_delivers_where_xdp_is_forced() {
    // Its sender does what a NIC does: XDP sees finished checksums and whole frames.
    let lab = Lab::with_wire(&["--datapath", "xdp"], |wire| wire.offloads_off());
    let (tenant, echo, tunnel) = echo(&lab);
    assert_eq!(tunnel.path, "xdp");
    large_transfers_show_the_client(&lab, &echo, &tunnel);
    let counts = lab.edge.metrics();
    let judged = counts.packets("xdp_uplink", "tunnel");
    let delivered = counts.packets("tc_uplink", "delivered");
    assert!(judged > 1000.0 && delivered > 0.0, "XDP {judged}, TCX {delivered}");
    assert_eq!(counts.packets("tc_uplink", "tunnel"), 0.0, "XDP let something pass unjudged");
    drop(tenant);
}

#[test]
fn userspace_carries_large_transfers_where_no_program_is_wanted() {
    let lab = Lab::new(&["--datapath", "userspace"]);
    let (tenant, echo, tunnel) = echo(&lab);
    assert_eq!(tunnel.path, "userspace");
    for address in [Lab::PUBLIC, Lab::PUBLIC_V6] {
        round_trip(&lab.internet, public(address, &tunnel), LARGE);
    }
    assert_eq!(echo.clients().len(), 2);
    let relayed = lab.edge.metrics().sum("edge_relay_bytes_total", &["path=\"userspace\""]);
    assert!(relayed >= 4.0 * LARGE as f64, "{relayed}");
    drop(tenant);
}

#[test]
fn two_clients_with_the_same_source_port_are_told_apart() {
    let lab = Lab::new(&[]);
    lab.internet.ip(&["address", "add", "192.0.2.21/24", "dev", "eth0"]);
    let (_tenant, echo, tunnel) = echo(&lab);
    let to = public(Lab::PUBLIC, &tunnel);
    let clients = [Lab::CLIENT, "192.0.2.21"].map(|address| {
        lab.internet.enter(|| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
            let socket = socket.expect("a socket");
            let from: SocketAddr = format!("{address}:7777").parse().expect("an address");
            socket.bind(&from.into()).expect("the client's port");
            socket.connect(&to.into()).expect("a connection");
            socket
        })
    });
    let sees = |address: &str| echo.clients().contains(&format!("{address}:7777").parse().unwrap());
    wait_for("both clients", PATIENCE, || (sees(Lab::CLIENT) && sees("192.0.2.21")).then_some(()));
    drop(clients);
}

/// A container that gives everything back, with a tunnel to it for both families.
fn echo(lab: &Lab) -> (Tenant, Echo, Tunnel) {
    let tenant = Tenant::new(&lab.edge, "echo", &["--unencrypted-port", "8000", "--native-ipv6"]);
    let echo = Echo::serve(&tenant.netns, 8000);
    let tunnel = lab.edge.tunnels().remove(0);
    (tenant, echo, tunnel)
}

fn public(address: &str, tunnel: &Tunnel) -> SocketAddr {
    let address: IpAddr = address.parse().expect("an address");
    SocketAddr::new(address, tunnel.raw_port())
}

fn large_transfers_show_the_client(lab: &Lab, echo: &Echo, tunnel: &Tunnel) {
    for (address, client) in [(Lab::PUBLIC, Lab::CLIENT), (Lab::PUBLIC_V6, Lab::CLIENT_V6)] {
        round_trip(&lab.internet, public(address, tunnel), LARGE);
        assert!(echo.saw(client), "{client} is not among {:?}", echo.clients());
    }
    let relayed = lab.edge.metrics().sum("edge_relay_bytes_total", &[]);
    assert_eq!(relayed, 0.0, "userspace relayed something");
}
