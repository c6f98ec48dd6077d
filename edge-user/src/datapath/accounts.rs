//! Whose packets are counted where: which account a workspace has, and what was counted in each.
//!
//! An account is in the rows of its workspace's containers and tunnels, and that is its record: a
//! later daemon reads there whose it is. One that no row has any more keeps its counts until
//! another workspace needs it.

mod holders;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use aya::{
    maps::{MapData, PerCpuArray, PerCpuValues},
    util::nr_cpus,
};
use edge_common::{
    account::{self, Counts, Lane, NOBODY, SHARED},
    tables::Count,
    verdict::{Hook, Verdict},
};

use self::holders::{Holders, own};
use super::{Datapath, DatapathError, counters::plus, lock};

/// What was counted, with a name for each part of its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Whose.
    pub whose: Whose,
    /// How the packets travelled between machines.
    pub lane: Lane,
    /// Which program counted.
    pub hook: Hook,
    /// What was decided.
    pub verdict: Verdict,
    /// How many.
    pub count: Count,
}

/// What all of a machine's packets come to.
pub type Sum = (Hook, Verdict, Count);

/// Whose packets were counted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Whose {
    /// No row says it.
    Nobody,
    /// One of the workspaces for which no account was left.
    Others,
    /// A workspace's, by its name.
    Workspace(String),
    /// A workspace's that an earlier daemon knew, and that has no rows any more.
    Forgotten,
}

/// Which accounts are in use, and what was counted.
pub(super) struct Accounts {
    counts: PerCpuArray<MapData, Counts>,
    holders: Holders,
    /// What accounts had counted that became other workspaces'.
    past: BTreeMap<(u32, u32), Count>,
    has_warned: bool,
}

impl Accounts {
    /// Those of an earlier daemon are in use where rows have them, with the workspace's number if
    /// the row says it, or where something was counted; in new tables there is nothing of it.
    pub(super) fn take(
        counts: PerCpuArray<MapData, Counts>,
        addresses: Vec<(u32, u32)>,
        others: Vec<u32>,
        is_new: bool,
    ) -> Result<Self, DatapathError> {
        let holders = Holders::of_rows(addresses, others);
        let mut accounts = Self { counts, holders, past: BTreeMap::new(), has_warned: false };
        for account in own().filter(|_| !is_new) {
            if !accounts.holders.has(account) && !accounts.read(account)?.is_empty() {
                accounts.holders.forget(account, Instant::now());
            }
        }
        Ok(accounts)
    }

    /// An account that nobody has, empty.
    fn fresh(&mut self, workspace: u32, name: &str) -> Result<Option<u32>, DatapathError> {
        let Some(account) = self.holders.free() else { return Ok(None) };
        self.clear(account)?;
        self.holders.hold(account, workspace, name);
        Ok(Some(account))
    }

    /// Empties an account; what it had counted stays in the sum of all.
    fn clear(&mut self, account: u32) -> Result<(), DatapathError> {
        let cpus = nr_cpus().map_err(|(_, error)| failed(error.into()))?;
        for (_, hook, verdict, count) in self.read(account)? {
            let key = (hook as u32, verdict as u32);
            let past = self.past.entry(key).or_default();
            *past = plus(*past, count);
        }
        for (lane, hook) in
            Lane::ALL.iter().flat_map(|lane| Hook::ALL.iter().map(move |hook| (lane, hook)))
        {
            let zeros: Vec<Counts> = vec![[Count::default(); _]; cpus];
            let zeros = PerCpuValues::try_from(zeros).map_err(|error| failed(error.into()))?;
            self.counts.set(account::row(lane.of(account), *hook), zeros, 0).map_err(failed)?;
        }
        Ok(())
    }

    /// Whose an account is; none if it is free.
    fn whose(&self, account: u32) -> Option<Whose> {
        match account {
            NOBODY => Some(Whose::Nobody),
            SHARED => Some(Whose::Others),
            _ => Some(match self.holders.name(account)? {
                Some(name) => Whose::Workspace(name.to_owned()),
                None => Whose::Forgotten,
            }),
        }
    }

    /// What a hook has counted at a place, by verdict.
    fn at(&self, place: u32, hook: Hook) -> Result<Counts, DatapathError> {
        let rows = self.counts.get(&account::row(place, hook), 0).map_err(failed)?;
        let sum = |at| rows.iter().fold(Count::default(), |sum, row| plus(sum, row[at]));
        Ok(std::array::from_fn(sum))
    }

    /// What was counted in an account, as far as it is not nothing.
    fn read(&self, account: u32) -> Result<Vec<(Lane, Hook, Verdict, Count)>, DatapathError> {
        let mut found = Vec::new();
        for lane in Lane::ALL {
            for hook in Hook::ALL {
                let counts = self.at(lane.of(account), *hook)?;
                for verdict in Verdict::ALL {
                    let count = counts[*verdict as usize];
                    if count != Count::default() {
                        found.push((*lane, *hook, *verdict, count));
                    }
                }
            }
        }
        Ok(found)
    }
}

impl Datapath {
    /// Where a workspace's packets are counted, by its number and name; 0 is nobody's number.
    /// Until no row has it, a workspace keeps its account. `earlier` is what the row has, written by
    /// an earlier daemon, that is about to be written again. The workspaces for which none is left
    /// share one.
    ///
    /// # Errors
    /// If the kernel refuses its tables.
    pub fn account(
        &self,
        workspace: u32,
        name: &str,
        earlier: Option<u32>,
    ) -> Result<u32, DatapathError> {
        if workspace == 0 {
            return Ok(NOBODY);
        }
        let mut accounts = lock(&self.accounts);
        if let Some(account) = accounts.holders.find(workspace, name, earlier) {
            return Ok(account);
        }
        if let Some(account) = accounts.fresh(workspace, name)? {
            return Ok(account);
        }
        accounts.holders.reclaim(&self.accounts_in_rows()?, Instant::now());
        if let Some(account) = accounts.fresh(workspace, name)? {
            return Ok(account);
        }
        if !std::mem::replace(&mut accounts.has_warned, true) {
            tracing::warn!(
                workspace = name,
                most = own().count(),
                "more workspaces than counters: the others are counted together"
            );
        }
        Ok(SHARED)
    }

    /// Which accounts rows have now.
    fn accounts_in_rows(&self) -> Result<BTreeSet<u32>, DatapathError> {
        let mut accounts = lock(&self.addresses).all(|row| row.account)?;
        accounts.extend(lock(&self.tunnels).all(|row| row.account)?);
        accounts.extend(lock(&self.forwards).all(|row| row.account)?);
        Ok(accounts.into_iter().collect())
    }

    /// What a hook has counted at one place, by verdict.
    ///
    /// # Errors
    /// If the kernel refuses it.
    pub fn counted_at(&self, place: u32, hook: Hook) -> Result<Counts, DatapathError> {
        lock(&self.accounts).at(place, hook)
    }

    /// All that was counted, but what is nothing.
    ///
    /// # Errors
    /// If the kernel refuses its tables.
    pub fn tallies(&self) -> Result<Vec<Tally>, DatapathError> {
        let mut tallies = Vec::new();
        for account in [NOBODY, SHARED].into_iter().chain(own()) {
            // For each anew: who asks for an account meanwhile waits for one only.
            let accounts = lock(&self.accounts);
            let Some(whose) = accounts.whose(account) else { continue };
            for (lane, hook, verdict, count) in accounts.read(account)? {
                tallies.push(Tally { whose: whose.clone(), lane, hook, verdict, count });
            }
        }
        Ok(tallies)
    }

    /// The sums, for every hook and verdict, with what they are made of; in the sums are the
    /// accounts that were emptied, too.
    ///
    /// # Errors
    /// If the kernel refuses its tables.
    pub fn verdicts_and_tallies(&self) -> Result<(Vec<Sum>, Vec<Tally>), DatapathError> {
        // First, so that nothing is in it twice.
        let mut sums = lock(&self.accounts).past.clone();
        let tallies = self.tallies()?;
        for Tally { hook, verdict, count, .. } in &tallies {
            let sum = sums.entry((*hook as u32, *verdict as u32)).or_default();
            *sum = plus(*sum, *count);
        }
        let hooks = Hook::ALL.iter();
        let each = hooks.flat_map(|hook| Verdict::ALL.iter().map(move |one| (*hook, *one)));
        let sum = |(hook, verdict): (Hook, Verdict)| {
            let count = sums.get(&(hook as u32, verdict as u32)).copied().unwrap_or_default();
            (hook, verdict, count)
        };
        Ok((each.map(sum).collect(), tallies))
    }

    /// The sums alone.
    ///
    /// # Errors
    /// If the kernel refuses its tables.
    pub fn verdicts(&self) -> Result<Vec<Sum>, DatapathError> {
        Ok(self.verdicts_and_tallies()?.0)
    }
}

fn failed(error: aya::maps::MapError) -> DatapathError {
    DatapathError::Table("VERDICTS", Box::new(error))
}
