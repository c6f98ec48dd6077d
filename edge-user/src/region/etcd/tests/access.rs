//! Who is let in, and how.

use std::{fs, path::PathBuf};

use etcd_client::{Client, ConnectOptions, Permission, RoleRevokePermissionOptions};
use futures::StreamExt as _;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::json;

use super::{Access, Etcd, EtcdError, Known, Server, open, operator, put, told, write};
use crate::region::{
    etcd::Place,
    store::{Store, StoreError, promises::LONG},
};

/// An authority, and where its files are.
struct Authority {
    dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "etcd's authority");
        let key = KeyPair::generate().unwrap();
        fs::write(dir.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { dir, issuer: Issuer::new(params, key) }
    }

    fn certificate(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A certificate for a name or an address, and its key.
    fn sign(&self, name: &str) -> (PathBuf, PathBuf) {
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let file = |end: &str| self.dir.path().join(format!("{name}.{end}"));
        fs::write(file("pem"), certificate.pem()).unwrap();
        fs::write(file("key"), key.serialize_pem()).unwrap();
        (file("pem"), file("key"))
    }
}

/// An etcd that asks for a certificate of this authority.
fn secure(authority: &Authority) -> Server {
    let mut server = Server::new();
    let (host, _) = server.address().split_once(':').unwrap();
    let (certificate, key) = authority.sign(host);
    server.secure(&[
        "--cert-file".as_ref(),
        certificate.as_ref(),
        "--key-file".as_ref(),
        key.as_ref(),
        "--trusted-ca-file".as_ref(),
        authority.certificate().as_ref(),
        "--client-cert-auth".as_ref(),
    ]);
    server.run();
    server
}

#[tokio::test]
#[ignore = "needs etcd; `cargo xtask test` has it"]
async fn over_tls_both_sides_show_who_they_are() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let server = secure(&authority);
    let (ca, identity) = (Some(authority.certificate()), Some(authority.sign("gateway")));
    let access = Access { ca: ca.clone(), identity: identity.clone(), user: None };
    let store = Etcd::open(server.place("r5"), &access).await.unwrap();
    let mut watch = store.watch("", None);
    let mut known = Known::default();
    known.learn(told(&mut watch).await);
    store.put("a", json!(1)).await.unwrap();
    known.learn(told(&mut watch).await);
    assert_eq!(known.entries["a"], json!(1));

    let refused = [
        (Access { ca: ca.clone(), ..Access::default() }, "takes this gateway's certificate"),
        (
            Access { ca, identity: Some(stranger.sign("gateway")), user: None },
            "takes this gateway's certificate",
        ),
        (
            Access { ca: Some(stranger.certificate()), identity, user: None },
            "invalid peer certificate",
        ),
    ];
    let refused = refused.map(async |(access, cause)| {
        let error = Etcd::open(server.place("r5"), &access).await.unwrap_err().to_string();
        assert!(error.contains(cause) && error.contains("etcds://"), "{error}");
    });
    futures::future::join_all(refused).await;
}

#[tokio::test]
#[ignore = "needs etcd; `cargo xtask test` has it"]
async fn a_user_sees_what_its_role_may_and_its_token_is_renewed() {
    let mut server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let password = dir.path().join("password");
    fs::write(&password, "secret\n").unwrap();
    open(&server, "r5").await;
    let mut client = operator(&server).await;
    client.user_add("root", "root", None).await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.role_add("region").await.unwrap();
    let all = Permission::read_write("/r5/").with_prefix();
    client.role_grant_permission("region", all).await.unwrap();
    client.user_add("gateway", "secret", None).await.unwrap();
    client.user_grant_role("gateway", "region").await.unwrap();
    client.auth_enable().await.unwrap();

    let access = Access { user: Some(("gateway".into(), password.clone())), ..Access::default() };
    let store = Etcd::open(server.place("r5"), &access).await.unwrap();
    let lease = store.grant(LONG).await.unwrap();
    store.transact(vec![], vec![put("a", json!(1), Some(lease))]).await.unwrap();
    let mut watch = store.watch("", None);
    let mut known = Known::default();
    known.learn(told(&mut watch).await);
    // Its tokens are void with a restart.
    for number in 2..=3 {
        server.kill();
        server.run();
        write(&store, "a", number).await;
        known.until(&mut watch, |known| known.entries["a"] == json!(number)).await;
        store.keep_alive(lease).await.unwrap();
    }
    assert_eq!(known.snapshots, 1);

    fs::write(&password, "another").unwrap();
    let other = Access { user: Some(("nobody".into(), password.clone())), ..Access::default() };
    for (prefix, access) in [("r5", &Access::default()), ("r5", &access), ("r5", &other)] {
        let error = Etcd::open(server.place(prefix), access).await.unwrap_err();
        denied(&error, "/r5");
    }
    fs::write(&password, "secret").unwrap();
    let error = Etcd::open(server.place("r6"), &access).await.unwrap_err();
    denied(&error, "/r6");
    let mut client = with_user(&server).await;
    client.role_revoke_permission("region", "/r5/", Some(prefix())).await.unwrap();
    denied(&store.put("a", json!(4)).await.unwrap_err(), "/r5");
    denied(&store.list("").await.unwrap_err(), "/r5");
    let mut watch = store.watch("", None);
    denied(&watch.next().await.unwrap().unwrap_err(), "/r5");
    assert!(watch.next().await.is_none(), "it ends after an error");
}

async fn with_user(server: &Server) -> Client {
    let options = ConnectOptions::new().with_user("root", "root");
    Client::connect([format!("http://{}", server.address())], Some(options)).await.unwrap()
}

fn prefix() -> RoleRevokePermissionOptions {
    RoleRevokePermissionOptions::new().with_prefix()
}

fn denied(error: &StoreError, prefix: &str) {
    assert!(matches!(error, StoreError::Etcd(EtcdError::Denied { .. })), "{error}");
    assert!(error.to_string().ends_with(&format!("all keys under {prefix}")), "{error}");
}

#[tokio::test]
async fn options_that_do_not_go_together_and_files_that_are_none_are_named() {
    let authority = Authority::new();
    let (plain, tls): (Place, Place) =
        ("etcd://127.0.0.9:1".parse().unwrap(), "etcds://127.0.0.9:1".parse().unwrap());
    let ca = Some(authority.certificate());
    let (certificate, key) = authority.sign("gateway");
    let absent = authority.dir.path().join("absent");
    for (place, access, parts) in [
        (&plain, Access { ca: ca.clone(), ..Access::default() }, ["etcds://", "certificates"]),
        (&tls, Access::default(), ["TLS needs the certificate", "file"]),
        (&tls, Access { ca: Some(absent.clone()), ..Access::default() }, ["absent", "may read"]),
        (&tls, Access { ca: Some(key.clone()), ..Access::default() }, ["gateway.key", "PEM"]),
        (
            &tls,
            Access { ca, identity: Some((certificate, absent.clone())), user: None },
            ["absent", "key"],
        ),
        (
            &plain,
            Access { user: Some(("edge".into(), absent)), ..Access::default() },
            ["absent", "password"],
        ),
    ] {
        let error = Etcd::open(place.clone(), &access).await.unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{parts:?}: {error}");
    }
}

#[test]
fn a_place_is_members_and_a_prefix() {
    for (text, shown) in [
        ("etcd://a:2379", "etcd://a:2379/edge"),
        ("etcd://a:2379/", "etcd://a:2379/edge"),
        (
            "etcds://a:2379,[::1]:2379,192.0.2.1:1/edge/r-5/",
            "etcds://a:2379,[::1]:2379,192.0.2.1:1/edge/r-5",
        ),
    ] {
        assert_eq!(text.parse::<Place>().unwrap().to_string(), shown);
    }
    for (text, cause) in [
        ("", "begin with etcd://"),
        ("http://a:2379", "begin with etcd://"),
        ("etcd://", "no host and port"),
        ("etcd://a", "no port"),
        ("etcd://a:2379,b", "`b` has no port"),
        ("etcd://a:0", "no port"),
        ("etcd://a:99999", "port"),
        ("etcd://root:secret@a:2379", "a user goes into an option"),
        ("etcd://a:2379/edge//r5", "of the prefix"),
        ("etcd://a:2379/r 5", "of the prefix"),
        ("etcd://a:2379/edge/state", "may be `state`"),
    ] {
        let error = text.parse::<Place>().unwrap_err().to_string();
        assert!(error.contains(cause) && error.contains("etcd://HOST:PORT"), "{text}: {error}");
    }
}
