//! Frames at the hooks, in the kernel as well as natively, compared with what the model says.

use std::collections::BTreeMap;

use edge_common::{
    native::Rows,
    tables::{Count, Judged, LISTENER_MARK, Traffic},
    verdict::{Hook, Verdict},
};

use super::{
    Replay, Tally,
    native::{self, compare_native, differing},
    shrink::shrink,
};
use crate::{
    model::{Answer, Fate, Host, Passage},
    packets::{
        kernel::{Kernel, shortest},
        scene::{SLOT, SLOT_V6, padded},
    },
};

/// How far into a frame a program of the kernel can see: it reads two bytes at offset 512 and
/// nothing behind them.
const REACH: usize = 514;

/// `struct __sk_buff`: its length, and where mark and interface are.
const SKB_LEN: usize = 192;
const SKB_MARK: usize = 8;
const SKB_IFINDEX: usize = 40;

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
}

/// Frames that the model sees one counter move for.
type Group = (u32, Passage);

impl Lane {
    /// Loads it; the name tells lanes apart.
    pub fn new(name: &str, rows: Rows) -> Self {
        Self { kernel: Kernel::load_with(name, &rows), host: Host::from(&rows), rows }
    }

    /// The same before the daemon has written anything.
    pub fn unconfigured(name: &str) -> Self {
        let rows = Rows::default();
        Self { kernel: Kernel::empty(name), host: Host::from(&rows), rows }
    }

    /// Runs frames at a hook; panics at the first that is not judged as the model judges it, with
    /// the frame cut down to what matters.
    pub fn run(&self, hook: Hook, frames: &[(u32, Vec<u8>)], tally: &mut Tally) {
        let mut groups: BTreeMap<Group, Vec<(usize, Answer)>> = BTreeMap::new();
        for (index, (ingress, frame)) in frames.iter().enumerate() {
            let answer = self.judge(hook, *ingress, frame);
            if let Err(difference) = self.check_native(hook, *ingress, frame) {
                self.report(hook, *ingress, frame, &difference);
            }
            *tally.entry((hook as u32, answer.verdict.label())).or_default() += 1;
            if frame.len() >= shortest(hook, frame) {
                let group = (answer.verdict as u32, answer.passage);
                groups.entry(group).or_default().push((index, answer));
            }
        }
        // One counter moves for all frames of a group: two wrong ones cannot make up for another.
        for ((verdict, passage), members) in groups {
            let before = self.counted(hook);
            let mut bytes = 0;
            for (index, answer) in &members {
                let (ingress, frame) = &frames[*index];
                bytes += frame.len() as u64;
                if let Err(difference) = self.check_kernel(hook, *ingress, frame, answer) {
                    self.report(hook, *ingress, frame, &difference);
                }
            }
            let count = Count { packets: members.len() as u64, bytes };
            let expected = before.plus(verdict, passage, count);
            let counted = self.counted(hook);
            if counted == expected {
                continue;
            }
            for (index, _) in &members {
                let (ingress, frame) = &frames[*index];
                let replay = Replay { hook, ingress: *ingress, frame: frame.clone() };
                if let Err(difference) = self.check(&replay) {
                    self.report(hook, *ingress, frame, &difference);
                }
            }
            panic!("counters of {passage:?}, verdict {verdict}: {counted:?}, not {expected:?}");
        }
    }

    /// Whether one frame is judged, changed and counted as the model says.
    pub fn check(&self, one: &Replay) -> Result<(), String> {
        let Replay { hook, ingress, frame } = one;
        let answer = self.judge(*hook, *ingress, frame);
        self.check_native(*hook, *ingress, frame)?;
        if frame.len() < shortest(*hook, frame) {
            return Ok(());
        }
        let before = self.counted(*hook);
        self.check_kernel(*hook, *ingress, frame, &answer)?;
        let count = Count { packets: 1, bytes: frame.len() as u64 };
        let expected = before.plus(answer.verdict as u32, answer.passage, count);
        let counted = self.counted(*hook);
        if counted == expected {
            return Ok(());
        }
        let label = answer.verdict.label();
        Err(format!("{label} is not what was counted:\n{}", counted.since(&before)))
    }

    fn judge(&self, hook: Hook, ingress: u32, frame: &[u8]) -> Answer {
        native::judge(&self.host, hook, ingress, frame, REACH)
    }

    fn check_native(&self, hook: Hook, ingress: u32, frame: &[u8]) -> Result<(), String> {
        compare_native(&self.rows, &self.host, hook, ingress, frame)
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
                let note = [&Judged::MAGIC.to_ne_bytes()[..], &veth.to_ne_bytes(), &padded(mac)];
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

    fn report(&self, hook: Hook, ingress: u32, frame: &[u8], difference: &str) -> ! {
        let one = |frame: &[u8]| Replay { hook, ingress, frame: frame.to_vec() };
        let verdict = |frame: &[u8]| self.judge(hook, ingress, frame).verdict;
        let least = one(&shrink(frame, |less| {
            verdict(less) == verdict(frame) && self.check(&one(less)).is_err()
        }));
        let why = self.check(&least).err().unwrap_or_default();
        panic!("{difference}\nagain: {}\nthe least that fails: {why}\nagain: {least}", one(frame));
    }

    fn counted(&self, hook: Hook) -> Counted {
        let datapath = &self.kernel.datapath;
        let verdicts = datapath.verdicts().expect("counters");
        let verdicts = verdicts.into_iter().filter(|(one, ..)| *one == hook);
        let traffic =
            [0, SLOT, SLOT_V6].map(|slot| (slot, datapath.traffic(slot).expect("counters")));
        Counted {
            verdicts: verdicts.map(|(_, verdict, count)| (verdict as u32, count)).collect(),
            traffic: traffic.into(),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Counted {
    verdicts: BTreeMap<u32, Count>,
    traffic: BTreeMap<u32, Traffic>,
}

impl Counted {
    fn plus(&self, verdict: u32, passage: Passage, count: Count) -> Self {
        let mut sum = self.clone();
        add(sum.verdicts.entry(verdict).or_default(), count);
        match passage {
            Passage::None => {}
            Passage::In(slot) => add(&mut sum.traffic.entry(slot).or_default().inbound, count),
            Passage::Out(slot) => add(&mut sum.traffic.entry(slot).or_default().outbound, count),
            Passage::Accept(slot) => {
                let row = sum.traffic.entry(slot).or_default();
                row.connections += count.packets;
                add(&mut row.outbound, count);
            }
        }
        sum
    }

    fn since(&self, before: &Self) -> String {
        let moved = self.verdicts.iter().filter(|(key, count)| before.verdicts[key] != **count);
        let labels = moved.map(|(key, _)| Verdict::ALL[*key as usize].label());
        let traffic = self.traffic.iter().filter(|(slot, row)| before.traffic[slot] != **row);
        let slots = traffic.map(|(slot, row)| format!("slot {slot}: {row:?}"));
        labels.map(str::to_owned).chain(slots).collect::<Vec<_>>().join(", ")
    }
}

fn add(sum: &mut Count, count: Count) {
    sum.packets += count.packets;
    sum.bytes += count.bytes;
}

/// A program's return code, and the mark it leaves.
fn expected(hook: Hook, fate: Fate) -> (u32, u32) {
    match (hook, fate) {
        (Hook::XdpUplink, Fate::Drop) => (XDP_DROP, 0),
        // What is delivered, too: `tc_uplink` does that.
        (Hook::XdpUplink, _) => (XDP_PASS, 0),
        (_, Fate::Pass) => (TC_ACT_OK, 0),
        (_, Fate::PassToListener) => (TC_ACT_OK, LISTENER_MARK),
        (_, Fate::Drop) => (TC_ACT_SHOT, 0),
        (_, Fate::Deliver { .. } | Fate::Send { .. } | Fate::Bounce) => (TC_ACT_REDIRECT, 0),
    }
}
