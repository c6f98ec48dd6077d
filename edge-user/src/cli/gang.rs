//! Options of `edge run` for gangs: several containers that begin and end together.

use std::{ffi::OsString, time::Duration};

use clap::Args;

use crate::{
    error::{Error, Kind},
    region::cluster::MAX_SIZE,
};

/// Calls the `modal` package as Modal's own runner does, then runs a script.
const LAUNCHER: &str = include_str!("gang/launcher.py");

/// A gang, of which this command starts a part or all.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Gangs")]
pub struct GangArgs {
    /// Start a gang of so many containers, which are each other's cluster: CMD begins in all of
    /// them or in none, and when it fails in one it ends in all
    ///
    /// RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT and the like are in the environment. --i6pn is
    /// implied, --name names the cluster. The exit code is that of rank 0, or of whoever failed;
    /// what other ranks print comes to stderr, with the rank before each line.
    #[arg(long, value_name = "SIZE",
          value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_SIZE)))]
    pub cluster: Option<u16>,
    /// Start only so many of them here: the others come by the same command, with the same --name
    /// and size, from anywhere in the region; or they are started elsewhere by --spread
    #[arg(long, value_name = "COUNT", requires = "cluster", requires = "elsewhere",
          value_parser = clap::value_parser!(u16).range(1..))]
    pub here: Option<u16>,
    /// Let the region's other machines that take part (`edge host --runs-members`) start the
    /// members that are not to be here; without --here all of them start about as many
    ///
    /// CMD is the same there, and so are its working directory and its environment: its files must
    /// be there, too. Rank 0 is here, and the gang ends with this command. What members print
    /// elsewhere is in the logs of the daemons there.
    #[arg(long, requires = "cluster")]
    pub spread: bool,
    /// How long members wait for one another; then the gang ends everywhere
    #[arg(long, value_name = "DURATION", default_value = "5m", requires = "cluster",
          value_parser = humantime::parse_duration)]
    pub gather: Duration,
    /// CMD is a Python script and its arguments; in it `modal.Cluster.from_context()` works
    #[arg(long, requires = "cluster")]
    pub modal: bool,
}

/// What is to be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// All members.
    pub size: u16,
    /// Those that are started here; without a number as many as there are, or a fair share.
    pub here: Option<u16>,
    /// Whether other machines start the rest.
    pub spread: bool,
}

impl GangArgs {
    /// The gang, if one was asked for.
    ///
    /// # Errors
    /// If it has fewer members than are to be started here.
    pub fn plan(&self) -> Result<Option<Plan>, Error> {
        let Some(size) = self.cluster else { return Ok(None) };
        if let Some(here) = self.here.filter(|here| *here > size) {
            return Err(Error::new(
                Kind::Usage,
                format_args!("--here {here}"),
                format_args!("the cluster has {size} members in all"),
                "name at most as many as --cluster",
            ));
        }
        Ok(Some(Plan { size, here: self.here, spread: self.spread }))
    }

    /// What runs in each container.
    ///
    /// # Errors
    /// If --modal has no script.
    pub fn command(&self, command: Vec<OsString>, given: bool) -> Result<Vec<OsString>, Error> {
        if !self.modal {
            return Ok(command);
        }
        if !given {
            return Err(Error::new(
                Kind::Usage,
                "--modal",
                "there is no script to run",
                "name one, as in `edge run --cluster 4 --modal -- script.py`",
            ));
        }
        let launcher = ["python3", "-c", LAUNCHER].map(OsString::from);
        Ok(launcher.into_iter().chain(command).collect())
    }
}
