//! A hook's counters.

use std::collections::BTreeMap;

use edge_common::{
    tables::{Count, Traffic},
    verdict::{Hook, Verdict},
};
use edge_user::datapath::Datapath;

use crate::{
    model::Passage,
    packets::kernel::{SLOTS, verdicts},
};

/// Verdicts by place and number, and traffic by slot.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Counted {
    verdicts: BTreeMap<(u32, u32), Count>,
    traffic: BTreeMap<u32, Traffic>,
}

impl Counted {
    /// What they say now.
    pub(super) fn at(hook: Hook, datapath: &Datapath) -> Self {
        let verdicts = verdicts(datapath, hook).into_iter();
        let traffic = SLOTS.map(|slot| (slot, datapath.traffic(slot).expect("counters")));
        Self {
            verdicts: verdicts.map(|(at, one, count)| ((at, one as u32), count)).collect(),
            traffic: traffic.into(),
        }
    }

    /// With so many more of a verdict at a place, and of a tunnel's traffic.
    pub(super) fn plus(
        &self,
        place: u32,
        verdict: Verdict,
        passage: Passage,
        count: Count,
    ) -> Self {
        let mut sum = self.clone();
        add(sum.verdicts.entry((place, verdict as u32)).or_default(), count);
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

    /// What has moved, for people.
    pub(super) fn since(&self, before: &Self) -> String {
        let moved = self.verdicts.iter().filter(|(key, count)| before.verdicts[key] != **count);
        let labels = moved
            .map(|((place, one), _)| format!("{} at {place}", Verdict::ALL[*one as usize].label()));
        let traffic = self.traffic.iter().filter(|(slot, row)| before.traffic[slot] != **row);
        let slots = traffic.map(|(slot, row)| format!("slot {slot}: {row:?}"));
        labels.chain(slots).collect::<Vec<_>>().join(", ")
    }
}

fn add(sum: &mut Count, count: Count) {
    sum.packets += count.packets;
    sum.bytes += count.bytes;
}
