//! Tables of bytes and of command lines.

use super::*;
use proptest::prelude::*;

use PagestreamVersion::{V1, V2, V3};

const REL: RelTag = RelTag { spc: 1663, db: 5, rel: 16384, fork: Fork::Main };
const REL_HEX: &str = "0000067F 00000005 00004000 00";
const HEADER: RequestHeader = RequestHeader { reqid: 1, request_lsn: Lsn::MAX, not_modified_since: Lsn(0x16AB_CDE0) };
const V3_HEADER_HEX: &str = "0000000000000001 FFFFFFFFFFFFFFFF 0000000016ABCDE0";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

const QUESTIONS: [(Question, u8, &str); 5] = [
    (Question::Exists { rel: REL }, 0, REL_HEX),
    (Question::Nblocks { rel: RelTag { fork: Fork::Vm, ..REL } }, 1, "0000067F 00000005 00004000 02"),
    (Question::GetPage { rel: REL, block: 7 }, 2, "0000067F 00000005 00004000 00 00000007"),
    (Question::DbSize { db: 5 }, 3, "00000005"),
    (Question::GetSlruSegment { kind: SlruKind::MultiXactOffsets, segment: 3 }, 4, "02 00000003"),
];

#[test]
fn requests() {
    for (question, tag, body) in QUESTIONS {
        for (version, header, header_hex) in [
            (V1, RequestHeader { reqid: 0, ..HEADER }, "01 0000000016ABCDE0"),
            (V1, RequestHeader { reqid: 0, request_lsn: Lsn(8), not_modified_since: Lsn(8) }, "00 0000000000000008"),
            (V2, RequestHeader { reqid: 0, ..HEADER }, "FFFFFFFFFFFFFFFF 0000000016ABCDE0"),
            (V3, HEADER, V3_HEADER_HEX),
        ] {
            let message = bytes(&format!("{tag:02x} {header_hex} {body}"));
            let want = Request { header, question };
            if version == V1 && tag == 4 {
                assert_eq!(Request::decode(version, &message), Err(RequestError::Tag(4)));
                continue;
            }
            assert_eq!(Request::decode(version, &message), Ok(want), "{version:?}");
            let mut encoded = BytesMut::new();
            want.encode(version, &mut encoded);
            assert_eq!(encoded, message, "{version:?} {question:?}");
            assert!(message.len() <= REQUEST_LEN_MAX);
            for cut in 1..message.len() {
                assert_eq!(Request::decode(version, &message[..cut]), Err(RequestError::Truncated { tag, len: cut }));
            }
            let longer = [message.as_slice(), b"x"].concat();
            assert_eq!(Request::decode(version, &longer), Err(RequestError::Trailing { tag, extra: 1 }));
        }
    }
}

#[test]
fn worked_example() {
    let hex = "02 0000000000000001 FFFFFFFFFFFFFFFF 0000000016ABCDE0 0000067F 00000005 00004000 00 00000007";
    let want = Request { header: HEADER, question: Question::GetPage { rel: REL, block: 7 } };
    assert_eq!(bytes(hex).len(), 42);
    assert_eq!(Request::decode(V3, &bytes(hex)), Ok(want));
}

#[test]
fn request_mistakes() {
    let check = |version, hex: &str, want: RequestError| {
        assert_eq!(Request::decode(version, &bytes(hex)), Err(want), "{hex}");
        assert_eq!(want.sqlstate(), "08P01");
    };
    check(V3, "", RequestError::Empty);
    check(V3, "05", RequestError::Tag(5));
    check(V2, "63", RequestError::Tag(99));
    check(V2, "00 0000000000000001 0000000000000001 0000067F 00000005 00004000 04", RequestError::Fork(4));
    check(V2, "04 0000000000000001 0000000000000001 04 00000000", RequestError::SlruKind(4));
}

#[test]
fn responses() {
    let page: [u8; PAGE_SIZE] = std::array::from_fn(|i| i as u8);
    let segment = [page, page].concat();
    let answers: [(Answer<'_>, u8, Vec<u8>); 5] = [
        (Answer::Exists(true), 100, vec![1]),
        (Answer::Nblocks(0x0102), 101, bytes("00000102")),
        (Answer::Page(&page), 102, page.to_vec()),
        (Answer::DbSize(0x0A0B), 104, bytes("0000000000000A0B")),
        (Answer::SlruSegment(&segment), 105, [bytes("00000002"), segment.clone()].concat()),
    ];
    for ((question, _, body), (answer, tag, payload)) in QUESTIONS.into_iter().zip(answers) {
        let request = Request { header: HEADER, question };
        let respond = |version, answer: &Answer<'_>| {
            let mut out = BytesMut::new();
            request.put_response(version, answer, &mut out);
            out.to_vec()
        };
        let echo = bytes(&format!("{V3_HEADER_HEX} {body}"));
        assert_eq!(respond(V1, &answer), [vec![tag], payload.clone()].concat());
        assert_eq!(respond(V2, &answer), [vec![tag], payload.clone()].concat());
        assert_eq!(respond(V3, &answer), [vec![tag], echo, payload].concat());
        assert_eq!(respond(V2, &Answer::Error("no\0pe")), b"\x67no?pe\0");
        assert_eq!(respond(V3, &Answer::Error("no")), [vec![103], bytes(V3_HEADER_HEX), b"no\0".to_vec()].concat());
        if tag == 102 {
            assert_eq!(respond(V3, &answer).len(), 8234);
        }
    }
}

#[test]
fn commands() {
    let (t, tl) = ("0123456789abcdef0123456789abcdef", "00000000000000000000000000000001");
    let (tenant, timeline): (TenantId, TimelineId) = (t.parse().unwrap(), tl.parse().unwrap());
    let check = |text: String, want: Command| assert_eq!(Command::parse(&text), Ok(want), "{text}");
    for (name, version) in [("pagestream", V1), ("pagestream_v2", V2), ("PageStream_V3", V3)] {
        check(format!("{name} {t} {tl}"), Command::Pagestream { version, tenant, timeline });
    }
    let base = |lsn, gzip, replica| Command::BaseBackup { tenant, timeline, lsn, gzip, replica };
    check(format!("basebackup {t} {tl}"), base(None, false, false));
    check(format!("basebackup {t} {tl} latest --replica"), base(None, false, true));
    check(format!("basebackup {t} {tl} 0/16ABCDE0 --gzip"), base(Some(Lsn(0x16AB_CDE0)), true, false));
    check(format!("basebackup {t} {tl} --gzip --replica;"), base(None, true, true));
    let backup = |lsn, prev_lsn, form| Command::FullBackup { tenant, timeline, lsn, prev_lsn, form };
    let full = |lsn, prev_lsn| backup(lsn, prev_lsn, Form::Fresh);
    check(format!("fullbackup {t} {tl} --as first-node"), backup(None, None, Form::FirstNode));
    check(format!("fullbackup {t} {tl} 1/0 --as reseed"), backup(Some(Lsn(1 << 32)), None, Form::Reseed));
    check(format!("fullbackup {t} {tl}"), full(None, None));
    check(format!("  fullbackup\t{t}  {tl} 1/0 0/8 ;"), full(Some(Lsn(1 << 32)), Some(Lsn(8))));
    check(format!("get_last_record_rlsn {t} {tl}"), Command::GetLastRecordRlsn { tenant, timeline });
    check(format!("show {t}"), Command::Show { tenant });
    check("SET datestyle TO 'ISO'".to_string(), Command::Set);
    check("set".to_string(), Command::Set);

    let fails = |text: String, state: &str, part: &str| {
        let error = Command::parse(&text).expect_err(&text);
        assert_eq!(error.sqlstate(), state, "{text}: {error}");
        assert!(error.to_string().contains(part), "{text}: {error}");
    };
    fails("frobnicate".to_string(), "42601", "unknown command \"frobnicate\"");
    fails(String::new(), "42601", "unknown command \"\"");
    fails("SELECT 1".to_string(), "42601", "unknown command \"SELECT\"");
    fails("pagestream_v4 x y".to_string(), "42601", "unknown command");
    fails("pagestream_v2".to_string(), "42601", "needs a tenant id: pagestream_v2 TENANT TIMELINE");
    fails(format!("pagestream_v2 {t}"), "42601", "needs a timeline id");
    fails(format!("pagestream_v2 {t} {tl} x"), "42601", "does not take \"x\"");
    fails(format!("pagestream_v2 xyz {tl}"), "22023", "\"xyz\" is not a tenant id");
    fails(format!("pagestream_v2 {t} é"), "22023", "is not a timeline id");
    fails(format!("basebackup {t} {tl} 16ABCDE0"), "22023", "is not an LSN");
    fails(format!("basebackup {t} {tl} --gzip 0/8"), "42601", "does not take \"0/8\"");
    fails(format!("basebackup {t} {tl} --tar"), "42601", "does not take \"--tar\"");
    fails(format!("fullbackup {t} {tl} 0/8 0/8 0/8"), "42601", "does not take");
    fails(format!("fullbackup {t} {tl} --as clone"), "42601", "does not take");
    fails(format!("fullbackup {t} {tl} --as"), "42601", "needs what the cluster is for");
    fails(format!("fullbackup {t} {tl} --as fresh --as fresh"), "42601", "does not take");
}

proptest! {
    #[test]
    fn garbage_never_panics(message in proptest::collection::vec(any::<u8>(), 0..60), text in ".{0,80}") {
        for version in [V1, V2, V3] {
            let _ = Request::decode(version, &message);
        }
        let _ = Command::parse(&text);
    }
}
