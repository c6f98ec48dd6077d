//! Lists of who may connect to a tunnel.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;

/// Most networks of one list: each is a row of a table that all tunnels share.
pub const MOST: usize = 64;

/// Why a list is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AllowError {
    /// Not an address or a network.
    #[error("{0} is no network; write ADDRESS or ADDRESS/LENGTH, as 192.0.2.0/24 or 2001:db8::/32")]
    Network(String),
    /// A network with host bits set.
    #[error("{0} has bits set beyond its length; write {1}")]
    HostBits(IpNet, IpNet),
    /// IPv4 written as IPv6: its clients are known by their IPv4 addresses.
    #[error("{0} is IPv4 written as IPv6; write it as IPv4")]
    Mapped(IpNet),
    /// Too long a list.
    #[error("a list of {0} networks is too long; name at most 64, and merge neighbours")]
    TooMany(usize),
    /// A container asks for clients that the operator lets nobody be.
    #[error(
        "the operator lets none of these addresses in; ask for some that are on the daemon's list"
    )]
    Nobody,
}

/// Parses an address or a network.
///
/// # Errors
/// If it is neither, or if it can be written in a plainer way.
pub fn network(text: &str) -> Result<IpNet, AllowError> {
    let net = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        // The parser's own message says less than ours.
        Err(_) => match text.parse::<IpNet>() {
            Ok(net) => net,
            Err(_) => return Err(AllowError::Network(text.to_owned())),
        },
    };
    match net {
        _ if net != net.trunc() => Err(AllowError::HostBits(net, net.trunc())),
        IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some() => Err(AllowError::Mapped(net)),
        _ => Ok(net),
    }
}

/// Parses a whole list.
///
/// # Errors
/// As [`network`], and if there are too many.
pub fn list<T: AsRef<str>>(texts: &[T]) -> Result<Vec<IpNet>, AllowError> {
    if texts.len() > MOST {
        return Err(AllowError::TooMany(texts.len()));
    }
    texts.iter().map(|text| network(text.as_ref())).collect()
}

/// Whether a list lets an address in. An empty one lets everybody in; an IPv4 address written as
/// IPv6 counts as IPv4.
pub fn permits(list: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    list.is_empty() || list.iter().any(|net| net.contains(&address))
}

/// Whom both of two lists let in; an empty list lets everybody in.
///
/// # Errors
/// [`AllowError::Nobody`]: an empty list would let everybody in; [`AllowError::TooMany`].
pub fn intersection(ours: &Arc<[IpNet]>, theirs: &[IpNet]) -> Result<Arc<[IpNet]>, AllowError> {
    if theirs.is_empty() {
        return Ok(ours.clone());
    }
    if ours.is_empty() {
        return Ok(theirs.into());
    }
    let mut both: Vec<IpNet> = Vec::new();
    for ours in ours.iter() {
        for theirs in theirs {
            // Of two networks one holds the other, or they have nothing in common.
            if ours.contains(theirs) {
                both.push(*theirs);
            } else if theirs.contains(ours) {
                both.push(*ours);
            }
        }
    }
    both.sort();
    both.dedup();
    match both.len() {
        0 => Err(AllowError::Nobody),
        1..=MOST => Ok(both.into()),
        count => Err(AllowError::TooMany(count)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        list(texts).unwrap()
    }

    #[test]
    fn networks() {
        for (text, net) in [
            ("192.0.2.7", "192.0.2.7/32"),
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:db8::", "2001:db8::/128"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(network(text).unwrap().to_string(), net);
        }
        for bad in ["", "a", "192.0.2.0/33", "192.0.2", "/8"] {
            assert_eq!(network(bad), Err(AllowError::Network(bad.to_owned())));
        }
        assert!(matches!(network("10.0.0.1/8"), Err(AllowError::HostBits(..))));
        assert!(matches!(network("::ffff:192.0.2.7"), Err(AllowError::Mapped(_))));
        assert_eq!(list(&["10.0.0.1"; 65]), Err(AllowError::TooMany(65)));
    }

    #[test]
    fn lists_let_in_whom_they_name() {
        let list = nets(&["192.0.2.0/24", "2001:db8::/32"]);
        for (address, let_in) in [
            ("192.0.2.255", true),
            ("::ffff:192.0.2.1", true),
            ("192.0.3.0", false),
            ("2001:db8:ffff::1", true),
            ("2001:db9::1", false),
        ] {
            assert_eq!(permits(&list, address.parse().unwrap()), let_in, "{address}");
            assert!(permits(&[], address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn an_intersection_is_in_both() {
        let ours: Arc<[IpNet]> = nets(&["10.0.0.0/8", "192.0.2.128/25", "2001:db8::/32"]).into();
        let everybody = Arc::from([]);
        let of = |theirs: &[&str]| intersection(&ours, &nets(theirs)).map(|both| both.to_vec());
        assert_eq!(of(&[]), Ok(ours.to_vec()));
        assert_eq!(
            of(&["10.1.0.0/16", "192.0.2.0/24"]),
            Ok(nets(&["10.1.0.0/16", "192.0.2.128/25"]))
        );
        assert_eq!(of(&["::/0", "2001:db8::/32"]), Ok(nets(&["2001:db8::/32"])));
        assert_eq!(of(&["172.16.0.0/12"]), Err(AllowError::Nobody));
        assert_eq!(intersection(&everybody, &nets(&["10.0.0.0/8"])).unwrap().len(), 1);
        assert!(intersection(&everybody, &[]).unwrap().is_empty());
    }
}
