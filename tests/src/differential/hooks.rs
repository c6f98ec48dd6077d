//! Frames at the hooks, in the kernel as well as natively, compared with what the model says.

use std::collections::BTreeMap;

use edge_common::{
    native::{Buckets, Rows},
    tables::{Count, Judged, LISTENER_MARK, PROXIED_MARK},
    verdict::Hook,
};

use super::{
    Replay, Tally,
    counted::Counted,
    native::{self, compare_native, differing},
    shrink::shrink,
};
use crate::{
    model::{Answer, Fate, Host, Ledger, Passage},
    packets::{
        bounds,
        kernel::{Kernel, shortest},
        scene::{Region, endpoint},
    },
};

/// How far into a frame a program of the kernel can see: it reads two bytes at offset 512 and
/// nothing behind them.
const REACH: usize = 514;

/// `struct __sk_buff`: its length, and where mark and interface are.
const SKB_LEN: usize = 192;
const SKB_MARK: usize = 8;
const SKB_IFINDEX: usize = 40;

/// More than the tables have.
const GENERATIONS: u32 = 100;

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const TC_ACT_OK: u32 = 0;
const TC_ACT_SHOT: u32 = 2;
const TC_ACT_REDIRECT: u32 = 7;

/// One data path with its own tables and counters, and the model of it.
pub struct Lane {
    kernel: Kernel,
    rows: Rows,
    host: Host,
    region: Region,
}

/// What both sides know of what came before.
#[derive(Default)]
struct Past {
    native: Ledger,
    kernel: Ledger,
}

/// Frames that the model sees one counter move for.
type Group = (u32, u32, Passage);

impl Lane {
    /// Loads it, with tunnels of all kinds; the name tells lanes apart.
    pub fn new(name: &str, region: Region) -> Self {
        let (rows, host) = scene(region);
        let kernel = Kernel::load_with(name, &rows);
        bounds::install(&kernel.datapath).expect("rows fit the tables");
        Self { kernel, rows, host, region }
    }

    /// The same before the daemon has written anything.
    pub fn unconfigured(name: &str) -> Self {
        let rows = Rows::default();
        let region = Region::Alone;
        Self { kernel: Kernel::empty(name), host: Host::from(&rows), rows, region }
    }

    /// Runs frames at a hook; panics at the first that is not judged as the model judges it, with
    /// the frame cut down to what matters.
    pub fn run(&mut self, hook: Hook, frames: &[(u32, Vec<u8>)], tally: &mut Tally) {
        let mut past = self.begin_anew();
        let mut groups: BTreeMap<Group, Vec<(usize, Answer)>> = BTreeMap::new();
        let mut in_turn = Vec::new();
        for (index, (ingress, frame)) in frames.iter().enumerate() {
            let answer = native::judge(&self.host, &mut past.kernel, hook, *ingress, frame, REACH);
            let native = &mut past.native;
            if let Err(difference) =
                compare_native(&self.rows, &self.host, native, hook, *ingress, frame)
            {
                self.report(hook, *ingress, frame, &difference);
            }
            *tally.entry((hook as u32, answer.verdict.label())).or_default() += 1;
            if answer.is_in_turn {
                in_turn.push((index, answer));
            } else if frame.len() >= shortest(hook, frame) {
                let group = (answer.place(), answer.verdict as u32, answer.passage);
                groups.entry(group).or_default().push((index, answer));
            }
        }
        // What depends on what came before is looked at one by one. For the others one counter
        // moves for all frames of a group: two wrong ones cannot make up for another.
        let alone = in_turn.into_iter().map(|one| vec![one]);
        let mut counted = Counted::at(hook, &self.kernel.datapath);
        for members in alone.chain(groups.into_values()) {
            counted = self.run_group(hook, frames, &members, counted);
        }
    }

    /// Whether one frame, with none before it, is judged, changed and counted as the model says.
    pub fn check(&mut self, one: &Replay) -> Result<(), String> {
        let Replay { hook, ingress, frame, .. } = one;
        let mut past = self.begin_anew();
        compare_native(&self.rows, &self.host, &mut past.native, *hook, *ingress, frame)?;
        if frame.len() < shortest(*hook, frame) {
            return Ok(());
        }
        let answer = native::judge(&self.host, &mut past.kernel, *hook, *ingress, frame, REACH);
        let before = Counted::at(*hook, &self.kernel.datapath);
        self.check_kernel(*hook, *ingress, frame, &answer)?;
        let count = Count { packets: 1, bytes: frame.len() as u64 };
        let expected = before.plus(answer.place(), answer.verdict, answer.passage, count);
        let counted = Counted::at(*hook, &self.kernel.datapath);
        if counted == expected {
            return Ok(());
        }
        let label = answer.verdict.label();
        Err(format!("{label} is not what was counted:\n{}", counted.since(&before)))
    }

    /// What is counted afterwards.
    fn run_group(
        &mut self,
        hook: Hook,
        frames: &[(u32, Vec<u8>)],
        members: &[(usize, Answer)],
        before: Counted,
    ) -> Counted {
        let mut bytes = 0;
        for (index, answer) in members {
            let (ingress, frame) = &frames[*index];
            bytes += frame.len() as u64;
            if let Err(difference) = self.check_kernel(hook, *ingress, frame, answer) {
                self.report(hook, *ingress, frame, &difference);
            }
        }
        let Some((_, answer)) = members.first() else { return before };
        let Answer { verdict, passage, .. } = answer;
        let count = Count { packets: members.len() as u64, bytes };
        let expected = before.plus(answer.place(), *verdict, *passage, count);
        let counted = Counted::at(hook, &self.kernel.datapath);
        if counted == expected {
            return counted;
        }
        for (index, _) in members {
            let (ingress, frame) = &frames[*index];
            let (region, ingress, frame) = (self.region, *ingress, frame.clone());
            let replay = Replay { region, hook, ingress, frame };
            if let Err(difference) = self.check(&replay) {
                self.report(hook, ingress, &replay.frame, &difference);
            }
        }
        let moved = counted.since(&before);
        panic!("{} {passage:?} is not what was counted:\n{moved}", verdict.label());
    }

    /// Forgets all that was let in, on both sides.
    fn begin_anew(&mut self) -> Past {
        self.rows.buckets = Buckets::default();
        for (slot, row) in &mut self.rows.paces {
            // The sources of an earlier generation are others.
            row.generation += GENERATIONS;
            self.kernel.datapath.set_pace(*slot, *row).expect("a pace");
        }
        Past::default()
    }

    fn check_kernel(
        &self,
        hook: Hook,
        ingress: u32,
        frame: &[u8],
        answer: &Answer,
    ) -> Result<(), String> {
        let mut context = [0; SKB_LEN];
        context[SKB_IFINDEX..SKB_IFINDEX + 4].copy_from_slice(&ingress.to_ne_bytes());
        let context = (hook != Hook::XdpUplink).then_some(&context[..]);
        let out = self
            .kernel
            .datapath
            .test_run(hook, frame, context, 1)
            .map_err(|error| format!("{}: {error:?}", hook.label()))?;
        let mark = out.context.get(SKB_MARK..SKB_MARK + 4).unwrap_or(&[0; 4]);
        let (code, expected_mark) = expected(hook, answer.fate);
        let name = format!("{}, {:?} {:?}", hook.label(), answer.verdict, answer.fate);
        if (out.code, mark) != (code, &expected_mark.to_ne_bytes()[..]) {
            return Err(format!("{name}: code {} and mark {mark:02x?}", out.code));
        }
        let mut after = &out.frame[..];
        let mut corrected;
        let mut answer = answer;
        if let Fate::Deliver { veth, mac } = answer.fate {
            if hook == Hook::XdpUplink {
                let place = answer.place() as u16;
                let (magic, place) = (Judged::MAGIC.to_ne_bytes(), place.to_ne_bytes());
                let note = [&magic[..], &veth.to_ne_bytes(), &mac, &place];
                after = after
                    .strip_prefix(&note.concat()[..])
                    .ok_or_else(|| format!("{name}: another note, or none: {:02x?}", out.frame))?;
            } else {
                corrected = answer.clone();
                corrected.frame[..6].copy_from_slice(&mac);
                answer = &corrected;
            }
        }
        if answer.is_frame(after) {
            return Ok(());
        }
        Err(format!("{name}{}", differing(after, &answer.frame)))
    }

    fn report(&mut self, hook: Hook, ingress: u32, frame: &[u8], difference: &str) -> ! {
        let region = self.region;
        let one = |frame: &[u8]| Replay { region, hook, ingress, frame: frame.to_vec() };
        if self.check(&one(frame)).is_ok() {
            panic!("after the frames before it: {difference}\nthe frame: {}", one(frame));
        }
        let host = self.host.clone();
        let verdict = |frame: &[u8]| {
            native::judge(&host, &mut Ledger::default(), hook, ingress, frame, REACH).verdict
        };
        let least = one(&shrink(frame, |less| {
            verdict(less) == verdict(frame) && self.check(&one(less)).is_err()
        }));
        let why = self.check(&least).err().unwrap_or_default();
        panic!("{difference}\nagain: {}\nthe least that fails: {why}\nagain: {least}", one(frame));
    }
}

/// The rows of all packet tables, and what the model knows of them.
pub fn scene(region: Region) -> (Rows, Host) {
    let mut rows = bounds::rows_in(region);
    // Its bucket gains tokens while the test runs.
    rows.tunnels.remove(&endpoint(bounds::QUICK));
    let host = bounds::LISTS.iter().fold(Host::from(&rows), |host, (slot, network)| {
        host.with_listed(*slot, network.parse().expect("a network"))
    });
    (rows, host)
}

/// A program's return code, and the mark it leaves.
fn expected(hook: Hook, fate: Fate) -> (u32, u32) {
    match (hook, fate) {
        (Hook::XdpUplink, Fate::Drop) => (XDP_DROP, 0),
        // What is delivered, too: `tc_uplink` does that.
        (Hook::XdpUplink, _) => (XDP_PASS, 0),
        (_, Fate::Pass) => (TC_ACT_OK, 0),
        (_, Fate::PassToListener) => (TC_ACT_OK, LISTENER_MARK),
        (_, Fate::PassProxied) => (TC_ACT_OK, PROXIED_MARK),
        (_, Fate::Drop) => (TC_ACT_SHOT, 0),
        (_, Fate::Deliver { .. } | Fate::Send { .. } | Fate::SendBare { .. } | Fate::Bounce) => {
            (TC_ACT_REDIRECT, 0)
        }
    }
}
