//! Address blocks, leased ahead: containers get addresses while no gateway can be reached.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{FutureExt as _, future::BoxFuture};
use ipnet::Ipv4Net;

use super::{
    CallError, Link, Member,
    calls::{AGAIN, patiently},
};
use crate::region::addresses::{AddressError, Blocks};

/// How often somebody who waits for a block asks again.
const ATTEMPTS: usize = 20;

/// The blocks of a member: one more than it uses, as soon as a gateway gives it.
#[derive(Debug)]
pub struct LeasedAhead {
    inner: Arc<Ahead>,
}

#[derive(Debug)]
struct Ahead {
    member: Arc<Member>,
    spare: Mutex<Spare>,
}

#[derive(Debug, Default)]
struct Spare {
    block: Option<Ipv4Net>,
    /// One is being leased.
    leasing: bool,
}

impl LeasedAhead {
    /// Of this member.
    pub fn new(member: Arc<Member>) -> Self {
        Self { inner: Arc::new(Ahead { member, spare: Mutex::default() }) }
    }
}

impl Blocks for LeasedAhead {
    /// Waits until the machine's blocks are known. The block that was leased last is kept as the spare one:
    /// addresses of it that were in use are lent, or rest, once it is leased.
    fn own(&self) -> BoxFuture<'_, Result<Vec<Ipv4Net>, AddressError>> {
        async {
            let host = self.inner.member.host();
            let mut views = self.inner.member.view();
            let known = views.wait_for(|view| view.hosts.contains_key(&host)).await;
            let mut own =
                known.map(|view| view.hosts[&host].record.blocks.clone()).unwrap_or_default();
            if own.len() > 1 {
                self.inner.spare().block = own.pop();
            }
            if own.is_empty() {
                // The first one can only be leased, and a view is there before calls go through.
                let mut link = self.inner.member.link();
                link.wait_for(|link| matches!(link, Link::Connected { .. })).await.ok();
            } else {
                self.inner.clone().refill();
            }
            Ok(own)
        }
        .boxed()
    }

    fn lease(&self) -> BoxFuture<'_, Result<Ipv4Net, AddressError>> {
        async {
            let spare = self.inner.spare().block.take();
            let block = match spare {
                Some(block) => block,
                // A session may be about to begin anew: it does when this machine has news.
                None => patiently(ATTEMPTS, || self.inner.member.lease_block()).await?,
            };
            self.inner.clone().refill();
            Ok(block)
        }
        .boxed()
    }
}

impl Ahead {
    fn spare(&self) -> MutexGuard<'_, Spare> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leases a spare block in a task of its own, if there is none.
    fn refill(self: Arc<Self>) {
        {
            let mut spare = self.spare();
            if spare.block.is_some() || spare.leasing {
                return;
            }
            spare.leasing = true;
        }
        tokio::spawn(async move {
            let mut link = self.member.link();
            let leased = loop {
                if link.wait_for(|link| matches!(link, Link::Connected { .. })).await.is_err() {
                    break None;
                }
                match self.member.lease_block().await {
                    Ok(block) => break Some(block),
                    Err(CallError::Unavailable(_)) => {
                        // The link says so in a moment.
                        tokio::time::sleep(AGAIN).await;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "no address block is leased ahead");
                        break None;
                    }
                }
            };
            let mut spare = self.spare();
            spare.block = leased;
            spare.leasing = false;
        });
    }
}
