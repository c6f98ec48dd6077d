//! The members of clusters in the kernel's table: who reaches whom by IPv4.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
};

use edge_common::tables::MemberRow;

use super::underlay::in_header;
use crate::{
    datapath::{Datapath, DatapathError},
    error::causes,
    region::{cluster::ClusterRecord, clusters::Known},
};

/// Keeps the table as the known clusters say.
pub struct Members {
    datapath: Arc<Datapath>,
    /// This machine's number.
    host: u16,
    /// None before the first time.
    written: Mutex<Option<Rows>>,
}

/// What tells a cluster from others, by member.
type Rows = BTreeMap<Ipv4Addr, u64>;

impl Members {
    /// Nothing is written yet; what an earlier daemon wrote stays until then.
    pub fn new(datapath: Arc<Datapath>, host: u16) -> Self {
        Self { datapath, host, written: Mutex::default() }
    }

    /// Writes what differs from what was written last.
    pub fn write(&self, known: &Known) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let next = rows(self.host, known);
        let before = written.clone().unwrap_or_default();
        match self.change(&before, &next, written.is_none()) {
            Ok(()) => *written = Some(next),
            Err(error) => {
                let error = causes(&error);
                tracing::error!(error, "members of a cluster may not reach each other by IPv4");
            }
        }
    }

    fn change(&self, before: &Rows, next: &Rows, first: bool) -> Result<(), DatapathError> {
        for (address, mark) in next.iter().filter(|(key, row)| before.get(key) != Some(row)) {
            self.datapath.add_member(in_header(*address), MemberRow { mark: *mark })?;
        }
        for address in before.keys().filter(|address| !next.contains_key(address)) {
            self.datapath.remove_member(in_header(*address))?;
        }
        if first { self.datapath.settle_members() } else { Ok(()) }
    }
}

/// The living members of all clusters that have members on this machine and are not over.
fn rows(host: u16, known: &Known) -> Rows {
    let here = |cluster: &&Arc<ClusterRecord>| {
        cluster.over.is_none() && cluster.members.iter().any(|member| member.host == host)
    };
    let living = known.values().filter(here).flat_map(|cluster| {
        let living = cluster.members.iter().filter(|member| !member.finished);
        living.map(|member| (member.ipv4, cluster.mark))
    });
    living.collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;
    use crate::region::cluster::ClusterMember;

    fn cluster(name: &str, mark: u64, members: &[(u16, [u8; 4])]) -> (String, Arc<ClusterRecord>) {
        let mut record = ClusterRecord::new("main", name, 8).unwrap();
        record.mark = mark;
        record.members = members
            .iter()
            .map(|(host, ipv4)| ClusterMember {
                container: format!("co-{ipv4:?}"),
                host: *host,
                ipv4: (*ipv4).into(),
                i6pn: Ipv6Addr::LOCALHOST,
                finished: false,
            })
            .collect();
        (format!("main/{name}"), Arc::new(record))
    }

    #[test]
    fn members_of_own_clusters_have_rows_until_they_end() {
        let (a, b, c) = ([100, 64, 0, 2], [100, 64, 0, 66], [100, 64, 0, 67]);
        let mut known = Known::from([
            cluster("here", 7, &[(1, a), (2, b)]),
            cluster("elsewhere", 8, &[(2, c)]),
        ]);
        assert_eq!(rows(1, &known), Rows::from([(a.into(), 7), (b.into(), 7)]));
        assert_eq!(rows(2, &known).len(), 3);
        assert!(rows(3, &known).is_empty());
        let mut record = (*known["main/here"]).clone();
        record.members[1].finished = true;
        known.insert("main/here".to_owned(), Arc::new(record.clone()));
        assert_eq!(rows(1, &known), Rows::from([(a.into(), 7)]));
        record.over = Some("rank 0 is gone".to_owned());
        known.insert("main/here".to_owned(), Arc::new(record));
        assert!(rows(1, &known).is_empty());
    }
}
