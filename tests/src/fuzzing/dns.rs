//! DNS messages: a query's two bytes of length, the query, and a resolver's message.

use std::net::IpAddr;

use edge_user::host::dns::fuzzing;
use hickory_proto::op::{Message, MessageType, ResponseCode};

pub(super) fn run(bytes: &[u8]) {
    let Some((length, rest)) = bytes.split_first_chunk() else { return };
    let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
    let (query, reply) = rest.split_at(length);
    let addresses: [IpAddr; 2] = [[100, 64, 0, 2].into(), [0xfdaa, 0, 1, 0, 0, 0, 0, 2].into()];
    for answer in fuzzing::replies(query, &addresses).into_iter().flatten() {
        let answer = Message::from_vec(&answer).expect("a reply that can be read");
        assert_eq!(answer.metadata.message_type, MessageType::Response);
        assert_eq!(answer.metadata.id.to_be_bytes(), query[..2]);
        let is_refusal = answer.metadata.response_code != ResponseCode::NoError;
        assert!(!is_refusal || answer.answers.is_empty(), "{answer:?}");
    }
    if fuzzing::is_answer(query, reply) {
        assert_eq!(query[..2], reply[..2], "another question's answer");
    }
}
