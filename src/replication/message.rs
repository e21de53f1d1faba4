//! Messages that a PostgreSQL server sends, taken apart. Pure.
//!
//! In: bytes as they came. Out: frames whose bodies are slices of the same buffer, and their contents. Nothing here panics on
//! damaged input: every field is bounds-checked.
//! Source: PostgreSQL 15 documentation, sections 55.7 and 55.4 (streaming replication).

use super::error::ServerError;
use crate::types::Lsn;
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Largest message accepted. WAL comes in pieces of 128 KiB; a result row could be larger.
pub const MESSAGE_LEN_MAX: usize = 64 << 20;

/// Bytes before the WAL in an XLogData message: tag, start, end, send time.
pub const XLOG_DATA_HEADER: usize = 25;

/// The bytes are not what a server sends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    #[error("byte {0:#04x} where a message type must be: this is no PostgreSQL server")]
    Tag(u8),
    #[error("message '{tag}' claims a length of {len} bytes")]
    Length { tag: char, len: i32 },
    #[error("{0} is cut short")]
    Truncated(&'static str),
    #[error("{0} has a field that makes no sense")]
    Malformed(&'static str),
}

/// One message: its type byte and what follows the length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub tag: u8,
    pub body: Bytes,
}

/// Takes the next complete message off the front of `buf`; `None` if more bytes are needed.
pub fn take_frame(buf: &mut BytesMut) -> Result<Option<Frame>, MessageError> {
    let Some(&tag) = buf.first() else { return Ok(None) };
    if !tag.is_ascii_alphanumeric() {
        return Err(MessageError::Tag(tag));
    }
    let Some(len) = buf.get(1..5).and_then(|b| <[u8; 4]>::try_from(b).ok()).map(i32::from_be_bytes) else { return Ok(None) };
    let body = usize::try_from(len).ok().and_then(|l| l.checked_sub(4)).filter(|l| *l <= MESSAGE_LEN_MAX);
    let Some(body) = body else { return Err(MessageError::Length { tag: char::from(tag), len }) };
    if buf.len() < 5 + body {
        return Ok(None);
    }
    let mut message = buf.split_to(5 + body);
    message.advance(5);
    Ok(Some(Frame { tag, body: message.freeze() }))
}

/// What the server wants next during authentication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authentication {
    Ok,
    Cleartext,
    Md5([u8; 4]),
    /// Names of the SASL mechanisms offered.
    Sasl(Vec<String>),
    SaslContinue(Bytes),
    SaslFinal(Bytes),
    Other(i32),
}

pub fn parse_authentication(mut body: Bytes) -> Result<Authentication, MessageError> {
    let short = MessageError::Truncated("an authentication request");
    let code = body.try_get_i32().map_err(|_| short.clone())?;
    Ok(match code {
        0 => Authentication::Ok,
        3 => Authentication::Cleartext,
        5 => Authentication::Md5(body.get(..4).and_then(|s| s.try_into().ok()).ok_or(short)?),
        10 => {
            let names = body.split(|b| *b == 0).filter(|n| !n.is_empty());
            Authentication::Sasl(names.map(|n| String::from_utf8_lossy(n).into_owned()).collect())
        }
        11 => Authentication::SaslContinue(body),
        12 => Authentication::SaslFinal(body),
        other => Authentication::Other(other),
    })
}

/// Reads an ErrorResponse or NoticeResponse. Missing fields stay empty.
pub fn parse_server_error(body: &[u8]) -> ServerError {
    let mut error = ServerError { severity: "ERROR".to_string(), ..ServerError::default() };
    for field in body.split(|b| *b == 0) {
        let Some((kind, text)) = field.split_first() else { continue };
        let text = String::from_utf8_lossy(text).into_owned();
        match kind {
            b'S' if error.severity == "ERROR" => error.severity = text,
            b'V' => error.severity = text,
            b'C' => error.sqlstate = text,
            b'M' => error.message = text,
            b'D' => error.detail = Some(text),
            b'H' => error.hint = Some(text),
            _ => {}
        }
    }
    error
}

/// Takes a zero-terminated text off the front.
fn take_text(body: &mut Bytes, what: &'static str) -> Result<String, MessageError> {
    let end = body.iter().position(|b| *b == 0).ok_or(MessageError::Truncated(what))?;
    let text = body.split_to(end);
    body.advance(1);
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Name and value of a ParameterStatus.
pub fn parse_parameter_status(mut body: Bytes) -> Result<(String, String), MessageError> {
    let what = "a parameter status";
    Ok((take_text(&mut body, what)?, take_text(&mut body, what)?))
}

/// Column names of a RowDescription.
pub fn parse_row_description(mut body: Bytes) -> Result<Vec<String>, MessageError> {
    const WHAT: &str = "a row description";
    const AFTER_NAME: usize = 18;
    let count = body.try_get_u16().map_err(|_| MessageError::Truncated(WHAT))?;
    let mut names = Vec::new();
    for _ in 0..count {
        names.push(take_text(&mut body, WHAT)?);
        if body.len() < AFTER_NAME {
            return Err(MessageError::Truncated(WHAT));
        }
        body.advance(AFTER_NAME);
    }
    Ok(names)
}

/// Columns of a DataRow; `None` is NULL.
pub fn parse_data_row(mut body: Bytes) -> Result<Vec<Option<Bytes>>, MessageError> {
    const WHAT: &str = "a data row";
    let short = |_| MessageError::Truncated(WHAT);
    let count = body.try_get_u16().map_err(short)?;
    let mut values = Vec::new();
    for _ in 0..count {
        let len = body.try_get_i32().map_err(short)?;
        match usize::try_from(len) {
            Ok(len) if len <= body.len() => values.push(Some(body.split_to(len))),
            Ok(_) => return Err(MessageError::Truncated(WHAT)),
            Err(_) if len == -1 => values.push(None),
            Err(_) => return Err(MessageError::Malformed(WHAT)),
        }
    }
    Ok(values)
}

/// What a replication stream carries inside CopyData.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamMessage {
    /// WAL bytes that begin at `start`; `wal_end` is the end of WAL on the server.
    XLogData {
        start: Lsn,
        wal_end: Lsn,
        data: Bytes,
    },
    Keepalive {
        wal_end: Lsn,
        reply_requested: bool,
    },
}

pub fn parse_stream_message(mut body: Bytes) -> Result<StreamMessage, MessageError> {
    const WHAT: &str = "a message of the replication stream";
    let short = |_| MessageError::Truncated(WHAT);
    match body.try_get_u8().map_err(short)? {
        b'w' => {
            let start = Lsn(body.try_get_u64().map_err(short)?);
            let wal_end = Lsn(body.try_get_u64().map_err(short)?);
            let _send_time = body.try_get_i64().map_err(short)?;
            // Positions close to the end of the number range cannot be real and would overflow later.
            start.checked_add(body.len() as u64).ok_or(MessageError::Malformed(WHAT))?;
            Ok(StreamMessage::XLogData { start, wal_end, data: body })
        }
        b'k' => {
            let wal_end = Lsn(body.try_get_u64().map_err(short)?);
            let _send_time = body.try_get_i64().map_err(short)?;
            Ok(StreamMessage::Keepalive { wal_end, reply_requested: body.try_get_u8().map_err(short)? != 0 })
        }
        _ => Err(MessageError::Malformed(WHAT)),
    }
}

/// Positions that a standby reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StandbyStatus {
    pub write: Lsn,
    pub flush: Lsn,
    pub apply: Lsn,
}

/// Appends a standby status update inside CopyData. `now` is in microseconds since 2000-01-01.
pub fn put_status(out: &mut BytesMut, status: StandbyStatus, now: i64, reply_wanted: bool) {
    const LEN: u32 = 4 + 1 + 4 * 8 + 1;
    out.reserve(1 + LEN as usize);
    out.put_u8(b'd');
    out.put_u32(LEN);
    out.put_u8(b'r');
    out.put_u64(status.write.0);
    out.put_u64(status.flush.0);
    out.put_u64(status.apply.0);
    out.put_i64(now);
    out.put_u8(u8::from(reply_wanted));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(tag: u8, body: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        out.put_u8(tag);
        out.put_u32(body.len() as u32 + 4);
        out.extend_from_slice(body);
        out
    }

    #[test]
    fn frames_come_when_complete() {
        let whole = frame(b'Z', b"I");
        for cut in 0..whole.len() {
            let mut part = BytesMut::from(&whole[..cut]);
            assert_eq!(take_frame(&mut part), Ok(None), "{cut}");
            assert_eq!(part.len(), cut);
        }
        let mut two = frame(b'Z', b"I");
        two.extend_from_slice(&frame(b'C', b"SELECT 1\0"));
        assert_eq!(take_frame(&mut two).unwrap().unwrap(), Frame { tag: b'Z', body: Bytes::from_static(b"I") });
        assert_eq!(take_frame(&mut two).unwrap().unwrap().tag, b'C');
        assert!(two.is_empty());
    }

    #[test]
    fn garbage_frames() {
        let check = |bytes: &[u8], want: MessageError| assert_eq!(take_frame(&mut BytesMut::from(bytes)), Err(want));
        check(b"\x00abc", MessageError::Tag(0));
        check(b"d\x00\x00\x00\x03", MessageError::Length { tag: 'd', len: 3 });
        check(b"d\xff\xff\xff\xff", MessageError::Length { tag: 'd', len: -1 });
        check(b"HTTP/1.1", MessageError::Length { tag: 'H', len: i32::from_be_bytes(*b"TTP/") });
    }

    #[test]
    fn stream_messages() {
        let mut data = vec![b'w'];
        data.extend(0x16A0_0000u64.to_be_bytes());
        data.extend(0x16B0_0000u64.to_be_bytes());
        data.extend(7i64.to_be_bytes());
        data.extend(b"wal");
        let want = StreamMessage::XLogData { start: Lsn(0x16A0_0000), wal_end: Lsn(0x16B0_0000), data: Bytes::from_static(b"wal") };
        assert_eq!(parse_stream_message(Bytes::from(data.clone())), Ok(want));
        for cut in 0..XLOG_DATA_HEADER {
            assert!(parse_stream_message(Bytes::copy_from_slice(&data[..cut])).is_err(), "{cut}");
        }
        let mut keepalive = vec![b'k'];
        keepalive.extend(5u64.to_be_bytes());
        keepalive.extend(7i64.to_be_bytes());
        assert_eq!(
            parse_stream_message(Bytes::from(keepalive.clone())),
            Err(MessageError::Truncated("a message of the replication stream"))
        );
        keepalive.push(1);
        assert_eq!(parse_stream_message(Bytes::from(keepalive)), Ok(StreamMessage::Keepalive { wal_end: Lsn(5), reply_requested: true }));
        assert!(parse_stream_message(Bytes::from_static(b"x")).is_err());
        let mut beyond = vec![b'w'];
        beyond.extend([0xff; 24]);
        beyond.push(0);
        assert!(parse_stream_message(Bytes::from(beyond)).is_err());
    }

    #[test]
    fn status_bytes() {
        let mut out = BytesMut::new();
        put_status(&mut out, StandbyStatus { write: Lsn(3), flush: Lsn(2), apply: Lsn(1) }, 9, true);
        let want =
            [b"d\0\0\0\x26r".as_slice(), &3u64.to_be_bytes(), &2u64.to_be_bytes(), &1u64.to_be_bytes(), &9i64.to_be_bytes(), &[1]].concat();
        assert_eq!(out, want);
    }

    #[test]
    fn errors_and_rows() {
        let error = parse_server_error(b"SFEHLER\0VFATAL\0C28P01\0Mno\0Dwhy\0Hdo\0\0");
        assert_eq!((error.severity.as_str(), error.sqlstate.as_str(), error.message.as_str()), ("FATAL", "28P01", "no"));
        assert_eq!((error.detail.as_deref(), error.hint.as_deref()), (Some("why"), Some("do")));
        let row = Bytes::from_static(b"\0\x02\0\0\0\x01a\xff\xff\xff\xff");
        assert_eq!(parse_data_row(row), Ok(vec![Some(Bytes::from_static(b"a")), None]));
        assert!(parse_data_row(Bytes::from_static(b"\0\x01\xff\xff\xff\xfe")).is_err());
        assert!(parse_data_row(Bytes::from_static(b"\0\x01\0\0\0\x09a")).is_err());
        let mut described = b"\0\x01name\0".to_vec();
        described.extend([0; 18]);
        assert_eq!(parse_row_description(Bytes::from(described.clone())), Ok(vec!["name".to_string()]));
        described.pop();
        assert!(parse_row_description(Bytes::from(described)).is_err());
        assert_eq!(parse_authentication(Bytes::from_static(b"\0\0\0\x05abcd")), Ok(Authentication::Md5(*b"abcd")));
        assert!(parse_authentication(Bytes::from_static(b"\0\0\0\x05abc")).is_err());
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let body = Bytes::from(bytes.clone());
            let _ = parse_authentication(body.clone());
            let _ = parse_parameter_status(body.clone());
            let _ = parse_row_description(body.clone());
            let _ = parse_data_row(body.clone());
            let _ = parse_stream_message(body.clone());
            let _ = parse_server_error(&body);
            let mut buf = BytesMut::from(bytes.as_slice());
            while let Ok(Some(_)) = take_frame(&mut buf) {}
        }
    }
}
