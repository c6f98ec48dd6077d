//! Join tokens: one string with all that a machine needs to find, trust and enter a region.
//!
//! The store keeps the hash of a token's secret, so that whoever reads the store cannot join.
//! A token is used up by the transaction that makes the host, so that it never makes one too many.

use std::{
    collections::BTreeMap,
    fmt,
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use prost::Message as _;
use serde::{Deserialize, Serialize};

use super::{
    identity::{Authority, public_key_hash},
    roster,
    store::{Store, StoreError},
};
use crate::wire::region as wire;

/// What a token begins with, so that people and scanners for secrets know it.
const PREFIX: &str = "edge-join-";

/// So long after its end a token is still known, to say why it is refused.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// A token, as it is given to the machine that shall join.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// host:port of gateways.
    pub endpoints: Vec<String>,
    /// 128 random bits.
    pub secret: Vec<u8>,
    /// SHA-256 of the region authority's certificate.
    pub authority: Vec<u8>,
}

/// What the store keeps of a token.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TokenRecord {
    /// Milliseconds since 1970.
    expires: u64,
    /// How many more machines may join with it.
    uses: u32,
    /// The machines that have joined with it, by the hash of their key: one whose answer was
    /// lost asks again.
    joined: BTreeMap<String, u16>,
}

/// Why a string is no token.
#[derive(Debug, thiserror::Error)]
#[error("this is no join token: {0}; copy the whole line that `edge token create` printed")]
pub struct BadToken(String);

/// Why a token lets nobody in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// No such token.
    #[error("the join token is not known; make a new one with `edge token create` on a gateway")]
    Unknown,
    /// Its time is over.
    #[error("the join token has expired; make a new one with `edge token create` on a gateway")]
    Expired,
    /// It has been used.
    #[error("the join token is used up; make a new one with `edge token create` on a gateway")]
    UsedUp,
}

/// Makes a token that so many machines may use within this time.
///
/// # Errors
/// The store's own.
pub async fn create(
    store: &Arc<dyn Store>,
    authority: &Authority,
    endpoints: Vec<String>,
    ttl: Duration,
    uses: u32,
) -> Result<JoinToken, StoreError> {
    let secret = rand::random::<[u8; 16]>().to_vec();
    let expires = milliseconds(SystemTime::now() + ttl);
    let record = TokenRecord { expires, uses, joined: BTreeMap::new() };
    let lease = store.grant(ttl + REMEMBERED).await?;
    let write = roster::put(roster::token(&hash(&secret)), &record, Some(lease))?;
    store.transact(Vec::new(), vec![write]).await?;
    Ok(JoinToken { endpoints, secret, authority: authority.fingerprint() })
}

impl TokenRecord {
    /// The host that this key has already become with the token, or `None` if it may become one.
    pub(super) fn admits(&self, key: &str) -> Result<Option<u16>, TokenError> {
        if milliseconds(SystemTime::now()) >= self.expires {
            return Err(TokenError::Expired);
        }
        match self.joined.get(key) {
            Some(host) => Ok(Some(*host)),
            None if self.uses == 0 => Err(TokenError::UsedUp),
            None => Ok(None),
        }
    }

    /// How long the store shall remember it from now on.
    pub(super) fn remembered(&self) -> Duration {
        let left = self.expires.saturating_sub(milliseconds(SystemTime::now()));
        Duration::from_millis(left) + REMEMBERED
    }

    /// One use less.
    pub(super) fn used(mut self, key: &str, host: u16) -> Self {
        self.uses = self.uses.saturating_sub(1);
        self.joined.insert(key.to_owned(), host);
        self
    }
}

/// The hash that the store knows a secret by.
pub(super) fn hash(secret: &[u8]) -> String {
    public_key_hash(secret)
}

impl fmt::Display for JoinToken {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoints, secret, authority } = self.clone();
        let payload = wire::JoinToken { endpoints, secret, authority }.encode_to_vec();
        write!(to, "{PREFIX}{}", BASE64URL_NOPAD.encode(&payload))
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = HEXLOWER.encode(&self.authority);
        to.debug_struct("JoinToken")
            .field("endpoints", &self.endpoints)
            .field("authority", &authority)
            .finish_non_exhaustive()
    }
}

impl FromStr for JoinToken {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Self, BadToken> {
        let payload = text.trim().strip_prefix(PREFIX);
        let payload =
            payload.ok_or_else(|| BadToken(format!("it does not begin with {PREFIX}")))?;
        let payload = BASE64URL_NOPAD
            .decode(payload.as_bytes())
            .map_err(|error| BadToken(format!("a character is wrong or missing ({error})")))?;
        let wire::JoinToken { endpoints, secret, authority } =
            wire::JoinToken::decode(payload.as_slice())
                .map_err(|error| BadToken(format!("a part is missing ({error})")))?;
        if endpoints.is_empty() || secret.len() != 16 || authority.len() != 32 {
            return Err(BadToken("a part is missing".to_owned()));
        }
        Ok(Self { endpoints, secret, authority })
    }
}

fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_one_string_and_half_of_it_is_none() {
        let token = JoinToken {
            endpoints: vec!["192.0.2.1:7443".into(), "[2001:db8::1]:7443".into()],
            secret: vec![7; 16],
            authority: vec![9; 32],
        };
        let text = token.to_string();
        assert_eq!(text.parse::<JoinToken>().unwrap(), token);
        assert!(!format!("{token:?}").contains("7, 7"), "the secret is not for logs");
        for half in ["", "edge-join-", &text[..text.len() - 4], &text[5..]] {
            let error = half.parse::<JoinToken>().unwrap_err().to_string();
            assert!(error.contains("edge token create"), "{half}: {error}");
        }
    }
}
