//! What `edge up` took and why: for the person who started it, and for `edge check` and `edge ca`.

use crate::{
    cli::UpArgs,
    host::uplink::{self, Uplink},
    wire::admin::{StatusResponse, Uplink as UplinkStatus},
};

pub(super) fn status(
    args: &UpArgs,
    uplinks: &[Uplink],
    tls_port: u16,
    ca: String,
) -> StatusResponse {
    let uplinks = uplinks
        .iter()
        .map(|uplink| UplinkStatus {
            interface: uplink.name.clone(),
            driver: uplink.driver.clone(),
            hook: uplink::hook_label(uplink.mode).into(),
            why: uplink.why.clone(),
            addresses: uplink.addresses.iter().map(ToString::to_string).collect(),
        })
        .collect();
    StatusResponse {
        version: env!("CARGO_PKG_VERSION").into(),
        region: "local".into(),
        domain: args.domain.clone(),
        ca,
        tls_port: tls_port.into(),
        uplinks,
        metrics: format!("http://{}/metrics", args.admin),
    }
}

pub(super) fn announce(status: &StatusResponse, http_port: u16) {
    println!("region    {}, tunnels are named *.{}", status.region, status.domain);
    println!("tls       port {}; plain HTTP on {http_port} is sent there", status.tls_port);
    if !status.ca.is_empty() {
        println!("authority {}", status.ca);
    }
    if status.uplinks.is_empty() {
        println!("uplink    none named: tunnels are served on loopback (--uplink IFACE|auto)");
    }
    for uplink in &status.uplinks {
        println!(
            "uplink    {} ({}): {}, because {}",
            uplink.interface, uplink.driver, uplink.hook, uplink.why
        );
    }
    println!("metrics   {}", status.metrics);
}
