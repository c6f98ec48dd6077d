//! The data path beside the model, over packets that nobody thought of: made by a seeded
//! generator, damaged, and run at every hook natively and in the kernel.

mod counted;
mod damage;
mod ends;
mod generate;
mod hooks;
mod native;
mod replay;
mod shrink;

use std::collections::BTreeMap;

use edge_common::verdict::{Hook, Verdict};

pub use generate::Generator;
pub use hooks::{Lane, scene};
pub use native::compare_native;
pub use replay::Replay;

/// How often each hook came to each verdict.
pub type Tally = BTreeMap<(u32, &'static str), u64>;

/// Which verdicts a hook can come to, settled as it is in the scene.
pub fn reachable(hook: Hook) -> &'static [Verdict] {
    match hook {
        Hook::XdpUplink => &[
            Verdict::NotOurs,
            Verdict::Tunnel,
            Verdict::Relayed,
            Verdict::IcmpError,
            Verdict::I6pn,
            Verdict::Deferred,
            Verdict::Truncated,
            Verdict::ForgedSource,
            Verdict::BareInner,
            Verdict::BetweenContainers,
            Verdict::NoSuchContainer,
            Verdict::NotForwarded,
            Verdict::ConnectFromForwardedPort,
            Verdict::IpOptions,
            Verdict::Fragment,
            Verdict::Unroutable,
            Verdict::ServicePort,
            Verdict::NotAllowed,
            Verdict::SourceRate,
            Verdict::TunnelRate,
            Verdict::OtherWorkspace,
            Verdict::NoI6pn,
            Verdict::OtherRegion,
            Verdict::NotPeer,
            Verdict::WrongKey,
            Verdict::BadEncapsulation,
        ],
        Hook::TcUplink => &[
            Verdict::NotOurs,
            Verdict::Tunnel,
            Verdict::Reply,
            Verdict::Relayed,
            Verdict::IcmpError,
            Verdict::I6pn,
            Verdict::Truncated,
            Verdict::ForgedSource,
            Verdict::BareInner,
            Verdict::BetweenContainers,
            Verdict::NoSuchContainer,
            Verdict::NotForwarded,
            Verdict::ConnectFromForwardedPort,
            Verdict::IpOptions,
            Verdict::Fragment,
            Verdict::Unroutable,
            Verdict::ServicePort,
            Verdict::NotAllowed,
            Verdict::SourceRate,
            Verdict::TunnelRate,
            Verdict::OtherWorkspace,
            Verdict::NoI6pn,
            Verdict::OtherRegion,
            Verdict::NoSuchHost,
            Verdict::TooBig,
            Verdict::NotUnderlay,
            Verdict::NotPeer,
            Verdict::WrongKey,
            Verdict::BadEncapsulation,
        ],
        Hook::TcContainer => &[
            Verdict::Reply,
            Verdict::Relayed,
            Verdict::Service,
            Verdict::Listener,
            Verdict::Egress,
            Verdict::Proxied,
            Verdict::ProxyAway,
            Verdict::IcmpError,
            Verdict::I6pn,
            Verdict::Truncated,
            Verdict::NotIp,
            Verdict::ForgedSource,
            Verdict::BetweenContainers,
            Verdict::NoSuchContainer,
            Verdict::NotForwarded,
            Verdict::ConnectFromForwardedPort,
            Verdict::IpOptions,
            Verdict::Fragment,
            Verdict::NoEgress,
            Verdict::NoIpv6Egress,
            Verdict::Unroutable,
            Verdict::ServicePort,
            Verdict::OtherWorkspace,
            Verdict::NoI6pn,
            Verdict::OtherRegion,
            Verdict::NoSuchHost,
            Verdict::TooBig,
            Verdict::Encapsulated,
        ],
    }
}
