//! Listings: a table for people, JSON for programs.

use std::{
    fmt,
    io::{self, Write},
};

use serde::Serialize;
use tabled::{
    Table, Tabled,
    settings::{Padding, Style},
};

use crate::{error::Error, wire::admin::Tunnel};

/// Prints rows as an aligned table, or says that there are none.
pub fn table<R: Tabled>(rows: Vec<R>, none: &str) -> Result<(), Error> {
    if rows.is_empty() {
        return print(none);
    }
    let mut table = Table::new(rows);
    table.with(Style::empty()).with(Padding::new(0, 2, 0, 0));
    let lines: Vec<_> = table.to_string().lines().map(|line| line.trim_end().to_owned()).collect();
    print(lines.join("\n"))
}

/// Prints a value as JSON.
pub fn json(value: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::failure("JSON", e, "report this as a bug"))?;
    print(text)
}

/// Prints a line. A reader that has seen enough, as `head` has, is no error.
pub fn print(text: impl fmt::Display) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::failure("stdout", error, "look at where the output goes"))
        }
        _ => Ok(()),
    }
}

/// A tunnel that came up, as `edge run` and `edge attach` announce it.
pub fn announcement(tunnel: &Tunnel) -> String {
    let mut text = format!("port {} → {}", tunnel.port, tunnel.url);
    if let Some(tcp) = &tunnel.tcp {
        text += &format!(", tcp {tcp}");
    }
    text
}

/// A cell that may be empty.
pub(super) fn or_dash(value: Option<&str>) -> String {
    value.filter(|text| !text.is_empty()).unwrap_or("-").to_owned()
}

/// A cell of a property that is there or not.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "as `tabled` calls it")]
pub(super) fn yes_or_dash(value: &bool) -> String {
    if *value { "yes" } else { "-" }.to_owned()
}

/// proto3 has no null for strings: an empty one means that there is nothing.
pub(super) fn non_empty(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raw_port_is_announced_too() {
        let mut tunnel =
            Tunnel { port: 8000, url: "https://a.localhost".into(), ..Tunnel::default() };
        assert_eq!(announcement(&tunnel), "port 8000 → https://a.localhost");
        tunnel.tcp = Some("localhost:20000".into());
        assert_eq!(announcement(&tunnel), "port 8000 → https://a.localhost, tcp localhost:20000");
    }
}
