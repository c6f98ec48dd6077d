//! Who is not heard of any more and is missed in a cluster.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::region::{cluster::ClusterMember, spread::Share, view::View};

/// A member of another machine that is not heard of for this long has ended: more than a daemon
/// needs for a restart. A machine that dies is noticed by its lease before.
const ABSENCE: Duration = Duration::from_secs(20);

/// Members of this machine's clusters that nothing is heard of, and machines that were to start
/// some, and since when.
#[derive(Default)]
pub(super) struct Absences(HashMap<String, Instant>);

impl Absences {
    /// Whether all are heard of.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// For each cluster with a member that has been absent for too long: a member here, and what
    /// is to be said of the cluster.
    pub(super) fn overdue(&mut self, host: u16, view: &View) -> Vec<(String, String)> {
        let mut still = HashMap::new();
        let mut over = Vec::new();
        for cluster in view.clusters.values().filter(|cluster| cluster.over.is_none()) {
            let Some(own) = cluster.members.iter().find(|one| one.host == host && !one.finished)
            else {
                continue;
            };
            let absent = cluster.members.iter().enumerate().filter(|(_, member)| {
                !member.finished && !view.containers.contains_key(&member.container)
            });
            let absent = absent.map(|(rank, ClusterMember { container, host, .. })| {
                (container.clone(), format!("rank {rank} (container {container} on host {host})"))
            });
            let away = cluster.shares.iter().filter(|share| {
                !cluster.is_whole() && !view.hosts.get(&share.host).is_some_and(|host| host.alive)
            });
            let away = away.map(|Share { host, .. }| {
                (
                    format!("{} on {host}", cluster.id),
                    format!("host {host}, which has members to start"),
                )
            });
            for (key, who) in absent.chain(away) {
                let since = self.0.get(&key).copied().unwrap_or_else(Instant::now);
                still.insert(key, since);
                if since.elapsed() >= ABSENCE {
                    let why =
                        format!("hears nothing any more of {who}; see whether that machine lives");
                    over.push((own.container.clone(), why));
                    break;
                }
            }
        }
        self.0 = still;
        over
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv6Addr, sync::Arc};

    use super::*;
    use crate::region::{cluster::ClusterRecord, roster};

    #[test]
    fn a_machine_that_is_gone_before_it_has_started_its_members_ends_the_cluster() {
        let mut record = ClusterRecord::new("main", "train", 2).unwrap();
        record.members.push(ClusterMember {
            container: "co-a".to_owned(),
            host: 1,
            ipv4: [100, 64, 0, 2].into(),
            i6pn: Ipv6Addr::LOCALHOST,
            finished: false,
        });
        record.shares.push(Share { host: 2, count: 1, taker: Some(7) });
        let container = roster::ContainerRecord {
            id: "co-a".to_owned(),
            name: "a".to_owned(),
            workspace: "main".to_owned(),
            workspace_id: 1,
            host: 1,
            ipv4: [100, 64, 0, 2].into(),
            i6pn: Ipv6Addr::LOCALHOST,
            private: true,
            proxy: None,
        };
        let mut view = View::default();
        view.containers.insert("co-a".to_owned(), Arc::new(container));
        view.clusters.insert("main/train".to_owned(), Arc::new(record));
        let mut absences = Absences::default();
        assert!(absences.overdue(1, &view).is_empty(), "it may be back in a moment");
        let since = absences.0.values_mut().next().expect("it is looked at");
        *since = since.checked_sub(ABSENCE).expect("the clock is older");
        let [(container, why)] = &absences.overdue(1, &view)[..] else { panic!("nothing is said") };
        assert_eq!(container, "co-a");
        assert!(why.contains("hears nothing any more of host 2, which"), "{why}");
        assert!(absences.overdue(3, &view).is_empty(), "it has no member of it");
    }
}
