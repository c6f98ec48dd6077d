//! What an expression of Prometheus's language asks for: enough of the language to find that in a
//! board's panels and in rules.

/// Words before a parenthesis with labels in it.
const OVER_LABELS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
/// Words between operands.
const BETWEEN: [&str; 5] = ["and", "or", "unless", "bool", "offset"];

/// What must have series for the expression to mean anything: each metric with its matchers; and
/// with each alternative of each matcher alone, so that a misspelt one does not hide behind others.
#[track_caller]
pub fn selectors(expression: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        if first == '[' {
            rest = &rest[closing(rest, ']')..];
        } else if first.is_ascii_alphabetic() || first == '_' {
            let (word, behind) = rest.split_at(end_of_word(rest));
            rest = behind.trim_start();
            match rest.chars().next() {
                Some('(') if OVER_LABELS.contains(&word) => rest = &rest[closing(rest, ')')..],
                // A function, or an aggregation with its labels before its operand.
                Some('(') => {}
                _ if OVER_LABELS.contains(&&rest[..end_of_word(rest)]) => {}
                _ if BETWEEN.contains(&word) => {}
                Some('{') => {
                    let (matchers, behind) = rest.split_at(closing(rest, '}'));
                    rest = behind;
                    found.push(format!("{word}{matchers}"));
                    found.extend(alternatives(word, matchers));
                }
                _ => found.push(word.to_owned()),
            }
        } else if first.is_ascii_digit() {
            // With the letters of 1e6 and 5m.
            rest = &rest[end_of_word(rest)..];
        } else {
            assert!(!"{\"'".contains(first), "a selector without a metric's name: {expression}");
            rest = &rest[first.len_utf8()..];
        }
    }
    found
}

/// `metric{label="one"}` for each plain alternative of each matcher.
fn alternatives(metric: &str, matchers: &str) -> Vec<String> {
    let plain = |value: &&str| value.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let mut found = Vec::new();
    // No value here holds a comma.
    for matcher in matchers.trim_matches(['{', '}']).split(',') {
        let Some((left, right)) = matcher.split_once('"') else { continue };
        let label = left.trim().trim_end_matches(['=', '~', '!']);
        let values = right.trim_end().trim_end_matches('"').split('|').filter(plain);
        found.extend(values.map(|value| format!("{metric}{{{label}=\"{value}\"}}")));
    }
    found
}

fn end_of_word(text: &str) -> usize {
    text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':').unwrap_or(text.len())
}

/// Where what begins here has ended.
#[track_caller]
fn closing(text: &str, end: char) -> usize {
    text.find(end).unwrap_or_else(|| panic!("no {end} behind {text}")) + end.len_utf8()
}
