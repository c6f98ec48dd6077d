//! The userspace proxies and tunnels that raw tunnels are compared with, each between the same
//! two namespaces, configured as its manual proposes for speed.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};
use tempfile::TempDir;
use tests::{
    netns::NetNs,
    process::{Running, Start as _},
};

/// A running program with its configuration.
pub(crate) struct Peer {
    _folder: TempDir,
    _running: Vec<Running>,
}

/// What a peer stands between.
pub(crate) struct Place<'a> {
    /// Where clients reach it.
    pub(crate) router: &'a NetNs,
    /// The router's address towards clients.
    pub(crate) outside: &'a str,
    /// The router's address towards the server.
    pub(crate) inside: &'a str,
    /// Where the server is.
    pub(crate) server: &'a NetNs,
    /// The server's address.
    pub(crate) address: &'a str,
    /// The server's ports.
    pub(crate) ports: [u16; 2],
}

type Start = fn(&Place<'_>, base: u16) -> Result<Peer>;

/// Every peer by name, and what starts it: its public ports are the base and the next.
pub(crate) const PEERS: &[(&str, Start)] =
    &[("haproxy", haproxy), ("nginx stream", nginx), ("rathole", rathole), ("bore", bore)];

fn haproxy(place: &Place<'_>, base: u16) -> Result<Peer> {
    let Place { outside, address, ports: [bulk, echo], .. } = place;
    let next = base + 1;
    let text = format!(
        "global
    nbthread 2
defaults
    mode tcp
    option splice-auto
    timeout connect 5s
    timeout client 1m
    timeout server 1m
listen bulk
    bind {outside}:{base}
    server server {address}:{bulk}
listen echo
    bind {outside}:{next}
    server server {address}:{echo}
"
    );
    let folder = with_file("haproxy.cfg", &text)?;
    let mut command = place.router.command("haproxy");
    command.args(["-db", "-f"]).arg(folder.path().join("haproxy.cfg"));
    Ok(Peer { _running: vec![command.running()], _folder: folder })
}

fn nginx(place: &Place<'_>, base: u16) -> Result<Peer> {
    let Place { outside, address, ports: [bulk, echo], .. } = place;
    let next = base + 1;
    let text = format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
pid nginx.pid;
error_log stderr;
worker_processes 2;
events {{ worker_connections 4096; }}
stream {{
    proxy_buffer_size 64k;
    server {{ listen {outside}:{base} reuseport; proxy_pass {address}:{bulk}; }}
    server {{ listen {outside}:{next} reuseport; proxy_pass {address}:{echo}; }}
}}
"
    );
    let folder = with_file("nginx.conf", &text)?;
    let mut command = place.router.command("nginx");
    command.arg("-p").arg(folder.path()).args(["-c", "nginx.conf", "-e", "stderr"]);
    Ok(Peer { _running: vec![command.running()], _folder: folder })
}

fn rathole(place: &Place<'_>, base: u16) -> Result<Peer> {
    let Place { outside, inside, ports: [bulk, echo], .. } = place;
    let next = base + 1;
    let server = format!(
        "[server]
bind_addr = \"{inside}:2333\"
default_token = \"bench\"
[server.services.bulk]
bind_addr = \"{outside}:{base}\"
[server.services.echo]
bind_addr = \"{outside}:{next}\"
"
    );
    let client = format!(
        "[client]
remote_addr = \"{inside}:2333\"
default_token = \"bench\"
[client.services.bulk]
local_addr = \"127.0.0.1:{bulk}\"
[client.services.echo]
local_addr = \"127.0.0.1:{echo}\"
"
    );
    let folder = with_file("server.toml", &server)?;
    fs::write(folder.path().join("client.toml"), client)?;
    let start = |netns: &NetNs, role: &str| {
        let mut command = tool(netns, "rathole")?;
        command.arg(format!("--{role}")).arg(folder.path().join(format!("{role}.toml")));
        Ok::<_, anyhow::Error>(command.running())
    };
    let running = vec![start(place.router, "server")?, start(place.server, "client")?];
    Ok(Peer { _running: running, _folder: folder })
}

fn bore(place: &Place<'_>, base: u16) -> Result<Peer> {
    let mut server = tool(place.router, "bore")?;
    server.args(["server", "--min-port", "1024"]);
    let mut running = vec![server.running()];
    for (public, port) in (base..).zip(place.ports) {
        let (public, port) = (public.to_string(), port.to_string());
        let client = ["local", &port, "--to", place.inside, "--port", &public];
        // Its client gives up at once if the server is not there yet.
        let started = tests::process::wait_for("bore", tests::lab::PATIENCE, || {
            let mut client = tool(place.server, "bore").ok()?.args(client).running();
            std::thread::sleep(std::time::Duration::from_millis(200));
            client.ended().is_none().then_some(client)
        });
        running.push(started);
    }
    Ok(Peer { _running: running, _folder: tempfile::tempdir()? })
}

fn with_file(name: &str, text: &str) -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join(name), text).with_context(|| name.to_owned())?;
    Ok(folder)
}

/// A tool that `cargo xtask bench` installed.
fn tool(netns: &NetNs, name: &str) -> Result<Command> {
    let tools = std::env::var_os("EDGE_TOOLS").map(PathBuf::from);
    let tools = tools.context("EDGE_TOOLS is not set; measure with: cargo xtask bench")?;
    Ok(netns.command(tools.join(name)))
}
