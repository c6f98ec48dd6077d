//! Requests to etcd, repeated where that can do no harm.
//!
//! A request that was never sent is sent again, whatever it is. One whose answer was lost may
//! have been carried out: a question is asked again, a write is not, and its caller is told so.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use backon::{ExponentialBuilder, Retryable as _};
use etcd_client::{Client, Compare, CompareOp, Error, GetOptions, Txn, TxnOp};
use tokio::time::timeout;

use super::{
    Access, EtcdError, Place,
    error::{Failure, Fate},
    unsigned,
};
use crate::region::store::{Snapshot, StoreError};

/// An etcd that works answers, or says why not, within seven seconds.
const ANSWER: Duration = Duration::from_secs(8);
/// After this a request is not sent again.
const PATIENCE: Duration = Duration::from_secs(10);
/// The layout of keys and values. Changed together with a way to read the old one.
const LAYOUT: u64 = 1;

/// A connection to etcd, and the region's place in it.
#[derive(Clone)]
pub(super) struct Calls {
    client: Client,
    place: Arc<Place>,
}

/// Whether a request may be sent again when its answer was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// It asks, or does the same thing once or twice.
    Always,
    /// It writes.
    Never,
}

impl Calls {
    pub(super) async fn connect(place: Place, access: &Access) -> Result<Self, EtcdError> {
        let options = access.options(&place)?;
        let endpoints = place.endpoints();
        let connect =
            || attempt(Client::connect(&endpoints, Some(options.clone())), Repeat::Always);
        let connected = connect.retry(pauses()).when(while_it_may()).await;
        match connected {
            Ok(client) => Ok(Self { client, place: Arc::new(place) }),
            Err(failure) => Err(failure.asked(&place)),
        }
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Sends a request until it is answered, for ten seconds and what the last attempt takes.
    pub(super) async fn call<T, F>(
        &self,
        repeat: Repeat,
        request: impl Fn(Client) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let once = || attempt(request(self.client.clone()), repeat);
        once.retry(pauses()).when(while_it_may()).await
    }

    /// The client itself, for what is no request with one answer.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// A question failed.
    pub(super) fn asked(&self, failure: Failure) -> EtcdError {
        failure.asked(&self.place)
    }

    /// A write failed.
    pub(super) fn wrote(&self, failure: Failure) -> EtcdError {
        failure.wrote(&self.place)
    }

    pub(super) async fn snapshot(&self, prefix: &str) -> Result<Snapshot, StoreError> {
        let key = self.place.key(prefix);
        let listed = self.call(Repeat::Always, |client| {
            let (mut kv, key) = (client.kv_client().max_decoding_message_size(usize::MAX), &key);
            async move { kv.get(key.as_bytes(), Some(GetOptions::new().with_prefix())).await }
        });
        let listed = listed.await.map_err(|failure| self.asked(failure))?;
        let revision = listed.header().map(|header| unsigned(header.revision()));
        let entries = listed.kvs().iter().map(|row| self.place.entry(row));
        Ok(Snapshot {
            revision: revision.unwrap_or_default(),
            entries: entries.collect::<Result<_, _>>()?,
        })
    }

    /// Of the state under the prefix: what tells it from one that was there before or comes
    /// after, and the revision at which this is true.
    ///
    /// # Errors
    /// [`EtcdError::Layout`], and those of a request.
    pub(super) async fn life(&self) -> Result<(String, u64), EtcdError> {
        let key = self.place.about();
        let new = format!("{LAYOUT} {:032x}", rand::random::<u128>());
        let absent = Compare::mod_revision(key.as_str(), CompareOp::Equal, 0);
        let (put, get) =
            (TxnOp::put(key.as_str(), new.as_str(), None), TxnOp::get(key.as_str(), None));
        let transaction = Txn::new().when([absent]).and_then([put]).or_else([get]);
        // Whoever asks twice finds what it wrote.
        let answer = self
            .call(Repeat::Always, |client| {
                let transaction = transaction.clone();
                async move { client.kv_client().txn(transaction).await }
            })
            .await
            .map_err(|failure| self.asked(failure))?;
        let revision = answer.header().map(|header| unsigned(header.revision()));
        let found = answer.op_responses().into_iter().find_map(|response| match response {
            etcd_client::TxnOpResponse::Get(found) => {
                found.kvs().first().map(|row| String::from_utf8_lossy(row.value()).into_owned())
            }
            _ => None,
        });
        let life = found.unwrap_or(new);
        let layout = life.split(' ').next().unwrap_or_default();
        if layout != LAYOUT.to_string() {
            let (place, found) = (self.place.to_string(), layout.to_owned());
            return Err(EtcdError::Layout { place, found, known: LAYOUT });
        }
        Ok((life, revision.unwrap_or_default()))
    }
}

/// Between two attempts, no two callers in step. Short ones: an attempt goes to any one of the
/// members, so with two of three gone it takes a number of them to come to the third.
fn pauses() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(20))
        .with_max_delay(Duration::from_millis(100))
        .without_max_times()
        .with_jitter()
}

fn while_it_may() -> impl Fn(&Failure) -> bool {
    let begun = Instant::now();
    move |failure| failure.may_repeat && begun.elapsed() < PATIENCE
}

async fn attempt<T>(
    request: impl Future<Output = Result<T, Error>>,
    repeat: Repeat,
) -> Result<T, Failure> {
    let mut failure = match timeout(ANSWER, request).await {
        Ok(Ok(answer)) => return Ok(answer),
        Ok(Err(error)) => Failure::from(error),
        Err(_elapsed) => Failure::silence(ANSWER),
    };
    failure.may_repeat = match failure.fate {
        Fate::NotSent => true,
        Fate::Unknown => repeat == Repeat::Always,
        Fate::Refused => false,
    };
    Err(failure)
}

/// Whether this is what etcd says. Its codes alone do not tell its refusals apart.
pub(super) fn mention(error: &Error, what: &str) -> bool {
    matches!(error, Error::GRpcStatus(status) if status.message().contains(what))
}
