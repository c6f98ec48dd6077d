//! Proxies, in the words of Modal's API.

use crate::{
    region::proxy::{Proxy, ProxyAddress, Status},
    wire::modal::{self as wire, ProxyIpStatus},
};

/// A proxy as a container of its workspace is told of it. Edge has workspaces where Modal has
/// environments: the name that was asked with comes back.
pub(super) fn told(
    proxy: &Proxy,
    environment: &str,
    status: impl Fn(&ProxyAddress) -> Status,
) -> wire::Proxy {
    let record = &proxy.record;
    let ips = record.addresses.iter().map(|address| wire::ProxyIp {
        proxy_ip: address.ip.to_string(),
        status: match status(address) {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::region::proxy::{ProxyRecord, Spread};

    #[test]
    fn an_address_is_what_this_machine_sees_of_it() {
        let ip = [192, 0, 2, 1].into();
        let address = ProxyAddress { ip, beside: None, created: 1500, served: true, leaves: None };
        let record = ProxyRecord {
            id: "pr-1".into(),
            name: "db".into(),
            workspace: "main".into(),
            created: 0,
            addresses: vec![address],
            spread: Spread::Container,
        };
        let proxy = Proxy { record, holders: BTreeMap::from([(ip, 3)]) };
        let told = told(&proxy, "env", |_| Status::Unhealthy);
        let [one] = &told.proxy_ips[..] else { panic!("one address") };
        assert_eq!(one.status(), ProxyIpStatus::Unhealthy);
        assert_eq!((one.proxy_ip.as_str(), one.created_at), ("192.0.2.1", 1.5));
    }
}
