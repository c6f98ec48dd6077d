//! The kernel's programs over one frame, and what their counters say about it.

use std::{fs, path::PathBuf, process, sync::Arc};

use edge_common::{
    account::{Lane, NOBODY, SHARED},
    decide::Passage,
    native::Rows,
    tables::{Count, Traffic},
    verdict::{Hook, Verdict},
};
use edge_user::datapath::Datapath;

use super::{
    Case, bounds,
    scene::{self, ACCOUNTS, BY_GATEWAY_SLOT, FAR_SLOT, RELAYED_SLOT, Region, SLOT, SLOT_V6},
};
use crate::privilege;

/// `struct __sk_buff`, and where its mark is.
const SKB_LEN: usize = 192;
const SKB_MARK: usize = 8;

/// The traffic counters that are looked at: the tunnels', and the first, where what belongs to no
/// tunnel would end up if it were counted.
pub(crate) const SLOTS: [u32; 12] =
    [0, SLOT, SLOT_V6, RELAYED_SLOT, 11, 12, 13, 14, 15, 16, FAR_SLOT, BY_GATEWAY_SLOT];

/// The shortest frame that `BPF_PROG_TEST_RUN` takes: a whole Ethernet header, and for a skb also
/// a whole IP header. Shorter ones are left to the native run.
pub(crate) fn shortest(hook: Hook, frame: &[u8]) -> usize {
    match (hook, frame.get(12..14)) {
        (Hook::XdpUplink, _) => 14,
        (_, Some([0x08, 0x00])) => 14 + 20,
        (_, Some([0x86, 0xdd])) => 14 + 40,
        _ => 14 + 1,
    }
}

/// A loaded data path of a test's own with the scene's rows; its folder for pins goes with it.
pub struct Kernel {
    /// The programs and tables.
    pub datapath: Arc<Datapath>,
    pins: PathBuf,
}

impl Kernel {
    /// Loads it; the name tells tests apart.
    pub fn load(name: &str) -> Self {
        Self::load_with(name, &scene::rows())
    }

    /// The same in a region of several hosts.
    pub fn load_in(name: &str, region: Region) -> Self {
        Self::load_with(name, &scene::rows_in(region))
    }

    /// The same with other rows.
    pub fn load_with(name: &str, rows: &Rows) -> Self {
        let kernel = Self::empty(name);
        scene::install(rows, &kernel.datapath).expect("rows fit the tables");
        kernel
    }

    /// The same without rows and settings.
    pub fn empty(name: &str) -> Self {
        privilege::require();
        let pins = PathBuf::from(format!("/sys/fs/bpf/edge-test-{}-{name}", process::id()));
        let datapath = Datapath::load(&pins).expect("the kernel takes the programs");
        Self { datapath: Arc::new(datapath), pins }
    }

    /// The same with tunnels that have bounds.
    pub fn load_bounded(name: &str) -> Self {
        let kernel = Self::load_with(name, &bounds::rows());
        bounds::install(&kernel.datapath).expect("rows fit the tables");
        kernel
    }

    /// What a daemon finds that comes after this one: the same tables.
    pub fn successor(&self) -> Datapath {
        Datapath::load(&self.pins).expect("the kernel takes the programs again")
    }

    /// How many packets a hook has judged so since it was loaded.
    pub fn packets(&self, hook: Hook, verdict: Verdict) -> u64 {
        self.count(hook, verdict).packets
    }

    /// The same with their bytes.
    pub fn count(&self, hook: Hook, verdict: Verdict) -> Count {
        let verdicts = self.datapath.verdicts().expect("counters");
        let row = verdicts.into_iter().find(|row| (row.0, row.1) == (hook, verdict));
        row.map_or_else(Count::default, |(_, _, count)| count)
    }

    /// Runs a hook over the case; nothing if the frame is too short for the kernel to take.
    pub(super) fn run(&self, hook: Hook, case: &Case) -> Option<Seen> {
        if case.frame.len() < shortest(hook, &case.frame) {
            return None;
        }
        let context = [0; SKB_LEN];
        let context = (hook != Hook::XdpUplink).then_some(&context[..]);
        let before = self.counted(hook);
        let out = self.datapath.test_run(hook, &case.frame, context, 1).expect("a test run");
        let mark = out
            .context
            .get(SKB_MARK..SKB_MARK + 4)
            .map_or(0, |bytes| u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
        let counted = self.counted(hook).since(&before);
        Some(Seen { code: out.code, frame: out.frame, mark, counted })
    }

    fn counted(&self, hook: Hook) -> Counted {
        let traffic = SLOTS.map(|slot| self.datapath.traffic(slot).expect("counters"));
        Counted { verdicts: verdicts(&self.datapath, hook), traffic }
    }
}

/// What a hook has counted at the places of the scene, and of nobody: all that can move.
pub(crate) fn verdicts(datapath: &Datapath, hook: Hook) -> Vec<(u32, Verdict, Count)> {
    let accounts = [NOBODY, SHARED].into_iter().chain(ACCOUNTS);
    let places = accounts.flat_map(|account| Lane::ALL.iter().map(move |lane| lane.of(account)));
    let counted = places.flat_map(|place| {
        let counts = datapath.counted_at(place, hook).expect("counters");
        let of = move |one: &Verdict| (place, *one, counts[*one as usize]);
        Verdict::ALL.iter().map(of)
    });
    counted.collect()
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // Only folders are left in it: tests that attach also detach. This runs while tests
        // unwind.
        fs::remove_dir_all(&self.pins).ok();
    }
}

/// What a hook did.
#[derive(Debug, PartialEq)]
pub(super) struct Seen {
    pub(super) code: u32,
    pub(super) frame: Vec<u8>,
    pub(super) mark: u32,
    pub(super) counted: Counted,
}

/// What the counters say that a hook did.
#[derive(Debug, PartialEq)]
pub(super) struct Counted {
    /// By place.
    verdicts: Vec<(u32, Verdict, Count)>,
    traffic: [Traffic; SLOTS.len()],
}

impl Counted {
    fn since(&self, before: &Self) -> Self {
        let minus =
            |a: Count, b: Count| Count { packets: a.packets - b.packets, bytes: a.bytes - b.bytes };
        let verdicts = self.verdicts.iter().zip(&before.verdicts);
        let verdicts =
            verdicts.map(|((place, verdict, a), (.., b))| (*place, *verdict, minus(*a, *b)));
        let traffic = std::array::from_fn(|index| {
            let (a, b) = (self.traffic[index], before.traffic[index]);
            Traffic {
                connections: a.connections - b.connections,
                inbound: minus(a.inbound, b.inbound),
                outbound: minus(a.outbound, b.outbound),
            }
        });
        Self { verdicts: verdicts.filter(|(.., count)| count.packets != 0).collect(), traffic }
    }

    /// What a hook counts if it does what the row says.
    pub(super) fn expected(case: &Case) -> Self {
        let count = Count { packets: 1, bytes: case.frame.len() as u64 };
        let mut traffic = [Traffic::default(); SLOTS.len()];
        if let Some((passage, slot)) = case.tunnel {
            let index = SLOTS.iter().position(|one| *one == slot).expect("a slot of the scene");
            let row = &mut traffic[index];
            match passage {
                Passage::None => {}
                Passage::In => row.inbound = count,
                Passage::Out => row.outbound = count,
                Passage::Accept => *row = Traffic { connections: 1, outbound: count, ..*row },
            }
        }
        Self { verdicts: vec![(case.place, case.verdict, count)], traffic }
    }
}
