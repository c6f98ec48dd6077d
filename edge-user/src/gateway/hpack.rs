//! Decodes header blocks (RFC 7541) at a bounded cost.
//!
//! The library builds its Huffman table anew for every string: about 17 µs apiece, so that a
//! block of 60 kB took 0.7 s here. Therefore strings are unpacked by one table first, and the
//! library decodes a block of plain strings; the dynamic table and all rules stay its own.

use std::{borrow::Cow, cell::RefCell};

use loona_hpack::{
    Decoder,
    decoder::{DecoderError, IntegerDecodingError, StringDecodingError},
    huffman::HuffmanDecoder,
};

/// Bound on the dynamic table a client may ask for, in bytes as RFC 7541 counts: the most
/// that browsers use.
const MAX_TABLE: usize = 64 * 1024;

/// The decoding side of one connection's header compression.
pub(super) struct HeaderBlocks(Decoder<'static>);

impl HeaderBlocks {
    pub(super) fn new() -> Self {
        let mut decoder = Decoder::new();
        decoder.set_max_allowed_table_size(MAX_TABLE);
        Self(decoder)
    }

    /// Tells `each` the name and value of every field of a whole block. After an error the
    /// connection's compression is broken for good.
    pub(super) fn decode(
        &mut self,
        block: &[u8],
        each: impl FnMut(Cow<'_, [u8]>, Cow<'_, [u8]>),
    ) -> Result<(), DecoderError> {
        self.0.decode_with_cb(&unpacked(block)?, each)
    }
}

thread_local! {
    static HUFFMAN: RefCell<HuffmanDecoder> = RefCell::new(HuffmanDecoder::new());
}

/// The same block with no string in Huffman code; at most 8/5 as long, give or take lengths.
fn unpacked(block: &[u8]) -> Result<Vec<u8>, DecoderError> {
    let mut out = Vec::with_capacity(block.len() * 2);
    let mut rest = block;
    while let Some(first) = rest.first() {
        // RFC 7541, section 6: the leading bits say what follows.
        let (prefix, literal) = match first {
            0x80.. => (7, false),
            0x40.. => (6, true),
            0x20.. => (5, false),
            _ => (4, true),
        };
        let (index, used) = integer(rest, prefix)?;
        out.extend_from_slice(&rest[..used]);
        rest = &rest[used..];
        if literal && index == 0 {
            rest = string(rest, &mut out)?;
        }
        if literal {
            rest = string(rest, &mut out)?;
        }
    }
    Ok(out)
}

/// Copies the string at the front of `bytes`, unpacked; what comes after it.
fn string<'a>(bytes: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8], DecoderError> {
    let short = DecoderError::StringDecodingError(StringDecodingError::NotEnoughOctets);
    let (length, used) = integer(bytes, 7)?;
    if bytes.len() - used < length {
        return Err(short);
    }
    let (whole, rest) = bytes.split_at(used + length);
    if whole[0] & 0x80 == 0 {
        out.extend_from_slice(whole);
        return Ok(rest);
    }
    let plain =
        HUFFMAN.with_borrow_mut(|huffman| huffman.decode(&whole[used..])).map_err(|error| {
            DecoderError::StringDecodingError(StringDecodingError::HuffmanDecoderError(error))
        })?;
    write_length(plain.len(), out);
    out.extend_from_slice(&plain);
    Ok(rest)
}

/// An integer and the bytes it takes (RFC 7541, section 5.1), five at most as in the library.
fn integer(bytes: &[u8], prefix: u8) -> Result<(usize, usize), DecoderError> {
    let wrong = |why| Err(DecoderError::IntegerDecodingError(why));
    let full = (1 << prefix) - 1;
    let Some(first) = bytes.first() else { return wrong(IntegerDecodingError::NotEnoughOctets) };
    let mut value = usize::from(*first) & full;
    if value < full {
        return Ok((value, 1));
    }
    for (at, byte) in bytes.iter().enumerate().skip(1) {
        value += usize::from(byte & 0x7f) << (7 * (at - 1));
        if byte & 0x80 == 0 {
            return Ok((value, at + 1));
        }
        if at == 4 {
            return wrong(IntegerDecodingError::TooManyOctets);
        }
    }
    wrong(IntegerDecodingError::NotEnoughOctets)
}

/// The length of a plain string: an integer with a prefix of seven bits.
fn write_length(length: usize, out: &mut Vec<u8>) {
    const FULL: usize = 0x7f;
    if length < FULL {
        out.push(length as u8);
        return;
    }
    out.push(FULL as u8);
    let mut left = length - FULL;
    while left > 0x7f {
        out.push((left & 0x7f) as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    type Fields = Vec<(Vec<u8>, Vec<u8>)>;

    fn ours(blocks: &[Vec<u8>]) -> Vec<Option<Fields>> {
        let mut decoder = HeaderBlocks::new();
        let decode = |block: &Vec<u8>| {
            let mut fields = Fields::new();
            let done = decoder.decode(block, |name, value| {
                fields.push((name.into_owned(), value.into_owned()));
            });
            done.ok().map(|()| fields)
        };
        until_broken(blocks.iter().map(decode))
    }

    fn librarys(blocks: &[Vec<u8>]) -> Vec<Option<Fields>> {
        let mut decoder = Decoder::new();
        decoder.set_max_allowed_table_size(MAX_TABLE);
        until_broken(blocks.iter().map(|block| decoder.decode(block).ok()))
    }

    fn until_broken(results: impl Iterator<Item = Option<Fields>>) -> Vec<Option<Fields>> {
        let mut broken = false;
        results.take_while(|fields| !std::mem::replace(&mut broken, fields.is_none())).collect()
    }

    /// Bytes that are a header block rather often.
    fn block() -> impl Strategy<Value = Vec<u8>> {
        let huffman = prop_oneof![
            Just(b"\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff".to_vec()),
            Just(b"\x86\xa8\xeb\x10\x64\x9c\xbf".to_vec()),
            Just(b"\x80".to_vec()),
            prop::collection::vec(any::<u8>(), 0..5).prop_map(|bytes| [
                vec![0x80 | bytes.len() as u8],
                bytes
            ]
            .concat()),
        ];
        let plain = prop::collection::vec(any::<u8>(), 0..200).prop_map(|bytes| {
            let mut out = Vec::new();
            write_length(bytes.len(), &mut out);
            [out, bytes].concat()
        });
        let string = prop_oneof![huffman, plain].boxed();
        let field = prop_oneof![
            (0x80_u8..0xc4).prop_map(|byte| vec![byte]),
            (prop::sample::select(vec![0x00_u8, 0x10, 0x40]), string.clone(), string.clone())
                .prop_map(|(kind, name, value)| [vec![kind], name, value].concat()),
            (prop::sample::select(vec![0x01_u8, 0x11, 0x41, 0x7e, 0x0f]), string)
                .prop_map(|(kind, value)| [vec![kind], value].concat()),
            (0x20_u8..0x40).prop_map(|byte| vec![byte]),
            prop::collection::vec(any::<u8>(), 0..6),
        ];
        prop::collection::vec(field, 0..8).prop_map(|fields| fields.concat())
    }

    proptest! {
        #[test]
        fn unpacking_first_changes_nothing(blocks in prop::collection::vec(block(), 1..5)) {
            prop_assert_eq!(ours(&blocks), librarys(&blocks));
        }
    }

    #[test]
    fn tiny_strings_cost_no_table_each() {
        let block = [0x00, 0x80, 0x80].repeat(20_000);
        let begun = Instant::now();
        let mut fields = 0;
        HeaderBlocks::new().decode(&block, |_, _| fields += 1).unwrap();
        assert_eq!(fields, 20_000);
        // Over ten seconds without optimization if each built a table.
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    }
}
