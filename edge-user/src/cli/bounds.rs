//! Who may connect to a tunnel, and how much: options of every command that starts one, and of
//! `edge up` for what holds where they say nothing.

use std::{num::NonZeroU32, time::Duration};

use clap::{Args, ValueEnum};
use ipnet::IpNet;

use crate::region::{
    allow,
    bounds::{Asked, BoundsError, Limit, Rate},
};

/// Above these options, in the help of every command that has them.
const HEADING: &str = "Bounds of tunnels (what a command leaves out is as `edge up` says)";

/// Bounds of a tunnel; each that is not given is the daemon's.
#[derive(Debug, Clone, Default, Args)]
pub struct BoundsArgs {
    /// Let only these clients connect to a tunnel (repeatable) [default: everybody]
    #[arg(long, value_name = "CIDR", value_parser = allow::network, help_heading = HEADING)]
    pub allow: Vec<IpNet>,
    /// Connections of a tunnel at a time, or none for no bound; what the kernel carries of raw TCP
    /// is not counted [default: 4096]
    #[arg(long, value_name = "N", value_parser = number, help_heading = HEADING)]
    pub max_connections: Option<Limit<u32>>,
    /// The same from one source: an IPv4 address or an IPv6 /64 [default: 2048]
    #[arg(long, value_name = "N", value_parser = number, help_heading = HEADING)]
    pub max_connections_per_source: Option<Limit<u32>>,
    /// New connections of a tunnel a second, and how many at once, or none; over TLS and raw TCP
    /// alike, each counted by itself [default: none]
    #[arg(long, value_name = "RATE[/BURST]", value_parser = rate, help_heading = HEADING)]
    pub new_connections: Option<Limit<Rate>>,
    /// The same from one source [default: 1000/2000, for raw TCP 20000/40000]
    #[arg(long, value_name = "RATE[/BURST]", value_parser = rate, help_heading = HEADING)]
    pub new_connections_per_source: Option<Limit<Rate>>,
    /// End a connection after this long without a byte either way, or none; what the kernel
    /// carries of raw TCP is not watched [default: none]
    #[arg(long, value_name = "DURATION", value_parser = idle, help_heading = HEADING)]
    pub idle: Option<Limit<Duration>>,
}

/// What may be asked for each tunnel beside its port.
#[derive(Debug, Clone, Default, Args)]
pub struct TunnelArgs {
    /// Its bounds.
    #[command(flatten)]
    pub bounds: BoundsArgs,
    /// Tell the program each client's address by the PROXY protocol, version 2, before the first
    /// byte of what is relayed over TLS; the program must expect it
    #[arg(long, value_name = "v2", hide_possible_values = true)]
    pub proxy_protocol: Option<ProxyProtocol>,
}

/// How a program is told the client's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProxyProtocol {
    /// The binary header.
    V2,
}

impl BoundsArgs {
    /// As the region takes it.
    pub fn asked(&self) -> Asked {
        Asked {
            allow: self.allow.clone(),
            connections: self.max_connections,
            source_connections: self.max_connections_per_source,
            tunnel_rate: self.new_connections,
            source_rate: self.new_connections_per_source,
            source_rate_raw: self.new_connections_per_source,
            idle: self.idle,
            proxy_protocol: false,
        }
    }
}

impl TunnelArgs {
    /// As the region takes it.
    pub fn asked(&self) -> Asked {
        Asked { proxy_protocol: self.proxy_protocol.is_some(), ..self.bounds.asked() }
    }
}

/// A number of connections that is none.
#[derive(Debug, thiserror::Error)]
#[error("a number of connections is 1 or more; for no bound write none")]
struct NoNumber;

fn number(text: &str) -> Result<Limit<u32>, NoNumber> {
    limit(text, |text| text.parse::<NonZeroU32>().map_or(Err(NoNumber), |number| Ok(number.get())))
}

fn rate(text: &str) -> Result<Limit<Rate>, BoundsError> {
    limit(text, str::parse)
}

/// Why a time without a byte is refused.
#[derive(Debug, thiserror::Error)]
enum IdleError {
    #[error("a duration is written as 90s or 1h30m; for no bound write none")]
    Duration,
    #[error(transparent)]
    Bounds(#[from] BoundsError),
}

fn idle(text: &str) -> Result<Limit<Duration>, IdleError> {
    let parse = |text: &str| match humantime::parse_duration(text) {
        Ok(duration) => Ok(crate::region::bounds::idle(duration)?),
        Err(_) => Err(IdleError::Duration),
    };
    limit(text, parse)
}

fn limit<T, E>(text: &str, parse: impl Fn(&str) -> Result<T, E>) -> Result<Limit<T>, E> {
    if text == "none" { Ok(Limit::None) } else { parse(text).map(Limit::At) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        tunnel: TunnelArgs,
    }

    fn asked(words: &[&str]) -> Result<Asked, String> {
        let words = std::iter::once(&"edge").chain(words);
        Line::try_parse_from(words).map(|line| line.tunnel.asked()).map_err(|e| e.to_string())
    }

    #[test]
    fn what_is_not_given_is_not_asked() {
        assert_eq!(asked(&[]).unwrap(), Asked::default());
        let all = asked(&[
            "--allow=192.0.2.7",
            "--allow=2001:db8::/32",
            "--max-connections=none",
            "--max-connections-per-source=5",
            "--new-connections=10",
            "--new-connections-per-source=1/3",
            "--idle=5m",
            "--proxy-protocol=v2",
        ]);
        let expected = Asked {
            allow: allow::list(&["192.0.2.7/32", "2001:db8::/32"]).unwrap(),
            connections: Some(Limit::None),
            source_connections: Some(Limit::At(5)),
            tunnel_rate: Some(Limit::At("10/20".parse().unwrap())),
            source_rate: Some(Limit::At("1/3".parse().unwrap())),
            source_rate_raw: Some(Limit::At("1/3".parse().unwrap())),
            idle: Some(Limit::At(Duration::from_secs(300))),
            proxy_protocol: true,
        };
        assert_eq!(all.unwrap(), expected);
    }

    #[test]
    fn refusals_say_what_to_write() {
        for (word, remedy) in [
            ("--allow=10.0.0.1/8", "write 10.0.0.0/8"),
            ("--allow=example.com", "write ADDRESS or ADDRESS/LENGTH"),
            ("--max-connections=0", "for no bound write none"),
            ("--max-connections-per-source=-1", "for no bound write none"),
            ("--new-connections=0", "as 100 or 100/200"),
            ("--new-connections-per-source=1/x", "as 100 or 100/200"),
            ("--idle=5", "as 90s or 1h30m"),
            ("--idle=10ms", "use 1 s to 365 days"),
            ("--proxy-protocol=v1", "v2"),
        ] {
            let error = asked(&[word]).unwrap_err();
            assert!(error.contains(remedy), "{word}: {error}");
        }
    }
}
