//! `edge up`: the daemon of a one-machine region.

use crate::{
    cli::{Place, UpArgs},
    error::Error,
};

/// Runs the daemon until it is told to stop.
pub async fn run(_place: Place, _args: UpArgs) -> anyhow::Result<()> {
    Err(Error::failure("edge up", "this build has no daemon", "build a later one").into())
}
