//! What does a bystander feel of others' attacks? One-byte requests over TLS, on a connection that
//! stands and on new ones, while nothing else happens and under each attack in turn.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use tests::{
    edge::Tunnel,
    lab::Lab,
    tenant::Tenant,
    tls::{TlsClient, TlsStream, host},
};

use crate::{
    attacks::{ATTACKS, Attack, Scene, Signals},
    cpu,
    load::Server,
    machine::Machine,
    report::{Better, Measure, Report},
    summary::percentile,
};

/// How long each attack goes on in one round.
const TIME: Duration = Duration::from_secs(4);
/// From one request's begin to the next.
const PACE: Duration = Duration::from_millis(1);
/// From one new connection's begin to the next.
const NEW_PACE: Duration = Duration::from_millis(10);
/// Where the bystander's program listens.
const PORT: u16 = 8000;

pub(crate) fn measure(rounds: usize) -> Result<Report> {
    let machine = Machine::here();
    let lab = Lab::new(&[]);
    let port = PORT.to_string();
    let tenant = Tenant::new(&lab.edge, "bystander", &["--encrypted-port", &port]);
    let _server = Server::start(&tenant.netns, PORT)?;
    let tunnel = lab.edge.tunnels().pop().context("no tunnel")?;
    let scene = Scene::new(&lab)?;
    let mut measures = [
        Measure::new("request, p99", "ms", Better::Less),
        Measure::new("new connection and request, p99", "ms", Better::Less),
    ];
    for round in 1..=rounds {
        println!("round {round} of {rounds}");
        let felt = bystander(&lab, &tunnel, &scene, None)?;
        push(&mut measures, "quiet", felt);
        for attack in ATTACKS {
            let felt = bystander(&lab, &tunnel, &scene, Some(attack))?;
            push(&mut measures, attack.name, felt);
        }
    }
    Ok(Report {
        question: "What does a bystander feel of attacks?".to_owned(),
        machine,
        measures: measures.into(),
    })
}

fn push(measures: &mut [Measure; 2], name: &str, felt: [f64; 2]) {
    for (measure, value) in measures.iter_mut().zip(felt) {
        measure.push(name, value);
    }
}

/// Milliseconds, at the 99th percentile, of requests on a standing and on new connections.
fn bystander(
    lab: &Lab,
    tunnel: &Tunnel,
    scene: &Scene,
    attack: Option<&Attack>,
) -> Result<[f64; 2]> {
    let signals = Signals::default();
    let (client, name) = (lab.tls(), host(&tunnel.url));
    thread::scope(|scope| {
        let attacker = attack.map(|attack| scope.spawn(|| scene.run(attack, &signals)));
        // One that cannot begin ends, and says why below.
        while attacker.as_ref().is_some_and(|it| !signals.has_begun() && !it.is_finished()) {
            thread::sleep(PACE);
        }
        let standing = scope.spawn(|| standing(&client, name));
        let new = scope.spawn(|| new(&client, name));
        let felt = [standing.join(), new.join()];
        signals.stop();
        if let Some(attacker) = attacker {
            attacker.join().map_err(|_panic| anyhow!("an attacker panicked"))??;
        }
        let [standing, new] =
            felt.map(|felt| felt.map_err(|_panic| anyhow!("a bystander panicked")).flatten());
        Ok([standing?, new?])
    })
}

fn standing(client: &TlsClient, name: &str) -> Result<f64> {
    cpu::pin(cpu::CLIENT)?;
    let mut stream = client.try_connect(name)?;
    paced(PACE, || ask(&mut stream))
}

fn new(client: &TlsClient, name: &str) -> Result<f64> {
    cpu::pin(cpu::CLIENT)?;
    paced(NEW_PACE, || ask(&mut client.try_connect(name)?))
}

fn ask(stream: &mut TlsStream) -> Result<()> {
    use std::io::{Read as _, Write as _};
    stream.write_all(&[1])?;
    Ok(stream.read_exact(&mut [0])?)
}

/// Does the same again and again; a request that is late does not make the next one late, but
/// is measured from when it should have begun.
fn paced(pace: Duration, mut request: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut times = Vec::new();
    let begun = Instant::now();
    let mut due = begun;
    while due < begun + TIME {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let from = due.max(Instant::now().min(due + pace));
        request()?;
        times.push(from.elapsed().as_secs_f64() * 1e3);
        due += pace;
        // What was missed is not made up for.
        if let Some(late) = Instant::now().checked_duration_since(due) {
            due += pace * u32::try_from(late.as_nanos() / pace.as_nanos()).unwrap_or(u32::MAX);
        }
    }
    Ok(percentile(&mut times, 0.99))
}

/// Where the gateway serves TLS.
pub(crate) fn gateway() -> Result<SocketAddr> {
    Ok(SocketAddr::new(Lab::PUBLIC.parse()?, 443))
}
