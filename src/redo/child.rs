//! The loop of the redo child (`pal wal-redo`): requests in, pages out.
//!
//! One page and one message buffer are reused for everything. Whatever is wrong with a request ends the loop with an error:
//! the caller prints it to stderr and exits, and the store starts another child. Only relation blocks that the records name
//! come here; visibility map clears and SLRU pages are done by the store itself.

use super::pipe::{self, ANSWER_LEN, BlockTag, MESSAGE_HEADER, Message, PipeError};
use super::{ApplyContext, PageBuf, RedoError, apply_record};
use crate::types::Key;
use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Read, Write};

/// Buffered bytes of input: some requests of a few records each.
const INPUT_BUFFER: usize = 256 << 10;
/// A message buffer that grew beyond this is given back after its message.
const MESSAGE_KEEP: usize = 4 << 20;

/// Why the child ended before the end of its input.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    #[error("redo pipe: {0}")]
    Io(#[from] io::Error),
    #[error("redo pipe: {0}")]
    Protocol(#[from] PipeError),
    #[error("redo pipe: input ends inside a message")]
    Truncated,
    #[error("redo pipe: message {0:?} without a begin for this block")]
    OutOfOrder(char),
    #[error("{}", chain(.0))]
    Redo(#[from] RedoError),
}

/// An error and its cause in one line.
fn chain(error: &RedoError) -> String {
    match (error, std::error::Error::source(error)) {
        (RedoError::Decode { .. }, Some(source)) => format!("{error}: {source}"),
        _ => error.to_string(),
    }
}

/// What the child works at.
struct Work {
    ctx: ApplyContext,
    block: Option<BlockTag>,
    page: PageBuf,
}

impl Work {
    fn key(&self, kind: char, tag: Option<BlockTag>) -> Result<Key, ChildError> {
        let block = self.block.filter(|block| tag.is_none_or(|tag| tag == *block));
        block.map(|block| Key::rel_block(block.rel, block.block)).ok_or(ChildError::OutOfOrder(kind))
    }

    /// Takes one message; `Some` if its answer is the page now in `page`.
    fn message(&mut self, message: Message<'_>) -> Result<bool, ChildError> {
        match message {
            Message::Begin(tag) => {
                self.block = Some(tag);
                self.page.load(Key::rel_block(tag.rel, tag.block), None)?;
                Ok(false)
            }
            Message::Push(tag, page) => {
                let key = self.key('P', Some(tag))?;
                self.page.load(key, Some(page))?;
                Ok(false)
            }
            Message::Apply { end, record } => {
                let key = self.key('A', None)?;
                apply_record(&self.ctx, key, &mut self.page, end, record)?;
                Ok(false)
            }
            Message::Get(tag) => {
                self.key('G', Some(tag))?;
                Ok(true)
            }
            Message::Ping => Ok(true),
        }
    }
}

/// Reads exactly `out.len()` bytes; false at the end of the input before the first one.
fn read_all(input: &mut impl Read, out: &mut [u8]) -> Result<bool, ChildError> {
    let mut at = 0;
    while at < out.len() {
        match input.read(&mut out[at..]) {
            Ok(0) if at == 0 => return Ok(false),
            Ok(0) => return Err(ChildError::Truncated),
            Ok(n) => at += n,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

/// Serves requests until the input ends.
///
/// Answers are written when no further request is at hand, so that many requests in flight cost few writes.
/// Errors: a broken pipe, a message that is not one, a record that cannot be applied.
pub fn run_child(input: impl Read, output: impl Write, ctx: ApplyContext) -> Result<(), ChildError> {
    let mut input = BufReader::with_capacity(INPUT_BUFFER, input);
    let mut output = BufWriter::with_capacity(8 * ANSWER_LEN, output);
    let mut work = Work { ctx, block: None, page: PageBuf::new() };
    let mut payload = Vec::new();
    let mut head = [0; MESSAGE_HEADER];
    loop {
        // Never wait for input while an answer is kept back.
        if input.buffer().len() < MESSAGE_HEADER {
            output.flush()?;
        }
        if !read_all(&mut input, &mut head)? {
            output.flush()?;
            return Ok(());
        }
        let (kind, len) = pipe::decode_head(&head)?;
        // A message that lies whole in the input buffer is used where it lies.
        if let Some(bytes) = input.buffer().get(..len) {
            let answer = work.message(pipe::decode(kind, bytes)?)?;
            input.consume(len);
            if answer {
                output.write_all(work.page.page())?;
            }
            continue;
        }
        output.flush()?;
        read_payload(&mut input, len, &mut payload)?;
        if work.message(pipe::decode(kind, &payload)?)? {
            output.write_all(work.page.page())?;
        }
        if payload.capacity() > MESSAGE_KEEP {
            payload = Vec::new();
        }
    }
}

/// Reads a payload that is not whole in the buffer. Grows with what arrives, not with what the head announces.
fn read_payload(input: &mut impl Read, len: usize, payload: &mut Vec<u8>) -> Result<(), ChildError> {
    payload.clear();
    let read = input.by_ref().take(len as u64).read_to_end(payload)?;
    if read == len { Ok(()) } else { Err(ChildError::Truncated) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::page::Page;
    use crate::pg::version::PgVersion;
    use crate::redo::replay;
    use crate::redo::testing::{heap_insert, heap_page};
    use crate::types::{Fork, Lsn, PAGE_SIZE, RelTag};

    const TAG: BlockTag = BlockTag { rel: RelTag { spc: 1663, db: 5, rel: 16384, fork: Fork::Main }, block: 3 };

    fn ctx() -> ApplyContext {
        ApplyContext::new(PgVersion::V15)
    }

    /// Gives its bytes in pieces of one size.
    struct Pieces<'a>(&'a [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let len = self.1.min(out.len()).min(self.0.len());
            out[..len].copy_from_slice(&self.0[..len]);
            self.0 = &self.0[len..];
            Ok(len)
        }
    }

    #[test]
    fn answers_equal_replay_however_the_input_is_cut() {
        let base = heap_page();
        let records: Vec<(Lsn, Vec<u8>)> = (1..=5).map(|n| (Lsn(n * 64), heap_insert(TAG.rel, TAG.block, n as u16, b"tuple"))).collect();
        let chain = || records.iter().map(|(end, record)| (*end, &record[..]));
        let mut input = Vec::new();
        pipe::encode(Message::Ping, &mut input);
        pipe::encode_request(TAG, Some(&base), chain(), &mut input);
        pipe::encode_request(TAG, Some(&base), chain().take(2), &mut input);
        let key = Key::rel_block(TAG.rel, TAG.block);
        let want = [
            vec![0; PAGE_SIZE],
            replay(&ctx(), key, Some(&base), chain()).unwrap(),
            replay(&ctx(), key, Some(&base), chain().take(2)).unwrap(),
        ];
        assert_eq!(want[1].first_chunk::<PAGE_SIZE>().unwrap().lsn(), Lsn(320));
        for piece in [1, 7, 4096, usize::MAX] {
            let mut output = Vec::new();
            run_child(Pieces(&input, piece), &mut output, ctx()).unwrap();
            assert!(output == want.concat(), "pieces of {piece}");
        }
    }

    #[test]
    fn a_bad_request_ends_the_loop() {
        let request = |build: &dyn Fn(&mut Vec<u8>)| {
            let mut input = Vec::new();
            build(&mut input);
            run_child(&input[..], Vec::new(), ctx()).unwrap_err().to_string()
        };
        let record = heap_insert(TAG.rel, TAG.block, 1, b"tuple");
        let other = BlockTag { block: 4, ..TAG };
        let begin = |input: &mut Vec<u8>| pipe::encode(Message::Begin(TAG), input);
        let apply = |input: &mut Vec<u8>, record| pipe::encode(Message::Apply { end: Lsn(8), record }, input);
        assert_eq!(request(&|i| pipe::encode(Message::Get(TAG), i)), "redo pipe: message 'G' without a begin for this block");
        assert_eq!(
            request(&|i| {
                begin(i);
                pipe::encode(Message::Get(other), i)
            }),
            "redo pipe: message 'G' without a begin for this block"
        );
        assert_eq!(request(&|i| i.extend_from_slice(b"GET / HTTP/1.1")), "redo pipe: message 'G' has an impossible length 1163141167");
        assert_eq!(
            request(&|i| {
                begin(i);
                i.truncate(9)
            }),
            "redo pipe: input ends inside a message"
        );
        assert!(
            request(&|i| {
                begin(i);
                apply(i, &record)
            })
            .contains("the page has no base")
        );
        assert!(
            request(&|i| {
                begin(i);
                apply(i, b"short")
            })
            .contains("the record ends inside its header")
        );
    }
}
