//! What an owner asks for, joined with what the daemon's operator laid down.

use std::{sync::Arc, time::Duration};

use ipnet::IpNet;

use super::{Bounds, Rate};
use crate::region::{
    allow::{self, AllowError},
    tunnel::TunnelOptions,
};

/// What an owner says about who may connect and how much; what is left out is the daemon's.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Asked {
    /// Who may connect; empty leaves it to the daemon.
    pub allow: Vec<IpNet>,
    /// See [`Bounds::connections`].
    pub connections: Option<Limit<u32>>,
    /// See [`Bounds::source_connections`].
    pub source_connections: Option<Limit<u32>>,
    /// See [`Bounds::tunnel_rate`].
    pub tunnel_rate: Option<Limit<Rate>>,
    /// See [`Bounds::source_rate`].
    pub source_rate: Option<Limit<Rate>>,
    /// See [`Bounds::source_rate_raw`].
    pub source_rate_raw: Option<Limit<Rate>>,
    /// See [`Bounds::idle`].
    pub idle: Option<Limit<Duration>>,
    /// See [`TunnelOptions::proxy_protocol`].
    pub proxy_protocol: bool,
}

/// What somebody says about one bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit<T> {
    /// There shall be none.
    None,
    /// This much and no more.
    At(T),
}

/// What the daemon's operator laid down for all tunnels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defaults {
    /// Where an owner says nothing; a container cannot go beyond them.
    pub bounds: Bounds,
    /// Who may connect where an owner says nothing; empty is everybody. A container cannot let
    /// anybody else in.
    pub allow: Arc<[IpNet]>,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { bounds: Bounds::STANDARD, allow: Arc::default() }
    }
}

impl Defaults {
    /// What an operator lays down: the standard, but for what is asked.
    ///
    /// # Errors
    /// If the list of who may connect is too long.
    pub fn laid_down(asked: &Asked) -> Result<Self, AllowError> {
        if asked.allow.len() > allow::MOST {
            return Err(AllowError::TooMany(asked.allow.len()));
        }
        let TunnelOptions { bounds, allow, .. } = Self::default().for_operator(asked);
        Ok(Self { bounds, allow })
    }

    /// What holds for a tunnel that the operator asks for: whatever is asked, else the default.
    pub fn for_operator(&self, asked: &Asked) -> TunnelOptions {
        let allow = if asked.allow.is_empty() { self.allow.clone() } else { (*asked.allow).into() };
        let bounds = Bounds {
            connections: chosen(asked.connections, self.bounds.connections),
            source_connections: chosen(asked.source_connections, self.bounds.source_connections),
            tunnel_rate: chosen(asked.tunnel_rate, self.bounds.tunnel_rate),
            source_rate: chosen(asked.source_rate, self.bounds.source_rate),
            source_rate_raw: chosen(asked.source_rate_raw, self.bounds.source_rate_raw),
            idle: chosen(asked.idle, self.bounds.idle),
        };
        let proxy_protocol = asked.proxy_protocol;
        TunnelOptions { bounds, allow, proxy_protocol, ..TunnelOptions::default() }
    }

    /// What holds for a tunnel that a container asks for: the tighter of what is asked and the
    /// default, in each bound.
    ///
    /// # Errors
    /// If nobody would be left who may connect.
    pub fn for_container(&self, asked: &Asked) -> Result<TunnelOptions, AllowError> {
        let allow = allow::intersection(&self.allow, &asked.allow)?;
        let bounds = Bounds {
            connections: tighter(asked.connections, self.bounds.connections),
            source_connections: tighter(asked.source_connections, self.bounds.source_connections),
            tunnel_rate: tighter(asked.tunnel_rate, self.bounds.tunnel_rate),
            source_rate: tighter(asked.source_rate, self.bounds.source_rate),
            source_rate_raw: tighter(asked.source_rate_raw, self.bounds.source_rate_raw),
            idle: tighter(asked.idle, self.bounds.idle),
        };
        let proxy_protocol = asked.proxy_protocol;
        Ok(TunnelOptions { bounds, allow, proxy_protocol, ..TunnelOptions::default() })
    }
}

fn chosen<T>(asked: Option<Limit<T>>, default: Option<T>) -> Option<T> {
    match asked {
        None => default,
        Some(Limit::None) => None,
        Some(Limit::At(limit)) => Some(limit),
    }
}

fn tighter<T: Tighter>(asked: Option<Limit<T>>, default: Option<T>) -> Option<T> {
    match (asked, default) {
        (Some(Limit::At(asked)), Some(default)) => Some(asked.tighter(default)),
        (Some(Limit::At(asked)), None) => Some(asked),
        (None | Some(Limit::None), default) => default,
    }
}

/// The bound that keeps both of two.
trait Tighter {
    fn tighter(self, other: Self) -> Self;
}

impl Tighter for u32 {
    fn tighter(self, other: Self) -> Self {
        self.min(other)
    }
}

impl Tighter for Duration {
    fn tighter(self, other: Self) -> Self {
        self.min(other)
    }
}

impl Tighter for Rate {
    fn tighter(self, other: Self) -> Self {
        Self {
            per_second: self.per_second.min(other.per_second),
            burst: self.burst.min(other.burst),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(text: &str) -> Rate {
        text.parse().unwrap()
    }

    #[test]
    fn the_operator_may_set_anything() {
        let defaults =
            Defaults { allow: ["10.0.0.0/8".parse().unwrap()].into(), ..Defaults::default() };
        assert_eq!(defaults.for_operator(&Asked::default()).bounds, Bounds::STANDARD);
        assert_eq!(defaults.for_operator(&Asked::default()).allow, defaults.allow);
        let asked = Asked {
            allow: vec!["192.0.2.0/24".parse().unwrap()],
            connections: Some(Limit::None),
            source_connections: Some(Limit::At(100_000)),
            idle: Some(Limit::At(Duration::from_secs(60))),
            ..Asked::default()
        };
        let options = defaults.for_operator(&asked);
        assert_eq!(options.allow[..], asked.allow[..]);
        let expected = Bounds {
            connections: None,
            source_connections: Some(100_000),
            idle: Some(Duration::from_secs(60)),
            ..Bounds::STANDARD
        };
        assert_eq!(options.bounds, expected);
    }

    #[test]
    fn a_container_may_only_tighten() {
        let defaults = Defaults {
            bounds: Bounds {
                connections: Some(10),
                source_connections: Some(10),
                tunnel_rate: None,
                source_rate: Some(rate("10/20")),
                source_rate_raw: None,
                idle: Some(Duration::from_secs(60)),
            },
            allow: ["10.0.0.0/8".parse().unwrap()].into(),
        };
        let asked = Asked {
            allow: vec!["0.0.0.0/0".parse().unwrap()],
            connections: Some(Limit::None),
            source_connections: Some(Limit::At(5)),
            tunnel_rate: Some(Limit::At(rate("7/8"))),
            source_rate: Some(Limit::At(rate("5/100"))),
            source_rate_raw: Some(Limit::None),
            idle: Some(Limit::At(Duration::from_secs(3600))),
            proxy_protocol: true,
        };
        let options = defaults.for_container(&asked).unwrap();
        let expected = Bounds {
            connections: Some(10),
            source_connections: Some(5),
            tunnel_rate: Some(rate("7/8")),
            source_rate: Some(rate("5/20")),
            source_rate_raw: None,
            idle: Some(Duration::from_secs(60)),
        };
        assert_eq!(options.bounds, expected);
        assert_eq!(options.allow, defaults.allow);
        assert!(options.proxy_protocol);
    }
}
