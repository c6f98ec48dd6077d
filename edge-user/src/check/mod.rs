//! What `edge check` finds on a machine: what edge would do with it, what slows it down, and what
//! breaks it. A running daemon is no condition. [`look`] changes nothing; [`mend`] sets what makes
//! the named interfaces fast and can be set without harm.

mod cpus;
mod cure;
mod device;
mod finding;
mod firewall;
mod hardware;
mod kernel;
mod limits;
mod network;
mod offloads;
mod ports;
mod queues;
mod sizes;
mod sysfs;
mod underlays;
mod uplinks;

use ipnet::Ipv4Net;

pub use self::{
    cure::{Fix, Mended, Outcome},
    finding::{Finding, State},
};
use self::{hardware::Interface, sysfs::Sysfs};
use crate::{
    cli::values::{PortRange, Uplink},
    error::{Error, causes},
    host::links::Links,
};

/// What is looked at.
#[derive(Debug)]
pub struct Subject {
    /// The interfaces to be uplinks; if none, all that have an address.
    pub uplinks: Vec<Uplink>,
    /// The interfaces towards the region's other machines.
    pub underlays: Vec<String>,
    /// Bytes of an IP packet between containers, if the daemon knows.
    pub container_mtu: Option<u32>,
    /// The ports of raw tunnels.
    pub raw_ports: PortRange,
    /// The containers' addresses.
    pub pool: Ipv4Net,
    /// What the names of this instance's veths begin with.
    pub veth_prefix: String,
    /// And those of its WireGuard interfaces.
    pub wireguard_prefix: String,
    /// The daemon of this instance, if one answers.
    pub daemon: Option<u32>,
}

/// Looks at the machine, as this process's network namespace shows it.
pub async fn look(subject: &Subject) -> Result<Vec<Finding>, Error> {
    let blind = |error: &(dyn std::error::Error + 'static)| {
        Error::failure("netlink", causes(error), "run `edge check` on the machine itself")
    };
    let links = Links::here().map_err(|error| blind(&error))?;
    let mut findings = kernel::look(subject.daemon);
    findings.push(limits::look(subject.daemon));
    let (uplinks, found) = uplinks::look(&links, subject).await.map_err(|error| blind(&error))?;
    findings.extend(found);
    let (under, found) = underlays::look(&links, subject).await.map_err(|error| blind(&error))?;
    findings.extend(found);
    let sysfs = Sysfs::here().ok();
    findings.extend(hardware::look(&each_once(uplinks, under), sysfs.as_ref()).await);
    findings.extend(network::look(&links, subject).await.map_err(|error| blind(&error))?);
    findings.extend(ports::look(&links, subject).await.map_err(|error| blind(&error))?);
    findings.extend(firewall::look(&links, subject).await.map_err(|error| blind(&error))?);
    Ok(findings)
}

/// Sets what can be set, and looks again: what is found then, each with what was done about it.
pub async fn mend(subject: &Subject) -> Result<Vec<Mended>, Error> {
    let found = look(subject).await?;
    let sysfs = Sysfs::here().ok();
    let mut before = Vec::new();
    for finding in found {
        if let Some(fix) = cure::mend(&finding, sysfs.as_ref()).await {
            before.push((finding, fix));
        }
    }
    Ok(cure::compare(&before, look(subject).await?))
}

/// An interface may be both.
fn each_once(uplinks: Vec<Interface>, underlays: Vec<Interface>) -> Vec<Interface> {
    let mut all = underlays;
    for uplink in uplinks {
        if !all.iter().any(|one| one.link.index == uplink.link.index) {
            all.push(uplink);
        }
    }
    all
}
