//! What is asked of a tunnel and what holds for it, to and from the wire.

use std::time::Duration;

use super::tunnel as wire;
use crate::region::{
    allow::{self, AllowError},
    bounds::{self, Asked, BoundsError, Limit, Rate},
    tunnel::TunnelOptions,
};

/// Why what came over the wire is refused.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// Its list of who may connect.
    #[error(transparent)]
    Allow(#[from] AllowError),
    /// A bound.
    #[error(transparent)]
    Bounds(#[from] BoundsError),
}

impl TryFrom<&wire::Options> for Asked {
    type Error = OptionsError;

    fn try_from(options: &wire::Options) -> Result<Self, OptionsError> {
        let rate = |rate: Option<wire::Rate>| rate.map(limited_rate).transpose();
        let idle = |milliseconds| match milliseconds {
            0 => Ok(Limit::None),
            some => bounds::idle(Duration::from_millis(some)).map(Limit::At),
        };
        Ok(Self {
            allow: allow::list(&options.allow)?,
            connections: options.connections.map(limited),
            source_connections: options.source_connections.map(limited),
            tunnel_rate: rate(options.tunnel_rate)?,
            source_rate: rate(options.source_rate)?,
            source_rate_raw: rate(options.source_rate_raw)?,
            idle: options.idle_milliseconds.map(idle).transpose()?,
            proxy_protocol: options.proxy_protocol,
        })
    }
}

impl From<&Asked> for wire::Options {
    fn from(asked: &Asked) -> Self {
        let number = |limit: Limit<u32>| match limit {
            Limit::None => 0,
            Limit::At(number) => number,
        };
        let rate = |limit: Limit<Rate>| match limit {
            Limit::None => wire::Rate::default(),
            Limit::At(rate) => rate.into(),
        };
        let milliseconds = |limit: Limit<Duration>| match limit {
            Limit::None => 0,
            Limit::At(idle) => whole_milliseconds(idle),
        };
        Self {
            allow: asked.allow.iter().map(ToString::to_string).collect(),
            connections: asked.connections.map(number),
            source_connections: asked.source_connections.map(number),
            tunnel_rate: asked.tunnel_rate.map(rate),
            source_rate: asked.source_rate.map(rate),
            source_rate_raw: asked.source_rate_raw.map(rate),
            idle_milliseconds: asked.idle.map(milliseconds),
            proxy_protocol: asked.proxy_protocol,
        }
    }
}

/// What holds: a bound that is absent is none.
impl From<&TunnelOptions> for wire::Options {
    fn from(options: &TunnelOptions) -> Self {
        let bounds = &options.bounds;
        Self {
            allow: options.allow.iter().map(ToString::to_string).collect(),
            connections: bounds.connections,
            source_connections: bounds.source_connections,
            tunnel_rate: bounds.tunnel_rate.map(Into::into),
            source_rate: bounds.source_rate.map(Into::into),
            source_rate_raw: bounds.source_rate_raw.map(Into::into),
            idle_milliseconds: bounds.idle.map(whole_milliseconds),
            proxy_protocol: options.proxy_protocol,
        }
    }
}

impl From<Rate> for wire::Rate {
    fn from(rate: Rate) -> Self {
        Self { per_second: rate.per_second(), burst: rate.burst() }
    }
}

fn limited(number: u32) -> Limit<u32> {
    if number == 0 { Limit::None } else { Limit::At(number) }
}

fn limited_rate(rate: wire::Rate) -> Result<Limit<Rate>, BoundsError> {
    match (rate.per_second, rate.burst) {
        (0, 0) => Ok(Limit::None),
        (per_second, burst) => Rate::new(per_second, burst).map(Limit::At),
    }
}

fn whole_milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_on_the_wire() {
        let asked = Asked {
            allow: allow::list(&["192.0.2.7", "2001:db8::/32"]).unwrap(),
            connections: Some(Limit::None),
            source_connections: Some(Limit::At(5)),
            tunnel_rate: Some(Limit::None),
            source_rate: Some(Limit::At("1/3".parse().unwrap())),
            source_rate_raw: None,
            idle: Some(Limit::At(Duration::from_millis(1500))),
            proxy_protocol: true,
        };
        for asked in [asked, Asked::default()] {
            assert_eq!(Asked::try_from(&wire::Options::from(&asked)).unwrap(), asked);
        }
    }

    #[test]
    fn nonsense_on_the_wire_is_refused() {
        let plain = wire::Options::default;
        for options in [
            wire::Options { allow: vec!["x".into()], ..plain() },
            wire::Options { allow: vec!["192.0.2.1".into(); 65], ..plain() },
            wire::Options { source_rate: Some(wire::Rate { per_second: 1, burst: 0 }), ..plain() },
            wire::Options { idle_milliseconds: Some(u64::MAX), ..plain() },
        ] {
            assert!(Asked::try_from(&options).is_err(), "{options:?}");
        }
    }
}
