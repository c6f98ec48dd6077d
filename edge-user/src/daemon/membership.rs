//! How a machine becomes a host of its region, and what it learns of it before it begins.

use std::{path::Path, sync::Arc};

use anyhow::Context as _;

use super::{adopt, role::Host};
use crate::{
    error::{Error, Kind},
    region::{
        identity::{Credentials, Peer},
        member::{Member, Standing, join, standing},
        roster::{About, ContainerRecord, RegionSettings},
        store::{Store, StoreError},
        token::JoinToken,
    },
};

/// The membership of this machine; it joins if it has to. No session begins yet.
///
/// # Errors
/// If it has neither credentials nor a token that lets it in.
pub(super) async fn enter(
    host: &Host,
    dir: &Path,
    leased: &Arc<dyn Store>,
) -> anyhow::Result<Arc<Member>> {
    let token = host.join.as_deref().map(token).transpose()?;
    let kept = Credentials::load(dir)?;
    let credentials = match (kept, token) {
        (Some(kept), None) => kept,
        (None, None) => {
            return Err(Error::new(
                Kind::Refused,
                "host",
                format_args!("this machine is of no region (nothing in {})", dir.display()),
                "make a token with `edge token create` on a gateway, and give it with --join",
            )
            .into());
        }
        (None, Some(token)) => enrol(&token, dir).await?,
        (Some(kept), Some(token)) if is_void(&kept).await? => {
            let host = kept.membership.host;
            tracing::warn!(host, "the region does not know this machine any more; it joins anew");
            enrol(&token, dir).await?
        }
        // A unit file keeps the token for ever.
        (Some(kept), Some(_)) => kept,
    };
    let number = credentials.membership.host;
    let containers = containers(leased, number).await?;
    Ok(Arc::new(Member::open(dir, credentials, About::default(), containers)?))
}

/// The containers that are recorded on this machine, as the region has them.
pub(super) async fn containers(
    leased: &Arc<dyn Store>,
    number: u16,
) -> Result<Vec<ContainerRecord>, StoreError> {
    let records = adopt::container_records(leased).all().await?;
    Ok(records.iter().map(|(id, record)| record.of_region(id, number)).collect())
}

/// What all machines of the region have in common. If nothing is remembered it is asked for.
///
/// # Errors
/// If nothing is remembered and nothing may be asked.
pub(super) async fn settings(member: &Member, may_ask: bool) -> anyhow::Result<RegionSettings> {
    let mut views = member.view();
    let known = |settings: &RegionSettings| settings.number != 0;
    if !known(&views.borrow().settings) {
        if !may_ask {
            return Err(Error::new(
                Kind::Refused,
                "host",
                "what this machine knew of its region is lost (region.json)",
                "start it without --replace",
            )
            .into());
        }
        tracing::info!("waiting for a gateway of the region");
        member.begin();
    }
    let view = views.wait_for(|view| known(&view.settings)).await;
    let view = view.context("the membership ended")?.clone();
    Ok((*view.settings).clone())
}

/// A token as it is given: itself, or where it is.
fn token(given: &str) -> anyhow::Result<JoinToken> {
    let text = match given.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(path).map_err(|error| {
            Error::new(
                Kind::Refused,
                path,
                error,
                "name a file with what `edge token create` printed",
            )
        })?,
        None => given.to_owned(),
    };
    text.trim().parse().map_err(|error| {
        let text = crate::error::causes(&error);
        Error::relayed(Kind::Refused, format!("--join: {text}")).into()
    })
}

async fn enrol(token: &JoinToken, dir: &Path) -> anyhow::Result<Credentials> {
    let joined = join(token, dir).await.map_err(|error| {
        Error::relayed(Kind::Refused, format!("join: {}", crate::error::causes(&error)))
    })?;
    let membership = &joined.membership;
    tracing::info!(region = membership.region, host = membership.host, "this machine has joined");
    Ok(joined)
}

async fn is_void(credentials: &Credentials) -> anyhow::Result<bool> {
    let expired = Peer::of(&credentials.certificate).is_none_or(|peer| peer.has_expired());
    Ok(expired || standing(credentials).await? == Standing::Void)
}
