//! A machine becomes a host of a region.

use std::{path::Path, time::Duration};

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::CertificateDer;
use tonic::Code;

use super::{JoinError, channel};
use crate::{
    region::{
        convert,
        identity::{Credentials, IdentityError, Membership, fingerprint},
        tls::{self, Held, Pin},
        token::JoinToken,
    },
    wire::region::{JoinRequest, RenewRequest},
};

/// How long a gateway may take to answer a machine that wants to join: where a thousand knock at once
/// the last ones wait.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the region says of a machine's credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// They are a host's of the region.
    Good,
    /// They are not, or not any more.
    Void,
    /// No gateway answers.
    Unknown,
}

/// Asks the gateways of a machine's region whether its credentials are still good.
///
/// # Errors
/// When the credentials cannot be used.
pub async fn standing(credentials: &Credentials) -> Result<Standing, IdentityError> {
    let tls = tls::member(Held::new(credentials)?, &credentials.authority)?;
    for gateway in &credentials.membership.endpoints {
        let Ok(mut client) = channel::connect(gateway, tls.clone()).await else { continue };
        // It changes nothing, and only a host of the region is answered.
        match client.renew(RenewRequest {}).await {
            Ok(_renewed) => return Ok(Standing::Good),
            Err(status) if status.code() == Code::Unauthenticated => return Ok(Standing::Void),
            Err(_) => {}
        }
    }
    Ok(Standing::Unknown)
}

/// Asks the token's gateways one after another, and keeps what it is given in `dir`.
///
/// # Errors
/// [`JoinError`]; then nothing was written.
pub async fn join(token: &JoinToken, dir: &Path) -> Result<Credentials, JoinError> {
    let failed = |source| IdentityError::Sign { name: "this machine".to_owned(), source };
    // One key for all attempts: the gateway knows a machine that asks again by it.
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let request = CertificateParams::default().serialize_request(&key).map_err(failed)?;
    let request =
        JoinRequest { secret: token.secret.clone(), signing_request: request.der().to_vec() };
    let mut silent = Vec::new();
    for gateway in &token.endpoints {
        let pin = Pin::new(token.authority.clone());
        let tls = tls::joining(pin.clone())?;
        let mut client = match channel::connect_within(PATIENCE, gateway, tls).await {
            Ok(client) => client,
            Err(_) if pin.mismatched() => return Err(JoinError::WrongAuthority(gateway.clone())),
            Err(why) => {
                silent.push(why);
                continue;
            }
        };
        let joined = match client.join(request.clone()).await {
            Ok(joined) => joined.into_inner(),
            Err(status) if matches!(status.code(), Code::Unavailable | Code::Unknown) => {
                silent.push(format!("{gateway}: {}", status.message()));
                continue;
            }
            Err(status) => return Err(JoinError::Refused(status.message().to_owned())),
        };
        let host = convert::short("host", joined.host)
            .map_err(|error| JoinError::Refused(error.to_string()))?;
        let membership =
            Membership { region: joined.region, host, endpoints: token.endpoints.clone() };
        let authority = CertificateDer::from(joined.authority);
        if fingerprint(&authority) != token.authority {
            return Err(JoinError::WrongAuthority(gateway.clone()));
        }
        let certificate = CertificateDer::from(joined.certificate);
        let credentials = Credentials::new(&key, certificate, authority, membership);
        credentials.save(dir)?;
        return Ok(credentials);
    }
    Err(JoinError::Unreachable(silent.join("; ")))
}
