//! How many files the daemon may have open.

use std::fs;

use super::Finding;
use crate::daemon::open_files;

/// Fewer than this, and a busy gateway runs out before its memory does.
const ENOUGH: u64 = 65_536;

/// The limit on open files of the daemon, or of one that would be started from here.
pub(super) fn look(daemon: Option<u32>) -> Finding {
    let process = daemon.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    let limits = fs::read_to_string(format!("/proc/{process}/limits")).unwrap_or_default();
    // The daemon goes up to the hard limit.
    judge(hard_limit(&limits))
}

/// The hard limit on open files of a `/proc/PID/limits`; none if there is no limit.
fn hard_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn judge(limit: Option<u64>) -> Finding {
    const NAME: &str = "open-files";
    let Some(limit) = limit else {
        return Finding::ok(NAME, "no limit known", "each relayed connection takes two");
    };
    let connections = open_files::connections(limit);
    let meaning = format!(
        "each relayed connection takes two: room for about {connections} at a time, then new \
         ones are refused; what the kernel steers takes none"
    );
    if limit >= ENOUGH {
        return Finding::ok(NAME, limit, meaning);
    }
    let remedy = format!(
        "start edge with more: `ulimit -Hn {ENOUGH}` as root before it, or LimitNOFILE={ENOUGH} \
         in its systemd unit"
    );
    Finding::slower(NAME, limit, meaning, remedy)
}

#[cfg(test)]
mod tests {
    use super::{super::State, *};

    #[test]
    fn the_hard_limit_counts() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max processes             62788                62788                processes \n\
                    Max open files            1024                 20000                files     \n";
        assert_eq!(hard_limit(text), Some(20000));
        assert_eq!(hard_limit(&text.replace("20000", "unlimited")), None);
        assert_eq!(hard_limit(""), None);
    }

    #[test]
    fn few_files_are_few_connections() {
        let few = judge(Some(20_000));
        assert_eq!(few.state, State::Slower);
        assert!(few.meaning.contains("about 8750 "), "{}", few.meaning);
        assert_eq!(judge(Some(ENOUGH)).state, State::Ok);
        assert_eq!(judge(Some(10)).state, State::Slower);
    }
}
