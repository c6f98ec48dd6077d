//! Who may give commands: nobody from inside a container, whoever let it reach the socket.
//!
//! The socket's mode keeps strangers out, and `edge run` hides it from what it starts. An attached
//! namespace has whatever file system its owner gave it, and its root may be the machine's root.

use tonic::{Request, Status, transport::server::UdsConnectInfo};

use crate::host::{containers::Containers, netns::NetNs};

/// Who is at the other end of the socket.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Caller {
    /// The host.
    Host,
    /// This container, by name and id.
    Container {
        /// As its owner calls it.
        name: String,
        /// Unique.
        id: String,
    },
    /// A process that cannot be seen might be anybody's; why it cannot.
    Unknown(String),
}

impl Caller {
    /// Whoever has this process id.
    pub(super) fn of(containers: &Containers, pid: Option<i32>) -> Self {
        let pid = pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0);
        let Some(pid) = pid else {
            let why = "its process is not visible to the daemon (another PID namespace)";
            return Self::Unknown(why.into());
        };
        let namespace = NetNs::of_process(pid);
        match namespace.and_then(|namespace| containers.by_namespace(&namespace)) {
            Ok(None) => Self::Host,
            Ok(Some(attached)) => {
                let container = &attached.container;
                Self::Container { name: container.name.clone(), id: container.id.clone() }
            }
            Err(error) => {
                Self::Unknown(format!("the network of process {pid} is unknown: {error}"))
            }
        }
    }
}

/// Lets a call pass unless its caller is in an attached container's network.
pub(super) fn from_host(
    containers: &Containers,
    request: Request<()>,
) -> Result<Request<()>, Status> {
    let peer = request.extensions().get::<UdsConnectInfo>();
    let credentials = peer.and_then(|peer| peer.peer_cred);
    match Caller::of(containers, credentials.and_then(|credentials| credentials.pid())) {
        Caller::Host => Ok(request),
        Caller::Container { name, id } => {
            tracing::warn!(container = id, "a container gave a command");
            Err(refused(&format!("it is inside container {name:?}")))
        }
        Caller::Unknown(why) => Err(refused(&why)),
    }
}

/// Whether it is root who calls, not only a member of the daemon's group.
pub(super) fn is_root<T>(request: &Request<T>) -> bool {
    let peer = request.extensions().get::<UdsConnectInfo>();
    peer.and_then(|peer| peer.peer_cred).is_some_and(|credentials| credentials.uid() == 0)
}

fn refused(cause: &str) -> Status {
    Status::permission_denied(format!(
        "caller: {cause}, and commands are for the host; run it on the host, or use `edge forward` \
         inside"
    ))
}
