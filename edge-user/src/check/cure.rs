//! What `edge check --fix` does: the steps of a finding, which are also its remedy's text.

use std::{fmt, path::PathBuf};

use serde::Serialize;
use tokio::process::Command;

use super::{Finding, State, sysfs::Sysfs};

/// What edge can do about a finding.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Cure {
    /// It has no business to.
    #[default]
    None,
    /// These steps, which can be taken again and again.
    Steps(Vec<Step>),
    /// It could, and leaves it: why.
    Left(String),
}

/// One setting of the machine's. Shown as what a person would type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// The program `ethtool` with these words.
    Ethtool(Vec<String>),
    /// A value for a file below `/sys` or `/proc`.
    Write {
        /// The file.
        file: PathBuf,
        /// What is written.
        value: String,
    },
}

/// A finding as it is after `--fix`. Programs read this as JSON: names stay.
#[derive(Debug, Serialize)]
pub struct Mended {
    /// What is there now.
    #[serde(flatten)]
    pub finding: Finding,
    /// What was done about it; none if nothing was to be done.
    pub fix: Option<Fix>,
}

/// What was done about a finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fix {
    /// How it went.
    pub outcome: Outcome,
    /// The lines that were carried out.
    pub did: Vec<String>,
    /// Why it was done, or why it was left or failed.
    pub why: String,
}

/// How it went. Programs read these words: they stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It is mended, or better than before.
    Set,
    /// Edge does not set this.
    Left,
    /// It was tried, and is as it was.
    Failed,
}

impl From<Finding> for Mended {
    fn from(finding: Finding) -> Self {
        Self { finding, fix: None }
    }
}

impl Outcome {
    /// The words for it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Set => "set",
            Self::Left => "left as it is",
            Self::Failed => "failed",
        }
    }
}

impl Step {
    /// `ethtool` with these words.
    pub(super) fn ethtool<'w>(words: impl IntoIterator<Item = &'w str>) -> Self {
        Self::Ethtool(words.into_iter().map(str::to_owned).collect())
    }

    async fn carry_out(&self, sysfs: Option<&Sysfs>) -> Result<(), String> {
        match self {
            Self::Ethtool(words) => {
                let output = Command::new("ethtool").args(words).output().await;
                let output = output.map_err(|error| {
                    format!("{error}: is ethtool installed, as by `apt install ethtool`?")
                })?;
                if output.status.success() {
                    return Ok(());
                }
                let said = String::from_utf8_lossy(&output.stderr);
                Err(said.split_whitespace().collect::<Vec<_>>().join(" "))
            }
            Self::Write { file, value } => {
                let written = match (file.strip_prefix("/sys"), sysfs) {
                    (Ok(below), Some(sysfs)) => sysfs.write(below, value),
                    (Ok(_), None) => return Err("/sys cannot be seen; be root".to_owned()),
                    (Err(_), _) => std::fs::write(file, value),
                };
                written.map_err(|error| error.to_string())
            }
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ethtool(words) => write!(f, "ethtool {}", words.join(" ")),
            Self::Write { file, value } => write!(f, "echo {value} > {}", file.display()),
        }
    }
}

/// Steps as one line for a shell.
pub(super) fn line(steps: &[Step]) -> String {
    steps.iter().map(Step::to_string).collect::<Vec<_>>().join("; ")
}

/// Takes a finding's steps; none if it has nothing to mend. Whether they helped is seen by looking
/// again.
pub(super) async fn mend(finding: &Finding, sysfs: Option<&Sysfs>) -> Option<Fix> {
    let steps = match &finding.cure {
        Cure::None => return None,
        Cure::Left(why) => {
            return Some(Fix { outcome: Outcome::Left, did: Vec::new(), why: why.clone() });
        }
        Cure::Steps(steps) => steps,
    };
    let (mut did, mut errors) = (Vec::new(), Vec::new());
    for step in steps {
        match step.carry_out(sysfs).await {
            Ok(()) => did.push(step.to_string()),
            Err(error) => errors.push(format!("{step}: {error}")),
        }
    }
    Some(if errors.is_empty() {
        Fix { outcome: Outcome::Set, did, why: finding.meaning.clone() }
    } else {
        Fix { outcome: Outcome::Failed, did, why: errors.join("; ") }
    })
}

/// Puts together what is there now and what was done about it. What is as it was has failed,
/// whatever the programs said that set it.
pub(super) fn compare(before: &[(Finding, Fix)], after: Vec<Finding>) -> Vec<Mended> {
    let mend = |finding: Finding| {
        let done = before.iter().find(|(old, _)| old.name == finding.name);
        let fix = done.map(|(old, fix)| {
            let unmended = finding.state != State::Ok && finding.found == old.found;
            if fix.outcome == Outcome::Set && unmended {
                let why = "the kernel took it, and nothing changed: the driver cannot".to_owned();
                return Fix { outcome: Outcome::Failed, why, did: fix.did.clone() };
            }
            fix.clone()
        });
        Mended { finding, fix }
    };
    after.into_iter().map(mend).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slow(found: &str) -> Finding {
        let steps = vec![
            Step::ethtool(["-K", "up0", "tso", "on"]),
            Step::Write { file: "/sys/class/net/up0/x".into(), value: "3".into() },
        ];
        Finding::curable("offloads:up0", found, "it is slow", steps)
    }

    #[test]
    fn a_remedy_is_what_would_be_typed() {
        let remedy = slow("off").remedy.unwrap();
        assert_eq!(remedy, "ethtool -K up0 tso on; echo 3 > /sys/class/net/up0/x");
    }

    #[test]
    fn what_is_as_it_was_has_failed() {
        let set = Fix { outcome: Outcome::Set, did: vec!["x".into()], why: "slow".into() };
        let before = [(slow("off"), set.clone())];
        let outcome = |after| compare(&before, vec![after]).remove(0).fix.map(|fix| fix.outcome);
        assert_eq!(outcome(slow("off")), Some(Outcome::Failed));
        assert_eq!(outcome(slow("less off")), Some(Outcome::Set));
        assert_eq!(outcome(Finding::ok("offloads:up0", "on", "fast")), Some(Outcome::Set));
        assert_eq!(outcome(Finding::ok("another", "on", "fast")), None);
    }

    #[test]
    fn json_names_and_words_are_stable() {
        let fix = Fix { outcome: Outcome::Left, did: Vec::new(), why: "so".into() };
        let mended = Mended { finding: Finding::ok("a", 1, "b"), fix: Some(fix) };
        let expected = serde_json::json!({
            "name": "a", "state": "ok", "found": "1", "meaning": "b", "remedy": null,
            "fix": { "outcome": "left", "did": [], "why": "so" },
        });
        assert_eq!(serde_json::to_value(mended).unwrap(), expected);
    }
}
