//! Who may give commands: nobody from inside a container, whoever let it reach the socket.
//!
//! The socket's mode keeps strangers out, and `edge run` hides it from what it starts. An attached
//! namespace has whatever file system its owner gave it, and its root may be the machine's root.

use tonic::{Request, Status, transport::server::UdsConnectInfo};

use crate::host::{containers::Containers, netns::NetNs};

/// Lets a call pass unless its caller is in an attached container's network.
pub(super) fn from_host(
    containers: &Containers,
    request: Request<()>,
) -> Result<Request<()>, Status> {
    let peer = request.extensions().get::<UdsConnectInfo>();
    let pid = peer.and_then(|peer| peer.peer_cred).and_then(|credentials| credentials.pid());
    let pid = pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0);
    judge(containers, pid)?;
    Ok(request)
}

fn judge(containers: &Containers, pid: Option<u32>) -> Result<(), Status> {
    // A process that cannot be seen might be anybody's.
    let Some(pid) = pid else {
        return Err(refused("its process is not visible to the daemon (another PID namespace)"));
    };
    let found = NetNs::of_process(pid).and_then(|namespace| containers.by_namespace(&namespace));
    match found {
        Ok(None) => Ok(()),
        Ok(Some(attached)) => {
            let name = &attached.container.name;
            tracing::warn!(pid, container = attached.container.id, "a container gave a command");
            Err(refused(&format!("it is inside container {name:?}")))
        }
        Err(error) => Err(refused(&format!("the network of process {pid} is unknown: {error}"))),
    }
}

fn refused(cause: &str) -> Status {
    Status::permission_denied(format!(
        "caller: {cause}, and commands are for the host; run it on the host, or use `edge forward` \
         inside"
    ))
}
