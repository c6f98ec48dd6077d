//! How much of a tunnel its clients may use, as a whole and each of them.

mod asked;

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
    time::Duration,
};

use serde::{Deserialize, Serialize};

pub use self::asked::{Asked, Defaults, Limit};

/// What holds for a tunnel. `None` is no bound. The default has none at all; what a daemon
/// holds its tunnels to unless told otherwise is [`Bounds::STANDARD`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bounds {
    /// Relayed connections at a time, of the whole tunnel. What the kernel carries has no state
    /// and is not counted.
    pub connections: Option<u32>,
    /// The same of one [`Source`].
    pub source_connections: Option<u32>,
    /// New connections a second, of the whole tunnel. The kernel and userspace count apart.
    pub tunnel_rate: Option<Rate>,
    /// New TLS connections a second, of one source.
    pub source_rate: Option<Rate>,
    /// New connections a second to the raw port, of one source.
    pub source_rate_raw: Option<Rate>,
    /// A relayed connection without a byte either way for this long is ended.
    pub idle: Option<Duration>,
}

/// A token bucket: so many a second, and so many at once after a silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Rate {
    per_second: u32,
    burst: u32,
}

/// Whom bounds take for one client: an IPv4 address, or the /64 that an IPv6 address is in, for
/// one machine may take every address of its link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Source(IpAddr);

/// Why a bound is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BoundsError {
    /// Not a rate.
    #[error("a rate is written RATE or RATE/BURST, as 100 or 100/200, each from 1 to 1000000")]
    Rate,
    /// A useless or absurd time.
    #[error("{0:?} of silence do not do as a bound; use 1 s to 365 days")]
    Idle(Duration),
}

impl Bounds {
    /// No bound at all.
    pub const NONE: Self = Self {
        connections: None,
        source_connections: None,
        tunnel_rate: None,
        source_rate: None,
        source_rate_raw: None,
        idle: None,
    };

    /// What holds where nobody says otherwise: too much for anyone who means no harm to notice,
    /// too little to take the machine from the others.
    pub const STANDARD: Self = Self {
        // Each takes two open files, of which a process often has 20,000: one tunnel alone cannot
        // use them up.
        connections: Some(4096),
        // Half of it: one client cannot lock the others out. Enough for a load test from one
        // machine, and for an office behind one address.
        source_connections: Some(2048),
        // Many clients at once are what a good day looks like, too.
        tunnel_rate: None,
        // A full handshake is about a fifth of a millisecond of a core: one client gets no more
        // than a fifth of one for long.
        source_rate: Some(Rate { per_second: 1000, burst: 2000 }),
        // No handshake to pay for: this only keeps one client from filling the program's backlog.
        // One address has some 28,000 ports to dial from, so more is hardly ever honest.
        source_rate_raw: Some(Rate { per_second: 20_000, burst: 40_000 }),
        // Shells and database connections are silent for hours.
        idle: None,
    };
}

impl Rate {
    /// Most of either number: above it a token is worth less than a microsecond.
    pub const MOST: u32 = 1_000_000;

    /// So many a second, and so many at once.
    pub fn new(per_second: u32, burst: u32) -> Result<Self, BoundsError> {
        let fits = |number| (1..=Self::MOST).contains(&number);
        if fits(per_second) && fits(burst) {
            Ok(Self { per_second, burst })
        } else {
            Err(BoundsError::Rate)
        }
    }

    /// New connections a second, 1 to [`Self::MOST`].
    pub fn per_second(self) -> u32 {
        self.per_second
    }

    /// New connections at once after a silence, 1 to [`Self::MOST`].
    pub fn burst(self) -> u32 {
        self.burst
    }
}

/// Checks a time without a byte.
///
/// # Errors
/// Below a second, or so long that no clock counts it.
pub fn idle(duration: Duration) -> Result<Duration, BoundsError> {
    const LEAST: Duration = Duration::from_secs(1);
    const MOST: Duration = Duration::from_secs(365 * 24 * 3600);
    if (LEAST..=MOST).contains(&duration) { Ok(duration) } else { Err(BoundsError::Idle(duration)) }
}

impl Source {
    /// Bits of an IPv6 address that tell sources apart.
    pub const IPV6_PREFIX: u8 = 64;

    /// Whom an address belongs to. An IPv4 address written as IPv6 is itself.
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => {
                let host_bits = 128 - u32::from(Self::IPV6_PREFIX);
                Ipv6Addr::from_bits(address.to_bits() >> host_bits << host_bits).into()
            }
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => write!(f, "{address}"),
            IpAddr::V6(prefix) => write!(f, "{prefix}/{}", Self::IPV6_PREFIX),
        }
    }
}

impl FromStr for Rate {
    type Err = BoundsError;

    fn from_str(text: &str) -> Result<Self, BoundsError> {
        let number = |text: &str| text.parse::<u32>().ok().ok_or(BoundsError::Rate);
        match text.split_once('/') {
            Some((rate, burst)) => Self::new(number(rate)?, number(burst)?),
            None => {
                let rate = number(text)?;
                Self::new(rate, rate.saturating_mul(2).min(Self::MOST))
            }
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.per_second, self.burst)
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> Self {
        rate.to_string()
    }
}

impl TryFrom<String> for Rate {
    type Error = BoundsError;

    fn try_from(text: String) -> Result<Self, BoundsError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_written_in_one_way() {
        let rate: Rate = "100/250".parse().unwrap();
        assert_eq!(
            (rate.per_second(), rate.burst(), rate.to_string()),
            (100, 250, "100/250".into())
        );
        assert_eq!("100".parse(), Rate::new(100, 200));
        assert_eq!("1000000".parse(), Rate::new(1_000_000, 1_000_000));
        for bad in ["", "0", "1/0", "/1", "1/", "a", "-1", "1000001", "1/1000001", "1/2/3"] {
            assert_eq!(bad.parse::<Rate>(), Err(BoundsError::Rate), "{bad:?}");
        }
    }

    #[test]
    fn a_source_is_an_ipv4_address_or_an_ipv6_link() {
        let of = |text: &str| Source::of(text.parse().unwrap()).to_string();
        assert_eq!(of("192.0.2.7"), "192.0.2.7");
        assert_eq!(of("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::/64");
    }

    #[test]
    fn records_survive_fields_they_lack() {
        let written = serde_json::to_string(&Bounds::STANDARD).unwrap();
        assert_eq!(serde_json::from_str::<Bounds>(&written).unwrap(), Bounds::STANDARD);
        assert_eq!(serde_json::from_str::<Bounds>("{}").unwrap(), Bounds::NONE);
        // A bound that only a newer daemon knows must not be dropped in silence.
        assert!(serde_json::from_str::<Bounds>(r#"{"bytes": 1}"#).is_err());
    }
}
