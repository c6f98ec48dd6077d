//! Shares of clusters that one command spreads: who takes them on, and who does not.

use std::collections::BTreeMap;

use data_encoding::BASE64;

use super::{ClaimError, Claims, Found, Transaction};
use crate::region::{
    cluster::{ClusterError, ClusterRecord},
    roster,
    spread::{self, MAX_LAUNCH, Share, SpreadError},
    store::LeaseId,
};

/// What other machines are to start, and how many members each of them has room for.
#[derive(Debug)]
pub struct Spread {
    /// Only those who start it know how to read it.
    pub launch: Vec<u8>,
    /// By number.
    pub rooms: BTreeMap<u16, u16>,
}

impl Spread {
    /// Who starts how many of those that a cluster lacks.
    pub(super) fn shares(&self, of: &ClusterRecord) -> Result<Vec<Share>, ClusterError> {
        let missing = usize::from(of.size) - of.members.len();
        let missing = u16::try_from(missing).unwrap_or(u16::MAX);
        let placed = match self.launch.len() {
            length if length > MAX_LAUNCH => Err(SpreadError::Large(length)),
            _ => spread::place(missing, &self.rooms),
        };
        placed.map_err(|source| ClusterError::NotSpread { name: of.name.clone(), source })
    }

    /// The launch as it is kept.
    pub(super) fn written(&self) -> String {
        BASE64.encode(&self.launch)
    }
}

impl Claims {
    /// Takes on the share of a host, for one of its daemons; answers what is to be started.
    ///
    /// # Errors
    /// [`SpreadError::NoShare`], [`SpreadError::Taken`].
    pub async fn take_share(
        &self,
        host: u16,
        lease: Option<LeaseId>,
        cluster: &str,
        taker: u64,
    ) -> Result<Vec<u8>, ClaimError> {
        let none = || SpreadError::NoShare { host, cluster: cluster.to_owned() };
        loop {
            let (key, found) = self.gathering(cluster).await?.ok_or_else(none)?;
            let mut record = found.record.clone();
            let share = record.shares.iter_mut().find(|share| share.host == host);
            let share = share.ok_or_else(none)?;
            let launch: Option<Found<String>> = self.get(&roster::launch(cluster)).await?;
            let launch = launch.ok_or_else(none)?.record;
            let launch = BASE64.decode(launch.as_bytes()).map_err(|_unreadable| none())?;
            match share.taker {
                Some(known) if known == taker => return Ok(launch),
                Some(_) => return Err(SpreadError::Taken(host).into()),
                None => share.taker = Some(taker),
            }
            let mut transaction = Transaction::default();
            transaction.given(&key, Some(&found));
            transaction.put(key, &record, lease)?;
            if transaction.commit(&self.store).await? {
                return Ok(launch);
            }
        }
    }

    /// A host does not start its share. Nothing happens if the cluster is whole, or over.
    ///
    /// # Errors
    /// The store's own.
    pub async fn refuse_share(
        &self,
        host: u16,
        cluster: &str,
        why: &str,
    ) -> Result<(), ClaimError> {
        loop {
            let Some((key, found)) = self.gathering(cluster).await? else { return Ok(()) };
            let mut record = found.record.clone();
            if !record.shares.iter().any(|share| share.host == host) {
                return Ok(());
            }
            record.over = Some(format!("host {host} does not start its members: {why}"));
            let mut transaction = Transaction::default();
            transaction.given(&key, Some(&found));
            self.put_over(&mut transaction, &key, &record).await?;
            if transaction.commit(&self.store).await? {
                return Ok(());
            }
        }
    }

    /// The cluster with this id, if it waits for members.
    async fn gathering(
        &self,
        id: &str,
    ) -> Result<Option<(String, Found<ClusterRecord>)>, ClaimError> {
        for (key, entry) in self.store.list(roster::CLUSTERS).await? {
            let record: ClusterRecord = entry.read(&key)?;
            if record.id == id {
                let waits = record.over.is_none() && !record.is_whole();
                let found = Found { record, revision: entry.revision };
                return Ok(waits.then_some((key, found)));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::region::{
        claims::{Joining, Terms},
        cluster::ClusterMember,
        embedded::Embedded,
        store::Store,
    };

    fn members(host: u16, names: &[&str]) -> Vec<ClusterMember> {
        let member = |name: &&str| ClusterMember {
            container: (*name).to_owned(),
            host,
            ipv4: [100, 64, 0, 2].into(),
            i6pn: std::net::Ipv6Addr::LOCALHOST,
            finished: false,
        };
        names.iter().map(member).collect()
    }

    /// A store, and in it a cluster of three of which host 2 is to start two members.
    async fn spread() -> (tempfile::TempDir, Claims, ClusterRecord) {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(Embedded::open(dir.path()).unwrap());
        let claims = Claims::new(store, Terms::default());
        let spread = Spread { launch: b"do".to_vec(), rooms: [(2, 2)].into() };
        let joined = join(&claims, &members(1, &["co-a"]), None, Some(spread)).await;
        (dir, claims, joined.unwrap())
    }

    async fn join(
        claims: &Claims,
        members: &[ClusterMember],
        cluster: Option<&str>,
        spread: Option<Spread>,
    ) -> Result<ClusterRecord, ClaimError> {
        let (workspace, name) = ("main", "train");
        let joining = Joining { workspace, name, size: 3, members, cluster, spread };
        claims.join_cluster(None, &joining).await
    }

    async fn has_launch(claims: &Claims, cluster: &ClusterRecord) -> bool {
        claims.store.get(&roster::launch(&cluster.id)).await.unwrap().is_some()
    }

    #[tokio::test]
    async fn a_share_is_taken_on_once_and_only_its_members_join() {
        let (_dir, claims, cluster) = spread().await;
        assert_eq!(cluster.shares.iter().map(|one| (one.host, one.count)).next(), Some((2, 2)));
        let take = |host, taker| claims.take_share(host, None, &cluster.id, taker);
        let refused = |taken: Result<Vec<u8>, ClaimError>| match taken {
            Err(ClaimError::Share(error)) => error,
            other => panic!("{other:?}"),
        };
        let none = |host| SpreadError::NoShare { host, cluster: cluster.id.clone() };
        assert_eq!(refused(take(3, 7).await), none(3));
        assert_eq!(take(2, 7).await.unwrap(), b"do");
        assert_eq!(take(2, 7).await.unwrap(), b"do", "the same call again");
        assert_eq!(refused(take(2, 8).await), SpreadError::Taken(2));

        let strangers = join(&claims, &members(3, &["co-x"]), None, None).await.unwrap_err();
        assert!(matches!(strangers, ClaimError::Cluster(ClusterError::Spread(_))), "{strangers}");
        let other = join(&claims, &members(2, &["co-x"]), Some("cu-other"), None).await;
        assert!(matches!(other, Err(ClaimError::Cluster(ClusterError::Over(_)))));
        let called = members(2, &["co-b", "co-c"]);
        assert!(has_launch(&claims, &cluster).await);
        let whole = join(&claims, &called, Some(&cluster.id), None).await.unwrap();
        assert!(whole.is_running());
        assert!(!has_launch(&claims, &cluster).await, "it is needed no more");

        // Its members speak for themselves now.
        claims.refuse_share(2, &cluster.id, "late").await.unwrap();
        let found: Option<Found<ClusterRecord>> =
            claims.get(&roster::cluster("main", "train")).await.unwrap();
        assert_eq!(found.unwrap().record.over, None);
    }

    #[tokio::test]
    async fn a_share_that_is_refused_ends_the_cluster() {
        let (_dir, claims, cluster) = spread().await;
        claims.refuse_share(3, &cluster.id, "no business of mine").await.unwrap();
        assert!(has_launch(&claims, &cluster).await);
        claims.refuse_share(2, &cluster.id, "no such program").await.unwrap();
        assert!(!has_launch(&claims, &cluster).await);
        let found: Option<Found<ClusterRecord>> =
            claims.get(&roster::cluster("main", "train")).await.unwrap();
        let why = "host 2 does not start its members: no such program";
        assert_eq!(found.unwrap().record.over.as_deref(), Some(why));
        let late = join(&claims, &members(2, &["co-b"]), Some(&cluster.id), None).await;
        assert!(matches!(late, Err(ClaimError::Cluster(ClusterError::Over(_)))));
        // Who is of it hears why.
        let own = join(&claims, &members(1, &["co-a"]), Some(&cluster.id), None).await.unwrap();
        assert_eq!(own.over.as_deref(), Some(why));
    }
}
