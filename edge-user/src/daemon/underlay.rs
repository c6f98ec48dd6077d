//! The interfaces towards the region's other machines: which they are, and whether they will do.

use std::{net::IpAddr, slice};

use edge_common::packet::LEAST_MTU_V6;

use super::{machine::Machine, role::Orders};
use crate::{
    cli::values,
    error::{Error, Kind},
    host::{
        underlay::Interface,
        uplink::{self, Uplink},
    },
    region::roster::{Carriage, RegionSettings},
};

/// Bytes of a Geneve header with its UDP header, without options (RFC 8926).
const GENEVE: u32 = 8 + 8;
/// Bytes of the option that carries the region key.
const KEY: u32 = 12;

/// The interfaces that were named, with their hooks.
///
/// # Errors
/// One that is not there, has no address, or has one of the containers' range.
pub(super) async fn find(orders: &Orders, machine: &Machine) -> anyhow::Result<Vec<Uplink>> {
    let mut found: Vec<Uplink> = Vec::new();
    for name in orders.underlays() {
        let wanted = values::Uplink::Interface(name.clone());
        let args = &orders.args;
        let one = uplink::find(&machine.links, &wanted, args.datapath, args.ipv4_pool).await;
        // The hook is what differs from an uplink's least.
        let one = one.map_err(|error| match error {
            uplink::UplinkError::Link(error) => anyhow::Error::from(error),
            error => {
                Error::relayed(Kind::Refused, error.to_string().replacen("uplink", "underlay", 1))
                    .into()
            }
        })?;
        if found.iter().all(|other| other.index != one.index) {
            found.push(one);
        }
    }
    Ok(found)
}

/// The addresses of an interface that others send to: the first of each family.
pub(super) fn interface(underlay: &Uplink) -> Interface {
    let first =
        |v4: bool| underlay.addresses.iter().find(|address| address.is_ipv4() == v4).copied();
    Interface {
        index: underlay.index,
        addresses: [first(true), first(false)].into_iter().flatten().collect(),
    }
}

/// The addresses of all of them.
pub(super) fn addresses(underlays: &[Uplink]) -> Vec<IpAddr> {
    underlays.iter().flat_map(|underlay| interface(underlay).addresses).collect()
}

/// The largest packet between containers that these interfaces carry.
///
/// # Errors
/// If IPv6 does not fit in it.
pub(super) fn region_mtu(
    underlays: &[Uplink],
    carriage: Carriage,
    keyed: bool,
) -> anyhow::Result<u32> {
    let mut least = u32::MAX;
    for underlay in underlays {
        let needed = overhead(slice::from_ref(underlay), carriage, keyed);
        let mtu = underlay.mtu.saturating_sub(needed);
        if mtu < LEAST_MTU_V6 {
            let cause = format!(
                "of its MTU {} containers would have {mtu}, and IPv6 needs {LEAST_MTU_V6}",
                underlay.mtu
            );
            let remedy =
                format!("ip link set {} mtu {}, or more", underlay.name, LEAST_MTU_V6 + needed);
            return Err(refused(underlay, cause, remedy));
        }
        least = least.min(mtu);
    }
    Ok(least)
}

/// Refuses interfaces over which this region's packets would not come.
///
/// # Errors
/// An MTU that is too small, or no address that the others could send to.
pub(super) fn fits(underlays: &[Uplink], settings: &RegionSettings) -> anyhow::Result<()> {
    for underlay in underlays {
        if settings.carriage == Carriage::Direct && !underlay.addresses.iter().any(IpAddr::is_ipv6)
        {
            let cause =
                "it has no IPv6 address, and the region's packets go directly (--carriage direct)";
            let remedy = "give it one, as with `ip address add`, or start the gateways with --carriage geneve";
            return Err(refused(underlay, cause, remedy));
        }
        let needed = settings.mtu
            + overhead(slice::from_ref(underlay), settings.carriage, !settings.keys.is_empty());
        if underlay.mtu < needed {
            let cause = format!(
                "its MTU {} is too small for packets of {} bytes between containers",
                underlay.mtu, settings.mtu
            );
            let remedy = format!("ip link set {} mtu {needed}, or more", underlay.name);
            return Err(refused(underlay, cause, remedy));
        }
    }
    Ok(())
}

/// The first of them that is also the way to the internet, where strangers send from.
///
/// # Errors
/// If the kernel does not say which the default route is.
pub(super) async fn exposed<'u>(
    underlays: &'u [Uplink],
    uplinks: &[Uplink],
    machine: &Machine,
) -> anyhow::Result<Option<&'u Uplink>> {
    let default = machine.links.default_interface().await?;
    Ok(underlays.iter().find(|underlay| {
        Some(underlay.index) == default
            || uplinks.iter().any(|uplink| uplink.index == underlay.index)
    }))
}

/// Why an interface will not do.
pub(super) fn refused(
    underlay: &Uplink,
    cause: impl std::fmt::Display,
    remedy: impl std::fmt::Display,
) -> anyhow::Error {
    Error::new(Kind::Refused, format_args!("underlay {}", underlay.name), cause, remedy).into()
}

/// Bytes that are put around a packet, at most.
fn overhead(underlays: &[Uplink], carriage: Carriage, keyed: bool) -> u32 {
    if carriage == Carriage::Direct {
        return 0;
    }
    let ip = if addresses(underlays).iter().any(IpAddr::is_ipv6) { 40 } else { 20 };
    ip + GENEVE + if keyed { KEY } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn underlay(mtu: u32, addresses: &[&str]) -> Uplink {
        Uplink {
            name: "eth1".into(),
            index: 3,
            mtu,
            driver: "veth".into(),
            mode: None,
            why: String::new(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn a_packet_between_containers_leaves_room_for_what_is_put_around_it() {
        let mtu = |addresses: &[&str], carriage, keyed| {
            region_mtu(&[underlay(1500, addresses)], carriage, keyed).unwrap()
        };
        assert_eq!(mtu(&["192.0.2.1"], Carriage::Geneve, false), 1464);
        assert_eq!(mtu(&["192.0.2.1", "2001:db8::1"], Carriage::Geneve, false), 1444);
        assert_eq!(mtu(&["2001:db8::1"], Carriage::Geneve, true), 1432);
        assert_eq!(mtu(&["2001:db8::1"], Carriage::Direct, false), 1500);
        let small = region_mtu(&[underlay(1300, &["192.0.2.1"])], Carriage::Geneve, false);
        let error = small.unwrap_err().to_string();
        assert!(error.contains("underlay eth1") && error.contains("mtu 1316"), "{error}");
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_remedy() {
        let settings =
            |mtu, carriage| RegionSettings { mtu, carriage, ..RegionSettings::default() };
        let v4 = [underlay(1500, &["192.0.2.1"])];
        assert!(fits(&v4, &settings(1464, Carriage::Geneve)).is_ok());
        let error = fits(&v4, &settings(1465, Carriage::Geneve)).unwrap_err().to_string();
        assert!(error.contains("mtu 1501"), "{error}");
        let error = fits(&v4, &settings(1500, Carriage::Direct)).unwrap_err().to_string();
        assert!(error.contains("no IPv6 address"), "{error}");
    }

    #[test]
    fn others_send_to_the_first_address_of_a_family() {
        let one = underlay(1500, &["2001:db8::1", "192.0.2.1", "192.0.2.9"]);
        let expected: Vec<IpAddr> =
            ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().unwrap()).into();
        assert_eq!(interface(&one).addresses, expected);
    }
}
