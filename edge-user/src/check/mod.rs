//! What `edge check` finds on a machine: what edge would do with it, what slows it down, and what
//! breaks it. Looks only; a running daemon is no condition.

mod finding;
mod firewall;
mod kernel;
mod limits;
mod network;
mod offloads;
mod ports;
mod underlays;
mod uplinks;

use ipnet::Ipv4Net;

pub use self::finding::{Finding, State};
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
    findings.extend(uplinks::look(&links, subject).await.map_err(|error| blind(&error))?);
    findings.extend(underlays::look(&links, subject).await.map_err(|error| blind(&error))?);
    findings.extend(network::look(&links, subject).await.map_err(|error| blind(&error))?);
    findings.extend(ports::look(&links, subject).await.map_err(|error| blind(&error))?);
    findings.extend(firewall::look(&subject.veth_prefix));
    Ok(findings)
}
