//! The control plane's listener on a gateway, and what the gateway itself asks of it.

mod stream;

use std::{fmt, path::Path, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use self::stream::CallerStream;
use super::{
    claims::{ClaimError, Claims, Terms},
    identity::{Authority, Credentials, IdentityError, Membership, Peer, public_key_hash},
    mirror::Mirror,
    registry::{Follower, Registry},
    roster::{RegionSettings, Role},
    service::{CountTraffic, RegionService},
    session::Sessions,
    store::{Store, StoreError},
    tls,
    token::{self, JoinToken},
};
use crate::wire::region::region_server::RegionServer;

/// How long a handshake may take, and how many may be under way.
const HANDSHAKE: Duration = Duration::from_secs(10);
const HANDSHAKES: usize = 256;
/// Bytes of a message: a host with ten thousands of containers announces them in one.
pub(super) const MESSAGE: usize = 64 << 20;

/// The control plane of a gateway.
pub struct ControlPlane<R> {
    service: Arc<RegionService<R>>,
    tls: TlsAcceptor,
}

impl<R> fmt::Debug for ControlPlane<R> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("ControlPlane").field("service", &self.service).finish_non_exhaustive()
    }
}

/// Why a gateway's control plane does not begin, or cannot do what it is asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// A key or certificate.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A claim was refused.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The server ended.
    #[error("the control plane's server ended: {0}; restart the gateway")]
    Server(#[from] tonic::transport::Error),
}

impl<R: Registry> ControlPlane<R> {
    /// Opens the region's state: writes the settings, adopts the tunnels that are there, and
    /// opens those whose hosts are. Nothing is served yet.
    ///
    /// # Errors
    /// When the store or the authority cannot be used.
    pub async fn open(
        store: Arc<dyn Store>,
        authority: Arc<Authority>,
        settings: &RegionSettings,
        terms: Terms,
        registry: Arc<R>,
        shutdown: CancellationToken,
    ) -> Result<Self, ControlError> {
        let claims = Arc::new(Claims::new(store.clone(), terms));
        claims.settle(settings).await?;
        let mirror = Mirror::start(store, shutdown.clone()).await?;
        let tunnels = Follower::start(registry, mirror.clone(), shutdown.clone()).await;
        let tls = TlsAcceptor::from(tls::listener(&authority)?);
        let sessions = Sessions::default();
        let service = RegionService::new(authority, claims, mirror, tunnels, sessions, shutdown);
        Ok(Self { service: Arc::new(service), tls })
    }

    /// Serves hosts until the shutdown.
    ///
    /// # Errors
    /// When the server fails.
    pub async fn serve(&self, listener: TcpListener) -> Result<(), ControlError> {
        let (connections, accepted) = mpsc::channel(HANDSHAKES);
        let shutdown = self.service.shutdown.clone();
        let accepting = accept(listener, self.tls.clone(), connections, shutdown.clone());
        let accepting = tokio::spawn(accepting);
        let service = RegionServer::new(self.service.clone())
            .max_decoding_message_size(MESSAGE)
            .max_encoding_message_size(MESSAGE);
        Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(10)))
            .http2_keepalive_timeout(Some(Duration::from_secs(10)))
            .max_concurrent_streams(256)
            .add_service(service)
            .serve_with_incoming_shutdown(ReceiverStream::new(accepted), shutdown.cancelled_owned())
            .await?;
        accepting.abort();
        self.service.tasks.close();
        self.service.tasks.wait().await;
        Ok(())
    }

    /// Makes a join token: what `edge token create` prints. It names the region's other gateways
    /// that are there, too.
    ///
    /// # Errors
    /// The store's own.
    pub async fn create_token(
        &self,
        mut endpoints: Vec<String>,
        ttl: Duration,
        uses: u32,
    ) -> Result<JoinToken, ControlError> {
        let RegionService { claims, authority, mirror, .. } = &*self.service;
        for other in mirror.read(|state| state.control()) {
            if !endpoints.contains(&other) {
                endpoints.push(other);
            }
        }
        Ok(token::create(claims.store(), authority, endpoints, ttl, uses).await?)
    }

    /// Credentials for the gateway's own membership, without a token: made once, and kept by the
    /// caller like those of any host.
    ///
    /// # Errors
    /// When no number is left, or a certificate cannot be made.
    pub async fn own_credentials(
        &self,
        endpoints: Vec<String>,
    ) -> Result<Credentials, ControlError> {
        let RegionService { claims, authority, .. } = &*self.service;
        new_credentials(claims, authority, endpoints).await
    }

    /// Takes all from a host that is gone for good. Answers whether there was one.
    ///
    /// # Errors
    /// The store's own.
    pub async fn forget(&self, host: u16) -> Result<bool, ControlError> {
        Ok(self.service.claims.forget(host).await?)
    }

    /// Who knows what went under the addresses that this gateway serves.
    pub fn count_traffic_by(&self, count: CountTraffic) {
        // A second one would know the same.
        self.service.traffic.set(count).ok();
    }

    /// Where the region's state is.
    pub fn store(&self) -> &Arc<dyn Store> {
        self.service.claims.store()
    }

    /// The region's state: what `edge hosts` shows comes from here.
    pub fn mirror(&self) -> &Arc<Mirror> {
        &self.service.mirror
    }

    /// How far the hosts with a session at this gateway have followed.
    pub fn sessions(&self) -> &Sessions {
        &self.service.sessions
    }
}

/// A gateway's own credentials: those that are kept in `dir`, renewed, or new ones if there are
/// none or the region does not know them.
///
/// # Errors
/// As for [`ControlPlane::own_credentials`], and if they cannot be kept.
pub async fn own(
    claims: &Claims,
    authority: &Authority,
    dir: &Path,
    endpoints: Vec<String>,
) -> Result<Credentials, ControlError> {
    if let Some(mut kept) = Credentials::load(dir)?
        && let Some(peer) = Peer::of(&kept.certificate)
    {
        match claims.record(peer.id).await {
            Ok(record) if record.key == peer.key_hash() && record.role == Role::Gateway => {
                kept.certificate = authority.renew(Role::Gateway, peer.id, &peer.public_key)?;
                kept.membership.endpoints = endpoints;
                kept.save(dir)?;
                return Ok(kept);
            }
            Ok(_) | Err(ClaimError::UnknownHost(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let new = new_credentials(claims, authority, endpoints).await?;
    new.save(dir)?;
    Ok(new)
}

async fn new_credentials(
    claims: &Claims,
    authority: &Authority,
    endpoints: Vec<String>,
) -> Result<Credentials, ControlError> {
    use rcgen::PublicKeyData as _;

    let failed = |source| IdentityError::Sign { name: "this gateway".to_owned(), source };
    let key = rcgen::KeyPair::generate().map_err(failed)?;
    let public_key = key.subject_public_key_info();
    let host = claims.admit_gateway(&public_key_hash(&public_key)).await?;
    let certificate = authority.renew(Role::Gateway, host, &public_key)?;
    let membership = Membership { region: authority.region().to_owned(), host, endpoints };
    let root = authority.certificate().clone();
    Ok(Credentials::new(&key, certificate, root, membership))
}

async fn accept(
    listener: TcpListener,
    tls: TlsAcceptor,
    connections: mpsc::Sender<std::io::Result<CallerStream>>,
    shutdown: CancellationToken,
) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection to the control plane was not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(permit) = handshakes.clone().acquire_owned().await else { return };
        let (tls, connections) = (tls.clone(), connections.clone());
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE, handshake(stream, &tls)).await {
                Ok(Ok(stream)) => {
                    // A server that stops needs no more connections.
                    connections.send(Ok(CallerStream::new(stream, address))).await.ok();
                }
                Ok(Err(error)) => tracing::debug!(%address, %error, "no handshake"),
                Err(_elapsed) => tracing::debug!(%address, "no handshake in time"),
            }
            drop(permit);
        });
    }
}

async fn handshake(
    stream: TcpStream,
    tls: &TlsAcceptor,
) -> std::io::Result<tokio_rustls::server::TlsStream<TcpStream>> {
    stream.set_nodelay(true)?;
    tls.accept(stream).await
}
