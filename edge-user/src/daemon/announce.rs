//! What a daemon took and why: for the person who started it, and for `edge check` and `edge ca`.

use super::{joined::Joined, role::Orders};
use crate::{
    host::uplink::{self, Uplink},
    wire::admin::{StatusResponse, Uplink as UplinkStatus},
};

pub(super) fn status(
    orders: &Orders,
    joined: Option<&Joined>,
    uplinks: &[Uplink],
    tls_port: u16,
    ca: Option<String>,
) -> StatusResponse {
    let region = joined.map_or("local", |joined| &joined.settings.region);
    let underlays = joined.map_or(&[][..], |joined| &joined.underlays);
    StatusResponse {
        version: env!("CARGO_PKG_VERSION").into(),
        region: region.to_owned(),
        domain: orders.args.domain.clone(),
        ca: ca.unwrap_or_default(),
        tls_port: tls_port.into(),
        uplinks: uplinks.iter().map(interface).collect(),
        metrics: format!("http://{}/metrics", orders.args.operation.admin),
        underlays: underlays.iter().map(interface).collect(),
        role: orders.role.label().to_owned(),
        host: joined.map_or(0, |joined| joined.member.host().into()),
        container_mtu: joined.map_or(0, |joined| joined.settings.mtu),
    }
}

fn interface(one: &Uplink) -> UplinkStatus {
    UplinkStatus {
        interface: one.name.clone(),
        driver: one.driver.clone(),
        hook: uplink::hook_label(one.mode).into(),
        why: one.why.clone(),
        addresses: one.addresses.iter().map(ToString::to_string).collect(),
    }
}

pub(super) fn announce(status: &StatusResponse, http_port: Option<u16>) {
    println!("region    {}, tunnels are named *.{}", status.region, status.domain);
    if status.host != 0 {
        println!("machine   {} {} of it", status.role, status.host);
    }
    if let Some(http_port) = http_port {
        println!("tls       port {}; plain HTTP on {http_port} is sent there", status.tls_port);
    }
    if !status.ca.is_empty() {
        println!("authority {}", status.ca);
    }
    if status.uplinks.is_empty() && http_port.is_some() {
        println!("uplink    none named: tunnels are served on loopback (--uplink IFACE|auto)");
    }
    for uplink in &status.uplinks {
        println!(
            "uplink    {} ({}): {}, because {}",
            uplink.interface, uplink.driver, uplink.hook, uplink.why
        );
    }
    for underlay in &status.underlays {
        println!(
            "underlay  {} ({}): {}, because {}",
            underlay.interface, underlay.driver, underlay.hook, underlay.why
        );
    }
    println!("metrics   {}", status.metrics);
}
