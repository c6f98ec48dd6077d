//! The log of single decisions, for debugging: the programs write two numbers, this names them.

use std::time::Duration;

use aya::Ebpf;
use aya_log::EbpfLogger;
use edge_common::verdict::{Hook, Verdict};
use tracing::Instrument as _;

use super::DatapathError;

/// The programs' constant that says how much they log.
pub(super) const LEVEL: &str = "AYA_LOG_LEVEL";

/// Its value: nothing, or everything.
pub(super) const fn level(log_decisions: bool) -> u8 {
    if log_decisions { u8::MAX } else { 0 }
}

/// How often the log is emptied: it is for people, who do not read faster.
const PERIOD: Duration = Duration::from_millis(50);

/// Starts a task that passes decisions on to `tracing`.
pub(super) fn follow(ebpf: &mut Ebpf) -> Result<(), DatapathError> {
    let mut logger = EbpfLogger::init_with_logger(ebpf, Names)
        .map_err(|error| DatapathError::Log(error.into()))?;
    let follow = async move {
        let mut ticks = tokio::time::interval(PERIOD);
        loop {
            ticks.tick().await;
            logger.flush();
        }
    };
    tokio::spawn(follow.instrument(tracing::debug_span!("decisions")));
    Ok(())
}

/// Turns the programs' numbers into the words that metrics and commands use.
struct Names;

impl log::Log for Names {
    fn enabled(&self, _metadata: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let text = record.args().to_string();
        let number = |part: Option<&str>| part.and_then(|part| part.parse::<usize>().ok());
        let mut parts = text.split(' ');
        let hook = number(parts.next()).and_then(|index| Hook::ALL.get(index));
        let verdict = number(parts.next()).and_then(|index| Verdict::ALL.get(index));
        if let (Some(hook), Some(verdict)) = (hook, verdict) {
            tracing::debug!(
                hook = hook.label(),
                verdict = verdict.label(),
                "{}",
                verdict.sentence()
            );
        }
    }

    fn flush(&self) {}
}
