//! `edge check`: what edge finds on this machine, and what the daemon took of it.

use std::process::ExitCode;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use tabled::Tabled;
use tokio::net::UnixStream;

use super::{
    client::{connect, refusal},
    output,
};
use crate::{
    check::{self, Finding, Fix, Mended, State, Subject},
    cli::{CheckArgs, Place},
    daemon::machine,
    error::{Error, Kind},
    wire::admin::{StatusRequest, StatusResponse},
};

#[derive(Tabled)]
#[tabled(rename_all = "UPPERCASE")]
struct Row {
    state: &'static str,
    name: String,
    found: String,
}

/// Looks, mends if asked to, prints, and says by its exit code whether something is broken.
pub async fn check(place: &Place, args: &CheckArgs) -> Result<ExitCode, Error> {
    let daemon = daemon(place).await;
    let subject = Subject {
        uplinks: args.uplinks.clone(),
        underlays: args.underlays.clone(),
        container_mtu: daemon
            .as_ref()
            .ok()
            .map(|(status, _pid)| status.container_mtu)
            .filter(|mtu| *mtu != 0),
        raw_ports: args.raw_ports,
        pool: args.ipv4_pool,
        veth_prefix: machine::veth_prefix(place.instance.as_str()),
        wireguard_prefix: machine::wireguard_prefix(place.instance.as_str()),
        daemon: daemon.as_ref().ok().and_then(|(_status, pid)| *pid),
    };
    let mut all = if args.fix {
        check::mend(&subject).await?
    } else {
        check::look(&subject).await?.into_iter().map(Mended::from).collect()
    };
    let of_daemon = match daemon {
        Ok((status, _pid)) => took(status),
        Err(error) => {
            let found = if error.kind() == Kind::Refused { "it refuses" } else { "none answers" };
            vec![Finding::ok("daemon", found, error)]
        }
    };
    all.extend(of_daemon.into_iter().map(Mended::from));
    print(&all, args)?;
    if all.iter().any(|one| one.finding.state == State::Broken) {
        return Ok(ExitCode::from(Kind::Refused.exit_code()));
    }
    Ok(ExitCode::SUCCESS)
}

/// What the daemon says of itself, and its process.
async fn daemon(place: &Place) -> Result<(StatusResponse, Option<u32>), Error> {
    let reply = connect(place).await?.status(StatusRequest {}).await;
    let status = reply.map_err(|status| refusal(&status))?.into_inner();
    // The gRPC channel does not show its socket, so another one asks who is at the other end.
    let pid = UnixStream::connect(place.socket()).await.ok().and_then(|socket| {
        let pid = getsockopt(&socket, PeerCredentials).ok()?.pid();
        u32::try_from(pid).ok().filter(|pid| *pid != 0)
    });
    Ok((status, pid))
}

/// What it took of this machine.
fn took(status: StatusResponse) -> Vec<Finding> {
    let StatusResponse { version, region, domain, tls_port, metrics, uplinks, .. } = status;
    let is_host = status.role == "host";
    let found = if is_host {
        format!("edge {version}, region {region}: host {}", status.host)
    } else {
        format!("edge {version}, region {region}: https://*.{domain}:{tls_port}")
    };
    let meaning = match uplinks.len() {
        _ if is_host => format!("the gateways serve its tunnels; metrics at {metrics}"),
        0 => format!("no uplinks: tunnels answer on this machine only; metrics at {metrics}"),
        _ => format!("metrics at {metrics}"),
    };
    let mut findings = vec![Finding::ok("daemon", found, meaning)];
    let underlays = status.underlays.into_iter().map(|one| ("underlay", one));
    let all = uplinks.into_iter().map(|one| ("uplink", one)).chain(underlays);
    findings.extend(all.map(|(kind, uplink)| {
        let name = format!("daemon-{kind}:{}", uplink.interface);
        let found = format!("{} on {}: {}", uplink.hook, uplink.driver, uplink.addresses.join(" "));
        Finding::ok(name, found, format_args!("the daemon took it, because {}", uplink.why))
    }));
    findings
}

fn print(all: &[Mended], args: &CheckArgs) -> Result<(), Error> {
    let findings = || all.iter().map(|one| &one.finding);
    match (args.json, args.fix) {
        (true, true) => return output::json(&all),
        (true, false) => return output::json(&findings().collect::<Vec<_>>()),
        _ => {}
    }
    output::table(findings().map(Row::from).collect(), "nothing was looked at")?;
    for finding in findings() {
        let Finding { name, state, meaning, remedy, .. } = finding;
        // What is in order needs no words, but for what edge takes and why.
        if let Some(remedy) = remedy {
            output::print(format_args!("\n{} {name}: {meaning}\n  {remedy}", state.label()))?;
        } else if ["uplink:", "hook:", "daemon"].iter().any(|kind| name.starts_with(kind)) {
            output::print(format_args!("\n{name}: {meaning}"))?;
        }
    }
    for Mended { finding, fix } in all {
        if let Some(Fix { outcome, did, why }) = fix {
            let (outcome, name) = (outcome.label(), &finding.name);
            output::print(format_args!("\n{outcome} {name}: {why}"))?;
            did.iter().try_for_each(|line| output::print(format_args!("  {line}")))?;
        }
    }
    let count = |state| findings().filter(|finding| finding.state == state).count();
    let (broken, slower) = (count(State::Broken), count(State::Slower));
    output::print(format_args!("\n{broken} broken, {slower} slower, of {}", all.len()))
}

impl From<&Finding> for Row {
    fn from(finding: &Finding) -> Self {
        Self {
            state: finding.state.label(),
            name: finding.name.clone(),
            found: finding.found.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::admin::Uplink as AdminUplink;

    #[test]
    fn what_the_daemon_took_is_said_with_its_reason() {
        let uplink = AdminUplink {
            interface: "up0".into(),
            driver: "veth".into(),
            hook: "tcx".into(),
            why: "it is so".into(),
            addresses: vec!["192.0.2.1".into(), "2001:db8::1".into()],
        };
        let underlays = vec![AdminUplink { interface: "up1".into(), ..AdminUplink::default() }];
        let uplinks = vec![uplink];
        let status =
            StatusResponse { tls_port: 443, uplinks, underlays, ..StatusResponse::default() };
        let findings = took(status);
        assert_eq!(findings[1].name, "daemon-uplink:up0");
        assert_eq!(findings[1].found, "tcx on veth: 192.0.2.1 2001:db8::1");
        assert_eq!(findings[1].meaning, "the daemon took it, because it is so");
        assert_eq!(findings[2].name, "daemon-underlay:up1");
        let alone = StatusResponse { tls_port: 443, ..StatusResponse::default() };
        assert!(took(alone)[0].meaning.contains("this machine only"));
        let role = "host".to_owned();
        let host = took(StatusResponse { role, host: 7, ..StatusResponse::default() });
        assert!(host[0].found.ends_with("host 7"), "{host:?}");
    }
}
