//! Containers and tunnels that come and go.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use nix::sys::signal::Signal;
use rustls::AlertDescription;
use tests::{
    echo::dial,
    edge,
    exchange::{Exchange, exchange, part},
    lab::{Lab, PATIENCE},
    load::Load,
    process::Start as _,
    tenant::Tenant,
    tls::{alert, host},
};

use crate::{
    books::{Books, Greeter},
    sites::Sites,
};

/// Between two of them.
const BEAT: Duration = Duration::from_millis(50);

/// Adds all kinds of them to the load.
pub(crate) fn come<'scope>(
    load: &mut Load<'scope, '_>,
    lab: &'scope Lab,
    sites: &'scope Sites,
    books: &'scope Books,
) {
    forwarded(load, lab, sites, books);
    attached(load, lab, books);
    load.repeat("containers by `edge run`", BEAT, move || {
        let output = lab.edge.cli(&["run", "--", "true"]);
        if output.status.success() { Ok(()) } else { Err(output.to_string()) }
    });
}

/// Tunnels by `edge forward`, and clients who come whether there is one or not.
fn forwarded<'scope>(
    load: &mut Load<'scope, '_>,
    lab: &'scope Lab,
    sites: &'scope Sites,
    books: &'scope Books,
) {
    let name = Arc::new(Mutex::new("nobody.r1.localhost".to_owned()));
    let last = name.clone();
    let greeter = Greeter::new(lab, &books.greeted);
    load.repeat("tunnels by `edge forward`", BEAT, move || {
        let mut command = sites.forwarder.netns.command(edge::program());
        let mut forward = command.args(["forward", "--unencrypted", "9000"]).running();
        let url = forward.wait_line("https://", PATIENCE);
        let tcp = forward.wait_line("tcp://", PATIENCE);
        host(&url).clone_into(&mut last.lock().unwrap_or_else(PoisonError::into_inner));
        let raw = tcp.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        let raw = raw.ok_or_else(|| format!("no port in {tcp}"))?;
        visit(lab, books, &greeter, host(&url), raw).map_err(|error| error.to_string())?;
        forward.signal(Signal::SIGTERM);
        forward.wait(PATIENCE);
        Ok(())
    });
    let greeter = Greeter::new(lab, &books.greeted);
    load.repeat("clients of tunnels that come and go", Duration::from_millis(5), move || {
        let name = name.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Whatever becomes of it, but an answer has to come.
        match greeter.connect(&name) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err("no answer".to_owned());
            }
            Err(error) if alert(&error) == Some(AlertDescription::UnrecognisedName) => {
                books.unknown.one_more();
            }
            _ => {}
        }
        Ok(())
    });
}

/// Containers by `edge attach`, each with a tunnel that has a client.
fn attached<'scope>(load: &mut Load<'scope, '_>, lab: &'scope Lab, books: &'scope Books) {
    let greeter = Greeter::new(lab, &books.greeted);
    let mut names = (0..).map(|number| format!("guest{number}"));
    load.repeat("containers by `edge attach`", BEAT, move || {
        let name = names.next().ok_or("no more names")?;
        let tenant = Tenant::new(&lab.edge, &name, &["--unencrypted-port", "9000"]);
        let _server = Exchange::serve(&tenant.netns, 9000);
        let found = lab.edge.tunnels().into_iter().find(|tunnel| tunnel.container == name);
        let tunnel = found.ok_or("no tunnel of an attached container")?;
        let visited = visit(lab, books, &greeter, host(&tunnel.url), tunnel.raw_port());
        visited.map_err(|error| error.to_string())?;
        tenant.detach();
        Ok(())
    });
}

/// One client by TLS, and one by the userspace listener.
fn visit(lab: &Lab, books: &Books, greeter: &Greeter, name: &str, raw: u16) -> io::Result<()> {
    let mut client = books.guests_tls.enter(greeter.connect(name)?);
    exchange(&mut client, 100, 40_000, || {})?;
    part(client)?;
    let to = SocketAddr::new(Lab::PUBLIC_V6.parse().expect("an address"), raw);
    let mut client = books.guests_userspace.enter(dial(&lab.internet, to)?);
    exchange(&mut client, 40_000, 100, || {})?;
    part(client)
}
