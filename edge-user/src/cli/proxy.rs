//! Options of `edge proxy`.

use std::{net::Ipv4Addr, time::Duration};

use clap::{Args, Subcommand};

use super::{ListArgs, values::Name};
use crate::region::proxy::{Pair, Spread};

/// What `edge proxy` does.
#[derive(Debug, Clone, Subcommand)]
pub enum ProxyCommand {
    /// Make a proxy; on `edge up` or a gateway
    Create {
        /// Which.
        #[command(flatten)]
        which: Which,
        /// An address that the internet is to see (1 to 5, repeatable): one that a gateway has, or
        /// that its --proxy-addresses let it put on its uplink; with an IPv6 address of the same
        /// gateway beside it the containers have IPv6, too
        #[arg(long = "ip", value_name = "IPV4[,IPV6]", required = true)]
        ips: Vec<Pair>,
        /// What is spread over the addresses
        #[arg(long, value_name = "WHAT", default_value = "container")]
        spread: Spread,
    },
    /// List proxies
    List {
        /// How.
        #[command(flatten)]
        list: ListArgs,
    },
    /// Show one, an address a line
    Show {
        /// Which.
        #[command(flatten)]
        which: Which,
        /// How.
        #[command(flatten)]
        list: ListArgs,
    },
    /// Add an address: containers that start from now on may get it
    AddIp {
        /// Which.
        #[command(flatten)]
        which: Which,
        /// The address, and an IPv6 address beside it if there is one
        #[arg(long, value_name = "IPV4[,IPV6]")]
        ip: Pair,
    },
    /// Remove an address: its containers go on under another, connections that are there may end
    RemoveIp {
        /// Which.
        #[command(flatten)]
        which: Which,
        /// The IPv4 address; what is beside it goes with it
        #[arg(long, value_name = "IPV4")]
        ip: Ipv4Addr,
        /// How long what has begun may go on
        #[arg(long, value_name = "DURATION", default_value = "60s",
              value_parser = humantime::parse_duration)]
        drain: Duration,
    },
    /// Delete a proxy: its containers have no way out from now on
    Delete {
        /// Which.
        #[command(flatten)]
        which: Which,
    },
}

/// Which proxy is meant.
#[derive(Debug, Clone, Args)]
pub struct Which {
    /// Its name
    pub name: Name,
    /// The tenant that it belongs to
    #[arg(long, env = "EDGE_WORKSPACE", default_value = "main")]
    pub workspace: Name,
}
