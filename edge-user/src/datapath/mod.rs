//! The kernel half, as userspace sees it. The only user of aya.
//!
//! [`Datapath::load`] verifies the programs and makes the tables; `attach` puts programs where
//! packets pass; `tables` writes rows; `accounts` and `counters` read what the programs counted, and
//! `trace` what they tell of single decisions while somebody listens.

mod accounts;
mod attach;
mod counters;
mod lists;
mod log;
mod pins;
mod tables;
mod trace;

use std::{
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, MapError, PerCpuArray, SockMap},
    programs::{
        ProgramError, SchedClassifier, SkLookup, TestRun, TestRunAttrs, TestRunOptions,
        links::LinkError,
    },
};
use edge_common::{
    address::{Address, Endpoint},
    admit::PaceRow,
    hosts::{BlockRow, HostRow, PeerRow, UnderlayRow},
    tables::{
        AddressRow, ForwardRow, ListenerRow, MemberRow, ProxyRow, Settings, Traffic, TunnelRow,
    },
    verdict::Hook,
};

use self::{accounts::Accounts, attach::Attached, lists::Lists, pins::Pins, tables::Table};
pub use self::{
    accounts::{Sum, Tally, Whose},
    attach::UplinkMode,
    pins::Inheritance,
    trace::{Heard, Trace, now},
};

/// The programs and tables of one daemon.
pub struct Datapath {
    inheritance: Inheritance,
    pins: Mutex<Pins>,
    /// Taken before `attached`, and that before nothing.
    programs: Mutex<Ebpf>,
    attached: Mutex<Attached>,
    trace: Mutex<trace::Tables>,
    settings: Mutex<Array<MapData, Settings>>,
    addresses: Mutex<Table<Address, AddressRow>>,
    tunnels: Mutex<Table<Endpoint, TunnelRow>>,
    forwards: Mutex<Table<Endpoint, ForwardRow>>,
    listeners: Mutex<Table<Endpoint, ListenerRow>>,
    raw_listeners: Mutex<SockMap<MapData>>,
    underlays: Mutex<Table<u32, UnderlayRow>>,
    peers: Mutex<Table<Address, PeerRow>>,
    hosts: Mutex<Table<u32, HostRow>>,
    blocks: Mutex<Table<u32, BlockRow>>,
    members: Mutex<Table<u32, MemberRow>>,
    proxies: Mutex<Table<Address, ProxyRow>>,
    lists: Mutex<Lists>,
    paces: Mutex<Array<MapData, PaceRow>>,
    tunnel_buckets: Mutex<Array<MapData, u64>>,
    /// Taken before tables of rows.
    accounts: Mutex<Accounts>,
    traffic: Mutex<PerCpuArray<MapData, Traffic>>,
}

/// Why the kernel half could not do something.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The BPF object could not be loaded.
    #[error("the kernel refused edge's BPF programs; `edge check` says what this kernel lacks")]
    Load(#[source] Box<aya::EbpfError>),
    /// A program is missing or was refused.
    #[error("BPF program {0}: the kernel refused it; `edge check` says what this kernel lacks")]
    Program(&'static str, #[source] Box<ProgramError>),
    /// A program could not be attached.
    #[error("{program} cannot be attached to {target}")]
    Attach {
        /// Which program.
        program: &'static str,
        /// To what.
        target: String,
        /// Why.
        #[source]
        source: Box<ProgramError>,
    },
    /// A link could not be kept.
    #[error("the link of {0} cannot be kept")]
    Link(String, #[source] LinkError),
    /// A table could not be read or written.
    #[error(
        "BPF table {0} cannot be read or written; if it is full, end some tunnels or containers"
    )]
    Table(&'static str, #[source] Box<MapError>),
    /// The log of decisions cannot be read.
    #[error("the log of decisions cannot be read; start without --log-decisions")]
    Log(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// One listener at a time.
    #[error("another `edge trace` listens already; end that one first")]
    Listened,
    /// The object lacks something: it was built from other sources.
    #[error("the BPF object has no {0}; build it again with `cargo xtask build`")]
    Missing(&'static str),
    /// The BPF file system is not usable.
    #[error(
        "{path}: cannot keep BPF links there; mount a BPF file system: mount -t bpf bpf /sys/fs/bpf"
    )]
    Pins {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("EDGE_BPF_OBJECT"));

impl Datapath {
    /// Loads the programs, and verifies all but `xdp_uplink`, which waits until an uplink is to
    /// have it: that takes the kernel a while. `pins` is this daemon's directory on a BPF file system; it
    /// is made. Tables that an earlier daemon pinned there are used on, if they are of this very
    /// layout and shape; else the tables are new and empty. Links stay as they are: what is
    /// attached from now on takes the place of theirs.
    pub fn load(pins: &Path) -> Result<Self, DatapathError> {
        Self::load_with(pins, false)
    }

    /// The same; if `log_decisions`, every single decision goes to the log, at level debug. Needs a
    /// tokio runtime then.
    pub fn load_with(pins: &Path, log_decisions: bool) -> Result<Self, DatapathError> {
        let pins = Pins::open(pins)?;
        let level = log::level(log_decisions);
        let refused = |error| DatapathError::Load(Box::new(error));
        let mut loader = EbpfLoader::new();
        loader.override_global(log::LEVEL, &level, true);
        let mut ebpf = loader.load(OBJECT).map_err(refused)?;
        let inheritance = pins.compare(&ebpf)?;
        if inheritance == Inheritance::Adopted {
            let names: Vec<_> = ebpf.maps().map(|(name, _)| name.to_owned()).collect();
            let mut loader = EbpfLoader::new();
            loader.override_global(log::LEVEL, &level, true);
            for name in names.iter().filter(|name| pins::is_pinned(name)) {
                loader.map_pin_path(name, pins.table(name));
            }
            ebpf = loader.load(OBJECT).map_err(refused)?;
        }
        for name in attach::TCX {
            attach::program::<SchedClassifier>(&mut ebpf, name)?
                .load()
                .map_err(|error| DatapathError::Program(name, Box::new(error)))?;
        }
        attach::program::<SkLookup>(&mut ebpf, "sk_raw_ports")?
            .load()
            .map_err(|error| DatapathError::Program("sk_raw_ports", Box::new(error)))?;
        if log_decisions {
            log::follow(&mut ebpf)?;
        }
        let addresses: Table<_, AddressRow> = Table::take(&mut ebpf, "ADDRESSES")?;
        let tunnels: Table<_, TunnelRow> = Table::take(&mut ebpf, "TUNNELS")?;
        let forwards: Table<_, ForwardRow> = Table::take(&mut ebpf, "FORWARDS")?;
        let of_tunnels = [tunnels.all(|row| row.account)?, forwards.all(|row| row.account)?];
        let accounts = Accounts::take(
            tables::take(&mut ebpf, "VERDICTS")?,
            addresses.all(|row| (row.account, row.workspace))?,
            of_tunnels.concat(),
            inheritance != Inheritance::Adopted,
        )?;
        Ok(Self {
            inheritance,
            pins: Mutex::new(pins),
            settings: Mutex::new(tables::take(&mut ebpf, "SETTINGS")?),
            accounts: Mutex::new(accounts),
            addresses: Mutex::new(addresses),
            tunnels: Mutex::new(tunnels),
            forwards: Mutex::new(forwards),
            listeners: Mutex::new(Table::take(&mut ebpf, "LISTENERS")?),
            raw_listeners: Mutex::new(tables::take(&mut ebpf, "RAW_LISTENERS")?),
            underlays: Mutex::new(Table::take(&mut ebpf, "UNDERLAYS")?),
            peers: Mutex::new(Table::take(&mut ebpf, "PEERS")?),
            hosts: Mutex::new(Table::take(&mut ebpf, "HOSTS")?),
            blocks: Mutex::new(Table::take(&mut ebpf, "BLOCKS")?),
            members: Mutex::new(Table::take(&mut ebpf, "MEMBERS")?),
            proxies: Mutex::new(Table::take(&mut ebpf, "PROXIES")?),
            lists: Mutex::new(Lists::take(&mut ebpf)?),
            paces: Mutex::new(tables::take(&mut ebpf, "PACES")?),
            tunnel_buckets: Mutex::new(tables::take(&mut ebpf, "TUNNEL_BUCKETS")?),
            traffic: Mutex::new(tables::take(&mut ebpf, "TRAFFIC")?),
            attached: Mutex::default(),
            trace: Mutex::new(trace::Tables::take(&mut ebpf)?),
            programs: Mutex::new(ebpf),
        })
    }

    /// What became of an earlier daemon's tables.
    pub fn inheritance(&self) -> &Inheritance {
        &self.inheritance
    }

    /// Finds the links that are pinned now: another daemon may have taken them up since.
    pub fn look_for_links(&self) {
        lock(&self.pins).look();
    }

    /// Ends the adoption: rows that were not written again and links that were not taken up are
    /// removed, and so is all that other layouts left.
    pub fn settle(&self) -> Result<(), DatapathError> {
        lock(&self.addresses).settle()?;
        lock(&self.tunnels).settle()?;
        lock(&self.forwards).settle()?;
        lock(&self.listeners).settle()?;
        lock(&self.underlays).settle()?;
        lock(&self.peers).settle()?;
        lock(&self.hosts).settle()?;
        lock(&self.blocks).settle()?;
        lock(&self.lists).settle()?;
        lock(&self.pins).settle();
        Ok(())
    }

    /// Runs a hook's program, the traced one while somebody listens, over a frame
    /// (`BPF_PROG_TEST_RUN`): its return code, and frame and context as it left them. `context` is the hook's own (`xdp_md` or `__sk_buff`).
    pub fn test_run(
        &self,
        hook: Hook,
        frame: &[u8],
        context: Option<&[u8]>,
        repeat: u32,
    ) -> Result<TestRunOutput, DatapathError> {
        let mut out = vec![0; frame.len() + 256];
        let mut context_out = vec![0; context.map_or(0, <[u8]>::len)];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: context,
            ctx_out: context.is_some().then_some(&mut context_out),
            repeat,
            ..TestRunOptions::new()
        };
        let mut programs = lock(&self.programs);
        let name = lock(&self.attached).variant(hook.label());
        let result = match hook {
            Hook::XdpUplink => attach::xdp(&mut programs, name)?.test_run(options),
            Hook::TcUplink | Hook::TcContainer => {
                attach::program::<SchedClassifier>(&mut programs, name)?.test_run(options)
            }
        }
        .map_err(|error| DatapathError::Program(name, Box::new(error)))?;
        out.truncate(result.data_size_out as usize);
        Ok(TestRunOutput {
            code: result.return_value,
            frame: out,
            context: context_out,
            duration: result.duration,
        })
    }

    /// Runs `xdp_uplink` over so many copies of a frame, in batches, as if they came in by an
    /// interface of this thread's namespace: they really go where they are sent.
    pub fn live_frames(
        &self,
        frame: &[u8],
        ifindex: u32,
        repeat: u32,
        batch: u32,
    ) -> Result<(), DatapathError> {
        // `xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex
        let context = [0, frame.len() as u32, 0, ifindex, 0, 0];
        let context: Vec<u8> = context.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context),
            repeat,
            attrs: TestRunAttrs::new().xdp_live_frames(batch),
            ..TestRunOptions::new()
        };
        attach::xdp(&mut lock(&self.programs), attach::XDP)?
            .test_run(options)
            .map_err(|error| DatapathError::Program(attach::XDP, Box::new(error)))?;
        Ok(())
    }

    /// Attaches `sk_raw_ports` to a network namespace, so that these listening sockets, the first
    /// for IPv4 and the second for IPv6, serve every raw port that has a row.
    pub fn serve_raw_ports(
        &self,
        namespace: BorrowedFd<'_>,
        listeners: [Option<&impl std::os::fd::AsRawFd>; 2],
    ) -> Result<(), DatapathError> {
        for (index, listener) in (0..).zip(listeners) {
            let Some(listener) = listener else { continue };
            lock(&self.raw_listeners)
                .set(index, listener, 0)
                .map_err(|error| DatapathError::Table("RAW_LISTENERS", Box::new(error)))?;
        }
        self.attach_lookup(namespace)
    }
}

/// What one `BPF_PROG_TEST_RUN` gave.
#[derive(Debug)]
pub struct TestRunOutput {
    /// The program's return code.
    pub code: u32,
    /// The frame afterwards, behind whatever metadata an XDP program left in front of it.
    pub frame: Vec<u8>,
    /// The context afterwards, as long as the one that was given.
    pub context: Vec<u8>,
    /// Mean time of one run.
    pub duration: std::time::Duration,
}

/// A poisoned lock means that another thread panicked between two kernel calls, each of which is
/// whole by itself; there is nothing to repair.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
