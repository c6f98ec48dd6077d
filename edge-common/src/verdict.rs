//! Every answer the data path gives, under one name: return reason, metric label, CLI text.

/// Declares the verdicts once, with the label and the sentence that people see.
macro_rules! verdicts {
    ($($name:ident = $number:literal, $label:literal, $sentence:literal;)+) => {
        /// What was decided about a packet. Counted at one exit of every hook.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Verdict {
            $(#[doc = $sentence] $name = $number,)+
        }

        impl Verdict {
            /// All verdicts, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The metric label.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }

            /// One sentence for people.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$name => $sentence,)+ }
            }
        }
    };
}

verdicts! {
    NotOurs = 0, "not_ours", "not edge's: left to the kernel unchanged";
    Tunnel = 1, "tunnel", "to a raw TCP tunnel: rewritten and delivered to its container";
    Delivered = 2, "delivered", "rewritten by XDP before: delivered to its container";
    Reply = 3, "reply", "a tunnel's reply: rewritten to the public address and sent out";
    Relayed = 4, "relayed", "between the service namespace and a forwarded port";
    Service = 5, "service", "between a container and the daemon's DNS or API";
    Listener = 6, "listener", "from a container to a public port: left to the userspace listener";
    Egress = 7, "egress", "ordinary egress: left to the kernel for source NAT";
    IcmpError = 8, "icmp_error", "an ICMP error about a tunnel's packet: relayed to who must know";
    I6pn = 9, "i6pn", "between two containers of a workspace";
    Deferred = 10, "deferred", "left by XDP to TCX, which can carry it out";
    Proxied = 11, "proxied", "to the gateway that has the address of the container's proxy";
    Truncated = 12, "truncated", "refused: shorter than its own headers say";
    NotIp = 13, "not_ip", "refused: a container sends IPv4 and IPv6 only";
    ForgedSource = 14, "forged_source", "refused: the source address is not the sender's";
    BareInner = 15, "bare_inner", "refused: addressed to a container from outside, without a tunnel";
    BetweenContainers = 16, "between_containers", "refused: containers do not reach each other";
    NoSuchContainer = 17, "no_such_container", "refused: no container has this address";
    NotForwarded = 18, "not_forwarded", "refused: the port is not forwarded";
    ConnectFromForwardedPort = 19, "connect_from_forwarded_port",
        "refused with RST: a raw tunnel's port only answers, it does not connect out";
    IpOptions = 20, "ip_options", "refused: IPv4 options or extension headers in a tunnel's packet";
    Fragment = 21, "fragment", "refused: a tunnel's packet in fragments";
    NoEgress = 22, "no_egress", "refused: the container was started without egress";
    NoIpv6Egress = 23, "no_ipv6_egress", "refused: the container has no way to the internet by IPv6";
    Unroutable = 24, "unroutable", "refused: link-local, loopback, multicast and broadcast stay inside a container";
    ServicePort = 25, "service_port", "refused: the daemon serves containers DNS and the API only";
    Unconfigured = 26, "unconfigured", "refused: the daemon has not written its settings yet";
    Failed = 27, "failed", "refused: the kernel could not carry out the rewrite";
    NotAllowed = 28, "not_allowed", "refused: the client's address is not on the tunnel's list";
    SourceRate = 29, "source_rate",
        "refused: the client opens connections faster than the tunnel allows one source";
    TunnelRate = 30, "tunnel_rate",
        "refused: clients together open connections faster than the tunnel allows";
    OtherWorkspace = 31, "other_workspace",
        "refused: containers of two workspaces never exchange a packet";
    NoI6pn = 32, "no_i6pn", "refused: one of the two containers was started without --i6pn";
    OtherRegion = 33, "other_region", "refused: the private network does not cross regions";
    NoSuchHost = 34, "no_such_host", "refused: the region has no host with this number";
    TooBig = 35, "too_big", "refused: larger than what the way to the other host carries";
    Encapsulated = 36, "encapsulated",
        "refused: a container's packet that looks like one between hosts";
    NotUnderlay = 37, "not_underlay",
        "refused: a packet between hosts, on an interface that is no underlay";
    NotPeer = 38, "not_peer", "refused: a packet between hosts, from none of the region's";
    WrongKey = 39, "wrong_key", "refused: a packet between hosts without the region's key";
    BadEncapsulation = 40, "bad_encapsulation",
        "refused: a packet between hosts of a shape that edge does not make";
    ProxyAway = 41, "proxy_away",
        "refused: the container's proxy has no address for it that a gateway serves now";
}

impl Verdict {
    /// How many there are.
    pub const COUNT: u32 = 42;

    /// Whether the packet ends here.
    pub const fn is_refusal(self) -> bool {
        self as u32 >= Self::Truncated as u32
    }
}

/// The program that counted.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hook {
    /// `xdp_uplink`, on a NIC uplink's frames.
    XdpUplink = 0,
    /// `tc_uplink`, at TCX ingress of an uplink.
    TcUplink = 1,
    /// `tc_container`, at TCX ingress of a container's host-side veth.
    TcContainer = 2,
}

impl Hook {
    /// All hooks, in the order of their numbers.
    pub const ALL: &[Self] = &[Self::XdpUplink, Self::TcUplink, Self::TcContainer];

    /// How many there are.
    pub const COUNT: u32 = 3;

    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::XdpUplink => "xdp_uplink",
            Self::TcUplink => "tc_uplink",
            Self::TcContainer => "tc_container",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_dense_and_labels_unique() {
        assert_eq!(Verdict::ALL.len(), Verdict::COUNT as usize);
        assert_eq!(Hook::ALL.len(), Hook::COUNT as usize);
        let mut labels: Vec<_> = Verdict::ALL.iter().map(|verdict| verdict.label()).collect();
        for (index, verdict) in Verdict::ALL.iter().enumerate() {
            assert_eq!(*verdict as usize, index, "{}", verdict.label());
            let refused = verdict.sentence().starts_with("refused");
            assert_eq!(refused, verdict.is_refusal(), "{}", verdict.label());
        }
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), Verdict::ALL.len());
    }
}
