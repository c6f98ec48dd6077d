//! The file: its layout, and what people are told when it cannot be opened.

use std::path::Path;

use redb::{Database, DatabaseError, StorageError};

use super::tables::{self, Start};
use crate::region::store::StoreError;

/// The layout of tables and keys. Changed together with a way to read the old one.
#[derive(Debug)]
pub(super) struct Layout {
    /// What this edge writes.
    pub(super) written: u64,
    /// An older one that it brings up to date, by adding the tables that are absent.
    older: Option<u64>,
}

impl Layout {
    /// What outlives the machine's run. The first had no leases.
    pub(super) const DURABLE: Self = Self { written: 2, older: Some(1) };
    /// What does not: the form of every record in it.
    pub(super) const LEASED: Self = Self { written: 1, older: None };
}

/// Refuses a file of another layout, brings an older one up to date, and answers what a new or
/// known one holds at the start.
pub(super) fn prepare(
    database: &Database,
    path: &Path,
    layout: &Layout,
) -> Result<Start, StoreError> {
    let prepared = || -> Result<Result<Start, u64>, redb::Error> {
        let transaction = database.begin_write()?;
        let found = tables::layout(&transaction)?.unwrap_or(layout.written);
        if found != layout.written && Some(found) != layout.older {
            return Ok(Err(found));
        }
        let start = tables::start(&transaction, layout.written)?;
        transaction.commit()?;
        Ok(Ok(start))
    };
    match prepared() {
        Ok(Ok(start)) => Ok(start),
        Ok(Err(found)) => {
            Err(StoreError::Layout { path: path.to_owned(), found, known: layout.written })
        }
        Err(error) => Err(damaged(path, error.to_string())),
    }
}

/// What cannot be opened, why, and what to do about it.
pub(super) fn refused(path: &Path, error: &DatabaseError) -> StoreError {
    let remedy = match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            "another edge daemon uses it: stop that one, or give this one its own --instance"
        }
        DatabaseError::UpgradeRequired(_) => {
            "run the version of edge that wrote it, or move the file away"
        }
        DatabaseError::Storage(StorageError::Io(io))
            if io.kind() != std::io::ErrorKind::InvalidData
                && io.kind() != std::io::ErrorKind::UnexpectedEof =>
        {
            "check the file's owner and mode, the disk and its free space"
        }
        _ => return damaged(path, error.to_string()),
    };
    StoreError::Open { path: path.to_owned(), cause: error.to_string(), remedy }
}

fn damaged(path: &Path, cause: String) -> StoreError {
    let remedy = "the file is damaged or not edge's: restore it from a backup, or move it away \
                  and let the region start anew";
    StoreError::Open { path: path.to_owned(), cause, remedy }
}
