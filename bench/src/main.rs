//! One file a question; each measures edge side by side with the alternative, interleaved in the
//! same run, and leaves its result with the machine's description under `bench/runs/`.

mod arrivals;
mod attacks;
mod cpu;
mod decision;
mod empty;
mod field;
mod frames;
mod hostile;
mod i6pn;
mod live;
mod load;
mod machine;
mod peers;
mod plot;
mod proxy;
mod raw;
mod readme;
mod report;
mod restart;
mod start;
mod summary;
mod tls;
mod trace;

use anyhow::Result;
use clap::{Parser, builder::PossibleValuesParser};
use report::Report;

/// What can be asked.
struct Question {
    name: &'static str,
    measure: fn(rounds: usize) -> Result<Report>,
    /// Unless the caller names another number.
    rounds: usize,
}

const QUESTIONS: &[Question] = &[
    Question { name: "raw", measure: raw::measure, rounds: 7 },
    Question { name: "i6pn", measure: i6pn::fast, rounds: 9 },
    Question { name: "i6pn_flows", measure: i6pn::wide, rounds: 5 },
    Question { name: "i6pn_delay", measure: i6pn::soon, rounds: 7 },
    Question { name: "i6pn_packets", measure: i6pn::many, rounds: 9 },
    Question { name: "decision", measure: decision::measure, rounds: 15 },
    Question { name: "live", measure: live::measure, rounds: 9 },
    Question { name: "start", measure: start::measure, rounds: 7 },
    Question { name: "tls", measure: tls::measure, rounds: 7 },
    Question { name: "hostile", measure: hostile::measure, rounds: 5 },
    Question { name: "trace", measure: trace::measure, rounds: 15 },
    Question { name: "proxy", measure: proxy::measure, rounds: 7 },
    Question { name: "proxy_spread", measure: proxy::spread, rounds: 5 },
    Question { name: "restart", measure: restart::measure, rounds: 15 },
];

#[derive(Parser)]
struct Options {
    /// What to ask; everything if nothing is named
    #[arg(value_parser = PossibleValuesParser::new(QUESTIONS.iter().map(|one| one.name)))]
    questions: Vec<String>,
    /// How often everything is measured; each question has a default
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Measure nothing: draw the plots and write the README's tables from the last results
    #[arg(long)]
    write_readme: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let wanted = |name: &str| {
        options.questions.is_empty() || options.questions.iter().any(|wanted| wanted == name)
    };
    for Question { name, measure, rounds } in QUESTIONS.iter().filter(|one| wanted(one.name)) {
        if options.write_readme {
            let report = Report::last(name)?;
            plot::draw(&report, name)?;
            readme::write(&report, name)?;
            continue;
        }
        println!("{name}: measuring");
        let report = measure(options.rounds.unwrap_or(*rounds))?;
        println!("{}\n{}\n", report.question, summary::markdown(&report));
        report.save(name)?;
        plot::draw(&report, name)?;
    }
    Ok(())
}
