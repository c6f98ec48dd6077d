//! Header blocks: unpacked first, they say what the library alone makes of them. Blocks follow
//! each other, each behind a byte with its length.

use edge_user::gateway::fuzzing;
use loona_hpack::Decoder;

pub(super) fn run(bytes: &[u8]) {
    let mut blocks = Vec::new();
    let mut rest = bytes;
    while let Some((length, behind)) = rest.split_first() {
        let (block, behind) = behind.split_at(behind.len().min((*length).into()));
        blocks.push(block);
        rest = behind;
    }
    let mut decoder = Decoder::new();
    decoder.set_max_allowed_table_size(64 * 1024);
    let mut expected = Vec::new();
    for block in &blocks {
        let fields = decoder.decode(block).ok();
        let is_broken = fields.is_none();
        expected.push(fields);
        if is_broken {
            break;
        }
    }
    assert_eq!(fuzzing::header_blocks(&blocks), expected);
}
