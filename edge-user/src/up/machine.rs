//! What the daemon changes on the machine, and how all of it is undone: at a stop, and at a start
//! after a daemon that was killed.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;

use crate::{
    cli::{Place, UpArgs},
    datapath::Datapath,
    error::{Error, Kind},
    host::{
        links::Links,
        nft::Table,
        sysctl::{self, RESERVED_PORTS, Sysctls},
        uplink::Uplink,
    },
};

/// Where BPF links are pinned; the kernel keeps them while every daemon is down.
const PINS: &str = "/sys/fs/bpf/edge";

/// The daemon's grip on the machine.
pub(super) struct Machine {
    /// Netlink into this namespace.
    pub(super) links: Links,
    /// The kernel half.
    pub(super) datapath: Arc<Datapath>,
    /// What every host-side veth's name begins with.
    pub(super) veth_prefix: String,
    table: Table,
    sysctls: Sysctls,
    run_dir: PathBuf,
    pins: PathBuf,
    /// Says that a daemon of this name runs.
    pub(super) lock: File,
}

impl Machine {
    /// Takes hold: removes what a killed daemon of this name left, loads the kernel half and
    /// closes the door that nftables keeps.
    pub(super) async fn take(place: &Place, args: &UpArgs, lock: File) -> anyhow::Result<Self> {
        let run_dir = place.run_dir();
        let links = Links::here().context("netlink cannot be opened")?;
        let instance = place.instance.as_str();
        let veth_prefix = veth_prefix(instance);
        remove_veths(&links, &veth_prefix).await?;
        let pins = Path::new(PINS).join(instance);
        remove_pins(&pins)?;
        let mut sysctls = Sysctls::open(&run_dir).context("sysctl.json in the run directory")?;
        sysctls.restore();
        let datapath = Arc::new(Datapath::load_with(&pins, args.log_decisions)?);
        let raw_ports = args.raw_ports.first..=args.raw_ports.last;
        let table = Table {
            name: format!("edge_{}", instance.replace('-', "_")),
            veth_prefix: veth_prefix.clone(),
            pool: args.ipv4_pool,
            raw_ports,
        };
        let mut machine =
            Self { links, datapath, veth_prefix, table, sysctls, run_dir, pins, lock };
        if let Err(error) = machine.prepare(args) {
            machine.release(&[]).await;
            return Err(error);
        }
        Ok(machine)
    }

    /// Undoes everything.
    pub(super) async fn release(mut self, uplinks: &[Uplink]) {
        for uplink in uplinks {
            self.datapath.detach(&uplink.name);
        }
        if let Err(error) = remove_veths(&self.links, &self.veth_prefix).await {
            tracing::warn!(%error, "interfaces not removed");
        }
        if let Err(error) = remove_pins(&self.pins) {
            tracing::warn!(%error, "links not unpinned");
        }
        // The directory of all instances goes with the last.
        fs::remove_dir(PINS).ok();
        if let Err(error) = self.table.remove() {
            tracing::warn!(%error, "nftables table not removed");
        }
        self.sysctls.restore();
        for name in ["edge.sock", "handover.sock", "lock"] {
            // Whoever comes next makes them anew.
            fs::remove_file(self.run_dir.join(name)).ok();
        }
    }

    fn prepare(&mut self, args: &UpArgs) -> anyhow::Result<()> {
        self.table.install()?;
        self.sysctls.set("net/ipv4/ip_forward", "1")?;
        let others = sysctl::read(RESERVED_PORTS)?;
        let reserved = sysctl::with_range(&others, args.raw_ports.first, args.raw_ports.last);
        self.sysctls.set(RESERVED_PORTS, &reserved)?;
        Ok(())
    }
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

async fn remove_veths(links: &Links, prefix: &str) -> anyhow::Result<()> {
    for link in links.list().await? {
        if link.name.starts_with(prefix) && link.kind.as_deref() == Some("veth") {
            links.remove(&link.name).await?;
        }
    }
    Ok(())
}

fn remove_pins(pins: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(pins) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{}: cannot be removed", pins.display()))
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
