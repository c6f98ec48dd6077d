//! What people are told when something goes wrong, and the exit codes.

use std::{error::Error as StdError, fmt, io::Write, process::ExitCode};

/// An error as it is printed: the thing, the cause, and the remedy.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Error {
    kind: Kind,
    text: String,
}

/// What kind of error it is; each has one exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The command line makes no sense.
    Usage = 64,
    /// The daemon said no.
    Refused = 69,
    /// Something does not work.
    Failure = 70,
    /// `--timeout` ran out; as timeout(1) has it.
    TimedOut = 124,
    /// The program cannot be executed; as shells have it.
    NotExecutable = 126,
    /// There is no such program; as shells have it.
    NotFound = 127,
}

impl Error {
    /// Of any kind.
    pub fn new(
        kind: Kind,
        thing: impl fmt::Display,
        cause: impl fmt::Display,
        remedy: impl fmt::Display,
    ) -> Self {
        Self { kind, text: format!("{thing}: {cause}; {remedy}") }
    }

    /// Something does not work.
    pub fn failure(
        thing: impl fmt::Display,
        cause: impl fmt::Display,
        remedy: impl fmt::Display,
    ) -> Self {
        Self::new(Kind::Failure, thing, cause, remedy)
    }

    /// A sentence that another process of edge has already put in shape.
    pub fn relayed(kind: Kind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    /// What kind of error it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl Kind {
    /// The process's exit code.
    pub fn exit_code(self) -> u8 {
        self as u8
    }

    /// The kind with this exit code.
    pub fn from_exit_code(code: u8) -> Option<Self> {
        [
            Self::Usage,
            Self::Refused,
            Self::Failure,
            Self::TimedOut,
            Self::NotExecutable,
            Self::NotFound,
        ]
        .into_iter()
        .find(|kind| kind.exit_code() == code)
    }
}

/// Prints what a command ended with and turns it into the process's exit code.
pub fn report(outcome: anyhow::Result<ExitCode>) -> ExitCode {
    match outcome {
        Ok(code) => code,
        Err(error) => {
            say(format_args!("{error:#}"));
            ExitCode::from(kind_of(&error).exit_code())
        }
    }
}

/// Prints clap's answer, which is help as often as an error.
pub fn report_usage(error: &clap::Error) -> ExitCode {
    if error.print().is_err() {
        // Nobody reads what we print; the exit code is all that is left.
        return ExitCode::from(Kind::Failure.exit_code());
    }
    if error.use_stderr() { ExitCode::from(Kind::Usage.exit_code()) } else { ExitCode::SUCCESS }
}

/// Says something to the person at the terminal, on stderr. A closed stderr is their choice.
pub fn say(text: impl fmt::Display) {
    // In one piece, since the container's program writes there too.
    std::io::stderr().write_all(format!("edge: {text}\n").as_bytes()).ok();
}

/// An error and what caused it, in one line.
pub fn causes(error: &(dyn StdError + 'static)) -> String {
    anyhow::Chain::new(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn kind_of(error: &anyhow::Error) -> Kind {
    error.chain().find_map(|cause| cause.downcast_ref::<Error>()).map_or(Kind::Failure, Error::kind)
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn an_error_names_thing_cause_and_remedy() {
        let error = Error::failure("port 8000", "nothing listens", "start the program");
        assert_eq!(error.to_string(), "port 8000: nothing listens; start the program");
    }

    #[test]
    fn the_kind_survives_context() {
        let refused = Error::new(Kind::Refused, "a", "b", "c");
        let wrapped = Err::<(), _>(refused).context("while attaching").unwrap_err();
        assert_eq!(kind_of(&wrapped), Kind::Refused);
        assert_eq!(kind_of(&anyhow::anyhow!("unexpected")), Kind::Failure);
    }

    #[test]
    fn every_kind_is_found_by_its_code() {
        for code in [64, 69, 70, 124, 126, 127] {
            assert_eq!(Kind::from_exit_code(code).map(Kind::exit_code), Some(code));
        }
        assert_eq!(Kind::from_exit_code(1), None);
    }
}
