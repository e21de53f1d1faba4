//! The server's side of PostgreSQL's protocol 3.0. Pure.
//!
//! In: bytes of a client, in pieces of any size. Out: its messages; and our own messages as bytes. Invariants: a decoder takes a
//! message off the buffer only when it is complete, and nothing a client sends makes it panic or allocate more than came.
//! Source: PostgreSQL 15 documentation, sections 55.2 and 55.7.
//!
//! Every message but the first is `type u8`, `length i32` (its own four bytes included), body; all numbers are big-endian.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Longest startup packet. Source: PostgreSQL 15 `libpq/pqcomm.h`, MAX_STARTUP_PACKET_LENGTH.
pub const STARTUP_LEN_MAX: usize = 10_000;

const CANCEL_REQUEST: u32 = 80_877_102;
const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;

/// The client does not speak the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("invalid length of startup packet: {0}")]
    StartupLength(i32),
    #[error("unsupported frontend protocol {major}.{minor}: this server speaks 3.0")]
    Version { major: u16, minor: u16 },
    #[error("invalid startup packet: {0}")]
    Startup(&'static str),
    #[error("invalid frontend message type {0:#04x}")]
    Tag(u8),
    #[error("invalid length {len} of message '{tag}': at most {max} bytes are accepted")]
    Length { tag: char, len: i32, max: usize },
    #[error("message '{tag}' is cut short")]
    Truncated { tag: char },
    #[error("message '{tag}' has bytes left over")]
    Trailing { tag: char },
    #[error("message '{tag}' holds text that is not UTF-8")]
    NotText { tag: char },
    #[error("message '{tag}' has a field that makes no sense")]
    Malformed { tag: char },
}

impl WireError {
    /// Code for the ErrorResponse; the connection ends after it.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            WireError::Version { .. } => "0A000",
            _ => "08P01",
        }
    }
}

/// The first packet of a connection, before messages have types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartupPacket {
    Ssl,
    GssEnc,
    Cancel {
        pid: u32,
        secret: Bytes,
    },
    /// Protocol 3.`minor`; a minor above 0 and names that begin with `_pq_.` are answered by NegotiateProtocolVersion.
    Startup {
        minor: u16,
        parameters: Vec<(String, String)>,
    },
}

impl StartupPacket {
    /// A parameter of the startup message.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        match self {
            StartupPacket::Startup { parameters, .. } => parameters.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str()),
            _ => None,
        }
    }
}

/// Takes the startup packet off the front of `buf`; `None` if more bytes are needed.
pub fn take_startup(buf: &mut BytesMut) -> Result<Option<StartupPacket>, WireError> {
    let Some(len) = peek_i32(buf, 0) else { return Ok(None) };
    let total = usize::try_from(len).ok().filter(|l| (8..=STARTUP_LEN_MAX).contains(l));
    let total = total.ok_or(WireError::StartupLength(len))?;
    if buf.len() < total {
        return Ok(None);
    }
    let mut body = buf.split_to(total).freeze();
    body.advance(4);
    let code = body.get_u32();
    match code {
        SSL_REQUEST => Ok(Some(StartupPacket::Ssl)),
        GSSENC_REQUEST => Ok(Some(StartupPacket::GssEnc)),
        CANCEL_REQUEST => {
            let pid = body.try_get_u32().map_err(|_| WireError::Startup("a cancel request without process id"))?;
            Ok(Some(StartupPacket::Cancel { pid, secret: body }))
        }
        version => {
            let (major, minor) = ((version >> 16) as u16, version as u16);
            if major != 3 {
                return Err(WireError::Version { major, minor });
            }
            Ok(Some(StartupPacket::Startup { minor, parameters: take_parameters(&body)? }))
        }
    }
}

/// Zero-terminated names and values, ended by an empty name.
fn take_parameters(body: &[u8]) -> Result<Vec<(String, String)>, WireError> {
    let unended = WireError::Startup("expected terminator as last byte");
    let mut texts = body.split(|b| *b == 0);
    let mut parameters = Vec::new();
    loop {
        let name = texts.next().ok_or(unended.clone())?;
        if name.is_empty() {
            // The terminator: nothing but the end of the packet may follow.
            let ended = texts.next().is_some_and(<[u8]>::is_empty) && texts.next().is_none();
            return ended.then_some(parameters).ok_or(unended);
        }
        let value = texts.next().ok_or(unended.clone())?;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| WireError::Startup("a parameter is not UTF-8"));
        parameters.push((text(name)?, text(value)?));
    }
}

/// What Describe and Close are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Statement,
    Portal,
}

/// A message of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frontend {
    Query(String),
    Parse {
        statement: String,
        query: String,
        param_types: Vec<u32>,
    },
    Bind {
        portal: String,
        statement: String,
        param_formats: Vec<i16>,
        params: Vec<Option<Bytes>>,
        result_formats: Vec<i16>,
    },
    Describe {
        target: Target,
        name: String,
    },
    Execute {
        portal: String,
        rows_max: i32,
    },
    Close {
        target: Target,
        name: String,
    },
    Sync,
    Flush,
    Terminate,
    CopyData(Bytes),
    CopyDone,
    CopyFail(String),
    /// Password, or an answer of a SASL exchange, as bytes.
    Password(Bytes),
}

/// Takes the next message off the front of `buf`; `None` if more bytes are needed. `len_max` bounds the body in bytes.
pub fn take_frontend(buf: &mut BytesMut, len_max: usize) -> Result<Option<Frontend>, WireError> {
    let Some(&tag) = buf.first() else { return Ok(None) };
    if !b"QPBDECSHXdcfp".contains(&tag) {
        return Err(WireError::Tag(tag));
    }
    let Some(len) = peek_i32(buf, 1) else { return Ok(None) };
    let body_len = usize::try_from(len).ok().and_then(|l| l.checked_sub(4)).filter(|l| *l <= len_max);
    let body_len = body_len.ok_or(WireError::Length { tag: char::from(tag), len, max: len_max })?;
    if buf.len() < 5 + body_len {
        return Ok(None);
    }
    let mut message = buf.split_to(5 + body_len);
    message.advance(5);
    decode_body(tag, message.freeze()).map(Some)
}

fn decode_body(tag: u8, body: Bytes) -> Result<Frontend, WireError> {
    let mut body = Body { tag: char::from(tag), bytes: body };
    let message = match tag {
        b'd' => return Ok(Frontend::CopyData(body.bytes)),
        b'p' => return Ok(Frontend::Password(body.bytes)),
        b'Q' => Frontend::Query(body.text()?),
        b'P' => Frontend::Parse { statement: body.text()?, query: body.text()?, param_types: body.list(|b| b.u32())? },
        b'B' => Frontend::Bind {
            portal: body.text()?,
            statement: body.text()?,
            param_formats: body.list(|b| b.i16())?,
            params: body.list(Body::value)?,
            result_formats: body.list(|b| b.i16())?,
        },
        b'D' => Frontend::Describe { target: body.target()?, name: body.text()? },
        b'C' => Frontend::Close { target: body.target()?, name: body.text()? },
        b'E' => Frontend::Execute { portal: body.text()?, rows_max: body.u32()? as i32 },
        b'f' => Frontend::CopyFail(body.text()?),
        b'S' => Frontend::Sync,
        b'H' => Frontend::Flush,
        b'X' => Frontend::Terminate,
        b'c' => Frontend::CopyDone,
        other => return Err(WireError::Tag(other)),
    };
    if body.bytes.is_empty() { Ok(message) } else { Err(WireError::Trailing { tag: body.tag }) }
}

/// Reads fields off the front of a message.
struct Body {
    tag: char,
    bytes: Bytes,
}

impl Body {
    fn short(&self) -> WireError {
        WireError::Truncated { tag: self.tag }
    }

    fn text(&mut self) -> Result<String, WireError> {
        let end = self.bytes.iter().position(|b| *b == 0).ok_or_else(|| self.short())?;
        let text = self.bytes.split_to(end);
        self.bytes.advance(1);
        String::from_utf8(text.into()).map_err(|_| WireError::NotText { tag: self.tag })
    }

    fn u32(&mut self) -> Result<u32, WireError> {
        self.bytes.try_get_u32().map_err(|_| self.short())
    }

    fn i16(&mut self) -> Result<i16, WireError> {
        self.bytes.try_get_i16().map_err(|_| self.short())
    }

    fn list<T>(&mut self, mut item: impl FnMut(&mut Body) -> Result<T, WireError>) -> Result<Vec<T>, WireError> {
        let count = self.bytes.try_get_u16().map_err(|_| self.short())?;
        (0..count).map(|_| item(self)).collect()
    }

    fn value(&mut self) -> Result<Option<Bytes>, WireError> {
        match self.u32()? as i32 {
            -1 => Ok(None),
            len => {
                let len = usize::try_from(len).map_err(|_| WireError::Malformed { tag: self.tag })?;
                if len > self.bytes.len() {
                    return Err(self.short());
                }
                Ok(Some(self.bytes.split_to(len)))
            }
        }
    }

    fn target(&mut self) -> Result<Target, WireError> {
        match self.bytes.try_get_u8().map_err(|_| self.short())? {
            b'S' => Ok(Target::Statement),
            b'P' => Ok(Target::Portal),
            _ => Err(WireError::Malformed { tag: self.tag }),
        }
    }
}

fn peek_i32(buf: &[u8], at: usize) -> Option<i32> {
    buf.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok()).map(i32::from_be_bytes)
}

/// Answer to SSLRequest and GSSENCRequest: no.
pub const REFUSE_ENCRYPTION: u8 = b'N';
/// Answer to SSLRequest: the TLS handshake follows.
pub const ACCEPT_TLS: u8 = b'S';

/// State in ReadyForQuery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionStatus {
    Idle = b'I' as isize,
    InTransaction = b'T' as isize,
    Failed = b'E' as isize,
}

/// Type of a result column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnType {
    Text,
    Int8,
}

impl ColumnType {
    /// (type OID, size in bytes). Source: PostgreSQL 15 `pg_type.dat`.
    fn oid_and_size(self) -> (u32, i16) {
        match self {
            ColumnType::Text => (25, -1),
            ColumnType::Int8 => (20, 8),
        }
    }
}

/// Severity in ErrorResponse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The connection goes on.
    Error,
    /// The connection ends.
    Fatal,
}

/// Which way a copy goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyDirection {
    In,
    Out,
    Both,
}

/// Appends one message whose body `body` writes.
pub fn put_message(out: &mut BytesMut, tag: u8, body: impl FnOnce(&mut BytesMut)) {
    out.put_u8(tag);
    let at = out.len();
    out.put_u32(0);
    body(out);
    let len = u32::try_from(out.len() - at).expect("a message of ours is below 4 GiB");
    out[at..at + 4].copy_from_slice(&len.to_be_bytes());
}

/// Text without a zero byte, which would end it, then the zero byte.
fn put_text(out: &mut BytesMut, text: &str) {
    out.extend(text.bytes().map(|b| if b == 0 { b'?' } else { b }));
    out.put_u8(0);
}

pub fn put_authentication_ok(out: &mut BytesMut) {
    put_message(out, b'R', |out| out.put_u32(0));
}

pub fn put_authentication_cleartext(out: &mut BytesMut) {
    put_message(out, b'R', |out| out.put_u32(3));
}

pub fn put_parameter_status(out: &mut BytesMut, name: &str, value: &str) {
    put_message(out, b'S', |out| {
        put_text(out, name);
        put_text(out, value);
    });
}

/// Tells that only protocol 3.0 is spoken and which options of the client are unknown.
pub fn put_negotiate_protocol_version(out: &mut BytesMut, unknown_options: &[&str]) {
    put_message(out, b'v', |out| {
        out.put_u32(3 << 16);
        out.put_u32(unknown_options.len() as u32);
        unknown_options.iter().for_each(|name| put_text(out, name));
    });
}

pub fn put_ready_for_query(out: &mut BytesMut, status: TransactionStatus) {
    put_message(out, b'Z', |out| out.put_u8(status as u8));
}

pub fn put_row_description(out: &mut BytesMut, columns: &[(&str, ColumnType)]) {
    put_message(out, b'T', |out| {
        out.put_u16(columns.len() as u16);
        for (name, kind) in columns {
            let (oid, size) = kind.oid_and_size();
            put_text(out, name);
            // Table, column number, type, its size, no modifier, text format.
            out.put_u32(0);
            out.put_u16(0);
            out.put_u32(oid);
            out.put_i16(size);
            out.put_i32(-1);
            out.put_u16(0);
        }
    });
}

/// A row in text format; `None` is NULL.
pub fn put_data_row(out: &mut BytesMut, values: &[Option<&[u8]>]) {
    put_message(out, b'D', |out| {
        out.put_u16(values.len() as u16);
        for value in values {
            match value {
                Some(bytes) => {
                    out.put_u32(bytes.len() as u32);
                    out.put_slice(bytes);
                }
                None => out.put_i32(-1),
            }
        }
    });
}

pub fn put_command_complete(out: &mut BytesMut, tag: &str) {
    put_message(out, b'C', |out| put_text(out, tag));
}

/// Fields S, V, C and M.
pub fn put_error(out: &mut BytesMut, severity: Severity, sqlstate: &str, message: &str) {
    let severity = match severity {
        Severity::Error => "ERROR",
        Severity::Fatal => "FATAL",
    };
    put_message(out, b'E', |out| {
        for (field, text) in [(b'S', severity), (b'V', severity), (b'C', sqlstate), (b'M', message)] {
            out.put_u8(field);
            put_text(out, text);
        }
        out.put_u8(0);
    });
}

/// Starts a copy without columns.
pub fn put_copy_response(out: &mut BytesMut, direction: CopyDirection, binary: bool) {
    let tag = match direction {
        CopyDirection::In => b'G',
        CopyDirection::Out => b'H',
        CopyDirection::Both => b'W',
    };
    put_message(out, tag, |out| {
        out.put_u8(u8::from(binary));
        out.put_u16(0);
    });
}

pub fn put_copy_data(out: &mut BytesMut, data: &[u8]) {
    put_message(out, b'd', |out| out.put_slice(data));
}

pub fn put_copy_done(out: &mut BytesMut) {
    put_message(out, b'c', |_| {});
}

pub fn put_parse_complete(out: &mut BytesMut) {
    put_message(out, b'1', |_| {});
}

pub fn put_bind_complete(out: &mut BytesMut) {
    put_message(out, b'2', |_| {});
}

pub fn put_close_complete(out: &mut BytesMut) {
    put_message(out, b'3', |_| {});
}

/// Answer to Describe of a statement, before its row description: how many parameters it takes, here none.
pub fn put_parameter_description(out: &mut BytesMut) {
    put_message(out, b't', |out| out.put_u16(0));
}

pub fn put_no_data(out: &mut BytesMut) {
    put_message(out, b'n', |_| {});
}

pub fn put_empty_query_response(out: &mut BytesMut) {
    put_message(out, b'I', |_| {});
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
