//! The PROXY protocol, read by the programs that people put behind a proxy.

use std::path::Path;

use tests::{
    edge::Tunnel,
    lab::{Lab, PATIENCE},
    netns::NetNs,
    process::{Output, Running, wait_for},
};

const OPTIONS: [&str; 4] = ["--encrypted-port", "8000", "--proxy-protocol", "v2"];

/// A program that reads the header, and answers `client ADDRESS name NAME`.
struct Reader {
    name: &'static str,
    command: [&'static str; 3],
    file: &'static str,
    /// Its configuration; FOLDER and HOW are filled in.
    configuration: &'static str,
    how: &'static str,
}

/// haproxy shows the name that the header carries.
const HAPROXY: Reader = Reader {
    name: "haproxy",
    command: ["haproxy", "-db", "-f"],
    file: "haproxy.cfg",
    configuration: "\
global
    log stdout format raw local0
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend web
    bind 0.0.0.0:8000 HOW
    http-request return status 200 content-type text/plain lf-string \"client %[src] port %[dst_port] name %[fc_pp_authority]\\n\"
",
    how: "accept-proxy",
};

/// nginx knows the addresses of the header only.
const NGINX: Reader = Reader {
    name: "nginx",
    command: ["nginx", "-e", "stderr"],
    file: "nginx.conf",
    configuration: "\
daemon off;
master_process off;
pid FOLDER/nginx.pid;
error_log stderr info;
events {}
http {
    access_log off;
    client_body_temp_path FOLDER/body;
    proxy_temp_path FOLDER/proxy;
    fastcgi_temp_path FOLDER/fastcgi;
    uwsgi_temp_path FOLDER/uwsgi;
    scgi_temp_path FOLDER/scgi;
    server {
        listen 0.0.0.0:8000 HOW;
        default_type text/plain;
        return 200 \"client $proxy_protocol_addr port $proxy_protocol_server_port name $host\\n\";
    }
}
",
    how: "proxy_protocol",
};

impl Reader {
    /// Behind a tunnel with these options.
    fn behind(&self, lab: &Lab, folder: &Path, options: &[&str], how: &str) -> (Running, Tunnel) {
        let text = self.configuration.replace("HOW", how);
        let text = text.replace("FOLDER", &folder.display().to_string());
        let file = folder.join(self.file);
        std::fs::write(&file, text).expect("cannot write the configuration");
        let file = file.display().to_string();
        let mut command: Vec<&str> = self.command.into();
        if self.name == "nginx" {
            command.push("-c");
        }
        command.push(&file);
        lab.serve(options, 8000, &command)
    }
}

/// Asks from an address of the internet.
fn ask(lab: &Lab, from: &NetNs, gateway: &str, tunnel: &Tunnel) -> Output {
    let to = format!("::{gateway}:");
    lab.try_curl(from, &["--connect-to", &to, "--fail", &tunnel.url])
}

#[test]
fn haproxy_and_nginx_are_told_the_clients_address() {
    for reader in [HAPROXY, NGINX] {
        let lab = Lab::new(&[]);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (_container, tunnel) = reader.behind(&lab, folder.path(), &OPTIONS, reader.how);
        let name = tests::tls::host(&tunnel.url);
        for (gateway, client) in [(Lab::PUBLIC, Lab::CLIENT), ("[2001:db8::10]", Lab::CLIENT_V6)] {
            let page = wait_for(reader.name, PATIENCE, || {
                let output = ask(&lab, &lab.internet, gateway, &tunnel);
                output.status.success().then_some(output)
            });
            let expected = format!("client {client} port 443 name {name}");
            assert!(page.stdout.starts_with(&expected), "{}: {page}", reader.name);
        }
    }
}

#[test]
fn without_the_header_or_with_one_unasked_for_they_refuse() {
    for reader in [HAPROXY, NGINX] {
        let lab = Lab::new(&[]);
        let folder = tempfile::tempdir().expect("a temporary folder");
        // The program expects the header, the tunnel sends none.
        let (_container, tunnel) = reader.behind(&lab, folder.path(), &OPTIONS[..2], reader.how);
        listening(&lab, &tunnel);
        let output = ask(&lab, &lab.internet, Lab::PUBLIC, &tunnel).refused();
        assert!(!output.stdout.contains("client"), "{}: {output}", reader.name);
        drop(_container);

        // The tunnel sends one, the program expects none.
        let lab = Lab::new(&[]);
        let (_container, tunnel) = reader.behind(&lab, folder.path(), &OPTIONS, "");
        listening(&lab, &tunnel);
        let output = ask(&lab, &lab.internet, Lab::PUBLIC, &tunnel).refused();
        assert!(!output.stdout.contains("client"), "{}: {output}", reader.name);
    }
}

/// Waits until the program answers at all, be it with a refusal.
fn listening(lab: &Lab, tunnel: &Tunnel) {
    wait_for("the program to listen", PATIENCE, || {
        let before = lab.edge.metrics().sum("edge_dial_errors_total", &[]);
        ask(lab, &lab.internet, Lab::PUBLIC, tunnel);
        (lab.edge.metrics().sum("edge_dial_errors_total", &[]) == before).then_some(())
    });
}

#[test]
fn a_raw_port_cannot_carry_the_header_and_says_so() {
    let lab = Lab::new(&[]);
    let words = ["run", "--unencrypted-port", "22", "--proxy-protocol", "v2", "--", "true"];
    let output = lab.edge.cli(&words).refused();
    assert_eq!(output.status.code(), Some(69), "{output}");
    assert!(
        output.stderr.contains("the PROXY protocol goes with encrypted ports only"),
        "{output}"
    );
    assert!(lab.edge.tunnels().is_empty());
}
