//! A server that speaks HTTP/2 without TLS from the first byte, as the programs behind HTTP/2
//! tunnels must. It prints every request, and answers with what it printed.
//!
//! Usage: `h2c_server PORT`

use anyhow::Context;
use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let port = std::env::args().nth(1).context("usage: h2c_server PORT")?.parse()?;
    let listener = TcpListener::bind(("0.0.0.0", port)).await?;
    println!("listening");
    loop {
        let (client, _) = listener.accept().await?;
        tokio::spawn(async move {
            if let Err(error) = serve(client).await {
                println!("connection over: {error:#}");
            }
        });
    }
}

async fn serve(client: TcpStream) -> anyhow::Result<()> {
    let mut connection = h2::server::handshake(client).await?;
    while let Some(request) = connection.accept().await {
        let (request, mut respond) = request?;
        let line = format!("{} {}", request.method(), request.uri());
        println!("{line}");
        let response = http::Response::builder().status(200).body(())?;
        respond.send_response(response, false)?.send_data(Bytes::from(line + "\n"), true)?;
    }
    Ok(())
}
