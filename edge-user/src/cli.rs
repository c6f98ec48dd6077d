//! What people type: the commands of `edge`, their options and the help text.

pub mod bounds;
pub mod gang;
pub mod proxy;
pub mod region;
pub mod trace;
pub mod up;
pub mod values;

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{ArgGroup, Args, Parser, Subcommand};

pub use self::{
    bounds::TunnelArgs,
    gang::GangArgs,
    proxy::ProxyCommand,
    region::{GatewayArgs, HostArgs, HostsArgs, HostsCommand, TokenCommand},
    trace::TraceArgs,
    up::UpArgs,
    values::Name,
};

/// Public URLs, raw TCP ports and a private network for containers on Linux.
#[derive(Debug, Parser)]
#[command(name = "edge", version, max_term_width = 100)]
pub struct Cli {
    /// Which daemon is meant.
    #[command(flatten)]
    pub place: Place,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Which daemon of this machine a command means.
#[derive(Debug, Clone, Args)]
pub struct Place {
    /// Name of the daemon; several may run on one machine
    #[arg(long, global = true, env = "EDGE_INSTANCE", default_value = "default")]
    pub instance: Name,
    /// Directory of the daemon's socket [default: /run/edge/<INSTANCE>]
    #[arg(long, global = true, env = "EDGE_RUN_DIR", value_name = "DIR")]
    run_dir: Option<PathBuf>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon: gateway and host of a one-machine region
    ///
    /// Ctrl-C ends everything and leaves nothing. SIGTERM is a stop for a restart: relayed
    /// connections may finish, and containers keep their tunnels for the next daemon.
    Up(UpArgs),
    /// Run the daemon of a region's gateway: public names and ports, the region's state, and
    /// containers if wanted
    ///
    /// Signals mean what they mean to `edge up`.
    Gateway(Box<GatewayArgs>),
    /// Run the daemon of a machine that runs containers for a region
    ///
    /// The first time it joins with a token of `edge token create`. Signals mean what they mean to
    /// `edge up`.
    Host(HostArgs),
    /// End the daemon and everything of it; without one, remove what a dead one left
    Down,
    /// Run a program in a container of its own, with tunnels to its ports
    ///
    /// The container has its own network, processes, IPC, host name and mounts, and no
    /// capability beyond Docker's default set. The files are the machine's: a program that runs
    /// as root may change them, so run none that you would not trust with them.
    Run(RunArgs),
    /// Give an existing network namespace addresses and tunnels, until interrupted
    Attach(AttachArgs),
    /// Inside a container: make a port public, until interrupted or until CMD ends
    Forward(ForwardArgs),
    /// List tunnels
    Tunnels(OwnListArgs),
    /// List containers
    Containers(OwnListArgs),
    /// List the machines of the region
    Hosts(HostsArgs),
    /// Static outbound addresses: make proxies, and look at them
    ///
    /// A container that is started with --proxy reaches the internet under one of the proxy's
    /// addresses, or not at all.
    #[command(subcommand)]
    Proxy(ProxyCommand),
    /// Print what is decided about packets, a line each, until interrupted
    ///
    /// Who to whom, at which hook, the verdict and why. It costs nothing while nobody listens, and
    /// one listens at a time.
    Trace(TraceArgs),
    /// Tokens with which machines join the region
    #[command(subcommand)]
    Token(TokenCommand),
    /// Look at this machine: what edge would do with it, what slows it down, what breaks it
    ///
    /// Works with or without a running daemon, and changes nothing. The exit code is 69 if
    /// something is broken. Run it as root: without, some things cannot be seen.
    Check(CheckArgs),
    /// Print the path of the certificate that clients must trust
    Ca,
    /// The first steps of a container's processes; started by `edge run` only.
    #[command(name = crate::host::init::COMMAND, hide = true)]
    Init(InitArgs),
    /// Members of a gang that another machine spreads; started by the daemon only.
    #[command(name = CALLED, hide = true)]
    Called(CalledArgs),
}

/// Options of `edge run`.
#[derive(Debug, Clone, Args)]
#[command(group(ArgGroup::new("elsewhere").multiple(true).args(["name", "spread"])))]
pub struct RunArgs {
    /// The container and its tunnels.
    #[command(flatten)]
    pub container: ContainerArgs,
    /// The gang that it is of.
    #[command(flatten)]
    pub gang: GangArgs,
    /// End the program after this long (as 90s or 1h30m): SIGTERM, 10 seconds later SIGKILL;
    /// the exit code is then 124
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub timeout: Option<Duration>,
    /// The program and its arguments [default: $SHELL, else /bin/sh]
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// Options of `edge attach`.
#[derive(Debug, Clone, Args)]
pub struct AttachArgs {
    /// The network namespace, as /run/netns/NAME or /proc/PID/ns/net
    #[arg(long, value_name = "PATH")]
    pub netns: PathBuf,
    /// The container and its tunnels.
    #[command(flatten)]
    pub container: ContainerArgs,
}

/// What a container is called and what of it is public.
#[derive(Debug, Clone, Args)]
pub struct ContainerArgs {
    /// Name of the container, unique in its workspace [default: the daemon makes one up]
    #[arg(long)]
    pub name: Option<Name>,
    /// The tenant; containers of two workspaces never exchange a packet
    #[arg(long, env = "EDGE_WORKSPACE", default_value = "main")]
    pub workspace: Name,
    /// Make this port public over TLS (repeatable)
    #[arg(long = "encrypted-port", value_name = "PORT", value_parser = values::port())]
    pub encrypted_ports: Vec<u16>,
    /// Make this port public over TLS and offer HTTP/2, spoken to the program without TLS
    /// (repeatable)
    #[arg(long = "h2-port", value_name = "PORT", value_parser = values::port())]
    pub h2_ports: Vec<u16>,
    /// Make this port public over TLS and also as a raw TCP port (repeatable)
    #[arg(long = "unencrypted-port", value_name = "PORT", value_parser = values::port())]
    pub unencrypted_ports: Vec<u16>,
    /// Send IPv6 clients of raw TCP ports through the kernel; the programs must listen on ::
    #[arg(long)]
    pub native_ipv6: bool,
    /// Let it talk to the other containers of its workspace that are started so, by IPv6
    #[arg(long)]
    pub i6pn: bool,
    /// No way out to the internet; tunnels and --i6pn still work
    #[arg(long)]
    pub no_egress: bool,
    /// Reach the internet under an address of this proxy of its workspace (`edge proxy`), or not
    /// at all
    #[arg(long, value_name = "NAME", conflicts_with = "no_egress")]
    pub proxy: Option<Name>,
    /// What holds for each of its tunnels.
    #[command(flatten)]
    pub tunnel: TunnelArgs,
}

/// Options of `edge forward`.
#[derive(Debug, Clone, Args)]
pub struct ForwardArgs {
    /// The container's port
    #[arg(value_parser = values::port())]
    pub port: u16,
    /// Also as a raw TCP port
    #[arg(long)]
    pub unencrypted: bool,
    /// Offer HTTP/2, spoken to the program without TLS
    #[arg(long, conflicts_with = "unencrypted")]
    pub h2: bool,
    /// What holds for it; beyond what the daemon's operator laid down it cannot go.
    #[command(flatten)]
    pub tunnel: TunnelArgs,
    /// A program that serves the port; the tunnel ends with it
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// Options of `edge check`.
#[derive(Debug, Clone, Args)]
#[command(group(ArgGroup::new("interfaces").multiple(true).args(["uplinks", "underlays"])))]
pub struct CheckArgs {
    /// Print JSON, for programs
    #[arg(long)]
    pub json: bool,
    /// Interface towards the internet, or auto: that of the default route (repeatable)
    /// [default: every interface that has an address]
    #[arg(long = "uplink", value_name = "IFACE")]
    pub uplinks: Vec<values::Uplink>,
    /// Interface towards the region's other machines (repeatable)
    #[arg(long = "underlay", value_name = "IFACE", value_parser = values::interface)]
    pub underlays: Vec<String>,
    /// Set what makes the named interfaces faster and can be set without harm; say what was done
    /// and why. It holds until the machine starts again
    #[arg(long, requires = "interfaces")]
    pub fix: bool,
    /// TCP ports that raw tunnels will be given
    #[arg(long, value_name = "FIRST-LAST", default_value = "20000-29999")]
    pub raw_ports: values::PortRange,
    /// Containers' IPv4 addresses
    #[arg(long, value_name = "CIDR", default_value = "100.64.0.0/10",
          value_parser = values::ipv4_pool)]
    pub ipv4_pool: ipnet::Ipv4Net,
}

/// Options of every listing.
#[derive(Debug, Clone, Copy, Args)]
pub struct ListArgs {
    /// Print JSON, for programs
    #[arg(long)]
    pub json: bool,
}

/// Options of the listings of what a machine has itself.
#[derive(Debug, Clone, Copy, Args)]
pub struct OwnListArgs {
    /// How to list them.
    #[command(flatten)]
    pub list: ListArgs,
    /// Also those of the region's other machines, as far as this one knows of them
    #[arg(long)]
    pub region: bool,
}

/// What `edge run` tells the processes it starts.
#[derive(Debug, Clone, Args)]
pub struct InitArgs {
    /// Which of the two steps this process takes.
    #[arg(long)]
    pub stage: crate::host::init::Stage,
    /// The inherited end of the socket to `edge run`.
    #[arg(long)]
    pub control: i32,
    /// The process that this one must not outlive.
    #[arg(long)]
    pub parent: Option<i32>,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

/// The hidden command by which a daemon starts members for other machines.
pub const CALLED: &str = "__members";

/// What a daemon tells the process of such members; what the containers are comes by stdin.
#[derive(Debug, Clone, Args)]
pub struct CalledArgs {
    /// The id of their cluster.
    #[arg(long)]
    pub cluster: String,
    /// Its name.
    #[arg(long)]
    pub name: String,
    /// How many members it has in all.
    #[arg(long)]
    pub size: u16,
    /// How many are to be here.
    #[arg(long)]
    pub here: u16,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

impl Place {
    /// The directory of the daemon's socket.
    pub fn run_dir(&self) -> PathBuf {
        match &self.run_dir {
            Some(dir) => dir.clone(),
            None => PathBuf::from("/run/edge").join(self.instance.as_str()),
        }
    }

    /// The daemon's admin socket.
    pub fn socket(&self) -> PathBuf {
        self.run_dir().join("edge.sock")
    }
}

impl RunArgs {
    /// The program to run: what was given, else the person's shell.
    pub fn command(&self) -> Vec<OsString> {
        if !self.command.is_empty() {
            return self.command.clone();
        }
        let shell = std::env::var_os("SHELL").filter(|shell| !shell.is_empty());
        vec![shell.unwrap_or_else(|| "/bin/sh".into())]
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_takes_ports_and_a_command() {
        let cli = Cli::parse_from([
            "edge",
            "run",
            "--encrypted-port",
            "80",
            "--encrypted-port",
            "81",
            "--timeout",
            "1h",
            "--instance",
            "lab",
            "--",
            "sh",
            "-c",
            "true",
        ]);
        assert_eq!(cli.place.socket(), PathBuf::from("/run/edge/lab/edge.sock"));
        let Command::Run(args) = cli.command else { panic!("{cli:?}") };
        assert_eq!(args.container.encrypted_ports, [80, 81]);
        assert_eq!(args.timeout, Some(Duration::from_secs(3600)));
        assert_eq!(args.command(), ["sh", "-c", "true"]);
    }

    #[test]
    fn nonsense_is_refused() {
        for words in [
            vec!["edge", "run", "--encrypted-port", "0"],
            vec!["edge", "run", "--name", "Web"],
            vec!["edge", "run", "sh"],
            vec!["edge", "up", "--cert", "a.pem"],
            vec!["edge", "up", "--raw-ports", "30000-20000"],
            vec!["edge", "up", "--ipv4-pool", "100.64.0.1/10"],
            vec!["edge", "--instance", "a/b", "tunnels"],
            vec!["edge", "forward", "--h2", "--unencrypted", "80"],
            vec!["edge", "run", "--allow", "192.0.2.1/24"],
            vec!["edge", "up", "--max-connections", "0"],
            vec!["edge", "host", "--join", "x"],
            vec!["edge", "host", "--underlay", "auto"],
            vec!["edge", "gateway", "--underlay", "eth1", "--carriage", "vxlan"],
            vec!["edge", "hosts", "forget", "0"],
            vec!["edge", "token", "create", "--uses", "0"],
            vec!["edge", "trace", "--verdict", "lost"],
            vec!["edge", "trace", "--sample", "0"],
            vec!["edge", "run", "--cluster", "0"],
            vec!["edge", "run", "--cluster", "257"],
            vec!["edge", "run", "--cluster", "4", "--here", "2"],
            vec!["edge", "run", "--here", "2", "--name", "train"],
            vec!["edge", "run", "--spread"],
            vec!["edge", "up", "--runs-members"],
            vec!["edge", "host", "--underlay", "eth1", "--runs-members=0"],
            vec!["edge", "run", "--modal", "--", "train.py"],
            vec!["edge", "run", "--proxy", "db", "--no-egress"],
            vec!["edge", "proxy", "create", "db"],
            vec!["edge", "proxy", "create", "db", "--ip", "2001:db8::1"],
        ] {
            assert!(Cli::try_parse_from(&words).is_err(), "{words:?}");
        }
    }
}
