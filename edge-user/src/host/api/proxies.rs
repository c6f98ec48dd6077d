//! Proxies, in the words of Modal's API.

use crate::{
    region::proxy::{Proxy, Status},
    wire::modal::{self as wire, ProxyIpStatus},
};

/// A proxy as a container of its workspace is told of it. Edge has workspaces where Modal has
/// environments: the name that was asked with comes back.
pub(super) fn told(proxy: &Proxy, environment: &str) -> wire::Proxy {
    let record = &proxy.record;
    let ips = record.addresses.iter().map(|address| wire::ProxyIp {
        proxy_ip: address.ip.to_string(),
        status: match proxy.status(address) {
            Status::Creating => ProxyIpStatus::Creating,
            Status::Online => ProxyIpStatus::Online,
            Status::Terminated => ProxyIpStatus::Terminated,
            Status::Unhealthy => ProxyIpStatus::Unhealthy,
        }
        .into(),
        created_at: seconds(address.created),
        environment_name: environment.to_owned(),
    });
    wire::Proxy {
        name: record.name.clone(),
        created_at: seconds(record.created),
        environment_name: environment.to_owned(),
        proxy_ips: ips.collect(),
        proxy_id: record.id.clone(),
        region: String::new(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds until the year 287396 fit")]
fn seconds(milliseconds: u64) -> f64 {
    milliseconds as f64 / 1000.0
}
