//! `edge check`: what the daemon took of this machine, and why.

use serde::Serialize;
use tabled::Tabled;

use super::{
    client::{connect, refusal},
    output,
};
use crate::{
    cli::{ListArgs, Place},
    error::Error,
    wire::admin::{StatusRequest, StatusResponse},
};

/// The daemon's state as `--json` prints it. Programs read this: names stay.
#[derive(Debug, Serialize)]
struct Record {
    version: String,
    region: String,
    domain: String,
    tls_port: u32,
    metrics: String,
    uplinks: Vec<UplinkRecord>,
}

#[derive(Debug, Serialize)]
struct UplinkRecord {
    interface: String,
    driver: String,
    hook: String,
    why: String,
    addresses: Vec<String>,
}

#[derive(Tabled)]
#[tabled(rename_all = "UPPERCASE")]
struct Row {
    uplink: String,
    driver: String,
    hook: String,
    why: String,
    addresses: String,
}

/// Asks the daemon and prints what it says.
pub async fn check(place: &Place, args: ListArgs) -> Result<(), Error> {
    let reply = connect(place).await?.status(StatusRequest {}).await;
    let record = Record::from(reply.map_err(|status| refusal(&status))?.into_inner());
    if args.json {
        return output::json(&record);
    }
    let Record { version, region, domain, tls_port, metrics, uplinks } = record;
    output::print(format_args!(
        "edge {version}, region {region}: https://*.{domain}:{tls_port}, metrics at {metrics}"
    ))?;
    let none = "no uplinks: tunnels answer on this machine only";
    output::table(uplinks.into_iter().map(Row::from).collect(), none)
}

impl From<StatusResponse> for Record {
    fn from(status: StatusResponse) -> Self {
        let uplink = |uplink: crate::wire::admin::Uplink| UplinkRecord {
            interface: uplink.interface,
            driver: uplink.driver,
            hook: uplink.hook,
            why: uplink.why,
            addresses: uplink.addresses,
        };
        Self {
            version: status.version,
            region: status.region,
            domain: status.domain,
            tls_port: status.tls_port,
            metrics: status.metrics,
            uplinks: status.uplinks.into_iter().map(uplink).collect(),
        }
    }
}

impl From<UplinkRecord> for Row {
    fn from(uplink: UplinkRecord) -> Self {
        Self {
            uplink: uplink.interface,
            driver: uplink.driver,
            hook: uplink.hook,
            why: uplink.why,
            addresses: uplink.addresses.join(" "),
        }
    }
}
