//! The thread that reads and writes the file.

use std::time::Instant;

use redb::Database;
use tokio::sync::mpsc;

use super::{Job, Reply, history::Publisher, tables::Tables, timers::Timers};
use crate::region::store::{Change, LeaseId};

/// Works until the store is dropped and its queue is empty.
pub(super) fn run(
    database: &Database,
    mut queue: mpsc::Receiver<Job>,
    mut timers: Timers,
    publisher: &Publisher,
    runtime: &tokio::runtime::Runtime,
) {
    let _span = tracing::info_span!("region-store").entered();
    loop {
        let first = runtime.block_on(async {
            match timers.next() {
                None => Some(queue.recv().await),
                // No job in time: a lease ends.
                Some(at) => tokio::time::timeout_at(at.into(), queue.recv()).await.ok(),
            }
        });
        let mut jobs = Vec::new();
        match first {
            Some(None) => break,
            Some(Some(first)) => jobs.push(first),
            None => {}
        }
        // What keeps a lease alive may be waiting behind the first.
        while let Ok(next) = queue.try_recv() {
            jobs.push(next);
        }
        batch(database, jobs, &mut timers, publisher);
    }
    tracing::debug!("the store is closed");
}

fn batch(database: &Database, jobs: Vec<Job>, timers: &mut Timers, publisher: &Publisher) {
    let mut replies = Vec::with_capacity(jobs.len());
    let mut ended = Vec::new();
    let outcome = commit(database, jobs, timers, &mut replies, &mut ended);
    let told = match outcome {
        Ok(changes) => {
            timers.forget(&ended);
            // Before the replies: who was answered may watch from what they wrote.
            publisher.publish(changes);
            Ok(())
        }
        Err(error) => {
            tracing::error!(%error, "the region's state could not be written");
            timers.postpone(&ended, Instant::now());
            Err(error.to_string())
        }
    };
    for reply in replies {
        reply(told.clone());
    }
}

fn commit(
    database: &Database,
    jobs: Vec<Job>,
    timers: &mut Timers,
    replies: &mut Vec<Reply>,
    ended: &mut Vec<LeaseId>,
) -> Result<Vec<Change>, redb::Error> {
    let transaction = database.begin_write()?;
    let changes = {
        let mut tables = Tables::open(&transaction, timers)?;
        replies.extend(jobs.into_iter().map(|job| job(&mut tables)));
        ended.extend(tables.expire()?);
        tables.finish()?
    };
    match changes {
        Some(changes) => {
            transaction.commit()?;
            Ok(changes)
        }
        // A batch of reads does not wait for the disk.
        None => {
            transaction.abort()?;
            Ok(Vec::new())
        }
    }
}
