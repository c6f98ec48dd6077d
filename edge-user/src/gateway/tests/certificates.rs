//! The gateway's own authority, and certificates that the operator brings and renews.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use time::OffsetDateTime;

use super::lab::DOMAIN;
use crate::gateway::{
    authority::Authority,
    authority_error::AuthorityError,
    operator_files::{OperatorFileError, OperatorFiles},
};

/// What a client that trusts `ca_pem` says of `certificate` for `name`.
fn verdict(ca_pem: &str, certificate: &CertificateDer<'_>, name: &str) -> Result<(), String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
    let name = ServerName::try_from(name).unwrap();
    verifier
        .verify_server_cert(certificate, &[], &name, &[], UnixTime::now())
        .map(drop)
        .map_err(|error| error.to_string())
}

#[test]
fn the_authority_outlives_a_restart_and_issues_what_clients_accept() {
    let folder = tempfile::tempdir().unwrap();
    let first = Authority::open_or_create(folder.path(), DOMAIN).unwrap();
    let again = Authority::open_or_create(folder.path(), "R1.example.com.").unwrap();
    assert_eq!(first.ca_pem(), again.ca_pem());
    let name = format!("a.{DOMAIN}");
    let leaf = again.certificate_for(&name).unwrap();
    verdict(first.ca_pem(), &leaf.key.cert[0], &name).unwrap();
    assert!(verdict(first.ca_pem(), &leaf.key.cert[0], &format!("b.{DOMAIN}")).is_err());
    assert!(leaf.renew_at > SystemTime::now() + Duration::from_secs(30 * 86_400));
    let mode =
        |file: &str| fs::metadata(folder.path().join(file)).unwrap().permissions().mode() & 0o777;
    let modes = ["ca.pem", "ca-key.pem", "wildcard.pem", "wildcard-key.pem"].map(mode);
    assert_eq!(modes, [0o644, 0o600, 0o644, 0o600]);

    let wildcard = fs::read(folder.path().join("wildcard.pem")).unwrap();
    let wildcard = CertificateDer::from_pem_slice(&wildcard).unwrap();
    verdict(first.ca_pem(), &wildcard, &name).unwrap();
}

#[test]
fn a_stolen_key_signs_for_no_other_domain() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::open_or_create(folder.path(), DOMAIN).unwrap();
    assert!(matches!(
        authority.certificate_for("a.example.org"),
        Err(AuthorityError::ForeignName { .. })
    ));
    assert!(authority.certificate_for(&format!("evil{DOMAIN}")).is_err());
    // What a thief would do with the files.
    let key = fs::read_to_string(folder.path().join("ca-key.pem")).unwrap();
    let ca = CertificateDer::from_pem_slice(authority.ca_pem().as_bytes()).unwrap();
    let issuer = Issuer::from_ca_cert_der(&ca, KeyPair::from_pem(&key).unwrap()).unwrap();
    for (name, accepted) in [
        (format!("a.{DOMAIN}"), true),
        ("www.example.org".to_owned(), false),
        (format!("evil{DOMAIN}"), false),
        ("192.0.2.1".to_owned(), false),
        ("2001:db8::1".to_owned(), false),
    ] {
        let params = CertificateParams::new(vec![name.clone()]).unwrap();
        let leaf = params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
        let verdict = verdict(authority.ca_pem(), leaf.der(), &name);
        assert_eq!(verdict.is_ok(), accepted, "{name}: {verdict:?}");
    }
}

#[test]
fn damage_is_named_with_its_remedy() {
    let said = |damage: fn(&Path)| {
        let folder = tempfile::tempdir().unwrap();
        Authority::open_or_create(folder.path(), DOMAIN).unwrap();
        damage(folder.path());
        Authority::open_or_create(folder.path(), DOMAIN).map(drop).unwrap_err().to_string()
    };
    let ca = said(|folder| fs::write(folder.join("ca.pem"), "rubbish").unwrap());
    assert!(
        ca.contains("ca.pem is damaged") && ca.contains("remove ca.pem and ca-key.pem"),
        "{ca}"
    );
    let key = said(|folder| fs::write(folder.join("ca-key.pem"), "rubbish").unwrap());
    assert!(key.contains("ca-key.pem is damaged"), "{key}");
    let gone = said(|folder| fs::remove_file(folder.join("ca-key.pem")).unwrap());
    assert!(gone.contains("it is missing"), "{gone}");
    let other = said(|folder| {
        let key = KeyPair::generate().unwrap().serialize_pem();
        fs::write(folder.join("ca-key.pem"), key).unwrap();
    });
    assert!(other.contains("not its key"), "{other}");
    let wildcard = said(|folder| fs::write(folder.join("wildcard.pem"), "rubbish").unwrap());
    assert!(wildcard.contains("remove wildcard.pem and wildcard-key.pem"), "{wildcard}");

    let folder = tempfile::tempdir().unwrap();
    Authority::open_or_create(folder.path(), DOMAIN).unwrap();
    let moved = Authority::open_or_create(folder.path(), "r2.example.com").map(drop).unwrap_err();
    assert!(matches!(moved, AuthorityError::OtherDomain { .. }), "{moved}");
    let bad = Authority::open_or_create(folder.path(), "not a name").map(drop).unwrap_err();
    assert!(matches!(bad, AuthorityError::BadDomain(_)), "{bad}");
}

#[test]
fn an_interrupted_first_start_is_begun_again() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("ca-key.pem"), "half a k").unwrap();
    Authority::open_or_create(folder.path(), DOMAIN).unwrap();
    Authority::open_or_create(folder.path(), DOMAIN).unwrap();
}

/// A self-signed certificate and key of the operator's, as PEM.
fn made(names: &[&str], days: i64) -> (String, String) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.not_before = OffsetDateTime::now_utc() - time::Duration::days(10);
    params.not_after = OffsetDateTime::now_utc() + time::Duration::days(days);
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn place(folder: &Path, (certificate, key): &(String, String)) {
    for (name, content) in [("tls.crt", certificate), ("tls.key", key)] {
        let new = folder.join(format!("{name}.new"));
        fs::write(&new, content).unwrap();
        fs::rename(new, folder.join(name)).unwrap();
    }
}

fn opened(folder: &Path) -> Result<Arc<OperatorFiles>, OperatorFileError> {
    OperatorFiles::open(&folder.join("tls.crt"), &folder.join("tls.key"), DOMAIN)
}

#[tokio::test]
async fn unusable_files_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let said = || opened(folder).map(drop).unwrap_err().to_string();
    assert!(said().contains("cannot read"), "{}", said());
    let wildcard = format!("*.{DOMAIN}");
    let good = made(&[&wildcard], 30);
    place(folder, &("rubbish".into(), good.1.clone()));
    assert!(said().contains("holds no certificate"), "{}", said());
    place(folder, &(good.0.clone(), "rubbish".into()));
    assert!(said().contains("holds no private key"), "{}", said());
    place(folder, &(good.0.clone(), made(&[&wildcard], 30).1));
    assert!(said().contains("must be one pair"), "{}", said());
    place(folder, &made(&[&format!("a.{DOMAIN}")], 30));
    assert!(said().contains("does not cover *."), "{}", said());
    place(folder, &made(&[&wildcard], -1));
    assert!(said().contains("is valid from"), "{}", said());
    place(folder, &good);
    opened(folder).unwrap();
}

async fn until_served(files: &OperatorFiles, wanted: &str) {
    let wanted = CertificateDer::from_pem_slice(wanted.as_bytes()).unwrap();
    for _ in 0..500 {
        if files.current().cert[0] == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the new certificate was never served");
}

#[tokio::test]
async fn renewed_files_are_served_and_bad_ones_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let wildcard = format!("*.{DOMAIN}");
    place(folder.path(), &made(&[&wildcard], 30));
    let files = opened(folder.path()).unwrap();
    let renewed = made(&[&wildcard], 60);
    place(folder.path(), &renewed);
    until_served(&files, &renewed.0).await;

    place(folder.path(), &made(&[&wildcard], -1));
    tokio::time::sleep(Duration::from_millis(700)).await;
    until_served(&files, &renewed.0).await;

    let last = made(&[&wildcard], 90);
    place(folder.path(), &last);
    until_served(&files, &last.0).await;
}

#[tokio::test]
async fn a_swapped_symlink_is_a_renewal() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let wildcard = format!("*.{DOMAIN}");
    let (old, new) = (made(&[&wildcard], 30), made(&[&wildcard], 60));
    for (name, pair) in [("old", &old), ("new", &new)] {
        fs::create_dir(folder.join(name)).unwrap();
        place(&folder.join(name), pair);
    }
    // As Kubernetes mounts a secret.
    symlink("old", folder.join("..data")).unwrap();
    symlink("..data/tls.crt", folder.join("tls.crt")).unwrap();
    symlink("..data/tls.key", folder.join("tls.key")).unwrap();
    let files = opened(folder).unwrap();
    symlink("new", folder.join("..new")).unwrap();
    fs::rename(folder.join("..new"), folder.join("..data")).unwrap();
    until_served(&files, &new.0).await;
}
