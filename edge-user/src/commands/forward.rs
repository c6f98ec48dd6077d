//! `edge forward`: what `modal.forward` is in Python, from a shell inside a container.

mod child;
#[cfg(test)]
mod tests;

use std::{ffi::OsString, io::Write, process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use tokio::time::timeout;
use tonic::{
    Code, Request, Status,
    transport::{Channel, Endpoint},
};

use self::child::Signals;
use super::client;
use crate::{
    cli::ForwardArgs,
    error::Error,
    host::api::SERVICE_ADDRESS,
    wire::modal::{
        TunnelStartRequest, TunnelStartResponse, TunnelStopRequest, TunnelType,
        modal_client_client::ModalClientClient,
    },
};

/// How long the API may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(3);
/// How long it may take to answer a call.
const CALL: Duration = Duration::from_secs(30);
/// How long a start that was interrupted may still take, so that its tunnel can be stopped.
const GIVE_UP: Duration = Duration::from_secs(2);
/// While the tunnel is held, the connection is probed as often; its end gives up ownership.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Makes a port of this container public, and holds the tunnel until a signal to end, or until
/// the command ends.
///
/// Without a command it prints the tunnel's URL and, if there is one, its TCP socket. With a
/// command it says so on stderr and puts them into the command's environment as `EDGE_URL` and
/// `EDGE_TCP`; the exit code is then the command's, or 128 and the signal that killed it.
///
/// # Errors
/// Outside a container; when the API refuses; when the command cannot be started.
pub async fn forward(args: ForwardArgs) -> anyhow::Result<ExitCode> {
    let url =
        std::env::var("MODAL_SERVER_URL").unwrap_or_else(|_| format!("http://{SERVICE_ADDRESS}"));
    let wanted = TunnelStartRequest {
        port: args.port.into(),
        unencrypted: args.unencrypted,
        tunnel_type: kind(args.h2),
        options: Some((&args.tunnel.asked()).into()),
    };
    forward_at(&url, wanted, args.command).await
}

async fn forward_at(
    url: &str,
    wanted: TunnelStartRequest,
    command: Vec<OsString>,
) -> anyhow::Result<ExitCode> {
    let port = wanted.port;
    // Before the tunnel starts, so that no signal leaves it behind.
    let mut signals = Signals::new().context("signals cannot be awaited")?;
    let mut client = connect(url).await?;
    let mut starting = std::pin::pin!(start(client.clone(), wanted));
    let outcome = tokio::select! {
        tunnel = &mut starting => hold(&tunnel?, command, signals).await,
        signal = signals.next() => {
            // What is stopped must be this tunnel, not one that another program holds.
            if !matches!(timeout(GIVE_UP, starting).await, Ok(Ok(_))) {
                return Ok(child::killed_by(signal));
            }
            Ok(child::killed_by(signal))
        }
    };
    // The container's end would stop it too; a failure here must not hide the command's outcome.
    if let Err(status) = client.tunnel_stop(TunnelStopRequest { port }).await {
        let error = status.message();
        tracing::warn!(port, error, "the tunnel could not be stopped");
    }
    outcome
}

async fn hold(
    tunnel: &TunnelStartResponse,
    command: Vec<OsString>,
    mut signals: Signals,
) -> anyhow::Result<ExitCode> {
    let (public, tcp) = (public_url(tunnel), tcp_socket(tunnel));
    let Some((program, arguments)) = command.split_first() else {
        say(&mut std::io::stdout(), &public, tcp.as_deref())?;
        signals.next().await;
        return Ok(ExitCode::SUCCESS);
    };
    say(&mut std::io::stderr(), &public, tcp.as_deref())?;
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).env("EDGE_URL", &public);
    if let Some(tcp) = &tcp {
        command.env("EDGE_TCP", tcp);
    }
    child::run(command, async move || signals.next().await).await
}

async fn connect(url: &str) -> anyhow::Result<ModalClientClient<Channel>> {
    let endpoint = Endpoint::from_shared(url.to_owned())
        .with_context(|| format!("MODAL_SERVER_URL={url} is no URL; unset it"))?
        .connect_timeout(CONNECT)
        .timeout(CALL)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true);
    let channel = endpoint.connect().await.with_context(|| {
        format!(
            "edge's API does not answer at {url}: `edge forward` works only inside a container \
             of edge; start one with `edge run`, or see whether the daemon runs"
        )
    })?;
    Ok(ModalClientClient::new(channel))
}

async fn start(
    mut client: ModalClientClient<Channel>,
    wanted: TunnelStartRequest,
) -> anyhow::Result<TunnelStartResponse> {
    let port = wanted.port;
    // One key for all attempts: a retry of a call that had succeeded gets the same tunnel.
    let key = format!("{:032x}", rand::random::<u128>());
    let mut delay = Duration::from_millis(100);
    for attempt in 0..4 {
        let mut request = Request::new(wanted.clone());
        request.metadata_mut().insert("x-idempotency-key", key.parse()?);
        request.metadata_mut().insert("x-retry-attempt", attempt.into());
        match client.tunnel_start(request).await {
            Ok(response) => return Ok(response.into_inner()),
            Err(status) if status.code() == Code::Unavailable && attempt < 3 => {
                tracing::debug!(attempt, error = status.message(), "trying again");
                tokio::time::sleep(delay).await;
                delay *= 2;
            }
            Err(status) => return Err(refusal(port, &status).into()),
        }
    }
    bail!("port {port} was not forwarded")
}

fn refusal(port: u32, status: &Status) -> Error {
    let remedy = match status.code() {
        Code::AlreadyExists => "; stop the program that forwards it, or choose another port",
        Code::PermissionDenied => "; start a container with `edge run`",
        _ => "",
    };
    let kind = client::refusal(status).kind();
    Error::relayed(kind, format!("port {port} was not forwarded: {}{remedy}", status.message()))
}

fn kind(h2: bool) -> i32 {
    if h2 { TunnelType::H2 } else { TunnelType::Unspecified }.into()
}

fn public_url(tunnel: &TunnelStartResponse) -> String {
    match tunnel.port {
        443 => format!("https://{}", tunnel.host),
        port => format!("https://{}:{port}", tunnel.host),
    }
}

fn tcp_socket(tunnel: &TunnelStartResponse) -> Option<String> {
    let (host, port) = (tunnel.unencrypted_host.as_deref()?, tunnel.unencrypted_port?);
    // An IPv6 address needs brackets before a port.
    Some(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
}

fn say(to: &mut impl Write, url: &str, tcp: Option<&str>) -> anyhow::Result<()> {
    let lines = match tcp {
        Some(tcp) => format!("{url}\ntcp://{tcp}\n"),
        None => format!("{url}\n"),
    };
    to.write_all(lines.as_bytes()).and_then(|()| to.flush()).context("the URL cannot be printed")
}
