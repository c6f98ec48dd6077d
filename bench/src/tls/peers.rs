//! nginx's stream module, haproxy and hitch, set up for the same task: one worker, TLS 1.3,
//! X25519, bytes copied to one backend. All else is as Debian and the programs' authors have it.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result};
use tests::{
    netns::NetNs,
    process::{Running, Start as _},
};

/// The alternatives.
#[derive(Debug, Clone, Copy)]
pub(super) enum Peer {
    Nginx,
    Haproxy,
    Hitch,
}

/// What they stand between.
pub(super) struct Place<'a> {
    /// Where they run.
    pub(super) netns: &'a NetNs,
    /// Where the certificate is and configurations go.
    pub(super) files: &'a Path,
    /// Where clients reach them.
    pub(super) front: IpAddr,
    /// Where they lead.
    pub(super) backend: SocketAddr,
}

/// All of them, running.
pub(super) struct Peers(Vec<Running>);

impl Peer {
    /// In the order of the tables.
    pub(super) const ALL: [Self; 3] = [Self::Nginx, Self::Haproxy, Self::Hitch];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx stream",
            Self::Haproxy => "haproxy",
            Self::Hitch => "hitch",
        }
    }

    /// Where it listens.
    pub(super) fn port(self) -> u16 {
        match self {
            Self::Nginx => 8401,
            Self::Haproxy => 8402,
            Self::Hitch => 8403,
        }
    }

    /// What it is told, and how it is started. None may become a daemon: it must go with its
    /// guard.
    fn prepare(self, place: &Place<'_>) -> Result<Command> {
        let folder = place.files.to_str().context("the temporary folder is not UTF-8")?;
        let (front, backend) = (SocketAddr::new(place.front, self.port()), place.backend);
        let (configuration, words): (String, &[&str]) = match self {
            Self::Nginx => (nginx(folder, front, backend), &["/usr/sbin/nginx", "-c"]),
            Self::Haproxy => (haproxy(folder, front, backend), &["/usr/sbin/haproxy", "-db", "-f"]),
            Self::Hitch => (hitch(folder, front, backend), &["/usr/sbin/hitch", "--config"]),
        };
        let path = place.files.join(format!("{self:?}.conf"));
        fs::write(&path, configuration)?;
        let mut command = place.netns.command(words[0]);
        command.args(&words[1..]).arg(path);
        Ok(command)
    }
}

impl Peers {
    /// Starts them.
    pub(super) fn start(place: &Place<'_>) -> Result<Self> {
        let start = |peer: Peer| Ok(peer.prepare(place)?.running());
        Ok(Self(Peer::ALL.into_iter().map(start).collect::<Result<_>>()?))
    }

    /// The first process of one.
    pub(super) fn pid(&self, peer: Peer) -> u32 {
        self.0[peer as usize].pid()
    }
}

fn nginx(folder: &str, front: SocketAddr, backend: SocketAddr) -> String {
    format!(
        "daemon off;
user root;
pid {folder}/nginx.pid;
error_log stderr error;
worker_processes 1;
worker_rlimit_nofile 20000;
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
events {{ worker_connections 10000; }}
stream {{
    server {{
        listen {front} ssl backlog=4096;
        ssl_certificate {folder}/cert.pem;
        ssl_certificate_key {folder}/key.pem;
        ssl_protocols TLSv1.3;
        ssl_ecdh_curve X25519;
        proxy_pass {backend};
    }}
}}
"
    )
}

fn haproxy(folder: &str, front: SocketAddr, backend: SocketAddr) -> String {
    format!(
        "global
    nbthread 1
    maxconn 9000
    ssl-default-bind-curves X25519
    ssl-default-bind-options ssl-min-ver TLSv1.3
defaults
    mode tcp
    timeout connect 10s
    timeout client 10m
    timeout server 10m
frontend tls
    bind {front} ssl crt {folder}/both.pem backlog 4096
    default_backend program
backend program
    server one {backend}
"
    )
}

fn hitch(folder: &str, front: SocketAddr, backend: SocketAddr) -> String {
    let endpoint = |address: SocketAddr| format!("[{}]:{}", address.ip(), address.port());
    let (front, backend) = (endpoint(front), endpoint(backend));
    format!(
        "frontend = \"{front}\"
backend = \"{backend}\"
pem-file = \"{folder}/both.pem\"
tls-protos = TLSv1.3
ecdh-curve = \"X25519\"
user = \"nobody\"
workers = 1
backlog = 4096
daemon = off
log-level = 1
"
    )
}
