//! Clusters: who joins, and how they end.

use std::time::Duration;

use super::{ClaimError, Claims, Found, Transaction, shares::Spread};
use crate::region::{
    cluster::{ClusterError, ClusterMember, ClusterRecord},
    roster,
    store::LeaseId,
};

/// For everybody to hear why a cluster is over.
const NEWS: Duration = Duration::from_secs(60);

/// Containers that are to join a cluster.
#[derive(Debug)]
pub struct Joining<'a> {
    /// Their workspace.
    pub workspace: &'a str,
    /// The cluster's name.
    pub name: &'a str,
    /// How many make it whole.
    pub size: u16,
    /// Who joins, in the order of the ranks.
    pub members: &'a [ClusterMember],
    /// The cluster's id, if only that one is meant.
    pub cluster: Option<&'a str>,
    /// The rest is started by other machines.
    pub spread: Option<Spread>,
}

impl Claims {
    /// Lets containers join the cluster of this name, which begins with the first of them, or
    /// anew if it is over. The record has the lease, if one is given.
    ///
    /// # Errors
    /// [`ClaimError::Cluster`] if they do not fit, or the rest of them is not spread.
    pub async fn join_cluster(
        &self,
        lease: Option<LeaseId>,
        joining: &Joining<'_>,
    ) -> Result<ClusterRecord, ClaimError> {
        let Joining { workspace, name, size, members, cluster, spread } = joining;
        let key = roster::cluster(workspace, name);
        loop {
            let found: Option<Found<ClusterRecord>> = self.get(&key).await?;
            let mut record = match (&found, cluster) {
                (Some(found), None) if found.record.over.is_none() => found.record.clone(),
                (Some(found), Some(id)) if found.record.id == *id => found.record.clone(),
                (_, Some(_)) => return Err(ClusterError::Over((*name).to_owned()).into()),
                (_, None) => ClusterRecord::new(workspace, name, *size)?,
            };
            let (begun, named) = (!record.members.is_empty(), !record.shares.is_empty());
            // Its own members are told why it is over, if it is.
            if !record.admit(*size, members)? {
                return Ok(record);
            }
            if record.over.is_some() {
                return Err(ClusterError::Over(record.name).into());
            }
            if named && cluster.is_none() {
                return Err(ClusterError::Spread(record.name).into());
            }
            let mut transaction = Transaction::default();
            if let Some(spread) = spread {
                if begun {
                    return Err(ClusterError::Gathers(record.name).into());
                }
                record.shares = spread.shares(&record)?;
                transaction.put(roster::launch(&record.id), &spread.written(), lease)?;
            } else if named && record.is_whole() {
                transaction.delete(roster::launch(&record.id));
            }
            transaction.given(&key, found.as_ref());
            transaction.put(key.clone(), &record, lease)?;
            match transaction.commit(&self.store).await {
                Ok(true) => return Ok(record),
                Ok(false) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// A member on this host has ended, well or for a reason. Nothing happens if it is of no
    /// cluster, or of one that is over.
    ///
    /// # Errors
    /// [`ClaimError::NotYours`].
    pub async fn end_member(
        &self,
        host: u16,
        lease: Option<LeaseId>,
        container: &str,
        failure: Option<&str>,
    ) -> Result<(), ClaimError> {
        for (key, entry) in self.store.list(roster::CLUSTERS).await? {
            let record: ClusterRecord = entry.read(&key)?;
            let member = record.members.iter().find(|member| member.container == container);
            match member.filter(|_| record.over.is_none()) {
                Some(member) if member.host != host => {
                    return Err(ClaimError::NotYours(format!("container {container}")));
                }
                Some(_) => self.end_member_of(&key, lease, container, failure).await?,
                None => {}
            }
        }
        Ok(())
    }

    async fn end_member_of(
        &self,
        key: &str,
        lease: Option<LeaseId>,
        container: &str,
        failure: Option<&str>,
    ) -> Result<(), ClaimError> {
        loop {
            let found: Option<Found<ClusterRecord>> = self.get(key).await?;
            let Some(found) = found else { return Ok(()) };
            let mut record = found.record.clone();
            if !record.end(container, failure) {
                return Ok(());
            }
            let mut transaction = Transaction::default();
            transaction.given(key, Some(&found));
            if record.is_finished() {
                transaction.delete(key.to_owned());
            } else if record.over.is_some() {
                self.put_over(&mut transaction, key, &record).await?;
            } else {
                transaction.put(key.to_owned(), &record, lease)?;
            }
            match transaction.commit(&self.store).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// One that is over stays for a while, without what others were to start.
    pub(super) async fn put_over(
        &self,
        transaction: &mut Transaction,
        key: &str,
        record: &ClusterRecord,
    ) -> Result<(), ClaimError> {
        if !record.shares.is_empty() {
            transaction.delete(roster::launch(&record.id));
        }
        let news = self.store.grant(NEWS).await?;
        Ok(transaction.put(key.to_owned(), record, Some(news))?)
    }
}
