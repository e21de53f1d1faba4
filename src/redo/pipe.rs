//! The protocol between the store and a redo child: requests into the child's stdin, pages out of its stdout.
//!
//! A message is `type u8, length u32, payload`; the length counts itself and the payload. Numbers are big-endian.
//!
//! | type | payload | answer |
//! | --- | --- | --- |
//! | `B` begin | tag | |
//! | `P` push page | tag, 8192 bytes | |
//! | `A` apply | end LSN u64, whole record | |
//! | `G` get | tag | the page, 8192 bytes without a header |
//! | `H` ping | | 8192 bytes of anything |
//!
//! Tag = fork u8, spc u32, db u32, rel u32, block u32. One request is B, at most one P, any number of A, G. Nothing else is
//! answered; on an error the child writes a line to stderr and ends. Source: reference wal-redo, section 11.

use crate::pg::page::PageBytes;
use crate::pg::xlog::record::RECORD_LEN_MAX;
use crate::types::{Fork, Lsn, PAGE_SIZE, RelTag};

/// Size of the type and the length.
pub const MESSAGE_HEADER: usize = 5;
/// Size of every answer.
pub const ANSWER_LEN: usize = PAGE_SIZE;
const LENGTH: usize = 4;
const TAG: usize = 17;
/// Longest payload: an apply with the longest record.
const PAYLOAD_MAX: usize = 8 + RECORD_LEN_MAX;

/// Names a block on the pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockTag {
    pub rel: RelTag,
    pub block: u32,
}

/// A decoded message; borrows from the input buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    Begin(BlockTag),
    Push(BlockTag, &'a PageBytes),
    Apply { end: Lsn, record: &'a [u8] },
    Get(BlockTag),
    Ping,
}

/// Why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PipeError {
    #[error("message type {0:#04x} is unknown")]
    Type(u8),
    #[error("message {kind:?} has an impossible length {len}")]
    Length { kind: char, len: u32 },
    #[error("fork {0} is unknown")]
    Fork(u8),
}

fn encode_head(out: &mut Vec<u8>, kind: u8, payload_len: usize) {
    assert!(payload_len <= PAYLOAD_MAX, "a record of {payload_len} bytes is longer than any");
    out.push(kind);
    out.extend_from_slice(&((LENGTH + payload_len) as u32).to_be_bytes());
}

fn encode_tag(out: &mut Vec<u8>, tag: BlockTag) {
    out.push(tag.rel.fork as u8);
    for word in [tag.rel.spc, tag.rel.db, tag.rel.rel, tag.block] {
        out.extend_from_slice(&word.to_be_bytes());
    }
}

/// Appends one message to `out`.
pub fn encode(message: Message<'_>, out: &mut Vec<u8>) {
    match message {
        Message::Begin(tag) => {
            encode_head(out, b'B', TAG);
            encode_tag(out, tag);
        }
        Message::Push(tag, page) => {
            encode_head(out, b'P', TAG + PAGE_SIZE);
            encode_tag(out, tag);
            out.extend_from_slice(page);
        }
        Message::Apply { end, record } => {
            encode_head(out, b'A', 8 + record.len());
            out.extend_from_slice(&end.0.to_be_bytes());
            out.extend_from_slice(record);
        }
        Message::Get(tag) => {
            encode_head(out, b'G', TAG);
            encode_tag(out, tag);
        }
        Message::Ping => encode_head(out, b'H', 0),
    }
}

/// Appends a whole request: the page of `tag` after `records` on top of `base`. Its answer is [`ANSWER_LEN`] bytes.
pub fn encode_request<'a>(tag: BlockTag, base: Option<&PageBytes>, records: impl IntoIterator<Item = (Lsn, &'a [u8])>, out: &mut Vec<u8>) {
    encode(Message::Begin(tag), out);
    if let Some(base) = base {
        encode(Message::Push(tag, base), out);
    }
    for (end, record) in records {
        encode(Message::Apply { end, record }, out);
    }
    encode(Message::Get(tag), out);
}

/// Reads the head of a message: (type, length of the payload). The payload is checked by [`decode`].
///
/// Errors: an unknown type, or a length that the type cannot have.
pub fn decode_head(head: &[u8; MESSAGE_HEADER]) -> Result<(u8, usize), PipeError> {
    let [kind, a, b, c, d] = *head;
    let len = u32::from_be_bytes([a, b, c, d]);
    let payload = (len as usize).wrapping_sub(LENGTH);
    let fits = match kind {
        b'B' | b'G' => payload == TAG,
        b'P' => payload == TAG + PAGE_SIZE,
        b'A' => (8..=PAYLOAD_MAX).contains(&payload),
        b'H' => payload == 0,
        _ => return Err(PipeError::Type(kind)),
    };
    if fits { Ok((kind, payload)) } else { Err(PipeError::Length { kind: char::from(kind), len }) }
}

fn decode_tag(payload: &[u8]) -> Option<(Result<BlockTag, PipeError>, &[u8])> {
    let (tag, rest) = payload.split_first_chunk::<TAG>()?;
    let word = |at: usize| u32::from_be_bytes([tag[at], tag[at + 1], tag[at + 2], tag[at + 3]]);
    let block_tag = |fork| BlockTag { rel: RelTag { spc: word(1), db: word(5), rel: word(9), fork }, block: word(13) };
    Some((Fork::from_number(tag[0]).map(block_tag).ok_or(PipeError::Fork(tag[0])), rest))
}

/// Reads the payload of a message of type `kind`.
///
/// Errors: as [`decode_head`], or an unknown fork.
pub fn decode(kind: u8, payload: &[u8]) -> Result<Message<'_>, PipeError> {
    let bad = || PipeError::Length { kind: char::from(kind), len: (payload.len() + LENGTH) as u32 };
    match kind {
        b'B' | b'G' | b'P' => {
            let (tag, rest) = decode_tag(payload).ok_or_else(bad)?;
            match (kind, rest.len()) {
                (b'B', 0) => Ok(Message::Begin(tag?)),
                (b'G', 0) => Ok(Message::Get(tag?)),
                (b'P', PAGE_SIZE) => Ok(Message::Push(tag?, rest.first_chunk().ok_or_else(bad)?)),
                _ => Err(bad()),
            }
        }
        b'A' => {
            let (end, record) = payload.split_first_chunk::<8>().ok_or_else(bad)?;
            Ok(Message::Apply { end: Lsn(u64::from_be_bytes(*end)), record })
        }
        b'H' if payload.is_empty() => Ok(Message::Ping),
        b'H' => Err(bad()),
        _ => Err(PipeError::Type(kind)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAG_7: BlockTag = BlockTag { rel: RelTag { spc: 1663, db: 5, rel: 0x0102_0304, fork: Fork::Vm }, block: 7 };

    fn check(message: Message<'_>, len: usize) {
        let mut bytes = Vec::new();
        encode(message, &mut bytes);
        assert_eq!(u32::from_be_bytes(*bytes[1..].first_chunk().unwrap()) as usize, len, "{message:?}");
        let (kind, payload) = decode_head(bytes.first_chunk().unwrap()).unwrap();
        assert_eq!(payload + MESSAGE_HEADER, bytes.len());
        assert_eq!(decode(kind, &bytes[MESSAGE_HEADER..]), Ok(message));
    }

    #[test]
    fn round_trip() {
        check(Message::Begin(TAG_7), 21);
        check(Message::Push(TAG_7, &[9; PAGE_SIZE]), 8213);
        check(Message::Apply { end: Lsn(0x1_0000_0010), record: b"record" }, 18);
        check(Message::Get(TAG_7), 21);
        check(Message::Ping, 4);
    }

    #[test]
    fn bytes_of_a_tag() {
        let mut bytes = Vec::new();
        encode(Message::Begin(TAG_7), &mut bytes);
        assert_eq!(bytes, [b'B', 0, 0, 0, 21, 2, 0, 0, 6, 0x7F, 0, 0, 0, 5, 1, 2, 3, 4, 0, 0, 0, 7]);
    }

    #[test]
    fn damage() {
        for (head, want) in [
            ([b'Q', 0, 0, 0, 4], PipeError::Type(b'Q')),
            ([b'B', 0, 0, 0, 20], PipeError::Length { kind: 'B', len: 20 }),
            ([b'P', 0, 0, 0, 21], PipeError::Length { kind: 'P', len: 21 }),
            ([b'A', 0, 0, 0, 3], PipeError::Length { kind: 'A', len: 3 }),
            ([b'A', 0xFF, 0xFF, 0xFF, 0xFF], PipeError::Length { kind: 'A', len: u32::MAX }),
            ([b'H', 0, 0, 0, 5], PipeError::Length { kind: 'H', len: 5 }),
        ] {
            assert_eq!(decode_head(&head), Err(want));
        }
        assert_eq!(decode(b'B', &[9; TAG]), Err(PipeError::Fork(9)));
        for kind in *b"BPAGHQ" {
            assert!(decode(kind, &[1, 2]).is_err(), "{kind}");
        }
    }
}
