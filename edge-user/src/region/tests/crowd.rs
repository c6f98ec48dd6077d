//! Very many hosts that join at once.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use data_encoding::BASE64;
use futures::future::join_all;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;

use super::lab::{Gateway, Region, about, until};
use crate::{
    region::{
        convert,
        member::{channel, join},
        roster::WireGuard,
        tls::{self, Held},
        token::JoinToken,
        view::View,
    },
    wire::region::{Seen, SessionRequest, session_request::Request},
};

/// A thousand take seconds where the code is compiled for speed, and many minutes where it is not.
const HOSTS: u16 = if cfg!(debug_assertions) { 200 } else { 1_000 };

/// How often a host says how far it has followed.
const BEAT: Duration = Duration::from_secs(1);

/// A host as far as the control channel knows: it joins, says its key, and listens.
async fn host(gateway: &Gateway, token: &JoinToken, dir: PathBuf) -> JoinHandle<()> {
    let credentials = join(token, &dir).await.unwrap();
    let config = tls::member(Held::new(&credentials).unwrap(), &credentials.authority).unwrap();
    // As a member does: it tries again.
    let mut client = loop {
        if let Ok(client) = channel::connect(&gateway.address.to_string(), config.clone()).await {
            break client;
        }
    };
    let mut about = about(&dir);
    about.wireguard = Some(WireGuard { key: key(credentials.membership.host), port: 0, mtu: 1420 });
    let (requests, outgoing) = mpsc::channel(16);
    let announcement = Request::Announcement(convert::announcement(&about, Vec::new()));
    requests.send(SessionRequest { request: Some(announcement) }).await.unwrap();
    let mut events = client.session(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
    tokio::spawn(async move {
        let (mut beat, mut revision) = (tokio::time::interval(BEAT), 0);
        loop {
            tokio::select! {
                event = events.message() => match event {
                    Ok(Some(event)) => revision = event.revision,
                    _ => break,
                },
                _ = beat.tick() => {
                    let seen = Request::Seen(Seen { revision });
                    if requests.send(SessionRequest { request: Some(seen) }).await.is_err() {
                        break;
                    }
                }
            }
        }
    })
}

fn key(host: u16) -> String {
    let mut key = [0; 32];
    key[..2].copy_from_slice(&host.to_be_bytes());
    BASE64.encode(&key)
}

fn keys(view: &View) -> BTreeSet<String> {
    let about = view.hosts.values().map(|host| &host.record.about);
    about.filter_map(|about| Some(about.wireguard.as_ref()?.key.clone())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn very_many_hosts_join_at_once_and_their_keys_are_known() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let region = Region::patient();
    let gateway = region.gateway().await;
    let watcher = region.host(&gateway).await;
    watcher.connected().await;
    let token = gateway.token(HOSTS.into()).await;
    let hosts: Vec<_> =
        join_all((0..HOSTS).map(|_| host(&gateway, &token, region.machine()))).await;
    // The watcher is host 1.
    let all: BTreeSet<_> = (2..=HOSTS + 1).map(key).collect();
    let seen = watcher.member.view();
    until(seen, "all keys", |view| keys(view) == all).await;
    hosts.iter().for_each(JoinHandle::abort);
}
