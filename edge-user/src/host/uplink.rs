//! Uplinks: which interfaces, what they are, and which hook serves them well.

use std::net::IpAddr;

use super::links::{Link, LinkError, Links};
use crate::{cli, datapath::UplinkMode};

/// An interface towards the internet.
#[derive(Debug, Clone)]
pub struct Uplink {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Bytes of an IP packet.
    pub mtu: u32,
    /// The driver, or the kernel's word for a virtual interface.
    pub driver: String,
    /// What is attached; `None`: userspace serves it.
    pub mode: Option<UplinkMode>,
    /// Why that.
    pub why: String,
    /// Its addresses: what tunnels answer on.
    pub addresses: Vec<IpAddr>,
}

/// Why there is no such uplink.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// No interface of that name.
    #[error("uplink {0}: no such interface; `ip link` lists them")]
    Missing(String),
    /// No default route.
    #[error("uplink auto: there is no default route; name the interface, as --uplink eth0")]
    NoDefault,
    /// It cannot be dialled.
    #[error("uplink {0}: it has no address; give it one first, as with `ip address add`")]
    NoAddress(String),
    /// Its address is one of the containers'.
    #[error(
        "uplink {0}: its address {1} lies in the containers' range {2}; choose another range with --ipv4-pool"
    )]
    InPool(String, IpAddr, ipnet::Ipv4Net),
    /// Netlink refused.
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// Drivers whose native XDP passes metadata on and keeps GRO behind it.
const XDP_DRIVERS: &[&str] = &[
    "bnxt_en",
    "ena",
    "gve",
    "i40e",
    "ice",
    "igb",
    "igc",
    "ixgbe",
    "mlx4_en",
    "mlx5_core",
    "nfp",
    "sfc",
];

/// Finds an uplink by what was asked for, and chooses its hook.
pub async fn find(
    links: &Links,
    wanted: &cli::values::Uplink,
    datapath: cli::up::Datapath,
    pool: ipnet::Ipv4Net,
) -> Result<Uplink, UplinkError> {
    let all = links.list().await?;
    let link = match wanted {
        cli::values::Uplink::Interface(name) => all
            .into_iter()
            .find(|link| link.name == *name)
            .ok_or_else(|| UplinkError::Missing(name.clone()))?,
        cli::values::Uplink::Auto => {
            let index = links.default_interface().await?.ok_or(UplinkError::NoDefault)?;
            let missing = || UplinkError::Missing(format!("with index {index}"));
            all.into_iter().find(|link| link.index == index).ok_or_else(missing)?
        }
    };
    let addresses = links.addresses(link.index).await?;
    if addresses.is_empty() {
        return Err(UplinkError::NoAddress(link.name));
    }
    for address in &addresses {
        if let IpAddr::V4(v4) = address
            && pool.contains(v4)
        {
            return Err(UplinkError::InPool(link.name, *address, pool));
        }
    }
    let (driver, mode, why) = hook(&link, datapath);
    Ok(Uplink { name: link.name, index: link.index, mtu: link.mtu, driver, mode, why, addresses })
}

/// An interface's driver, what would be attached to it, and why that.
pub fn hook(link: &Link, datapath: cli::up::Datapath) -> (String, Option<UplinkMode>, String) {
    let driver = driver(link);
    let (mode, why) = choose(&driver, link.kind.is_some(), datapath);
    (driver, mode, why)
}

/// What is attached to an uplink, as people see it.
pub fn hook_label(mode: Option<UplinkMode>) -> &'static str {
    match mode {
        Some(UplinkMode::Xdp) => "xdp+tcx",
        Some(UplinkMode::Tcx) => "tcx",
        None => "userspace",
    }
}

fn choose(
    driver: &str,
    is_virtual: bool,
    wanted: cli::up::Datapath,
) -> (Option<UplinkMode>, String) {
    use cli::up::Datapath;
    match wanted {
        Datapath::Userspace => (None, "--datapath userspace".into()),
        Datapath::Tcx => (Some(UplinkMode::Tcx), "--datapath tcx".into()),
        Datapath::Xdp => (Some(UplinkMode::Xdp), "--datapath xdp".into()),
        Datapath::Auto if XDP_DRIVERS.contains(&driver) => {
            (Some(UplinkMode::Xdp), format!("{driver} has native XDP"))
        }
        Datapath::Auto if is_virtual => (
            Some(UplinkMode::Tcx),
            format!("XDP would turn segmentation offload off on {driver} interfaces"),
        ),
        Datapath::Auto => (
            Some(UplinkMode::Tcx),
            format!("{driver} is not known to do XDP well; --datapath xdp tries"),
        ),
    }
}

fn driver(link: &Link) -> String {
    if let Some(kind) = &link.kind {
        return kind.clone();
    }
    let driver = link.parent.as_ref().and_then(|(bus, device)| {
        let path = format!("/sys/bus/{bus}/devices/{device}/driver");
        Some(std::fs::read_link(path).ok()?.file_name()?.to_string_lossy().into_owned())
    });
    driver.unwrap_or_else(|| "unknown".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hook_follows_the_driver_unless_it_is_forced() {
        let auto = cli::up::Datapath::Auto;
        assert_eq!(choose("mlx5_core", false, auto).0, Some(UplinkMode::Xdp));
        assert_eq!(choose("veth", true, auto).0, Some(UplinkMode::Tcx));
        assert_eq!(choose("virtio_net", false, auto).0, Some(UplinkMode::Tcx));
        assert_eq!(choose("veth", true, cli::up::Datapath::Xdp).0, Some(UplinkMode::Xdp));
        assert_eq!(choose("mlx5_core", false, cli::up::Datapath::Userspace).0, None);
    }
}
