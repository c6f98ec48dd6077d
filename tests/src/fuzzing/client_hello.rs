//! The ClientHello reader: no bytes upset it, and it matters to nobody in which pieces they come.

use edge_user::gateway::fuzzing;

use super::pieces;

/// A fatal alert (RFC 8446, section 6) of seven bytes.
const ALERT: [u8; 1] = [0x15];

pub(super) fn run(bytes: &[u8]) {
    let Some((whole, pieces)) = pieces(bytes) else { return };
    let read = fuzzing::client_hello(&pieces);
    assert_eq!(read, fuzzing::client_hello(&[whole]), "pieces made a difference");
    match read {
        Ok(hello) => {
            let name = hello.name.unwrap_or_default();
            assert!(name.len() <= 255 && name.is_ascii(), "a name that DNS has not: {name}");
        }
        Err(answer) => {
            assert!(answer.is_empty() || answer.starts_with(&ALERT), "not an alert: {answer:02x?}");
        }
    }
}
