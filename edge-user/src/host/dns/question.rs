//! What a query asks, and the answers that this server makes itself.

use std::{net::IpAddr, ops::Range};

use hickory_proto::{
    op::{Edns, Header, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA},
    },
    serialize::binary::{BinDecodable, BinDecoder},
};

/// Seconds that answers from here may be kept: tunnels end, and addresses come back.
const TTL: u32 = 5;
/// Bytes of a UDP message that this server takes, as EDNS says.
const PAYLOAD: u16 = 1232;

/// A query with one question.
pub(super) struct Question {
    header: Header,
    query: Query,
    /// Where the question stands in the message.
    span: Range<usize>,
    /// The query speaks EDNS, and so must the answer.
    edns: bool,
}

impl Question {
    /// Reads a query. What is none is an error, with the reply that it deserves: none for
    /// garbage, FORMERR for a query with no question or several.
    pub(super) fn read(message: &[u8]) -> Result<Self, Option<Vec<u8>>> {
        let mut decoder = BinDecoder::new(message);
        let header = Header::read(&mut decoder).or(Err(None))?;
        if header.message_type != MessageType::Query {
            return Err(None);
        }
        if header.counts.queries != 1 {
            let reply = Message::error_msg(header.id, header.op_code, ResponseCode::FormErr);
            return Err(reply.to_vec().ok());
        }
        let start = decoder.index();
        let query = Query::read(&mut decoder).or(Err(None))?;
        let span = start..decoder.index();
        let edns = Message::from_vec(message).is_ok_and(|message| message.edns.is_some());
        Ok(Self { header, query, span, edns })
    }

    pub(super) fn op_code(&self) -> OpCode {
        self.header.op_code
    }

    pub(super) fn name(&self) -> &Name {
        self.query.name()
    }

    pub(super) fn kind(&self) -> RecordType {
        self.query.query_type()
    }

    /// A reply with those of the addresses that were asked for, perhaps none.
    pub(super) fn answer(&self, addresses: &[IpAddr]) -> Option<Vec<u8>> {
        let mut reply = self.reply(ResponseCode::NoError);
        for address in addresses {
            let data = match (address, self.kind()) {
                (IpAddr::V4(address), RecordType::A | RecordType::ANY) => RData::A(A(*address)),
                (IpAddr::V6(address), RecordType::AAAA | RecordType::ANY) => {
                    RData::AAAA(AAAA(*address))
                }
                _ => continue,
            };
            reply.add_answer(Record::from_rdata(self.name().clone(), TTL, data));
        }
        reply.metadata.authoritative = true;
        reply.to_vec().ok()
    }

    /// A reply with a code and no records.
    pub(super) fn refuse(&self, code: ResponseCode) -> Option<Vec<u8>> {
        self.reply(code).to_vec().ok()
    }

    /// Whether a message answers this question of that message, which went out with this id.
    pub(super) fn is_answered_by(&self, reply: &[u8], id: u16, asked: &[u8]) -> bool {
        let Ok(header) = Header::read(&mut BinDecoder::new(reply)) else {
            return false;
        };
        let question = || {
            let (answered, asked) = (reply.get(self.span.clone())?, asked.get(self.span.clone())?);
            let (name, rest) = answered.split_at_checked(answered.len().checked_sub(4)?)?;
            // A resolver may change the case of a name, but not what stands behind it.
            Some(name.eq_ignore_ascii_case(&asked[..name.len()]) && *rest == asked[name.len()..])
        };
        // An error may come without the question.
        let bare = header.counts.queries == 0 && header.response_code != ResponseCode::NoError;
        header.id == id
            && header.message_type == MessageType::Response
            && (bare || header.counts.queries == 1 && question() == Some(true))
    }

    /// The id that the asker gave the query.
    pub(super) fn id(&self) -> u16 {
        self.header.id
    }

    fn reply(&self, code: ResponseCode) -> Message {
        let mut reply = Message::error_msg(self.header.id, self.header.op_code, code);
        reply.metadata.recursion_desired = self.header.recursion_desired;
        reply.metadata.recursion_available = true;
        reply.add_query(self.query.clone());
        if self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(PAYLOAD);
            reply.set_edns(edns);
        }
        reply
    }
}
