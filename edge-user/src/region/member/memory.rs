//! What a machine remembers of its region, so that its daemon can start, and its containers get
//! addresses, while no gateway can be reached.

use std::{collections::BTreeMap, io, path::Path, sync::Arc};

use serde::{Deserialize, Serialize};

use super::Inner;
use crate::{
    region::{
        roster::{HostRecord, RegionSettings},
        view::{Host, View},
    },
    whole_files,
};

const FILE: &str = "region.json";

/// What is remembered.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Memory {
    settings: RegionSettings,
    /// All machines: packets go to them also while no gateway says where they are.
    hosts: BTreeMap<u16, HostRecord>,
    /// Ids of workspaces by name.
    pub(super) workspaces: BTreeMap<String, u32>,
}

impl Memory {
    /// What was written last; nothing if that is absent or damaged, for a gateway will tell.
    pub(super) fn load(dir: &Path) -> Self {
        let path = dir.join(FILE);
        let read = std::fs::read(&path);
        match read.and_then(|content| serde_json::from_slice(&content).map_err(Into::into)) {
            Ok(memory) => memory,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::default(),
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "what was known of the region is lost; a gateway will tell it anew");
                Self::default()
            }
        }
    }

    /// The view to begin with: nobody is known to be there.
    pub(super) fn view(&self) -> View {
        let hosts = self.hosts.values().cloned();
        let hosts = hosts.map(|record| (record.id, Arc::new(Host { record, alive: false })));
        View {
            settings: Arc::new(self.settings.clone()),
            hosts: hosts.collect(),
            ..View::default()
        }
    }
}

impl Inner {
    /// Writes down what has changed.
    pub(super) async fn remember(&self) {
        let view = self.view.borrow().clone();
        let memory = Memory {
            settings: (*view.settings).clone(),
            hosts: view.hosts.iter().map(|(id, host)| (*id, host.record.clone())).collect(),
            workspaces: self.workspaces().clone(),
        };
        let mut written = self.memory.lock().await;
        if *written == memory {
            return;
        }
        let (path, content) = (self.dir.join(FILE), serde_json::to_vec_pretty(&memory));
        // The disk is waited for elsewhere.
        let write = move || {
            whole_files::write(&path, &content.map_err(io::Error::from)?, whole_files::PRIVATE)
        };
        match tokio::task::spawn_blocking(write).await {
            Ok(Ok(())) => *written = memory,
            Ok(Err(error)) => {
                tracing::warn!(%error, "what is known of the region is not written down")
            }
            Err(error) => {
                tracing::error!(%error, "what is known of the region is not written down")
            }
        }
    }
}
