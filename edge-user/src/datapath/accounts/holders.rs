//! Who has which account. Knows nothing of the kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use edge_common::account::{Lane, MAX_ACCOUNTS};

/// How long no row must have had an account before it becomes another workspace's: far longer than
/// a packet that was judged by an old row is under way between two programs.
const REST: Duration = Duration::from_secs(10);

/// The accounts that are somebody's.
#[derive(Debug, Default)]
pub(super) struct Holders(BTreeMap<u32, Holder>);

/// Who has an account.
#[derive(Debug, Default)]
struct Holder {
    /// The workspace's number; none where rows do not say it.
    workspace: Option<u32>,
    /// Its name, once it was asked for.
    name: Option<String>,
    /// Since when no row has it, as far as anybody looked.
    idle: Option<Instant>,
}

impl Holders {
    /// Those that an earlier daemon's rows have: with the workspace's number, and without.
    pub(super) fn of_rows(numbered: Vec<(u32, u32)>, others: Vec<u32>) -> Self {
        let mut of: BTreeMap<u32, Holder> = BTreeMap::new();
        for account in others.into_iter().filter(|account| is_own(*account)) {
            of.entry(account).or_default();
        }
        for (account, workspace) in numbered.into_iter().filter(|(account, _)| is_own(*account)) {
            of.entry(account).or_default().workspace = Some(workspace);
        }
        Self(of)
    }

    /// Whether it is somebody's.
    pub(super) fn has(&self, account: u32) -> bool {
        self.0.contains_key(&account)
    }

    /// It is nobody's any more, but its counts are to stay until it is needed.
    pub(super) fn forget(&mut self, account: u32, now: Instant) {
        self.0.insert(account, Holder { idle: Some(now), ..Holder::default() });
    }

    /// The account that a workspace has, or that an earlier daemon wrote into its row.
    pub(super) fn find(&mut self, workspace: u32, name: &str, earlier: Option<u32>) -> Option<u32> {
        let has = |holder: &Holder| holder.workspace == Some(workspace);
        let own = self.0.iter().find_map(|(account, holder)| has(holder).then_some(*account));
        let unclaimed = |account: &u32| {
            let holder = self.0.get(account);
            holder.is_some_and(|holder| holder.workspace.is_none() && holder.idle.is_none())
        };
        let account = own.or_else(|| earlier.filter(unclaimed))?;
        self.hold(account, workspace, name);
        Some(account)
    }

    /// The first that is nobody's.
    pub(super) fn free(&self) -> Option<u32> {
        own().find(|account| !self.has(*account))
    }

    /// It is a workspace's from now on.
    pub(super) fn hold(&mut self, account: u32, workspace: u32, name: &str) {
        let (workspace, name) = (Some(workspace), Some(name.to_owned()));
        self.0.insert(account, Holder { workspace, name, idle: None });
    }

    /// Takes one away that no row has had for long enough, knowing which rows have now. The others'
    /// counts stay.
    pub(super) fn reclaim(&mut self, in_rows: &BTreeSet<u32>, now: Instant) {
        for (account, holder) in &mut self.0 {
            let is_idle = !in_rows.contains(account);
            holder.idle = is_idle.then(|| holder.idle.unwrap_or(now));
        }
        let has_rested =
            |holder: &Holder| holder.idle.is_some_and(|since| now.duration_since(since) >= REST);
        let mut all = self.0.iter();
        let free = all.find_map(|(account, holder)| has_rested(holder).then_some(*account));
        if let Some(account) = free {
            self.0.remove(&account);
        }
    }

    /// The name of who has an account, once that was asked for; the outer none if nobody has it.
    pub(super) fn name(&self, account: u32) -> Option<Option<&str>> {
        Some(self.0.get(&account)?.name.as_deref())
    }
}

/// Every account that may be a workspace's.
pub(super) fn own() -> impl Iterator<Item = u32> {
    (2..MAX_ACCOUNTS).map(|number| number * Lane::COUNT)
}

fn is_own(account: u32) -> bool {
    own().any(|one| one == account)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: u32 = 2 * Lane::COUNT;

    /// As a daemon hands them out.
    fn give(holders: &mut Holders, workspace: u32) -> Option<u32> {
        let name = format!("workspace-{workspace}");
        holders.find(workspace, &name, None).or_else(|| {
            let account = holders.free()?;
            holders.hold(account, workspace, &name);
            Some(account)
        })
    }

    #[test]
    fn a_workspace_keeps_its_account_and_nobody_shares_it() {
        let mut holders = Holders::default();
        let all: BTreeSet<_> = (1..63).map(|number| give(&mut holders, number)).collect();
        assert_eq!((all.len(), all.contains(&None)), (62, false));
        assert_eq!(give(&mut holders, 63), None, "none is left");
        assert_eq!(give(&mut holders, 1), Some(FIRST));
    }

    #[test]
    fn an_account_rests_before_it_is_anothers() {
        let mut holders = Holders::default();
        for number in 1..63 {
            give(&mut holders, number);
        }
        let start = Instant::now();
        let mut in_rows: BTreeSet<_> = own().skip(2).collect();
        let try_at = |holders: &mut Holders, in_rows: &BTreeSet<u32>, seconds| {
            holders.reclaim(in_rows, start + Duration::from_secs(seconds));
            holders.free()
        };
        assert_eq!(try_at(&mut holders, &in_rows, 0), None, "seen without rows for the first time");
        assert_eq!(try_at(&mut holders, &in_rows, 9), None, "not for long enough");
        // The first workspace comes back, and its rows are not written yet.
        assert_eq!(give(&mut holders, 1), Some(FIRST));
        assert_eq!(try_at(&mut holders, &in_rows, 11), Some(FIRST + Lane::COUNT), "the second's");
        assert_eq!(give(&mut holders, 63), Some(FIRST + Lane::COUNT));
        in_rows.extend([FIRST, FIRST + Lane::COUNT]);
        assert_eq!(try_at(&mut holders, &in_rows, 99), None, "all have rows");
    }

    #[test]
    fn rows_of_an_earlier_daemon_say_whose_an_account_is() {
        let [one, two, three] = [0, 1, 2].map(|at| FIRST + at * Lane::COUNT);
        // The second is in rows of tunnels only, and so is what is no workspace's.
        let mut holders = Holders::of_rows(vec![(one, 7), (0, 0)], vec![one, two, 3, 0, 7777]);
        assert_eq!(holders.find(7, "seven", None), Some(one));
        assert_eq!(holders.find(8, "eight", Some(one)), None, "it is another's");
        assert_eq!(give(&mut holders, 9), Some(three), "the second may be somebody's");
        assert_eq!(holders.find(8, "eight", Some(two)), Some(two));
        assert_eq!(holders.find(10, "ten", Some(two)), None, "claimed meanwhile");
        let names = [one, two, three].map(|account| holders.name(account).flatten());
        assert_eq!(names, [Some("seven"), Some("eight"), Some("workspace-9")]);
    }

    #[test]
    fn what_is_forgotten_is_not_claimed() {
        let mut holders = Holders::default();
        holders.forget(FIRST, Instant::now());
        assert_eq!(holders.find(1, "one", Some(FIRST)), None);
        assert_eq!(give(&mut holders, 1), Some(FIRST + Lane::COUNT), "its counts stay");
    }
}
