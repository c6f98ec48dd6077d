//! One file a question; each measures edge side by side with the alternative, interleaved in the
//! same run, and leaves its result with the machine's description under `bench/runs/`.

mod decision;
mod machine;
mod raw_tunnel;
mod report;
mod tls_backend;
mod tls_bulk;
mod tls_client;
mod tls_cores;
mod tls_handshake;
mod tls_idle;
mod tls_latency;
mod tls_peers;
mod tls_scene;
mod tls_usage;

use anyhow::{Result, bail};

type Question = (&'static str, fn() -> Result<report::Report>);

const QUESTIONS: &[Question] = &[
    ("raw_tunnel", raw_tunnel::measure),
    ("decision", decision::measure),
    ("tls_full", tls_handshake::full),
    ("tls_resumed", tls_handshake::resumed),
    ("tls_download", tls_bulk::download),
    ("tls_upload", tls_bulk::upload),
    ("tls_idle", tls_idle::measure),
    ("tls_latency", tls_latency::measure),
];

fn main() -> Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    for name in &wanted {
        if !QUESTIONS.iter().any(|(known, _)| known == name) {
            let known: Vec<_> = QUESTIONS.iter().map(|(name, _)| *name).collect();
            bail!("benchmark {name}: there is none; choose from {}", known.join(", "));
        }
    }
    for (name, measure) in QUESTIONS {
        if wanted.is_empty() || wanted.iter().any(|one| one == name) {
            println!("{name}: measuring");
            let report = measure()?;
            report.print();
            report.save(name)?;
        }
    }
    Ok(())
}
