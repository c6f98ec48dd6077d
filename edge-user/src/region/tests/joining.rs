//! Who becomes a host, and who does not.

use std::{os::unix::fs::PermissionsExt as _, time::Duration};

use tonic::Code;

use super::lab::{Host, Region, SOON, TERMS, settings};
use crate::{
    region::{
        claims::{ClaimError, Claims},
        identity::{Authority, Credentials, Peer},
        member::{JoinError, channel, join},
        tls::{self, Held, Pin},
        token::TokenError,
    },
    wire::region::{LeaseBlockRequest, RenewRequest},
};

#[tokio::test]
pub(super) async fn a_token_makes_one_host() {
    let region = Region::new();
    let gateway = region.gateway().await;
    let token = gateway.token(1).await;
    let dir = region.machine();
    let credentials = join(&token.to_string().parse().unwrap(), &dir).await.unwrap();
    assert_eq!((credentials.membership.host, credentials.membership.region.as_str()), (1, "r5"));
    let key = std::fs::metadata(dir.join("host-key.pem")).unwrap();
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
    assert_eq!(
        Credentials::load(&dir).unwrap().unwrap().membership,
        credentials.membership,
        "what is kept is what was given"
    );

    let error = join(&token, &region.machine()).await.unwrap_err();
    assert!(matches!(&error, JoinError::Refused(why) if why.contains("used up")), "{error}");
    // What the store keeps of a token lets nobody in.
    let kept = gateway.store.list("region/token/").await.unwrap();
    let secret = data_encoding::HEXLOWER.encode(&token.secret);
    assert!(kept.iter().all(|(key, entry)| !format!("{key}{entry:?}").contains(&secret)));
}

#[tokio::test]
pub(super) async fn a_wrong_an_old_and_an_unknown_token_are_refused_by_name() {
    let region = Region::new();
    let gateway = region.gateway().await;
    let mut token = gateway.token(1).await;
    let right = std::mem::replace(&mut token.authority, vec![7; 32]);
    let error = join(&token, &region.machine()).await.unwrap_err();
    assert!(matches!(error, JoinError::WrongAuthority(_)), "{error}");
    token.authority = right;
    let secret = std::mem::replace(&mut token.secret, vec![7; 16]);
    let error = join(&token, &region.machine()).await.unwrap_err().to_string();
    assert!(error.contains("not known") && error.contains("edge token create"), "{error}");
    let endpoints = token.endpoints.clone();
    let old = gateway.plane.create_token(endpoints, Duration::ZERO, 1).await.unwrap();
    let error = join(&old, &region.machine()).await.unwrap_err().to_string();
    assert!(error.contains("expired"), "{error}");
    token.secret = secret;
    join(&token, &region.machine()).await.expect("nobody has used it up");
    token.endpoints = vec!["127.0.0.1:1".into()];
    let error = join(&token, &region.machine()).await.unwrap_err().to_string();
    assert!(error.contains("127.0.0.1:1"), "{error}");
}

#[tokio::test]
pub(super) async fn of_many_at_once_as_many_join_as_the_token_allows() {
    let region = Region::new();
    let gateway = region.gateway().await;
    let token = gateway.token(3).await;
    let dirs: Vec<_> = (0..8).map(|_| region.machine()).collect();
    let joins = dirs.iter().map(|dir| join(&token, dir));
    let joined = futures::future::join_all(joins).await;
    let mut ids: Vec<_> = joined.iter().flatten().map(|one| one.membership.host).collect();
    ids.sort_unstable();
    assert_eq!(ids, [1, 2, 3]);
}

#[tokio::test]
pub(super) async fn a_machine_whose_answer_was_lost_gets_the_same_number() {
    let region = Region::new();
    let gateway = region.gateway().await;
    let token = gateway.token(1).await;
    let claims = Claims::new(gateway.store.clone(), TERMS);
    assert_eq!(claims.join(&token.secret, "key").await.unwrap(), 1);
    assert_eq!(claims.join(&token.secret, "key").await.unwrap(), 1);
    let error = claims.join(&token.secret, "other").await.unwrap_err();
    assert!(matches!(error, ClaimError::Token(TokenError::UsedUp)), "{error}");
}

#[tokio::test]
pub(super) async fn guesses_are_bounded() {
    let region = Region::new();
    let gateway = region.gateway().await;
    let right = gateway.token(1).await;
    let mut wrong = right.clone();
    wrong.secret = vec![7; 16];
    let dir = region.machine();
    let mut guesses = 0;
    while !join(&wrong, &dir).await.unwrap_err().to_string().contains("attempts to join") {
        guesses += 1;
        assert!(guesses < 100, "a hundred guesses in a row were answered");
    }
    // From the same address.
    join(&right, &dir).await.expect("who guesses keeps nobody out");
}

#[tokio::test]
pub(super) async fn strangers_and_hosts_of_another_region_are_refused() {
    let region = Region::new();
    let gateway = region.gateway().await;
    let address = gateway.address.to_string();
    let token = gateway.token(1).await;
    let pin = tls::joining(Pin::new(token.authority.clone())).unwrap();
    let mut stranger = channel::connect(&address, pin).await.unwrap();
    let status = stranger.lease_block(LeaseBlockRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");

    // Another region with the same name, and a host of it that trusts this region's gateway.
    let other = Region::new();
    let elsewhere = other.gateway().await;
    let mut credentials = join(&elsewhere.token(1).await, &other.machine()).await.unwrap();
    credentials.authority =
        Authority::open_or_create(region.dir.path(), "r5").unwrap().certificate().clone();
    let config = tls::member(Held::new(&credentials).unwrap(), &credentials.authority).unwrap();
    // The refusal arrives with the first answer, since TLS 1.3 clients finish first.
    let refused = match channel::connect(&address, config).await {
        Err(_) => true,
        Ok(mut client) => client.lease_block(LeaseBlockRequest {}).await.is_err(),
    };
    assert!(refused);
    assert!(gateway.store.list("block/").await.unwrap().is_empty());
}

#[tokio::test]
pub(super) async fn a_certificate_is_renewed_for_the_same_machine_and_key() {
    let region = Region::new();
    let gateway = region.gateway().await;
    let credentials = join(&gateway.token(1).await, &region.machine()).await.unwrap();
    let config = tls::member(Held::new(&credentials).unwrap(), &credentials.authority).unwrap();
    let mut client = channel::connect(&gateway.address.to_string(), config).await.unwrap();
    let renewed = client.renew(RenewRequest {}).await.unwrap().into_inner().certificate.into();
    let (old, new) = (Peer::of(&credentials.certificate).unwrap(), Peer::of(&renewed).unwrap());
    assert_ne!(credentials.certificate, renewed);
    assert_eq!((old.id, old.role, old.key_hash()), (new.id, new.role, new.key_hash()));
    assert!(!new.has_expired() && new.valid.1 >= old.valid.1);
}

#[tokio::test]
pub(super) async fn a_forgotten_host_is_refused_and_its_number_and_blocks_come_back_late() {
    let region = Region::new();
    let gateway = region.gateway().await;
    let gone = region.host(&gateway).await;
    gone.connected().await;
    let block = gone.member.lease_block().await.unwrap();
    assert!(gateway.plane.forget(gone.id()).await.unwrap());
    assert!(!gateway.plane.forget(gone.id()).await.unwrap());
    let refused = gone.member.lease_block();
    assert!(tokio::time::timeout(SOON, refused).await.unwrap().is_err());
    let new = region.host(&gateway).await;
    new.connected().await;
    assert_ne!(new.id(), gone.id());
    let other = new.member.lease_block().await.unwrap();
    assert_ne!(other, block, "it rests");
    assert!(settings().ipv4_pool.contains(&other));
    let back = Host::again(&gone.dir);
    drop(gone);
    let view = new.sees("itself alone", |view| view.hosts.len() == 1).await;
    assert!(back.member.lease_block().await.is_err());
    assert!(!view.hosts.contains_key(&back.id()));
}

#[test]
fn an_authority_is_kept_and_is_one_regions() {
    let dir = tempfile::tempdir().unwrap();
    let first = Authority::open_or_create(dir.path(), "r5").unwrap().fingerprint();
    assert_eq!(Authority::open_or_create(dir.path(), "r5").unwrap().fingerprint(), first);
    let error = Authority::open_or_create(dir.path(), "r6").unwrap_err().to_string();
    assert!(error.contains("r5") && error.contains("r6"), "{error}");
    std::fs::write(dir.path().join("region-authority-key.pem"), "nothing").unwrap();
    let error = Authority::open_or_create(dir.path(), "r5").unwrap_err().to_string();
    assert!(error.contains("region-authority-key.pem"), "{error}");
}
