//! How long is TLS away when the daemon is killed? From `kill -9`, with the next daemon started at
//! once, to the first byte that comes back through a tunnel.

use std::{
    io::{Read as _, Write as _},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use tests::{lab::Lab, tenant::Tenant, tls};

use crate::{
    load::Server,
    machine::Machine,
    report::{Better, Measure, Report},
};

const PORT: u16 = 8000;
/// Longer than any restart.
const LEASE: [&str; 2] = ["--lease", "10m"];
/// Between two attempts of the client.
const PAUSE: Duration = Duration::from_millis(1);

pub(crate) fn measure(rounds: usize) -> Result<Report> {
    let machine = Machine::here();
    let mut lab = Lab::new(&LEASE);
    let port = PORT.to_string();
    let tenant = Tenant::new(&lab.edge, "server", &["--encrypted-port", &port]);
    let _server = Server::start(&tenant.netns, PORT)?;
    let url = lab.edge.tunnels()[0].url.clone();
    let (client, name) = (lab.tls(), tls::host(&url));
    let answer = || -> std::io::Result<()> {
        let mut stream = client.try_connect(name)?;
        stream.write_all(&[1])?;
        stream.read_exact(&mut [0])
    };
    answer()?;
    let mut away = Measure::new("kill -9 to the first TLS answer", "ms", Better::Less).apart();
    for _ in 0..rounds {
        let begun = Instant::now();
        let answered = std::thread::scope(|scope| {
            let client = scope.spawn(|| {
                lab_is_down(&answer);
                while answer().is_err() {
                    std::thread::sleep(PAUSE);
                }
                begun.elapsed()
            });
            lab.edge.kill9();
            lab.edge.start();
            client.join()
        });
        let Ok(answered) = answered else { anyhow::bail!("the client panicked") };
        away.push("one tunnel", answered.as_secs_f64() * 1e3);
    }
    ensure!(lab.edge.tunnels()[0].url == url, "the tunnel has another name now");
    Ok(Report {
        question: "How long is TLS away when the daemon is killed?".to_owned(),
        machine,
        measures: vec![away],
    })
}

/// Waits until a client is refused: what is measured begins with the kill.
fn lab_is_down(answer: &impl Fn() -> std::io::Result<()>) {
    while answer().is_ok() {
        std::thread::sleep(PAUSE);
    }
}
