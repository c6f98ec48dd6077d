//! What do more addresses bring? The same container's load under one address, and spread over up to
//! five of one gateway.

use anyhow::{Context as _, Result};
use tests::{
    lab::PATIENCE,
    process::wait_for,
    region::{Plan, Region, Scene, Underlay},
    tenant::Tenant,
};

use super::NETWORK;
use crate::{
    field::{self, Path},
    i6pn::ways::Way,
    load,
    machine::Machine,
    raw::{MANY, WHILE, bulk},
    report::{Better, Measure, Report},
};

/// Most addresses of a proxy.
const MOST: usize = 5;

pub(crate) fn measure(rounds: usize) -> Result<Report> {
    let machine = Machine::here();
    let region = Plan::over(Underlay::V4).hosts(1);
    let region = region.gateway_arguments_more(&["--proxy-addresses", NETWORK]).up();
    // Ten and five more; no two proxies have one in common.
    let mut last = 65..80;
    let mut proxied: Vec<(usize, Tenant)> = Vec::new();
    for count in 1..=MOST {
        let ips: Vec<_> =
            last.by_ref().take(count).map(|last| format!("--ip=192.0.2.{last}")).collect();
        let name = proxy(count);
        let mut words = vec!["proxy", "create", &name, "--spread", "flow"];
        words.extend(ips.iter().map(String::as_str));
        region.gateway().edge.cli(&words).ok();
        proxied.push((count, region.hosts[0].tenant(&name, &["--proxy", &name])));
    }
    let (_, first) = proxied.first().context("a container")?;
    let way = Way::new(&label(1), [&first.netns, &region.scene.internet], Scene::CLIENT, ())?;
    let paths: Vec<_> = proxied
        .iter()
        .map(|(count, tenant)| {
            field::tune(&tenant.netns);
            let Path { bulk, echo, socks, .. } = way.path;
            Path { name: label(*count), from: tenant.netns.clone(), bulk, echo, socks }
        })
        .collect();
    for path in &paths {
        path.wait()?;
    }
    let mut measures = [
        Measure::new("16 streams out", "Gbit/s", Better::More),
        Measure::new("CPU of the whole machine", "s/GB", Better::Less),
        Measure::new("new connections", "1/s", Better::More),
        Measure::new("of them under the busiest address, beside an even share", "×", Better::Less),
    ];
    field::interleaved(rounds, paths.iter(), &mut measures, |path| once(&region, path))?;
    let question = "What do more outbound addresses bring?".to_owned();
    Ok(Report { question, machine, measures: measures.into() })
}

fn once(region: &Region, path: &Path) -> Result<[f64; 4]> {
    let streams = bulk(path, &["--parallel", "16"])?;
    let count = (1..=MOST).find(|count| label(*count) == path.name).context("a proxy")?;
    let before = connections(region, count)?;
    let new = load::new_connections(&path.from, path.echo(), MANY, WHILE)?;
    let after = connections(region, count)?;
    let begun: Vec<_> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
    #[expect(clippy::cast_precision_loss, reason = "five at most")]
    let share = begun.iter().sum::<f64>() / begun.len() as f64;
    let busiest = begun.iter().copied().fold(0.0, f64::max);
    Ok([streams.gigabits, streams.cpu, new, busiest / share])
}

/// How many have begun under each address.
fn connections(region: &Region, count: usize) -> Result<Vec<f64>> {
    let shown = wait_for("the gateway's counters", PATIENCE, || {
        let shown = region.gateway().edge.proxy(&proxy(count));
        shown["ips"][0]["traffic"].is_object().then_some(shown)
    });
    let ips = shown["ips"].as_array().context("addresses")?;
    ips.iter().map(|ip| ip["traffic"]["connections"].as_f64().context("a counter")).collect()
}

fn proxy(count: usize) -> String {
    format!("spread{count}")
}

fn label(count: usize) -> String {
    format!("{count} {}", if count == 1 { "address" } else { "addresses" })
}
