//! What every store promises.

use std::{sync::Arc, time::Duration};

use super::{Server, compact, open};
use crate::region::store::{
    Store,
    promises::{Engine, keeps_every_promise},
};

/// An etcd, and a region in it.
struct InEtcd {
    server: Server,
    prefix: String,
}

impl Engine for InEtcd {
    const SHORT: Duration = Duration::from_secs(2);
    const HISTORIES: u32 = 24;

    async fn begin() -> Self {
        Self { server: Server::start(), prefix: "r5".to_owned() }
    }

    async fn another(&mut self) {
        self.prefix = format!("r{}", rand::random::<u64>());
    }

    async fn store(&self) -> Arc<dyn Store> {
        Arc::new(open(&self.server, &self.prefix).await)
    }

    async fn restart(&mut self) {
        self.server.kill();
        self.server.run();
    }

    async fn forget(&self) {
        compact(&self.server).await;
    }
}

keeps_every_promise!(InEtcd, ignore = "needs etcd; `cargo xtask test` has it");
