//! Addresses and endpoints, as the tables hold them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An IP address as four words in network byte order; IPv4 is mapped into IPv6 (RFC 4291,
/// section 2.5.5.2), so that one table serves both families.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Address {
    /// The 16 bytes, four at a time, as they lie in memory.
    pub words: [u32; 4],
}

/// An address and a TCP or UDP port.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Endpoint {
    /// The address.
    pub address: Address,
    /// The port in host byte order; a whole word, so that no byte is padding.
    pub port: u32,
}

const MAPPED: u32 = u32::from_be_bytes([0, 0, 0xff, 0xff]).to_be();

impl Address {
    /// From the four bytes of an IPv4 header.
    #[inline(always)]
    pub const fn v4(bytes: [u8; 4]) -> Self {
        Self { words: [0, 0, MAPPED, u32::from_ne_bytes(bytes)] }
    }

    /// From four words of an IPv6 header, as they lie in memory.
    #[inline(always)]
    pub const fn v6(words: [u32; 4]) -> Self {
        Self { words }
    }

    /// Whether this is a mapped IPv4 address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.words[0] == 0 && self.words[1] == 0 && self.words[2] == MAPPED
    }

    /// The workspace that an fdaa address names: `fdaa` (16 bits) · workspace (32) · region (16) ·
    /// host (16) · container (48).
    #[inline(always)]
    pub const fn workspace(&self) -> u32 {
        u32::from_be(self.words[0]) << 16 | u32::from_be(self.words[1]) >> 16
    }

    /// The region that it names; see [`Address::workspace`].
    #[inline(always)]
    pub const fn region(&self) -> u32 {
        u32::from_be(self.words[1]) & 0xffff
    }

    /// The host that it names; see [`Address::workspace`].
    #[inline(always)]
    pub const fn host(&self) -> u32 {
        u32::from_be(self.words[2]) >> 16
    }

    /// The four bytes of a mapped IPv4 address, as they lie in a header.
    #[inline(always)]
    pub const fn last(&self) -> u32 {
        self.words[3]
    }

    /// Whether the address lies in the network that `mask` cuts out.
    #[inline(always)]
    pub const fn within(&self, network: &Self, mask: &Self) -> bool {
        self.words[0] & mask.words[0] == network.words[0]
            && self.words[1] & mask.words[1] == network.words[1]
            && self.words[2] & mask.words[2] == network.words[2]
            && self.words[3] & mask.words[3] == network.words[3]
    }

    /// Whether it can be the far end of a connection: neither loopback, link-local, multicast,
    /// broadcast nor unspecified (RFC 6890). Private addresses can: they may lie behind the uplink.
    #[inline(always)]
    pub const fn is_unicast(&self) -> bool {
        if self.is_v4() {
            let [a, b, _, _] = self.words[3].to_ne_bytes();
            return a != 0 && a != 127 && a < 224 && !(a == 169 && b == 254);
        }
        let [a, b, _, _] = self.words[0].to_ne_bytes();
        let zeros = self.words[0] == 0 && self.words[1] == 0;
        a != 0xff && !(a == 0xfe && b & 0xc0 == 0x80) && !zeros
    }

    /// Whether packets to it go to many receivers (or to none in particular).
    #[inline(always)]
    pub const fn is_multicast(&self) -> bool {
        if self.is_v4() {
            return self.words[3].to_ne_bytes()[0] >= 224;
        }
        self.words[0].to_ne_bytes()[0] == 0xff
    }
}

#[cfg(any(test, feature = "user"))]
impl From<std::net::IpAddr> for Address {
    fn from(address: std::net::IpAddr) -> Self {
        let octets = match address {
            std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            std::net::IpAddr::V6(v6) => v6.octets(),
        };
        zerocopy::transmute!(octets)
    }
}

#[cfg(any(test, feature = "user"))]
impl From<Address> for std::net::IpAddr {
    fn from(address: Address) -> Self {
        let octets: [u8; 16] = zerocopy::transmute!(address);
        std::net::Ipv6Addr::from(octets).to_canonical()
    }
}

#[cfg(any(test, feature = "user"))]
impl From<std::net::SocketAddr> for Endpoint {
    fn from(socket: std::net::SocketAddr) -> Self {
        Self { address: socket.ip().into(), port: socket.port().into() }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn both_families_survive_the_way_there_and_back() {
        for text in ["100.64.0.5", "fdaa:1:2:3:4:5:6:7", "::1"] {
            assert_eq!(IpAddr::from(address(text)).to_string(), text);
        }
        assert_eq!(Address::v4([100, 64, 0, 5]), address("100.64.0.5"));
        assert!(address("100.64.0.5").is_v4() && !address("fdaa::1").is_v4());
    }

    #[test]
    fn a_private_address_names_workspace_region_and_host() {
        let one = address("fdaa:1234:5678:9abc:def0:1:2:3");
        assert_eq!((one.workspace(), one.region(), one.host()), (0x1234_5678, 0x9abc, 0xdef0));
    }

    #[test]
    fn only_what_can_answer_is_unicast() {
        for text in ["8.8.8.8", "10.0.0.1", "2001:db8::1", "fd00::1"] {
            assert!(address(text).is_unicast(), "{text}");
        }
        for text in
            ["127.0.0.1", "0.0.0.0", "169.254.1.1", "224.0.0.1", "255.255.255.255", "::", "::1"]
        {
            assert!(!address(text).is_unicast(), "{text}");
        }
        assert!(!address("fe80::1").is_unicast() && !address("ff02::1").is_unicast());
        assert!(address("ff02::1").is_multicast() && !address("fdaa::1").is_multicast());
    }
}
