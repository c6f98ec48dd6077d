//! Clusters: who joins, and how they end.

use std::time::Duration;

use super::{ClaimError, Claims, Found, Transaction};
use crate::region::{
    cluster::{ClusterMember, ClusterRecord},
    roster,
    store::LeaseId,
};

/// For everybody to hear why a cluster is over.
const NEWS: Duration = Duration::from_secs(60);

impl Claims {
    /// Lets containers join the cluster of this name, which begins with the first of them, or
    /// anew if it is over. The record has the lease, if one is given.
    ///
    /// # Errors
    /// [`ClaimError::Cluster`] if they do not fit.
    pub async fn join_cluster(
        &self,
        lease: Option<LeaseId>,
        workspace: &str,
        name: &str,
        size: u16,
        members: &[ClusterMember],
    ) -> Result<ClusterRecord, ClaimError> {
        let key = roster::cluster(workspace, name);
        loop {
            let found: Option<Found<ClusterRecord>> = self.get(&key).await?;
            let mut record = match &found {
                Some(found) if found.record.over.is_none() => found.record.clone(),
                _ => ClusterRecord::new(workspace, name, size)?,
            };
            if !record.admit(size, members)? {
                return Ok(record);
            }
            let mut transaction = Transaction::default();
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
            } else {
                let news = match record.over {
                    Some(_) => Some(self.store.grant(NEWS).await?),
                    None => lease,
                };
                transaction.put(key.to_owned(), &record, news)?;
            }
            match transaction.commit(&self.store).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
