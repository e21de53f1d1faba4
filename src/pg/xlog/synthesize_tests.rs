//! Records and pages written and read back.

use super::*;
use crate::pg::xlog::record::{Record, verify_record};
use crate::pg::xlog::stream::{StreamDecoder, WalError};
use crate::types::Fork;
use crate::types::lsn::WAL_SEGMENT_SIZE;

const SEG: u64 = WAL_SEGMENT_SIZE;

fn identity(version: PgVersion) -> WalIdentity {
    WalIdentity { version, system_id: 77, tli: 1, segment_size: SEG }
}

fn rel(rel: u32, fork: Fork) -> RelTag {
    RelTag { spc: 1663, db: 5, rel, fork }
}

fn page() -> [u8; PAGE_SIZE] {
    let mut page = [0; PAGE_SIZE];
    for (i, byte) in page.iter_mut().enumerate() {
        *byte = (i % 253) as u8;
    }
    page[12..16].copy_from_slice(&[40, 0, 0x00, 0x1F]);
    page[40..0x1F00].fill(0);
    page
}

#[test]
fn records_round_trip() {
    let packed = ImageSpec { bytes: vec![9; 321], hole_offset: 40, hole_length: 7000, apply: true, compression: ImageCompression::Pglz };
    let full = ImageSpec { bytes: vec![3; PAGE_SIZE], hole_offset: 0, hole_length: 0, apply: false, compression: ImageCompression::None };
    for version in PgVersion::ALL {
        for main_len in [0, 1, 255, 256, 70_000] {
            let main: Vec<u8> = (0..main_len).map(|i| i as u8).collect();
            let built = RecordBuilder::new(11, 0x30)
                .xid(4711)
                .block(BlockSpec::new(0, rel(9, Fork::Main), 3).will_init().data(*b"data of 0"))
                .block(BlockSpec::new(1, rel(9, Fork::Vm), 4).image(ImageSpec::of_page(&page(), true)))
                .block(BlockSpec::new(4, rel(10, Fork::Main), u32::MAX - 1).image(packed.clone()).data(*b""))
                .block(BlockSpec::new(32, rel(10, Fork::Main), 0).image(full.clone()))
                .main(main.clone())
                .origin(6)
                .toplevel_xid(99);
            let bytes = built.encode(Lsn(0x1234_5678_9AB0), version);
            let header = verify_record(&bytes).unwrap();
            assert_eq!((header.rmid, header.info, header.xid, header.prev), (11, 0x30, 4711, Lsn(0x1234_5678_9AB0)));
            let record = Record::decode(&bytes, version).unwrap();
            assert_eq!((record.origin, record.toplevel_xid), (Some(6), Some(99)));
            assert_eq!(record.main, main);
            let b = &record.blocks;
            assert_eq!(
                b.iter().map(|b| (b.id, b.rel.rel, b.rel.fork, b.block)).collect::<Vec<_>>(),
                [(0, 9, Fork::Main, 3), (1, 9, Fork::Vm, 4), (4, 10, Fork::Main, u32::MAX - 1), (32, 10, Fork::Main, 0)]
            );
            assert_eq!(
                b.iter().map(|b| (b.will_init, b.has_data, b.replaces_page())).collect::<Vec<_>>(),
                [(true, true, true), (false, false, true), (false, true, true), (false, false, false)]
            );
            let image = b[1].image.unwrap();
            assert_eq!((image.hole_offset, image.hole_length), (40, 0x1F00 - 40));
            assert_eq!([image.bytes, &[0; 0x1F00 - 40]].concat().len(), PAGE_SIZE);
            let image = b[2].image.unwrap();
            assert_eq!((image.bytes, image.hole_length, image.compression), (&[9; 321][..], 7000, ImageCompression::Pglz));
            assert_eq!(b[0].data, b"data of 0");
        }
    }
}

#[test]
fn odd_pages_have_no_hole() {
    let mut odd = page();
    for (lower, upper) in [(0u16, 0u16), (20, 100), (100, 100), (200, 100), (30, 8193)] {
        odd[12..14].copy_from_slice(&lower.to_le_bytes());
        odd[14..16].copy_from_slice(&upper.to_le_bytes());
        let image = ImageSpec::of_page(&odd, true);
        assert_eq!((image.hole_length, image.bytes.len()), (0, PAGE_SIZE), "{lower} {upper}");
    }
}

#[test]
fn writer_keeps_what_is_asked_for() {
    let mut writer = WalWriter::new(identity(PgVersion::V15), Lsn(SEG), Lsn(SEG - 100));
    let spans: Vec<RecordSpan> = (0..300).map(|i| writer.append(&RecordBuilder::new(20, 0).main(vec![i as u8; 150]))).collect();
    let middle = spans[150].start;
    let before = writer.bytes(middle..writer.end()).unwrap().to_vec();
    writer.discard_before(middle);
    assert_eq!(writer.kept_from(), middle);
    assert_eq!(writer.bytes(middle..writer.end()).unwrap(), before);
    assert_eq!(writer.bytes(Lsn(middle.0 - 1)..writer.end()), None);
    assert_eq!(writer.bytes(middle..Lsn(writer.end().0 + 1)), None);
    let next = writer.append(&RecordBuilder::new(20, 0).main(*b"more"));
    let mut decoder = StreamDecoder::new(middle, Some(PgVersion::V15), SEG).unwrap().with_prev(Some(spans[149].start));
    decoder.feed(middle, writer.bytes(middle..writer.end()).unwrap()).unwrap();
    let mut seen = Vec::new();
    while let Some((span, _)) = decoder.next().unwrap() {
        seen.push(span);
    }
    assert_eq!(seen, [&spans[150..], &[next]].concat());
    writer.discard_before(Lsn::MAX);
    assert_eq!(writer.kept_from(), writer.end());
}

/// The synthesised segments hold exactly the one record, and nothing after it.
fn check_checkpoint(at: Lsn, start: Lsn, end: Lsn, segments: &[u64]) {
    for version in PgVersion::ALL {
        let made = synthesize_checkpoint_segment(identity(version), at, |lsn| {
            let mut main = vec![7; 88];
            main[..8].copy_from_slice(&lsn.0.to_le_bytes());
            main
        });
        assert_eq!(made.span, RecordSpan { start, end }, "{at}");
        assert_eq!(made.segments.iter().map(|s| s.0).collect::<Vec<_>>(), segments, "{at}");
        let mut decoder = StreamDecoder::new(start, Some(version), SEG).unwrap().with_system_id(77).with_prev(Some(Lsn(0)));
        for (number, bytes) in &made.segments {
            assert_eq!(bytes.len() as u64, SEG);
            decoder.feed(Lsn(number * SEG), bytes).unwrap();
        }
        let (span, bytes) = decoder.next().unwrap().unwrap();
        assert_eq!(span, made.span);
        assert_eq!(Record::decode(bytes, version).unwrap().main[..8], start.0.to_le_bytes());
        let written = Lsn((segments[segments.len() - 1] + 1) * SEG);
        match decoder.next() {
            Err(WalError::ZeroLength { at }) => assert_eq!(at, end),
            Err(WalError::Page { page, .. }) => assert_eq!(page, end),
            Ok(None) => assert_eq!(end, written, "the record ends the last segment"),
            other => panic!("{other:?}"),
        }
        assert_eq!(decoder.tli(), Some(1));
    }
}

#[test]
fn checkpoints_stand_anywhere() {
    // The record: 24 + 2 + 88 = 114 bytes, 120 with padding.
    check_checkpoint(Lsn(3 * SEG), Lsn(3 * SEG + 40), Lsn(3 * SEG + 160), &[3]);
    check_checkpoint(Lsn(3 * SEG + 1000), Lsn(3 * SEG + 1000), Lsn(3 * SEG + 1120), &[3]);
    check_checkpoint(Lsn(3 * SEG + 993), Lsn(3 * SEG + 1000), Lsn(3 * SEG + 1120), &[3]);
    check_checkpoint(Lsn(3 * SEG + 8192), Lsn(3 * SEG + 8216), Lsn(3 * SEG + 8336), &[3]);
    check_checkpoint(Lsn(3 * SEG + 16384 - 120), Lsn(3 * SEG + 16384 - 120), Lsn(3 * SEG + 16384), &[3]);
    let cut = 3 * SEG + 16384;
    check_checkpoint(Lsn(cut - 8), Lsn(cut - 8), Lsn(cut + 24 + 112), &[3]);
    check_checkpoint(Lsn(4 * SEG - 120), Lsn(4 * SEG - 120), Lsn(4 * SEG), &[3]);
    check_checkpoint(Lsn(4 * SEG - 112), Lsn(4 * SEG - 112), Lsn(4 * SEG + 40 + 8), &[3, 4]);
    check_checkpoint(Lsn(4 * SEG - 8), Lsn(4 * SEG - 8), Lsn(4 * SEG + 40 + 112), &[3, 4]);
}

#[test]
fn same_layout_as_the_reference_prototype() {
    // Page flags and remaining length on the record's page, by the rule of reference wal-redo, section 10.
    let made = synthesize_checkpoint_segment(identity(PgVersion::V15), Lsn(5 * SEG + 8192 * 7 + 512), |_| vec![0; 88]);
    let bytes = &made.segments[0].1;
    assert_eq!(bytes[..4], [0x10, 0xD1, 2, 0]);
    assert_eq!(bytes[24..32], 77u64.to_le_bytes());
    let at = 8192 * 7;
    assert_eq!(bytes[at..at + 4], [0x10, 0xD1, 1, 0]);
    assert_eq!(bytes[at + 16..at + 20], (512u32 - 24).to_le_bytes());
    let used = |b: &[u8]| b.iter().any(|&b| b != 0);
    assert!(!used(&bytes[40..at]) && !used(&bytes[at + 24..at + 512]) && !used(&bytes[at + 512 + 114..]));
}
