//! What the daemon changes on the machine, and how all of it is undone.

use std::{
    collections::HashSet,
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;

use super::{handover, role::Orders};
use crate::{
    cli::Place,
    datapath::{Datapath, Inheritance},
    error::{Error, Kind},
    host::{
        links::Links,
        nft::{self, Table},
        service::Service,
        sysctl::{RESERVED_PORTS, Sysctls, with_range},
    },
    proxy::{
        serving::Record,
        snat::{Interfaces, Snat},
    },
    region::embedded::Embedded,
};

/// Where tables and links are pinned; the kernel keeps them while every daemon is down.
const PINS: &str = "/sys/fs/bpf/edge";

/// The daemon's grip on the machine.
pub(super) struct Machine {
    /// Netlink into this namespace.
    pub(super) links: Links,
    /// The kernel half.
    pub(super) datapath: Arc<Datapath>,
    /// What every host-side veth's name begins with.
    pub(super) veth_prefix: String,
}

impl Machine {
    /// Takes hold: loads the kernel half, over the tables of an earlier daemon if there are such,
    /// and closes the door that nftables keeps. What lives on the machine is not disturbed.
    pub(super) fn take(place: &Place, orders: &Orders) -> anyhow::Result<Self> {
        let links = Links::here().context("netlink cannot be opened")?;
        let instance = place.instance.as_str();
        let veth_prefix = veth_prefix(instance);
        let datapath =
            Arc::new(Datapath::load_with(&pins(place), orders.args.operation.log_decisions)?);
        match datapath.inheritance() {
            Inheritance::Nothing => {}
            Inheritance::Adopted => tracing::info!("the tables of the last daemon are in use"),
            Inheritance::Foreign(why) => {
                tracing::info!(why, "the last daemon's tables are replaced by new ones");
            }
        }
        close_door(place, orders)?;
        Ok(Self { links, datapath, veth_prefix })
    }

    /// Removes the veths of this instance that are neither among these nor the service's.
    pub(super) async fn remove_other_veths(
        &self,
        containers: &HashSet<&str>,
        service: &str,
    ) -> anyhow::Result<()> {
        let keep = containers.iter().copied().chain([service]).collect();
        remove_veths(&self.links, &self.veth_prefix, &keep).await
    }
}

/// Makes the table and the kernel settings without which the machine would be an open router, or
/// give raw ports to its own programs.
pub(super) fn close_door(place: &Place, orders: &Orders) -> anyhow::Result<()> {
    let args = &orders.args;
    Table {
        name: table(place),
        veth_prefix: veth_prefix(place.instance.as_str()),
        pool: args.ipv4_pool,
        raw_ports: args.raw_ports.first..=args.raw_ports.last,
        underlays: orders.underlays().to_vec(),
        ways: wireguard(place).ways,
    }
    .install()?;
    let mut sysctls = sysctls(place)?;
    sysctls.forward_ipv4()?;
    let others = sysctls.original(RESERVED_PORTS)?;
    let reserved = with_range(&others, args.raw_ports.first, args.raw_ports.last);
    sysctls.set(RESERVED_PORTS, &reserved)?;
    Ok(())
}

/// What of a daemon's is on the machine, in words.
pub(super) fn remains(place: &Place) -> Vec<&'static str> {
    let run_dir = place.run_dir();
    let signs = [
        (pins(place), "BPF programs and tables"),
        (Service::pin_path(&run_dir), "the service namespace"),
        (Sysctls::record_path(&run_dir), "changed kernel settings"),
    ];
    signs.into_iter().filter(|(path, _)| path.exists()).map(|(_, what)| what).collect()
}

/// Undoes everything that a daemon of this name did to the machine, whether it still runs or not;
/// its containers lose their wires. Answers what could not be undone.
pub(crate) async fn undo(place: &Place) -> Vec<anyhow::Error> {
    let run_dir = place.run_dir();
    let (pins, prefix) = (pins(place), veth_prefix(place.instance.as_str()));
    let mut failures = Vec::new();
    let mut note = |outcome: anyhow::Result<()>| failures.extend(outcome.err());
    let links = match Links::here().context("netlink cannot be opened") {
        Ok(links) => Some(links),
        Err(error) => {
            note(Err(error));
            None
        }
    };
    if let Some(links) = &links {
        note(remove_veths(links, &prefix, &HashSet::new()).await);
        note(remove_tuns(links, &wireguard(place)).await);
    }
    note(gone(fs::remove_dir_all(&pins), &pins));
    // The directory of all instances goes with the last.
    fs::remove_dir(PINS).ok();
    note(Service::unpin(&run_dir).context("the service namespace cannot be let go"));
    if let Some(links) = &links {
        note(match Record::open(&run_dir) {
            Ok(record) => record.undo(links).await,
            Err(error) => Err(error).context("proxy-addresses.json in the run directory"),
        });
    }
    note(nft::remove(&proxy_table(place)).context("nftables table of proxies"));
    note(nft::remove(&table(place)).context("nftables table"));
    note(sysctls(place).map(|mut sysctls| sysctls.restore()));
    for path in [Embedded::leased_path(&run_dir), place.socket(), handover::socket_path(&run_dir)] {
        note(gone(fs::remove_file(&path), &path));
    }
    failures
}

fn pins(place: &Place) -> PathBuf {
    Path::new(PINS).join(place.instance.as_str())
}

fn table(place: &Place) -> String {
    format!("edge_{}", place.instance.as_str().replace('-', "_"))
}

/// The table of proxies' source NAT.
pub(super) fn snat(place: &Place, orders: &Orders) -> Snat {
    let raw_ports = orders.args.raw_ports.first..=orders.args.raw_ports.last;
    Snat {
        name: proxy_table(place),
        veth_prefix: veth_prefix(place.instance.as_str()),
        wireguard: wireguard(place),
        ports: nft::nat_ports(&raw_ports),
    }
}

fn proxy_table(place: &Place) -> String {
    format!("{}_proxy", table(place))
}

/// The names of WireGuard interfaces, which are not those of veths.
pub(super) fn wireguard(place: &Place) -> Interfaces {
    let prefix = wireguard_prefix(place.instance.as_str());
    Interfaces { gateway: format!("{prefix}in"), ways: format!("{prefix}g") }
}

fn sysctls(place: &Place) -> anyhow::Result<Sysctls> {
    Sysctls::open(&place.run_dir()).context("sysctl.json in the run directory")
}

/// Makes the run directory this daemon's; refuses if another one of its name is there. The lock
/// is the open file's: it lasts until the last process that has it open closes it.
pub(super) fn lock(place: &Place) -> anyhow::Result<File> {
    let run_dir = place.run_dir();
    fs::create_dir_all(&run_dir).with_context(|| {
        format!("{}: the run directory cannot be made; edge up needs root", run_dir.display())
    })?;
    let path = run_dir.join("lock");
    let file = File::create(&path).with_context(|| path.display().to_string())?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let name = place.instance.as_str();
            Err(Error::new(
                Kind::Refused,
                format_args!("daemon {name:?}"),
                "another one runs already",
                "use that one, take over from it with --replace, stop it, or give this one \
                 another --instance",
            )
            .into())
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// Interface names have 15 bytes: `ed`, four characters that stand for the instance, `-`, and
/// seven of the container's id.
pub(crate) fn veth_prefix(instance: &str) -> String {
    // FNV-1a: the same in every version of edge, so that leftovers are found.
    let hash = instance
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("ed{:04x}-", (hash >> 16) ^ (hash & 0xffff))
}

/// What the names of WireGuard interfaces begin with.
pub(crate) fn wireguard_prefix(instance: &str) -> String {
    veth_prefix(instance).replacen("ed", "ew", 1)
}

async fn remove_veths(links: &Links, prefix: &str, keep: &HashSet<&str>) -> anyhow::Result<()> {
    for link in links.list().await? {
        let is_ours = link.name.starts_with(prefix) && link.kind.as_deref() == Some("veth");
        if is_ours && !keep.contains(link.name.as_str()) {
            links.remove(&link.name).await?;
        }
    }
    Ok(())
}

async fn remove_tuns(links: &Links, names: &Interfaces) -> anyhow::Result<()> {
    for link in links.list().await? {
        let is_ours = link.name == names.gateway || link.name.starts_with(&names.ways);
        if is_ours && link.kind.as_deref() == Some("tun") {
            links.remove(&link.name).await?;
        }
    }
    Ok(())
}

fn gone(removed: io::Result<()>, path: &Path) -> anyhow::Result<()> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{}: cannot be removed", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn veth_names_fit_and_differ() {
        assert_eq!(veth_prefix("default").len() + 7, 14);
        assert_ne!(veth_prefix("default"), veth_prefix("other"));
    }
}
