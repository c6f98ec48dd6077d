//! The places of a region and the wires between them, without any daemon.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{
    Plan, Underlay,
    underlay::{Fabric, bridge},
};
use crate::{netns::NetNs, tap::Tap, wire::Wire};

/// The internet and the underlay.
pub struct Scene {
    /// The internet: one link, and `eth0` on it is a client, 192.0.2.20 and 2001:db8::20.
    pub internet: NetNs,
    fabric: Option<Fabric>,
    whole_frames: bool,
}

/// Where a machine stands, or a stranger.
pub struct Place {
    /// What people call it.
    pub name: String,
    /// Its inside: `up0` leads to the internet, `un0` and on to the underlay.
    pub netns: NetNs,
    /// Its IPv4 address on the internet.
    pub public: Ipv4Addr,
    /// Its IPv6 address on the internet.
    pub public_v6: Ipv6Addr,
    /// Its addresses on the underlay, one a link.
    pub underlay: Vec<IpAddr>,
    number: u8,
    uplink: Wire,
    links: Vec<Wire>,
}

impl Scene {
    /// What a machine calls its interface towards the internet.
    pub const UPLINK: &str = "up0";
    /// The client's IPv4 address.
    pub const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 20);
    /// The client's IPv6 address.
    pub const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x20);
    /// Gateways are numbered from 1, hosts from the number after this.
    pub(super) const FIRST_HOST: u8 = 10;
    /// The number of the store's machine, if it has one of its own.
    pub(super) const STORE: u8 = 10;

    /// Without any machine yet.
    #[track_caller]
    pub fn new(plan: &Plan) -> Self {
        let internet = NetNs::new("internet");
        bridge(&internet, "eth0");
        internet.ip(&["address", "add", &format!("{}/24", Self::CLIENT), "dev", "eth0"]);
        internet.ip(&[
            "address",
            "add",
            &format!("{}/64", Self::CLIENT_V6),
            "dev",
            "eth0",
            "nodad",
        ]);
        let fabric = (!plan.over_internet).then(|| Fabric::new(plan));
        Self { internet, fabric, whole_frames: plan.whole_frames }
    }

    /// One more place, with a number that nobody else has: wired to the internet and the underlay.
    #[track_caller]
    pub fn place(&self, name: &str, number: u8) -> Place {
        let netns = NetNs::new(name);
        let (public, public_v6) = (public(number), public_v6(number));
        let port = format!("line{number}");
        let ours = [format!("{public}/24"), format!("{public_v6}/64")];
        let ours = ours.each_ref().map(String::as_str);
        let uplink = Wire::new(&self.internet, &port, &[], &netns, Self::UPLINK, &ours);
        self.internet.ip(&["link", "set", &port, "master", "eth0"]);
        netns.ip(&["route", "add", "default", "via", &Self::CLIENT.to_string()]);
        netns.ip(&["route", "add", "default", "via", &Self::CLIENT_V6.to_string()]);
        let links = self.fabric.as_ref().map(|fabric| fabric.wire(&netns, number));
        let underlay = self.fabric.as_ref().map(|fabric| fabric.addresses(number));
        let (uplink, links) = self.finish(uplink, links.unwrap_or_default());
        let underlay = underlay.unwrap_or_else(|| vec![public.into()]);
        Place { name: name.to_owned(), netns, public, public_v6, underlay, number, uplink, links }
    }

    /// The switch or router of the underlay.
    #[track_caller]
    pub fn underlay(&self) -> &NetNs {
        self.fabric().netns()
    }

    /// Lets the underlay's router answer "too big" to whoever sends larger packets to a place.
    #[track_caller]
    pub fn narrow(&self, place: &Place, mtu: u32) {
        self.fabric().narrow(place.number, mtu);
    }

    /// A tap of the underlay's last hop before a place: whatever a router would not forward.
    #[track_caller]
    pub fn last_hop(&self, place: &Place) -> Tap {
        Tap::on(self.underlay(), &format!("port0-{}", place.number)).towards(place.netns.mac("un0"))
    }

    /// A tap of the internet's client, whose frames go to a place.
    #[track_caller]
    pub fn tap_to(&self, place: &Place) -> Tap {
        Tap::on(&self.internet, "eth0").towards(place.netns.mac(Self::UPLINK))
    }

    fn fabric(&self) -> &Fabric {
        self.fabric.as_ref().expect("this region's underlay is the internet")
    }

    fn finish(&self, uplink: Wire, links: Vec<Wire>) -> (Wire, Vec<Wire>) {
        if !self.whole_frames {
            return (uplink, links);
        }
        (uplink.offloads_off(), links.into_iter().map(Wire::offloads_off).collect())
    }
}

impl Place {
    /// Cuts it off from the underlay's link of this number.
    #[track_caller]
    pub fn cut(&self, link: usize) {
        self.links[link].cut();
    }

    /// Mends what was cut.
    #[track_caller]
    pub fn mend(&self, link: usize) {
        self.links[link].mend();
    }

    /// Cuts it off from the internet.
    #[track_caller]
    pub fn cut_uplink(&self) {
        self.uplink.cut();
    }

    /// Mends that.
    #[track_caller]
    pub fn mend_uplink(&self) {
        self.uplink.mend();
    }

    /// Where the underlay's next hop is, for frames that are made by hand: another place on a
    /// shared link, else the router.
    #[track_caller]
    pub fn tap_towards(&self, scene: &Scene, other: &Self, underlay: Underlay) -> Tap {
        let mac = match underlay {
            Underlay::Direct => other.netns.mac("un0"),
            _ => scene.underlay().mac(&format!("port0-{}", self.number)),
        };
        Tap::on(&self.netns, "un0").towards(mac)
    }
}

fn public(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, 100 + number)
}

fn public_v6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100 + u16::from(number))
}
