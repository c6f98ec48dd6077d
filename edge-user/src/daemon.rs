//! The daemon: all of a region in one process (`edge up`), a gateway or a host of a region of
//! several machines (`edge gateway`, `edge host`).

mod adopt;
mod announce;
mod clear;
mod ending;
mod founding;
mod ground;
mod handover;
mod joined;
pub(crate) mod listeners;
pub(crate) mod machine;
mod membership;
pub(crate) mod open_files;
mod proxies;
mod public;
mod role;
mod serve;
mod tunnels;
mod underlay;

use std::{fs::File, io::IsTerminal as _, sync::Arc};

use anyhow::Context as _;

pub use self::{clear::clear, role::Orders};
use self::{
    ending::Ending,
    handover::{Holdings, successor::Predecessor},
    role::Role,
    serve::{Begin, serve},
};
use crate::{
    cli::Place,
    region::{embedded::Embedded, store::Store},
};

/// Runs the daemon until it is told to stop.
pub async fn run(place: Place, orders: impl Into<Orders>) -> anyhow::Result<()> {
    let orders = orders.into();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("EDGE_LOG")
                .unwrap_or_else(|_unset| "info".into()),
        )
        .init();
    let open_files = open_files::raise();
    let replace = orders.args.operation.replace;
    let predecessor = if replace { Predecessor::ask(&place.run_dir()).await? } else { None };
    let Some((predecessor, holdings)) = predecessor else {
        return hold(&place, orders, open_files, Holdings::default(), None).await;
    };
    let outcome = hold(&place, orders, open_files, holdings, Some(&predecessor)).await;
    if let Err(error) = &outcome {
        predecessor.fail(error).await;
    }
    outcome
}

/// From the lock on the daemon's name to what becomes of all that lives under it.
async fn hold(
    place: &Place,
    mut orders: Orders,
    open_files: u64,
    mut inherited: Holdings,
    predecessor: Option<&Predecessor>,
) -> anyhow::Result<()> {
    // First of all, so that a second daemon is told what it is.
    let lock: File = match inherited.take("lock").next() {
        Some(open) => open.into(),
        None => machine::lock(place)?,
    };
    // Before anything is touched: what cannot be read is left to the version that wrote it.
    let leased = Arc::new(Embedded::open_leased(&place.run_dir())?);
    let records: Arc<dyn Store> = leased.clone();
    adopt::refuse_unknown(&records).await?;
    let state_dir = orders.args.operation.state_dir(&place.instance);
    std::fs::create_dir_all(&state_dir)
        .with_context(|| format!("{}: the state directory cannot be made", state_dir.display()))?;
    // A host learns from its region what operators tell the others.
    let mut member = None;
    if let Role::Host(host) = &orders.role {
        let entered = membership::enter(host, &state_dir, &records).await?;
        let settings = membership::settings(&entered, predecessor.is_none()).await?;
        orders.learn(&settings);
        member = Some(entered);
    }
    if predecessor.is_some() {
        let args = &orders.args;
        adopt::refuse_loss(&records, args.ipv4_pool, args.raw_ports).await?;
    }
    let mut lock = Some(lock);
    let begin = Begin {
        place,
        orders: &orders,
        state_dir,
        member,
        open_files,
        leased: &leased,
        lock: &mut lock,
        predecessor,
    };
    let ending = match serve(begin, inherited).await {
        Ok(Ending::TakenOver) => return Ok(()),
        // Then everything is still the predecessor's.
        Err(error) if predecessor.is_some() => return Err(error),
        Ok(ending) => ending,
        // A daemon that fails to start must not take down what runs without it.
        Err(error) => Ending::Failed(error),
    };
    let lives = !leased.list("container/").await?.is_empty();
    if lives && !matches!(ending, Ending::ForGood(_)) {
        tracing::info!("containers and raw tunnels go on, for the next daemon to take up");
    } else {
        for error in machine::undo(place).await {
            tracing::warn!(error = format!("{error:#}"), "something of edge stays on the machine");
        }
    }
    drop(lock);
    match ending {
        Ending::Failed(error) => return Err(error),
        Ending::ForGood(Some(leaver)) => {
            leaver.tell(format!("daemon {:?}", place.instance.as_str())).await;
            leaver.done().await;
        }
        _ => {}
    }
    Ok(())
}
