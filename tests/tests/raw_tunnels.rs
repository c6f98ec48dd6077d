//! Raw TCP tunnels: from the internet through the kernel, from the machine itself by userspace.

use tests::{
    lab::{Lab, PATIENCE},
    process::wait_for,
};

const SERVER: &[&str] = &["python3", "-u", "-m", "http.server", "--bind", "::", "8000"];

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
    let counted = |hook, verdict| {
        let labels = [format!("hook=\"{hook}\""), format!("verdict=\"{verdict}\"")];
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        after.sum("edge_verdict_packets_total", &labels)
            - before.sum("edge_verdict_packets_total", &labels)
    };
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
