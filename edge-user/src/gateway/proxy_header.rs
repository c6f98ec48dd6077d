//! The PROXY protocol's header, version 2: what a container is told of a client before the
//! client's first byte. Its specification comes with haproxy, as `proxy-protocol.txt`.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use proxy_header::{ProxiedAddress, ProxyHeader, SslInfo, Tlv};
use rustls::ServerConnection;
use tokio_rustls::server::TlsStream;

use super::buffered::Buffered;

/// The header for a TLS client that came from `peer`.
///
/// # Errors
/// If its connection broke, so that the address it dialled is unknown.
pub(super) fn of(client: &TlsStream<Buffered>, peer: SocketAddr) -> io::Result<Vec<u8>> {
    let (stream, tls) = client.get_ref();
    encode(peer, stream.tcp().local_addr()?, tls)
}

fn encode(peer: SocketAddr, local: SocketAddr, tls: &ServerConnection) -> io::Result<Vec<u8>> {
    let addresses = ProxiedAddress::stream(canonical(peer), canonical(local));
    let mut header = ProxyHeader::with_tlvs(Some(addresses), []);
    if let Some(protocol) = tls.alpn_protocol() {
        header.append_tlv(Tlv::Alpn(protocol.into()));
    }
    if let Some(name) = tls.server_name() {
        header.append_tlv(Tlv::Authority(name.into()));
    }
    header.append_tlv(Tlv::Ssl(ssl(tls)));
    let mut bytes = Vec::new();
    header.encode_v2(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}

fn ssl(tls: &ServerConnection) -> SslInfo<'static> {
    // No client certificate is asked for, and what was not presented is not verified.
    const NOT_VERIFIED: u32 = 1;
    let mut ssl = SslInfo::new(true, false, false, NOT_VERIFIED);
    if let Some(version) = tls.protocol_version() {
        let name = match version {
            rustls::ProtocolVersion::TLSv1_2 => "TLSv1.2",
            _ => "TLSv1.3",
        };
        ssl.append_tlv(Tlv::SslVersion(name.into()));
    }
    // By IANA's name; rustls writes TLS 1.3's differently.
    if let Some(name) = tls.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()) {
        ssl.append_tlv(Tlv::SslCipher(name.replace("TLS13_", "TLS_").into()));
    }
    ssl
}

/// The header's family is one for both ends.
fn canonical(address: SocketAddr) -> SocketAddr {
    let ip: IpAddr = address.ip().to_canonical();
    SocketAddr::new(ip, address.port())
}
