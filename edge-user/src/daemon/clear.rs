//! `edge down` without a daemon: what a dead one left goes.

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, anyhow};

use super::{adopt, machine};
use crate::{
    cli::Place,
    region::{embedded::Embedded, store::Store},
};

/// Removes what a daemon left that is gone; says what it was. Refuses if one runs.
pub async fn clear(place: &Place) -> anyhow::Result<Vec<String>> {
    if !place.run_dir().exists() && machine::remains(place).is_empty() {
        return Ok(Vec::new());
    }
    let lock = machine::lock(place)?;
    // A record of another version says nothing, and goes like the others.
    let mut removed = recorded(&place.run_dir()).await.unwrap_or_default();
    removed.extend(machine::remains(place).into_iter().map(str::to_owned));
    let failures = machine::undo(place).await;
    drop(lock);
    match failures.into_iter().reduce(|first, second| anyhow!("{first:#}; {second:#}")) {
        None => Ok(removed),
        Some(error) => Err(error).context("not everything could be removed; try again as root"),
    }
}

async fn recorded(run_dir: &Path) -> anyhow::Result<Vec<String>> {
    if !Embedded::leased_path(run_dir).exists() {
        return Ok(Vec::new());
    }
    let leased: Arc<dyn Store> = Arc::new(Embedded::open_leased(run_dir)?);
    let containers = adopt::container_records(&leased).all().await?;
    let name_of =
        |id: &str| containers.iter().find(|(other, _)| other == id).map(|(_, it)| &it.name);
    let mut named = Vec::new();
    for (_, tunnel) in adopt::tunnel_records(&leased).all().await? {
        named.push(tunnel_text(&tunnel.host, name_of(&tunnel.container).map_or("?", |name| name)));
    }
    named.extend(containers.iter().map(|(_, container)| container_text(&container.name)));
    Ok(named)
}

/// As `edge down` names a tunnel.
pub(super) fn tunnel_text(host: &str, container: &str) -> String {
    format!("tunnel {host} of container {container:?}")
}

/// The same for a container.
pub(super) fn container_text(name: &str) -> String {
    format!("container {name:?}")
}
