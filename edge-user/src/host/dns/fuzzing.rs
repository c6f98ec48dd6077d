//! The places where DNS messages are read, as functions that a fuzzer can call.

use std::net::IpAddr;

use hickory_proto::op::ResponseCode;

use super::question::Question;

/// The replies that a query may get from here: the one with these addresses, and a refusal; or the
/// one that what is no query deserves, if any.
pub fn replies(query: &[u8], addresses: &[IpAddr]) -> Vec<Option<Vec<u8>>> {
    match Question::read(query) {
        Ok(question) => {
            vec![question.answer(addresses), question.refuse(ResponseCode::Refused)]
        }
        Err(reply) => vec![reply],
    }
}

/// Whether a resolver's message is taken for the answer to a query that went out unchanged.
pub fn is_answer(query: &[u8], reply: &[u8]) -> bool {
    Question::read(query).is_ok_and(|question| question.is_answered_by(reply, question.id(), query))
}
