//! The way to the daemon: gRPC over its unix socket, and its answers put in words.

use std::{error::Error as StdError, io, os::unix::fs::MetadataExt, path::Path};

use nix::unistd::{Gid, Group};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    cli::{ContainerArgs, Place},
    error::{Error, Kind, causes},
    wire::admin::{AttachRequest, admin_client::AdminClient},
};

/// Connects to the daemon that is meant.
pub async fn connect(place: &Place) -> Result<AdminClient<Channel>, Error> {
    channel(place).await.map(AdminClient::new)
}

/// The same, for whatever it serves.
pub async fn channel(place: &Place) -> Result<Channel, Error> {
    let socket = place.socket();
    let unusable = |cause: &dyn StdError| {
        Error::failure(socket.display(), cause, "give --run-dir a plain absolute path")
    };
    let endpoint =
        Endpoint::from_shared(format!("unix://{}", socket.display())).map_err(|e| unusable(&e))?;
    match endpoint.connect().await {
        Ok(channel) => Ok(channel),
        Err(error) => Err(unreachable_daemon(&socket, place, &error)),
    }
}

/// Puts a call's failure in words. The daemon's own sentences already have their shape.
pub fn refusal(status: &Status) -> Error {
    let message = status.message();
    match status.code() {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unauthenticated => Error::relayed(Kind::Refused, message),
        Code::Unimplemented => Error::new(
            Kind::Refused,
            "daemon",
            "it does not know this call, so it is of another version",
            "restart it with the `edge` that you typed",
        ),
        Code::Internal => Error::relayed(Kind::Failure, message),
        code => Error::failure(
            "daemon",
            format_args!("the call broke off ({code:?}: {message})"),
            "see the log of `edge up`",
        ),
    }
}

/// What `edge run` and `edge attach` ask for; whose namespace it is comes from the caller.
pub fn attach_request(args: &ContainerArgs) -> AttachRequest {
    let wide = |ports: &[u16]| ports.iter().copied().map(u32::from).collect();
    AttachRequest {
        name: args.name.as_ref().map(ToString::to_string).unwrap_or_default(),
        workspace: args.workspace.to_string(),
        encrypted_ports: wide(&args.encrypted_ports),
        h2_ports: wide(&args.h2_ports),
        unencrypted_ports: wide(&args.unencrypted_ports),
        native_ipv6: args.native_ipv6,
        no_egress: args.no_egress,
        i6pn: args.i6pn,
        proxy: args.proxy.as_ref().map(ToString::to_string).unwrap_or_default(),
        options: Some((&args.tunnel.asked()).into()),
        ..AttachRequest::default()
    }
}

fn unreachable_daemon(socket: &Path, place: &Place, error: &(dyn StdError + 'static)) -> Error {
    let start = match place.instance.as_str() {
        "default" => "start it with `edge up`".to_owned(),
        name => format!("start it with `edge --instance {name} up`"),
    };
    let kind = anyhow::Chain::new(error)
        .find_map(|error| error.downcast_ref::<io::Error>())
        .map(io::Error::kind);
    match kind {
        Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Error::failure(
            "daemon",
            format_args!("none answers at {}", socket.display()),
            format_args!("{start}, or name another with --instance or --run-dir"),
        ),
        Some(io::ErrorKind::PermissionDenied) => Error::failure(
            socket.display(),
            "you may not use it",
            match owning_group(socket) {
                Some(group) => format!("join the group {group} and log in again, or use sudo"),
                None => "use sudo, or start the daemon with --group".to_owned(),
            },
        ),
        _ => Error::failure(socket.display(), causes(error), start),
    }
}

/// The group that may use the socket, if that is anyone but root's own.
fn owning_group(socket: &Path) -> Option<String> {
    // Where not even the socket may be seen, its directory shows the group.
    let metadata =
        socket.metadata().ok().or_else(|| socket.parent().and_then(|dir| dir.metadata().ok()))?;
    let gid = Gid::from_raw(metadata.gid());
    if gid.as_raw() == 0 {
        return None;
    }
    Some(Group::from_gid(gid).ok().flatten().map_or_else(|| gid.to_string(), |group| group.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_no_of_the_daemon_is_not_a_failure() {
        let no = refusal(&Status::already_exists("web: the name is taken; choose another"));
        assert_eq!(no.kind(), Kind::Refused);
        assert_eq!(no.to_string(), "web: the name is taken; choose another");
        assert_eq!(refusal(&Status::unavailable("gone")).kind(), Kind::Failure);
        assert_eq!(refusal(&Status::internal("x: y; z")).kind(), Kind::Failure);
    }
}
