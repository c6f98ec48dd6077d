//! `edge ca`: the certificate that clients must trust.

use super::{
    client::{connect, refusal},
    output,
};
use crate::{
    cli::Place,
    error::{Error, Kind},
    wire::admin::StatusRequest,
};

/// Prints the path of the certificate of the region's own authority (PEM).
pub async fn print(place: &Place) -> Result<(), Error> {
    let reply = connect(place).await?.status(StatusRequest {}).await;
    let status = reply.map_err(|status| refusal(&status))?.into_inner();
    if status.ca.is_empty() {
        return Err(Error::new(
            Kind::Refused,
            "authority",
            "the daemon serves a certificate that was given to it",
            "trust who issued that one; nothing is to be added to clients",
        ));
    }
    output::print(status.ca.trim_end())
}
