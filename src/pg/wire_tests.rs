//! Tables of bytes for both directions, and garbage.

use super::*;
use postgres_protocol::message::frontend;
use proptest::prelude::*;

const LEN_MAX: usize = 1 << 20;

fn startup(code: u32, rest: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_u32(8 + rest.len() as u32);
    out.put_u32(code);
    out.put_slice(rest);
    out
}

fn check_startup(packet: BytesMut, want: Result<StartupPacket, WireError>) {
    for cut in 0..packet.len() {
        let mut part = BytesMut::from(&packet[..cut]);
        let early = take_startup(&mut part);
        assert!(early == Ok(None) || early == want.clone().map(Some), "{cut}: {early:?}");
    }
    let mut whole = packet;
    assert_eq!(take_startup(&mut whole), want.map(Some));
}

#[test]
fn startup_packets() {
    check_startup(startup(SSL_REQUEST, b""), Ok(StartupPacket::Ssl));
    check_startup(startup(GSSENC_REQUEST, b""), Ok(StartupPacket::GssEnc));
    let cancel = StartupPacket::Cancel { pid: 7, secret: Bytes::from_static(b"abcd") };
    check_startup(startup(CANCEL_REQUEST, b"\0\0\0\x07abcd"), Ok(cancel));
    let parameters = vec![("user".to_string(), "u".to_string()), ("database".to_string(), String::new())];
    let packet = StartupPacket::Startup { minor: 0, parameters };
    assert_eq!((packet.parameter("user"), packet.parameter("x")), (Some("u"), None));
    check_startup(startup(3 << 16, b"user\0u\0database\0\0\0"), Ok(packet));
    check_startup(startup(3 << 16 | 2, b"\0"), Ok(StartupPacket::Startup { minor: 2, parameters: Vec::new() }));
    check_startup(startup(2 << 16, b"\0"), Err(WireError::Version { major: 2, minor: 0 }));
    let unended = WireError::Startup("expected terminator as last byte");
    for rest in [&b""[..], b"user", b"user\0", b"user\0u", b"user\0u\0", b"user\0u\0\0more\0"] {
        check_startup(startup(3 << 16, rest), Err(unended.clone()));
    }
    check_startup(startup(3 << 16, b"user\0\xff\0\0"), Err(WireError::Startup("a parameter is not UTF-8")));
    check_startup(startup(CANCEL_REQUEST, b"\0\0"), Err(WireError::Startup("a cancel request without process id")));
    for garbage in [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x03\x01\x02\x00\x01", b"\0\0\0\x07\0\0\0", b"\xff\xff\xff\xff", b"\0\0\x27\x11"] {
        let error = take_startup(&mut BytesMut::from(garbage)).unwrap_err();
        assert!(matches!(error, WireError::StartupLength(_)) && error.sqlstate() == "08P01", "{garbage:?}");
    }
}

fn check_frontend(encode: impl FnOnce(&mut BytesMut), want: Frontend) {
    let mut message = BytesMut::new();
    encode(&mut message);
    for cut in 0..message.len() {
        assert_eq!(take_frontend(&mut BytesMut::from(&message[..cut]), LEN_MAX), Ok(None), "{want:?} {cut}");
    }
    assert_eq!(take_frontend(&mut message, LEN_MAX), Ok(Some(want)));
    assert!(message.is_empty());
}

#[test]
fn frontend_messages() {
    check_frontend(|b| frontend::query("SELECT 1", b).unwrap(), Frontend::Query("SELECT 1".into()));
    let parse = Frontend::Parse { statement: "s".into(), query: "q".into(), param_types: vec![25, 20] };
    check_frontend(|b| frontend::parse("s", "q", [25, 20], b).unwrap(), parse);
    let bind = Frontend::Bind {
        portal: "p".into(),
        statement: "s".into(),
        param_formats: vec![0, 1],
        params: vec![Some(Bytes::from_static(b"ab")), None],
        result_formats: vec![1],
    };
    check_frontend(|b| b.put_slice(b"B\0\0\0\x1ep\0s\0\0\x02\0\0\0\x01\0\x02\0\0\0\x02ab\xff\xff\xff\xff\0\x01\0\x01"), bind);
    check_frontend(|b| frontend::describe(b'S', "s", b).unwrap(), Frontend::Describe { target: Target::Statement, name: "s".into() });
    check_frontend(|b| frontend::close(b'P', "", b).unwrap(), Frontend::Close { target: Target::Portal, name: String::new() });
    check_frontend(|b| frontend::execute("p", 9, b).unwrap(), Frontend::Execute { portal: "p".into(), rows_max: 9 });
    check_frontend(frontend::sync, Frontend::Sync);
    check_frontend(frontend::flush, Frontend::Flush);
    check_frontend(frontend::terminate, Frontend::Terminate);
    check_frontend(frontend::copy_done, Frontend::CopyDone);
    check_frontend(|b| frontend::copy_fail("no", b).unwrap(), Frontend::CopyFail("no".into()));
    check_frontend(|b| frontend::password_message(b"pw", b).unwrap(), Frontend::Password(Bytes::from_static(b"pw\0")));
    check_frontend(|b| put_copy_data(b, b"xyz"), Frontend::CopyData(Bytes::from_static(b"xyz")));
}

#[test]
fn frontend_garbage() {
    let check = |bytes: &[u8], want: WireError| {
        assert_eq!(want.sqlstate(), "08P01");
        assert_eq!(take_frontend(&mut BytesMut::from(bytes), LEN_MAX), Err(want), "{bytes:?}");
    };
    check(b"GET / HTTP/1.1", WireError::Tag(b'G'));
    check(b"\0", WireError::Tag(0));
    check(b"Q\0\0\0\x03", WireError::Length { tag: 'Q', len: 3, max: LEN_MAX });
    check(b"Q\xff\xff\xff\xff", WireError::Length { tag: 'Q', len: -1, max: LEN_MAX });
    check(b"d\x00\x20\x00\x00", WireError::Length { tag: 'd', len: 0x20_0000, max: LEN_MAX });
    check(b"Q\0\0\0\x06ab", WireError::Truncated { tag: 'Q' });
    check(b"Q\0\0\0\x08a\0b\0", WireError::Trailing { tag: 'Q' });
    check(b"S\0\0\0\x05x", WireError::Trailing { tag: 'S' });
    check(b"Q\0\0\0\x06\xff\0", WireError::NotText { tag: 'Q' });
    check(b"D\0\0\0\x06x\0", WireError::Malformed { tag: 'D' });
    check(b"P\0\0\0\x08\0\0\xff\xff", WireError::Truncated { tag: 'P' });
    check(b"B\0\0\0\x0e\0\0\0\0\0\x01\0\0\0\x09", WireError::Truncated { tag: 'B' });
    check(b"B\0\0\0\x0e\0\0\0\0\0\x01\xff\xff\xff\xfe", WireError::Malformed { tag: 'B' });
}

fn check_backend(encode: impl FnOnce(&mut BytesMut), want: &[u8]) {
    let mut out = BytesMut::from(&b"before"[..]);
    encode(&mut out);
    assert_eq!(&out[6..], want, "{}", want.escape_ascii());
}

#[test]
fn backend_messages() {
    check_backend(put_authentication_ok, b"R\0\0\0\x08\0\0\0\0");
    check_backend(put_authentication_cleartext, b"R\0\0\0\x08\0\0\0\x03");
    check_backend(|b| put_parameter_status(b, "a", "b"), b"S\0\0\0\x08a\0b\0");
    check_backend(|b| put_negotiate_protocol_version(b, &["_pq_.x"]), b"v\0\0\0\x13\0\x03\0\0\0\0\0\x01_pq_.x\0");
    check_backend(|b| put_ready_for_query(b, TransactionStatus::Idle), b"Z\0\0\0\x05I");
    check_backend(|b| put_ready_for_query(b, TransactionStatus::Failed), b"Z\0\0\0\x05E");
    check_backend(
        |b| put_row_description(b, &[("t", ColumnType::Text), ("i", ColumnType::Int8)]),
        b"T\0\0\0\x2e\0\x02t\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0i\0\0\0\0\0\0\0\0\0\0\x14\0\x08\xff\xff\xff\xff\0\0",
    );
    check_backend(|b| put_data_row(b, &[Some(b"ab"), None]), b"D\0\0\0\x10\0\x02\0\0\0\x02ab\xff\xff\xff\xff");
    check_backend(|b| put_command_complete(b, "SELECT 1"), b"C\0\0\0\x0dSELECT 1\0");
    check_backend(|b| put_error(b, Severity::Error, "42601", "no\0pe"), b"E\0\0\0\x21SERROR\0VERROR\0C42601\0Mno?pe\0\0");
    check_backend(|b| put_copy_response(b, CopyDirection::Both, false), b"W\0\0\0\x07\0\0\0");
    check_backend(|b| put_copy_response(b, CopyDirection::Out, false), b"H\0\0\0\x07\0\0\0");
    check_backend(|b| put_copy_response(b, CopyDirection::In, true), b"G\0\0\0\x07\x01\0\0");
    check_backend(|b| put_copy_data(b, b"xyz"), b"d\0\0\0\x07xyz");
    check_backend(put_parameter_description, b"t\0\0\0\x06\0\0");
    type Put = fn(&mut BytesMut);
    let bare: [(Put, u8); 6] = [
        (put_copy_done, b'c'),
        (put_parse_complete, b'1'),
        (put_bind_complete, b'2'),
        (put_close_complete, b'3'),
        (put_no_data, b'n'),
        (put_empty_query_response, b'I'),
    ];
    for (put, tag) in bare {
        check_backend(put, &[tag, 0, 0, 0, 4]);
    }
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), tag in proptest::sample::select(b"QPBDECSHXdcfp".to_vec())) {
        let _ = take_startup(&mut BytesMut::from(bytes.as_slice()));
        let _ = take_frontend(&mut BytesMut::from(bytes.as_slice()), 100);
        // With a good frame around it, so that the fields are reached.
        let mut framed = BytesMut::new();
        put_message(&mut framed, tag, |b| b.put_slice(&bytes));
        let _ = take_frontend(&mut framed, LEN_MAX);
        let mut packet = startup(3 << 16, &bytes);
        let _ = take_startup(&mut packet);
    }
}
