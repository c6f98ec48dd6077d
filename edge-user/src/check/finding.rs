//! One finding, as it is printed.

use std::fmt;

use serde::Serialize;

use super::cure::{Cure, Step, line};

/// One thing that was looked at. Programs read this as JSON: names stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at; one thing keeps its name.
    pub name: String,
    /// How it is.
    pub state: State,
    /// What is there.
    pub found: String,
    /// What that means for edge.
    pub meaning: String,
    /// How to mend it; none if nothing is to be mended.
    pub remedy: Option<String>,
    /// What of that edge can do itself.
    #[serde(skip)]
    pub(super) cure: Cure,
}

/// How something is. Programs read these words: they stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// Edge works, with less than it could give.
    Slower,
    /// Edge does not start, or does not do all it promises.
    Broken,
}

impl State {
    /// The word for it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Slower => "slower",
            Self::Broken => "broken",
        }
    }
}

impl Finding {
    /// As it should be.
    pub fn ok(
        name: impl fmt::Display,
        found: impl fmt::Display,
        meaning: impl fmt::Display,
    ) -> Self {
        Self {
            name: name.to_string(),
            state: State::Ok,
            found: found.to_string(),
            meaning: meaning.to_string(),
            remedy: None,
            cure: Cure::None,
        }
    }

    /// Less than edge could give.
    pub fn slower(
        name: impl fmt::Display,
        found: impl fmt::Display,
        meaning: impl fmt::Display,
        remedy: impl fmt::Display,
    ) -> Self {
        let remedy = Some(remedy.to_string());
        Self { state: State::Slower, remedy, ..Self::ok(name, found, meaning) }
    }

    /// Less than edge could give, and steps that mend it: the remedy is their lines.
    pub(super) fn curable(
        name: impl fmt::Display,
        found: impl fmt::Display,
        meaning: impl fmt::Display,
        steps: Vec<Step>,
    ) -> Self {
        let remedy = line(&steps);
        Self { cure: Cure::Steps(steps), ..Self::slower(name, found, meaning, remedy) }
    }

    /// The same finding, of which `edge check --fix` says why it does not mend it.
    pub(super) fn left(self, why: impl fmt::Display) -> Self {
        Self { cure: Cure::Left(why.to_string()), ..self }
    }

    /// Not what edge promises.
    pub fn broken(
        name: impl fmt::Display,
        found: impl fmt::Display,
        meaning: impl fmt::Display,
        remedy: impl fmt::Display,
    ) -> Self {
        let remedy = Some(remedy.to_string());
        Self { state: State::Broken, remedy, ..Self::ok(name, found, meaning) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_names_and_words_are_stable() {
        let findings = [Finding::ok("a", 1, "b"), Finding::slower("c", 2, "d", "e")];
        let expected = serde_json::json!([
            { "name": "a", "state": "ok", "found": "1", "meaning": "b", "remedy": null },
            { "name": "c", "state": "slower", "found": "2", "meaning": "d", "remedy": "e" },
        ]);
        assert_eq!(serde_json::to_value(findings).unwrap(), expected);
        for state in [State::Ok, State::Slower, State::Broken] {
            assert_eq!(serde_json::to_value(state).unwrap(), state.label());
        }
    }
}
