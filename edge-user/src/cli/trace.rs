//! Options of `edge trace`.

use clap::{Args, builder::PossibleValuesParser};
use edge_common::verdict::Verdict;

/// In the place of all labels of refusals.
const REFUSED: &str = "refused";

/// Which decisions are printed, and how.
#[derive(Debug, Clone, Args)]
pub struct TraceArgs {
    /// Only what a container sends or is sent: its name, WORKSPACE/NAME, or its id
    #[arg(long, value_name = "CONTAINER")]
    pub container: Option<String>,
    /// Only this verdict, a label of the metrics, or "refused" for every refusal (repeatable)
    #[arg(long = "verdict", value_name = "VERDICT", value_parser = labels(),
          hide_possible_values = true)]
    verdicts: Vec<String>,
    /// One of so many of them, by each CPU
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub sample: u32,
    /// End after so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Print JSON, an object a line, for programs
    #[arg(long)]
    pub json: bool,
}

impl TraceArgs {
    /// Labels of the verdicts that are wanted; none for all.
    pub fn verdicts(&self) -> Vec<String> {
        let refusals = || Verdict::ALL.iter().filter(|verdict| verdict.is_refusal());
        let labels = self.verdicts.iter().flat_map(|label| match label.as_str() {
            REFUSED => refusals().map(|verdict| verdict.label().to_owned()).collect(),
            label => vec![label.to_owned()],
        });
        labels.collect()
    }
}

fn labels() -> PossibleValuesParser {
    let labels = Verdict::ALL.iter().map(|verdict| verdict.label());
    PossibleValuesParser::new(labels.chain([REFUSED]))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: TraceArgs,
    }

    #[test]
    fn refused_stands_for_every_refusal() {
        let line = Line::parse_from(["trace", "--verdict", "refused", "--verdict", "i6pn"]);
        let wanted = line.args.verdicts();
        assert!(wanted.iter().any(|label| label == "other_workspace"), "{wanted:?}");
        assert!(wanted.iter().any(|label| label == "i6pn"), "{wanted:?}");
        assert!(!wanted.iter().any(|label| label == "egress"), "{wanted:?}");
        assert!(Line::parse_from(["trace"]).args.verdicts().is_empty());
    }
}
