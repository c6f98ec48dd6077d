//! Frames that have come to a container: counted, and dropped before its own stack, of which nothing
//! is measured.

use anyhow::{Context as _, Result};
use tests::{netns::NetNs, process::Start as _};

/// From now on, and from zero, of the frames that nft's expression matches.
pub(crate) fn count_and_drop(container: &NetNs, which: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let script = folder.path().join("drop.nft");
    let text = format!(
        "table netdev bench {{
}}
delete table netdev bench
table netdev bench {{
    counter arrived {{
    }}
    chain in {{
        type filter hook ingress device \"eth0\" priority 0
        {which} counter name arrived drop
    }}
}}
"
    );
    std::fs::write(&script, text)?;
    container.command("nft").arg("-f").arg(&script).output_of().ok();
    Ok(())
}

/// How many it has seen.
pub(crate) fn seen(container: &NetNs) -> Result<u64> {
    let mut command = container.command("nft");
    let text = command.args(["list", "counter", "netdev", "bench", "arrived"]).output_of().ok();
    let mut words = text.stdout.split_whitespace().skip_while(|word| *word != "packets");
    words.nth(1).and_then(|count| count.parse().ok()).context("nft shows no counter")
}
