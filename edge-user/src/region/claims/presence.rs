//! Sessions: a host comes, stays and goes.

use super::{ClaimError, Claims, Found, Transaction};
use crate::region::{
    roster::{self, About, ContainerRecord, Presence},
    store::{LeaseId, StoreError},
};

/// A host that has come.
#[derive(Debug)]
pub struct Arrival {
    /// Its session.
    pub presence: Presence,
    /// The lease of what it holds.
    hold: LeaseId,
    /// Containers that it has and the region does not take, and why.
    pub refused: Vec<(String, ClaimError)>,
}

impl Claims {
    /// A host is there, with these containers: what else the region knew of it has ended. The
    /// others see it only when all this is written.
    ///
    /// # Errors
    /// [`ClaimError::UnknownHost`].
    pub async fn arrive(
        &self,
        id: u16,
        about: About,
        containers: Vec<ContainerRecord>,
    ) -> Result<Arrival, ClaimError> {
        loop {
            let mut host = self.host(id).await?;
            if host.record.about == about {
                break;
            }
            let mut transaction = Transaction::default();
            transaction.given(&roster::host(id), Some(&host));
            host.record.about = about.clone();
            transaction.put(roster::host(id), &host.record, None)?;
            if transaction.commit(&self.store).await? {
                break;
            }
        }
        let hold = self.hold(id).await?;
        for known in self.containers_of(id).await? {
            if !containers.iter().any(|container| container.id == known.id) {
                self.delete_container(id, &known.id).await?;
            }
        }
        let mut refused = Vec::new();
        for container in containers {
            let name = container.id.clone();
            match self.put_container(id, container).await {
                Ok(()) => {}
                Err(ClaimError::Store(error)) => return Err(error.into()),
                Err(error) => refused.push((name, error)),
            }
        }
        let lease = self.store.grant(self.terms.lease).await?;
        let presence = Presence { session: rand::random(), lease };
        let write = roster::put(roster::presence(id), &presence, Some(lease))?;
        self.store.transact(Vec::new(), vec![write]).await?;
        Ok(Arrival { presence, hold, refused })
    }

    /// A host was heard of.
    ///
    /// # Errors
    /// [`StoreError::LeaseEnded`] if it was away too long: then it must come anew.
    pub async fn stay(&self, arrival: &Arrival) -> Result<(), StoreError> {
        self.store.keep_alive(arrival.presence.lease).await?;
        self.store.keep_alive(arrival.hold).await
    }

    /// A host goes: it is away at once.
    ///
    /// # Errors
    /// The store's own.
    pub async fn leave(&self, arrival: &Arrival) -> Result<(), StoreError> {
        self.store.revoke(arrival.presence.lease).await
    }

    /// The lease of what a host holds; its time begins anew.
    pub(in crate::region) async fn hold(&self, id: u16) -> Result<LeaseId, ClaimError> {
        let key = roster::hold(id);
        loop {
            let found: Option<Found<LeaseId>> = self.get(&key).await?;
            if let Some(found) = &found {
                match self.store.keep_alive(found.record).await {
                    Ok(()) => return Ok(found.record),
                    Err(StoreError::LeaseEnded(_)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            let lease = self.store.grant(self.terms.hold).await?;
            let mut transaction = Transaction::default();
            transaction.given(&key, found.as_ref());
            transaction.put(key.clone(), &lease, Some(lease))?;
            if transaction.commit(&self.store).await? {
                return Ok(lease);
            }
            self.store.revoke(lease).await?;
        }
    }
}
