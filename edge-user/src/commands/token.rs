//! `edge token`: what machines join a region with.

use super::{
    client::{connect, refusal},
    output,
};
use crate::{
    cli::{Place, TokenCommand},
    error::Error,
    wire::admin::CreateTokenRequest,
};

/// Makes a token and prints it.
pub async fn token(place: &Place, command: TokenCommand) -> Result<(), Error> {
    let TokenCommand::Create(args) = command;
    let ttl = u64::try_from(args.ttl.as_millis()).unwrap_or(u64::MAX);
    let request = CreateTokenRequest { ttl, uses: args.uses };
    let reply = connect(place).await?.create_token(request).await;
    let token = reply.map_err(|status| refusal(&status))?.into_inner().token;
    if args.json {
        return output::json(&serde_json::json!({ "token": token }));
    }
    output::print(token)
}
