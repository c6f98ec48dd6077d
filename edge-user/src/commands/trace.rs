//! `edge trace`: what is decided about packets, a line each.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    time::{Duration, UNIX_EPOCH},
};

use serde::Serialize;

use super::client::{connect, refusal};
use crate::{
    cli::{Place, TraceArgs},
    error::{Error, say},
    wire::admin::{Decision, End, TraceRequest},
};

/// A decision as `--json` prints it, in one line. Programs read this: names stay.
#[derive(Debug, Serialize)]
struct Record {
    /// RFC 3339, UTC.
    time: String,
    hook: String,
    interface: String,
    verdict: String,
    why: String,
    source: Option<Party>,
    source_public: Option<Party>,
    destination: Option<Party>,
    destination_container: Option<Party>,
    protocol: Option<String>,
    bytes: u32,
    out: Option<String>,
    host: Option<u32>,
}

/// One end of a packet's way.
#[derive(Debug, Serialize)]
struct Party {
    address: String,
    port: Option<u32>,
    workspace: Option<String>,
    container: Option<String>,
}

/// Prints decisions, until interrupted or until there were as many as were asked for.
pub async fn trace(place: &Place, args: &TraceArgs) -> Result<(), Error> {
    let request = TraceRequest {
        container: args.container.clone().unwrap_or_default(),
        verdicts: args.verdicts(),
        sample: args.sample,
    };
    let mut client = connect(place).await?;
    let call = client.trace(request).await.map_err(|status| refusal(&status))?;
    let mut events = call.into_inner();
    let (mut left, mut begun) = (args.count.unwrap_or(u64::MAX), false);
    while let Some(heard) = events.message().await.map_err(|status| refusal(&status))? {
        if !begun {
            say("trace: it has begun; Ctrl-C ends it");
            begun = true;
        }
        let mut lines = String::new();
        for decision in heard.decisions {
            lines += &if args.json { json(decision)? } else { line(&decision) };
            lines.push('\n');
            left -= 1;
            if left == 0 {
                break;
            }
        }
        if !print(&lines)? || left == 0 {
            return Ok(());
        }
        if heard.lost != 0 {
            say(format_args!(
                "trace: {} more were decided than could be told; ask for fewer with --container, \
                 --verdict or --sample",
                heard.lost
            ));
        }
    }
    Err(Error::failure("daemon", "it ended", "give the command again when there is one"))
}

/// Whether anybody still reads.
fn print(text: &str) -> Result<bool, Error> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::failure("stdout", error, "look at where the output goes")),
    }
}

/// `TIME HOOK@INTERFACE WHO → TO WHOM, PROTOCOL, BYTES: VERDICT (WHY)`.
fn line(decision: &Decision) -> String {
    let Decision { hook, interface, verdict, sentence, protocol, bytes, host, .. } = decision;
    let mut line = format!("{} {hook}@{interface} ", time(decision.time));
    // Writing to a string cannot fail.
    let mut add = |text: std::fmt::Arguments<'_>| line.write_fmt(text).unwrap_or_default();
    match (&decision.source, &decision.destination) {
        (Some(source), Some(destination)) => {
            add(format_args!("{}", end(source)));
            if let Some(public) = &decision.source_public {
                add(format_args!(" ({})", end(public)));
            }
            add(format_args!(" → {}", end(destination)));
            if let Some(container) = &decision.destination_container {
                add(format_args!(" ({})", end(container)));
            }
            add(format_args!(", {protocol}"));
        }
        _ => add(format_args!("unreadable headers")),
    }
    add(format_args!(", {bytes} B"));
    if *host != 0 {
        add(format_args!(", host {host}"));
    }
    add(format_args!(": {verdict} ({sentence})"));
    line
}

/// Who it is, if that is known, else its address.
fn end(end: &End) -> String {
    let name = match (end.workspace.as_str(), end.container.as_str()) {
        (_, "") if end.port != 0 && end.address.contains(':') => format!("[{}]", end.address),
        (_, "") => end.address.clone(),
        ("", name) => name.to_owned(),
        (workspace, name) => format!("{workspace}/{name}"),
    };
    if end.port == 0 { name } else { format!("{name}:{}", end.port) }
}

/// As the daemon's log has it.
fn time(nanoseconds: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_nanos(nanoseconds);
    humantime::format_rfc3339_micros(time).to_string()
}

fn json(decision: Decision) -> Result<String, Error> {
    serde_json::to_string(&Record::from(decision))
        .map_err(|e| Error::failure("JSON", e, "report this as a bug"))
}

/// The contract has no text where there is none to say.
fn non_empty(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

impl From<Decision> for Record {
    fn from(decision: Decision) -> Self {
        Self {
            time: time(decision.time),
            hook: decision.hook,
            interface: decision.interface,
            verdict: decision.verdict,
            why: decision.sentence,
            source: decision.source.map(Party::from),
            source_public: decision.source_public.map(Party::from),
            destination: decision.destination.map(Party::from),
            destination_container: decision.destination_container.map(Party::from),
            protocol: non_empty(decision.protocol),
            bytes: decision.bytes,
            out: non_empty(decision.out),
            host: Some(decision.host).filter(|host| *host != 0),
        }
    }
}

impl From<End> for Party {
    fn from(end: End) -> Self {
        Self {
            address: end.address,
            port: Some(end.port).filter(|port| *port != 0),
            workspace: non_empty(end.workspace),
            container: non_empty(end.container),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(workspace: &str, container: &str, port: u32) -> Option<End> {
        let (workspace, container) = (workspace.to_owned(), container.to_owned());
        Some(End { address: "100.64.0.2".to_owned(), port, workspace, container })
    }

    fn unknown(address: &str, port: u32) -> Option<End> {
        Some(End { address: address.to_owned(), port, ..End::default() })
    }

    #[test]
    fn a_line_says_who_to_whom_where_and_why() {
        let decision = Decision {
            time: 1_700_000_000_123_456_789,
            hook: "xdp_uplink".to_owned(),
            interface: "eth0".to_owned(),
            verdict: "tunnel".to_owned(),
            sentence: "to a tunnel".to_owned(),
            source: unknown("2001:db8::1", 40_000),
            destination: unknown("192.0.2.1", 20_000),
            destination_container: known("main", "web", 8000),
            protocol: "tcp".to_owned(),
            bytes: 74,
            ..Decision::default()
        };
        assert_eq!(
            line(&decision),
            "2023-11-14T22:13:20.123456Z xdp_uplink@eth0 [2001:db8::1]:40000 → 192.0.2.1:20000 \
             (main/web:8000), tcp, 74 B: tunnel (to a tunnel)"
        );
        let reply = Decision {
            source: known("main", "web", 8000),
            source_public: unknown("192.0.2.1", 20_000),
            destination: known("", "edge", 53),
            destination_container: None,
            host: 3,
            ..decision
        };
        assert!(
            line(&reply)
                .contains(" main/web:8000 (192.0.2.1:20000) → edge:53, tcp, 74 B, host 3: "),
            "{}",
            line(&reply)
        );
        let broken = Decision { source: None, destination: None, ..reply };
        assert!(line(&broken).contains("xdp_uplink@eth0 unreadable headers, 74 B, host 3: "));
    }

    #[test]
    fn json_names_and_nulls_are_stable() {
        let source = unknown("192.0.2.1", 0);
        let record = Record::from(Decision { source, ..Decision::default() });
        let party = serde_json::json!({
            "address": "192.0.2.1", "port": null, "workspace": null, "container": null,
        });
        let expected = serde_json::json!({
            "time": "1970-01-01T00:00:00.000000Z", "hook": "", "interface": "", "verdict": "",
            "why": "", "source": party, "source_public": null, "destination": null,
            "destination_container": null, "protocol": null, "bytes": 0, "out": null, "host": null,
        });
        assert_eq!(serde_json::to_value(record).unwrap(), expected);
    }
}
