//! The place where a command's request is read, as a function that a fuzzer can call.

use prost::Message;

use super::{container_request, ports};
use crate::{region::bounds::Defaults, wire::admin::AttachRequest};

/// The ports that a request to attach asks for, or the message that refuses it; `None` for bytes
/// that are no request.
pub fn attach(bytes: &[u8]) -> Option<Result<Vec<u16>, String>> {
    let request = AttachRequest::decode(bytes).ok()?;
    let asked = ports(&request, &Defaults::default())
        .and_then(|ports| container_request(request).map(|_| ports));
    Some(match asked {
        Ok(ports) => Ok(ports.into_iter().map(|(port, _)| port).collect()),
        Err(status) => Err(status.message().to_owned()),
    })
}
