//! Options of the daemons of a region of several machines, and of the commands about it.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};

use super::{
    ListArgs,
    bounds::BoundsArgs,
    up::{Datapath, OperationArgs, UpArgs},
    values::{self, Name, Uplink},
};
use crate::region::{
    etcd::{self, Access},
    roster::Carriage,
};

/// The port of the control plane.
pub const CONTROL_PORT: u16 = 7443;

/// Options of `edge gateway`.
#[derive(Debug, Clone, Args)]
pub struct GatewayArgs {
    /// What `edge up` has, too.
    #[command(flatten)]
    pub up: UpArgs,
    /// Name of the region: a label; a number at its end is the region's number
    #[arg(long, value_name = "NAME", default_value = "r1", help_heading = "Region")]
    pub region: Name,
    /// Which interfaces lead to the region's other machines.
    #[command(flatten)]
    pub underlay: UnderlayArgs,
    /// Where the region's machines find its control plane
    #[arg(
        long,
        value_name = "ADDR:PORT",
        default_value_t = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, CONTROL_PORT)),
        help_heading = "Region"
    )]
    pub control: SocketAddr,
    /// How packets go from machine to machine
    #[arg(long, value_enum, default_value_t, help_heading = "Region")]
    pub carriage: Carriage,
    /// Send a secret with each packet between machines: for an underlay that strangers can send to
    #[arg(long, help_heading = "Region")]
    pub region_key: bool,
    /// Where the region's state is.
    #[command(flatten)]
    pub store: StoreArgs,
    /// What it has to do with the others.
    #[command(flatten)]
    pub others: OthersArgs,
}

/// Where a region's state is, and how to be let in.
#[derive(Debug, Clone, Default, Args)]
pub struct StoreArgs {
    /// Where the region's gateways keep its state, if there are several:
    /// etcd://HOST:PORT[,HOST:PORT…][/PREFIX], or etcds://… over TLS [default: this gateway's
    /// own --state-dir]
    #[arg(long, value_name = "PLACE", help_heading = "Region")]
    pub store: Option<etcd::Place>,
    /// Certificates, PEM, that etcd's are checked with
    #[arg(long, value_name = "FILE", requires = "store", help_heading = "Region")]
    pub store_ca: Option<PathBuf>,
    /// This gateway's certificate for etcd, PEM
    #[arg(long, value_name = "FILE", requires = "store_key", help_heading = "Region")]
    pub store_cert: Option<PathBuf>,
    /// Its key
    #[arg(long, value_name = "FILE", requires = "store_cert", help_heading = "Region")]
    pub store_key: Option<PathBuf>,
    /// The user that this gateway is to etcd
    #[arg(long, value_name = "NAME", requires = "store_password", help_heading = "Region")]
    pub store_user: Option<String>,
    /// File with its password
    #[arg(long, value_name = "FILE", requires = "store_user", help_heading = "Region")]
    pub store_password: Option<PathBuf>,
}

impl StoreArgs {
    /// Where etcd is, if that is where the state is, and who this gateway is to it.
    pub(crate) fn etcd(self) -> Option<(etcd::Place, Access)> {
        let access = Access {
            ca: self.store_ca,
            identity: self.store_cert.zip(self.store_key),
            user: self.store_user.zip(self.store_password),
        };
        Some((self.store?, access))
    }
}

/// Options of `edge host`.
#[derive(Debug, Clone, Args)]
pub struct HostArgs {
    /// What `edge token create` printed on a gateway, or @FILE with it; not needed once the
    /// machine has joined
    #[arg(
        long,
        value_name = "TOKEN",
        env = "EDGE_JOIN",
        hide_env_values = true,
        help_heading = "Region"
    )]
    pub join: Option<String>,
    /// Which interfaces lead to the region's other machines.
    #[command(flatten)]
    pub underlay: UnderlayArgs,
    /// Which way a raw tunnel's replies go
    #[arg(long, value_enum, default_value_t, help_heading = "Region")]
    pub reply: Reply,
    /// With --reply direct: interface towards the internet, or auto: that of the default route
    /// (repeatable)
    #[arg(long = "uplink", value_name = "IFACE", help_heading = "Network")]
    pub uplinks: Vec<Uplink>,
    /// What carries packets between containers
    #[arg(long, value_enum, default_value_t, help_heading = "Network")]
    pub datapath: Datapath,
    /// What it has to do with the others.
    #[command(flatten)]
    pub others: OthersArgs,
    /// What holds for a tunnel whose owner says nothing; a container cannot go beyond it.
    #[command(flatten)]
    pub bounds: BoundsArgs,
    /// How the daemon runs.
    #[command(flatten)]
    pub operation: OperationArgs,
}

/// What a machine has to do with others of its region.
#[derive(Debug, Clone, Copy, Args)]
pub struct OthersArgs {
    /// Start members of gangs that other machines of the region spread (`edge run --spread`), MAX
    /// at a time: whoever is root on one of them starts programs here then, as root
    /// [default: none; without a number 256]
    #[arg(
        long,
        value_name = "MAX",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "256",
        value_parser = clap::value_parser!(u16).range(1..),
        help_heading = "Region"
    )]
    pub runs_members: Option<u16>,
    /// How long keys live under which proxies' packets go by WireGuard, before new ones take their
    /// place
    #[arg(long, value_name = "DURATION", default_value = "1day",
          value_parser = humantime::parse_duration, help_heading = "Region")]
    pub key_life: Duration,
}

/// Which interfaces lead to the region's other machines.
#[derive(Debug, Clone, Default, Args)]
pub struct UnderlayArgs {
    /// Interface towards the region's other machines (repeatable: flows are spread over all)
    #[arg(
        long = "underlay",
        value_name = "IFACE",
        required = true,
        value_parser = values::interface,
        help_heading = "Region"
    )]
    pub underlays: Vec<String>,
}

/// Which way a raw tunnel's replies go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Reply {
    /// Back to the gateway
    #[default]
    Gateway,
    /// Straight to the client, with the gateway's address as source; the network must allow it
    Direct,
}

/// What `edge token` does.
#[derive(Debug, Clone, Subcommand)]
pub enum TokenCommand {
    /// Make a token with which machines join the region, and print it; on a gateway
    Create(TokenArgs),
}

/// Options of `edge token create`.
#[derive(Debug, Clone, Args)]
pub struct TokenArgs {
    /// How long machines may join with it
    #[arg(long, value_name = "DURATION", default_value = "1h",
          value_parser = humantime::parse_duration)]
    pub ttl: Duration,
    /// How many machines may join with it
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub uses: u32,
    /// Print JSON, for programs
    #[arg(long)]
    pub json: bool,
}

/// Options of `edge hosts`.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct HostsArgs {
    /// How to list them.
    #[command(flatten)]
    pub list: ListArgs,
    /// What else to do.
    #[command(subcommand)]
    pub command: Option<HostsCommand>,
}

/// What else `edge hosts` does.
#[derive(Debug, Clone, Subcommand)]
pub enum HostsCommand {
    /// Take everything from a host that is gone for good: its certificate is void, its containers
    /// have ended, its addresses rest; on a gateway
    Forget {
        /// Its number, as `edge hosts` shows it
        #[arg(value_name = "ID", value_parser = clap::value_parser!(u16).range(1..))]
        host: u16,
    },
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Only {
        #[command(flatten)]
        args: GatewayArgs,
    }

    fn told(words: &[&str]) -> Result<GatewayArgs, String> {
        let words = ["gateway", "--underlay", "un0"].iter().chain(words);
        Only::try_parse_from(words).map(|only| only.args).map_err(|error| error.to_string())
    }

    #[test]
    fn a_store_is_a_place_in_etcd_and_who_asks_it() {
        assert!(told(&[]).unwrap().store.etcd().is_none());
        let (place, access) =
            told(&["--store", "etcd://10.0.0.1:2379/r5"]).unwrap().store.etcd().unwrap();
        assert_eq!(place, "etcd://10.0.0.1:2379/r5".parse().unwrap());
        assert_eq!(access, Access::default());
        let words = "--store etcds://a:1,b:2 --store-ca c.pem --store-cert d.pem --store-key e.pem \
                     --store-user edge --store-password f";
        let words: Vec<_> = words.split_whitespace().collect();
        let (_, access) = told(&words).unwrap().store.etcd().unwrap();
        assert_eq!(access.identity, Some(("d.pem".into(), "e.pem".into())));
        assert_eq!(
            (access.ca, access.user),
            (Some("c.pem".into()), Some(("edge".into(), "f".into())))
        );
    }

    #[test]
    fn what_is_no_place_or_half_an_identity_says_what_is_missing() {
        for (words, says) in [
            (&["--store", "http://10.0.0.1:2379"][..], "etcd://HOST:PORT"),
            (&["--store", "etcd://10.0.0.1"], "no port"),
            (&["--store-ca", "a.pem"], "--store <PLACE>"),
            (&["--store", "etcds://a:1", "--store-cert", "a.pem"], "--store-key"),
            (&["--store", "etcd://a:1", "--store-user", "edge"], "--store-password"),
        ] {
            let error = told(words).unwrap_err();
            assert!(error.contains(says), "{words:?}: {error}");
        }
    }
}
