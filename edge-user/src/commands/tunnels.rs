//! `edge tunnels`: what is public, and how it fares.

use serde::Serialize;
use tabled::Tabled;

use super::{
    client::{connect, refusal},
    output::{self, or_dash},
};
use crate::{
    cli::{OwnListArgs, Place},
    error::Error,
    wire::{
        admin::{ListTunnelsRequest, Tunnel},
        tunnel as wire,
    },
};

/// A tunnel as `--json` prints it. Programs read this: names stay.
#[derive(Debug, Serialize)]
struct Record {
    id: String,
    workspace: String,
    container: String,
    port: u32,
    url: String,
    tls: String,
    tcp: Option<String>,
    h2: bool,
    path: String,
    connections: u64,
    bytes_in: u64,
    bytes_out: u64,
    last_error: Option<String>,
    proxy_protocol: bool,
    /// Empty: everybody.
    allow: Vec<String>,
    bounds: Bounds,
}

/// What a tunnel's clients may use; null is no bound.
#[derive(Debug, Serialize)]
struct Bounds {
    connections: Option<u32>,
    source_connections: Option<u32>,
    tunnel_rate: Option<Rate>,
    source_rate: Option<Rate>,
    source_rate_raw: Option<Rate>,
    idle_milliseconds: Option<u64>,
}

/// New connections.
#[derive(Debug, Serialize)]
struct Rate {
    per_second: u32,
    burst: u32,
}

#[derive(Tabled)]
#[tabled(rename_all = "UPPERCASE")]
struct Row {
    workspace: String,
    container: String,
    port: u32,
    url: String,
    tcp: String,
    path: String,
    #[tabled(rename = "CONNS")]
    connections: u64,
    #[tabled(rename = "IN")]
    bytes_in: u64,
    #[tabled(rename = "OUT")]
    bytes_out: u64,
    allow: String,
    #[tabled(rename = "MAX CONNS")]
    max_connections: String,
    #[tabled(rename = "LAST ERROR")]
    last_error: String,
}

/// Lists the tunnels.
pub async fn list(place: &Place, args: OwnListArgs) -> Result<(), Error> {
    let reply =
        connect(place).await?.list_tunnels(ListTunnelsRequest { region: args.region }).await;
    let tunnels = reply.map_err(|status| refusal(&status))?.into_inner().tunnels;
    if args.list.json {
        return output::json(&tunnels.into_iter().map(Record::from).collect::<Vec<_>>());
    }
    let none = "no tunnels; `edge run --encrypted-port 8000 -- CMD` makes one";
    output::table(tunnels.into_iter().map(Row::from).collect(), none)
}

impl From<Tunnel> for Record {
    fn from(tunnel: Tunnel) -> Self {
        let options = tunnel.options.unwrap_or_default();
        Self {
            id: tunnel.id,
            workspace: tunnel.workspace,
            container: tunnel.container,
            port: tunnel.port,
            url: tunnel.url,
            tls: tunnel.tls,
            tcp: tunnel.tcp,
            h2: tunnel.h2,
            path: tunnel.path,
            connections: tunnel.connections,
            bytes_in: tunnel.bytes_in,
            bytes_out: tunnel.bytes_out,
            last_error: tunnel.last_error,
            proxy_protocol: options.proxy_protocol,
            bounds: Bounds {
                connections: options.connections,
                source_connections: options.source_connections,
                tunnel_rate: options.tunnel_rate.map(Rate::from),
                source_rate: options.source_rate.map(Rate::from),
                source_rate_raw: options.source_rate_raw.map(Rate::from),
                idle_milliseconds: options.idle_milliseconds,
            },
            allow: options.allow,
        }
    }
}

impl From<wire::Rate> for Rate {
    fn from(rate: wire::Rate) -> Self {
        Self { per_second: rate.per_second, burst: rate.burst }
    }
}

impl From<Tunnel> for Row {
    fn from(tunnel: Tunnel) -> Self {
        let options = tunnel.options.unwrap_or_default();
        let allow = match &options.allow[..] {
            [] => "all".to_owned(),
            [one] => one.clone(),
            [first, more @ ..] => format!("{first} and {} more", more.len()),
        };
        Self {
            workspace: tunnel.workspace,
            container: tunnel.container,
            port: tunnel.port,
            url: tunnel.url,
            tcp: or_dash(tunnel.tcp.as_deref()),
            path: tunnel.path,
            connections: tunnel.connections,
            bytes_in: tunnel.bytes_in,
            bytes_out: tunnel.bytes_out,
            allow,
            max_connections: or_dash(options.connections.map(|n| n.to_string()).as_deref()),
            last_error: or_dash(tunnel.last_error.as_deref()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_names_and_nulls_are_stable() {
        let record = Record::from(Tunnel { tls: "a.b:443".into(), ..Tunnel::default() });
        let json = serde_json::to_value(record).unwrap();
        let expected = serde_json::json!({
            "id": "", "workspace": "", "container": "", "port": 0, "url": "", "tls": "a.b:443",
            "tcp": null, "h2": false, "path": "", "connections": 0, "bytes_in": 0,
            "bytes_out": 0, "last_error": null, "proxy_protocol": false, "allow": [],
            "bounds": {
                "connections": null, "source_connections": null, "tunnel_rate": null,
                "source_rate": null, "source_rate_raw": null, "idle_milliseconds": null,
            },
        });
        assert_eq!(json, expected);
    }
}
