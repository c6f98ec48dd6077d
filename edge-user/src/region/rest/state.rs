//! Which numbers are where: fresh, marked, lent or resting.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Instant,
};

/// A number that may be lent; with it, since when, if it was lent before.
pub(super) type Candidate = (u32, Option<Instant>);

/// All numbers of one kind.
#[derive(Default)]
pub(super) struct State {
    /// Never lent, as far as the store knows.
    pub(super) fresh: VecDeque<u32>,
    /// In use, as the store has it, but not lent yet.
    pub(super) ready: VecDeque<Candidate>,
    /// Others are being marked.
    pub(super) marking: bool,
    /// Somebody has them.
    pub(super) lent: BTreeSet<u32>,
    /// In the order in which they were given back, with the time when they may be lent again.
    pub(super) resting: VecDeque<(u32, Instant)>,
    /// Read from the store and not claimed by [`super::Rests::add`] yet.
    pub(super) remembered: BTreeMap<u32, u64>,
}

/// What there is to be lent.
pub(super) enum Next {
    /// The store has it.
    Ready(Candidate),
    /// The store does not have it.
    Unmarked(Candidate),
    /// The last ones are being marked.
    Later,
    /// None is left.
    Nothing,
}

impl State {
    /// Lends the next number.
    pub(super) fn next(&mut self, now: Instant) -> Next {
        let next = match self.ready.pop_front() {
            Some(ready) => Next::Ready(ready),
            None => match self.unmarked(now) {
                Some(candidate) => Next::Unmarked(candidate),
                None if self.marking => Next::Later,
                None => Next::Nothing,
            },
        };
        if let Next::Ready((number, _)) | Next::Unmarked((number, _)) = next {
            self.lent.insert(number);
        }
        next
    }

    /// Lends this very number. Answers whether it was not lent yet.
    pub(super) fn claim(&mut self, number: u32) -> bool {
        self.fresh.retain(|one| *one != number);
        self.ready.retain(|(one, _)| *one != number);
        self.resting.retain(|(one, _)| *one != number);
        self.lent.insert(number)
    }

    /// The next one that the store does not have.
    fn unmarked(&mut self, now: Instant) -> Option<Candidate> {
        match self.fresh.pop_front() {
            Some(number) => Some((number, None)),
            None => {
                let (number, since) = self.resting.pop_front_if(|(_, since)| *since <= now)?;
                Some((number, Some(since)))
            }
        }
    }

    /// What is to be marked now, if it is time; then the caller must.
    pub(super) fn pick_to_mark(&mut self, ahead: usize, now: Instant) -> Option<Vec<Candidate>> {
        if self.marking || self.ready.len() * 2 > ahead || ahead == 0 {
            return None;
        }
        let missing = ahead.saturating_sub(self.ready.len());
        let picked: Vec<_> = std::iter::from_fn(|| self.unmarked(now)).take(missing).collect();
        self.marking = !picked.is_empty();
        self.marking.then_some(picked)
    }

    /// Undoes the taking of a number that was not lent after all.
    pub(super) fn put_back(&mut self, (number, since): Candidate) {
        match since {
            Some(since) => self.resting.push_front((number, since)),
            None => self.fresh.push_back(number),
        }
    }
}
