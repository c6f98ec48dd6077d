//! One file a question; each measures edge side by side with the alternative, interleaved in the
//! same run, and leaves its result with the machine's description under `bench/runs/`.

mod decision;
mod machine;
mod raw_tunnel;
mod report;

use anyhow::{Result, bail};

type Question = (&'static str, fn() -> Result<report::Report>);

const QUESTIONS: &[Question] =
    &[("raw_tunnel", raw_tunnel::measure), ("decision", decision::measure)];

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
