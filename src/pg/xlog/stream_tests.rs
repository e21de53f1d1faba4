//! Streams made by [`WalWriter`], cut, damaged and joined again.

use super::*;
use crate::pg::xlog::record::RecordError;
use crate::pg::xlog::synthesize::{BlockSpec, RecordBuilder, WalIdentity, WalWriter};
use crate::types::lsn::WAL_SEGMENT_SIZE;
use crate::types::{Fork, RelTag};
use proptest::prelude::*;

const SEG: u64 = WAL_SEGMENT_SIZE;
const SYSTEM_ID: u64 = 0x7000_0000_0000_0001;

fn identity() -> WalIdentity {
    WalIdentity { version: PgVersion::V15, system_id: SYSTEM_ID, tli: 1, segment_size: SEG }
}

fn record(len: usize) -> RecordBuilder {
    let rel = RelTag { spc: 1663, db: 5, rel: 16384, fork: Fork::Main };
    let data: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
    // Block data is at most 64 KiB; the rest of a long record is main data.
    let (data, main) = data.split_at(data.len().min(60_000));
    RecordBuilder::new(10, 0).xid(700).block(BlockSpec::new(0, rel, 1).data(data)).main(main)
}

/// A stream of records with these payload lengths from `start` on; 0 stands for XLOG_SWITCH.
fn write(start: Lsn, lens: &[usize]) -> (WalWriter, Vec<RecordSpan>) {
    let mut writer = WalWriter::new(identity(), start, Lsn::INVALID);
    let spans = lens
        .iter()
        .map(|&len| match len {
            0 => writer.switch_segment(),
            len => writer.append(&record(len)),
        })
        .collect();
    (writer, spans)
}

type Records = Vec<(RecordSpan, Vec<u8>)>;

/// Everything that comes out of `bytes` at `from`, fed in runs that end at `cuts`, and the error that ended it.
fn read(mut decoder: StreamDecoder, from: Lsn, bytes: &[u8], cuts: &[usize]) -> (Records, Option<WalError>) {
    let mut records = Vec::new();
    let mut at = 0;
    let ends = cuts.iter().copied().chain([bytes.len()]);
    for end in ends {
        let end = end.clamp(at, bytes.len());
        decoder.feed(Lsn(from.0 + at as u64), &bytes[at..end]).unwrap();
        at = end;
        loop {
            match decoder.next() {
                Ok(Some((span, bytes))) => records.push((span, bytes.to_vec())),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(decoder.next().unwrap_err(), error, "ST-3");
                    return (records, Some(error));
                }
            }
        }
    }
    (records, None)
}

fn decoder(start: Lsn) -> StreamDecoder {
    StreamDecoder::new(start, None, SEG).unwrap()
}

fn all(writer: &WalWriter) -> (Lsn, Vec<u8>) {
    let from = writer.kept_from();
    (from, writer.bytes(from..writer.end()).unwrap().to_vec())
}

/// The stream decodes to the same spans, whole and in small runs, from the page start and from the record start.
fn check(start: Lsn, lens: &[usize]) -> Vec<RecordSpan> {
    let (writer, spans) = write(start, lens);
    let (from, bytes) = all(&writer);
    for step in [bytes.len(), 1, 7, 24, 8192, 8200] {
        let cuts: Vec<usize> = (0..bytes.len()).step_by(step).skip(1).collect();
        let (records, error) = read(decoder(start), from, &bytes, &cuts);
        assert_eq!(error, None, "step {step}");
        assert_eq!(records.iter().map(|r| r.0).collect::<Vec<_>>(), spans, "step {step}");
    }
    let skip = spans[0].start.distance_from(from) as usize;
    let (records, error) = read(decoder(start), spans[0].start, &bytes[skip..], &[]);
    assert_eq!((records.len(), error), (spans.len(), None));
    spans
}

#[test]
fn spans_at_edges() {
    // A payload of n bytes makes a record of 24 + 20 + n bytes (n up to 60,000).
    let page = SEG + 8192;
    let first = check(Lsn(page), &[100, 8192 - 24 - 144 - 44, 1]);
    assert_eq!(first[0], RecordSpan { start: Lsn(page + 24), end: Lsn(page + 24 + 144) });
    assert_eq!(first[1].end, Lsn(page + 8192), "a record that ends a page ends at the boundary");
    assert_eq!(first[2].start, Lsn(page + 8192 + 24));

    let padded = check(Lsn(page), &[8192 - 24 - 44 - 5, 1]);
    assert_eq!(padded[0].end, Lsn(page + 8192), "so does one whose padding ends it");

    let split = check(Lsn(page + 8192 - 8), &[100]);
    assert_eq!(split[0].end, Lsn(page + 8192 + 24 + 136), "the header itself is cut");

    let long = check(Lsn(2 * SEG - 64), &[50_000, 3, 200_000, 1]);
    assert_eq!(long[0].start, Lsn(2 * SEG - 64));
    assert_eq!(long[0].end, Lsn(2 * SEG + 40 + 8152 + 5 * 8192 + 24 + (50_044 - 64 - 8152 - 5 * 8168)).align8());

    let switched = check(Lsn(SEG + 16), &[10, 0, 20]);
    assert_eq!(switched[0].start, Lsn(SEG + 40));
    assert_eq!(switched[1].end, Lsn(2 * SEG), "XLOG_SWITCH ends with the segment");
    assert_eq!(switched[2].start, Lsn(2 * SEG + 40));

    let at_end = check(Lsn(2 * SEG - 24), &[0, 20]);
    assert_eq!(at_end[0], RecordSpan { start: Lsn(2 * SEG - 24), end: Lsn(2 * SEG) });
    let over_end = check(Lsn(2 * SEG - 16), &[0]);
    assert_eq!(over_end[0].end, Lsn(3 * SEG), "a switch that runs into the next segment ends that one");
}

#[test]
fn starts_in_the_middle() {
    let (writer, spans) = write(Lsn(SEG), &[100, 9000, 50, 8192, 30_000, 77, 3]);
    let (from, bytes) = all(&writer);
    for (i, span) in spans.iter().enumerate() {
        // From any page at or below the record, and when the start given is the end of the record before.
        let given = if i == 0 { span.start } else { spans[i - 1].end };
        for feed_from in [from, given.page_start(), given.page_start().max(from), span.start.page_start()] {
            let decoder = decoder(given).with_prev(i.checked_sub(1).map(|i| spans[i].start));
            let skip = feed_from.distance_from(from) as usize;
            let (records, error) = read(decoder, feed_from, &bytes[skip..], &[]);
            assert_eq!(error, None);
            assert_eq!(records.iter().map(|r| r.0).collect::<Vec<_>>(), spans[i..]);
        }
    }
    let inside = Lsn(SEG + 8192 + 24);
    let (records, error) = read(decoder(inside), from, &bytes, &[]);
    assert!(records.is_empty());
    assert!(matches!(error, Some(WalError::StartInsideRecord { start, .. }) if start == inside), "{error:?}");
}

#[test]
fn seeks_the_first_record() {
    let (writer, spans) = write(Lsn(SEG), &[100, 9000, 50, 8192, 30_000, 77, 3, 16_000]);
    let (from, bytes) = all(&writer);
    for page in (from.0..writer.end().0).step_by(8192).map(Lsn) {
        // The record that ends at or before the page, or in it, is followed by the first one that starts there.
        let want: Vec<RecordSpan> = spans.iter().copied().filter(|s| s.start >= page).collect();
        let skip = page.distance_from(from) as usize;
        for cuts in [vec![], (skip..bytes.len()).step_by(13).map(|at| at - skip).collect()] {
            let decoder = StreamDecoder::seek(Lsn(page.0 + 77), None, SEG).unwrap();
            let (records, error) = read(decoder, page, &bytes[skip..], &cuts);
            assert_eq!((records.iter().map(|r| r.0).collect::<Vec<_>>(), error), (want.clone(), None), "{page}");
        }
    }
    let mut late = StreamDecoder::seek(Lsn(SEG), None, SEG).unwrap();
    assert!(late.feed(Lsn(SEG + 8), &bytes[8..]).is_err(), "the page's header is needed");
}

#[test]
fn what_headers_say_is_reported() {
    let (mut writer, _) = write(Lsn(SEG + 100), &[10]);
    writer.set_tli(3);
    writer.append(&record(20_000));
    let (from, bytes) = all(&writer);
    let mut found = decoder(Lsn(SEG + 104));
    found.feed(from, &bytes).unwrap();
    while found.next().unwrap().is_some() {}
    assert_eq!((found.version(), found.system_id(), found.tli()), (Some(PgVersion::V15), Some(SYSTEM_ID), Some(3)));
    assert_eq!((found.last_end(), found.fed_to()), (writer.end(), Some(writer.end())));
    assert_eq!(found.prev(), Some(writer.prev()));

    let page_error = |decoder: StreamDecoder| match read(decoder, from, &bytes, &[]).1 {
        Some(WalError::Page { page, error }) => (page, error),
        other => panic!("{other:?}"),
    };
    let foreign = page_error(decoder(Lsn(SEG + 104)).with_system_id(5));
    assert_eq!(foreign, (Lsn(SEG), PageHeaderError::SystemId { expected: 5, found: SYSTEM_ID }));
    let other = page_error(StreamDecoder::new(Lsn(SEG + 104), Some(PgVersion::V16), SEG).unwrap());
    assert_eq!(other, (Lsn(SEG), PageHeaderError::OtherVersion { expected: 0xD113, found: 0xD110 }));
}

#[test]
fn feeding_must_be_contiguous() {
    let (writer, _) = write(Lsn(SEG), &[10, 10]);
    let (from, bytes) = all(&writer);
    let mut late = decoder(Lsn(SEG));
    let got = Lsn(SEG + 48);
    assert_eq!(late.feed(got, &bytes), Err(WalError::NotContiguous { expected: Lsn(SEG + 40), got }));
    late.feed(from, &bytes[..50]).unwrap();
    for wrong in [49, 51] {
        let got = Lsn(SEG + wrong);
        assert_eq!(late.feed(got, &bytes), Err(WalError::NotContiguous { expected: Lsn(SEG + 50), got }));
    }
    late.feed(Lsn(SEG + 50), &bytes[50..]).unwrap();
    assert!(late.next().unwrap().is_some(), "a refused run does no harm");
    assert!(late.feed(Lsn(u64::MAX - 3), &bytes).is_err());
    assert_eq!(StreamDecoder::new(Lsn(SEG), None, 12345).err(), Some(WalError::SegmentSize(12345)));
}

#[test]
fn ends_of_wal() {
    let (writer, spans) = write(Lsn(SEG), &[100, 200]);
    let (from, mut bytes) = all(&writer);
    let end = writer.end();
    bytes.resize(3 * 8192, 0);
    let (records, error) = read(decoder(Lsn(SEG)), from, &bytes, &[]);
    assert_eq!((records.len(), error), (2, Some(WalError::ZeroLength { at: end })));

    // A recycled segment: old records behind the end, intact but linked elsewhere.
    let (old, _) = write(end, &[60, 60]);
    let tail = old.bytes(end..old.end()).unwrap();
    let mut recycled = bytes.clone();
    let at = end.distance_from(from) as usize;
    recycled[at..at + tail.len()].copy_from_slice(tail);
    let (records, error) = read(decoder(Lsn(SEG)), from, &recycled, &[]);
    let error = error.unwrap();
    assert_eq!(records.len(), 2);
    assert_eq!(error, WalError::PrevLink { at: end, expected: spans[1].start, found: Lsn(0) });
    assert!(error.may_be_end_of_wal());

    // A page that was never written.
    let (full, _) = write(Lsn(SEG), &[8192 - 40 - 44]);
    let (from, mut bytes) = all(&full);
    bytes.resize(2 * 8192, 0);
    let (records, error) = read(decoder(Lsn(SEG)), from, &bytes, &[]);
    let page = Lsn(SEG + 8192);
    assert_eq!((records.len(), error), (1, Some(WalError::Page { page, error: PageHeaderError::Zero })));
}

#[test]
fn cut_off_records_are_passed_over() {
    let mut writer = WalWriter::new(identity(), Lsn(SEG), Lsn::INVALID);
    let first = writer.append(&record(100));
    assert_eq!(writer.append_cut_off(&record(5), 1), None, "it would fit");
    let (cut, told) = writer.append_cut_off(&record(20_000), 1).unwrap();
    let last = writer.append(&record(10));
    let (from, bytes) = all(&writer);
    for cuts in [vec![], (1..bytes.len()).step_by(5).collect()] {
        let (records, error) = read(decoder(Lsn(SEG)), from, &bytes, &cuts);
        assert_eq!(error, None);
        assert_eq!(records.iter().map(|r| r.0).collect::<Vec<_>>(), [first, told, last]);
        assert_eq!(RecordHeader::decode(&records[1].1).unwrap().prev, first.start);
    }
    assert_eq!(cut, first.end);
    // Without the flag the record is simply not continued.
    let mut plain = bytes.clone();
    plain[8192 + 2] = 0;
    let page = Lsn(SEG + 8192);
    assert_eq!(read(decoder(Lsn(SEG)), from, &plain, &[]).1, Some(WalError::ContinuationMissing { page, record: cut }));
    // With the flag, but another record is there.
    let mut writer = WalWriter::new(identity(), Lsn(SEG), Lsn::INVALID);
    let first = writer.append(&record(100));
    let (mut other, _) = write(Lsn(SEG + 8192), &[10]);
    other.discard_before(Lsn(SEG + 8192));
    writer.append(&record(20_000));
    let (from, mut bytes) = all(&writer);
    bytes.truncate(8192);
    let mut wrong = WalWriter::new(identity(), Lsn(SEG + 8192), first.start);
    wrong.append(&record(10));
    bytes.extend_from_slice(wrong.bytes(Lsn(SEG + 8192)..wrong.end()).unwrap());
    bytes[8192 + 2] = 8;
    let at = Lsn(SEG + 8192 + 24);
    assert_eq!(read(decoder(Lsn(SEG)), from, &bytes, &[]).1, Some(WalError::OverwriteMissing { at, record: first.end }));
}

#[test]
fn wrong_continuations() {
    let (writer, spans) = write(Lsn(SEG), &[20_000, 5]);
    let (from, bytes) = all(&writer);
    let record = spans[0].start;
    let page = Lsn(SEG + 8192);
    let expected = 20_044 - (8192 - 40);
    let error_of = |edit: &dyn Fn(&mut [u8])| {
        let mut bytes = bytes.clone();
        edit(&mut bytes);
        read(decoder(Lsn(SEG)), from, &bytes, &[]).1.unwrap()
    };
    assert_eq!(error_of(&|b| b[8192 + 16] ^= 1), WalError::ContinuationLength { page, record, expected, found: expected ^ 1 });
    let first = WalError::StartInsideRecord { start: record, reaches: Lsn(SEG + 40 + 8) };
    assert_eq!(error_of(&|b| (b[2], b[16]) = (3, 8)), first);
    let (writer, _) = write(Lsn(SEG), &[8192 - 40 - 44, 5]);
    let (from, mut bytes) = all(&writer);
    (bytes[8192 + 2], bytes[8192 + 16]) = (1, 30);
    let error = read(decoder(Lsn(SEG)), from, &bytes, &[]).1;
    assert_eq!(error, Some(WalError::ContinuationUnexpected { page, rem_len: 30 }));
}

#[test]
fn any_flipped_byte_of_a_record_is_found() {
    let (writer, spans) = write(Lsn(SEG + 8000), &[30, 300, 40]);
    let (from, good) = all(&writer);
    let (want, _) = read(decoder(spans[0].start), from, &good, &[]);
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 0x41;
        let (records, error) = read(decoder(spans[0].start), from, &bytes, &[]);
        // Bytes that mean nothing: padding, the pad of page headers, what lies before the start. Everything else must be noticed, and no
        // record may come out that was not written.
        let same = records.iter().zip(&want).all(|(a, b)| a == b);
        assert!(same, "byte {at} changed a record unnoticed");
        let lsn = Lsn(from.0 + at as u64);
        let in_record = spans.iter().any(|s| lsn >= s.start && lsn < s.end && lsn.page_offset() >= 24);
        let is_padding = want.iter().any(|(span, bytes)| {
            let unpadded = span.end.0 - ((8 - bytes.len() % 8) % 8) as u64;
            (unpadded..span.end.0).contains(&lsn.0)
        });
        if in_record && !is_padding {
            // A longer length waits for bytes that never come; everything else is an error.
            let waits = error.is_none() && records.len() < want.len();
            assert!(error.is_some() || waits, "byte {at} ({lsn})");
        }
    }
}

#[test]
fn garbage_lengths_are_seen_early() {
    // A length that claims a gigabyte is refused as soon as the header is there, by its prev link.
    let (writer, spans) = write(Lsn(SEG), &[100, 100]);
    let (from, mut bytes) = all(&writer);
    let at = spans[1].start.distance_from(from) as usize;
    bytes[at..at + 4].copy_from_slice(&0x3000_0000u32.to_le_bytes());
    bytes[at + 8] ^= 0xFF;
    let error = read(decoder(Lsn(SEG)), from, &bytes, &[]).1;
    assert!(matches!(error, Some(WalError::PrevLink { .. })), "{error:?}");
    bytes[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let error = read(decoder(Lsn(SEG)), from, &bytes, &[]).1;
    assert_eq!(error, Some(WalError::Record { at: spans[1].start, error: RecordError::Length(u32::MAX) }));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn cuts_never_show(
        offset in 0u64..20_000,
        lens in prop::collection::vec(prop_oneof![8 => 1usize..200, 2 => 200usize..9000, 1 => 9000usize..70_000], 1..40),
        mut cuts in prop::collection::vec(0usize..400_000, 0..60),
        flip in prop::option::of((0usize..400_000, 1u8..)),
    ) {
        let start = Lsn(2 * SEG - offset);
        let (writer, spans) = write(start, &lens);
        let (from, mut bytes) = all(&writer);
        if let Some((at, xor)) = flip {
            let at = at % bytes.len();
            bytes[at] ^= xor;
        }
        cuts.sort_unstable();
        let whole = read(decoder(start), from, &bytes, &[]);
        let cut = read(decoder(start), from, &bytes, &cuts);
        if flip.is_none() {
            prop_assert_eq!(whole.0.iter().map(|r| r.0).collect::<Vec<_>>(), spans);
            prop_assert_eq!(&whole.1, &None);
        }
        prop_assert_eq!(whole, cut);
    }

    #[test]
    fn no_input_panics(
        at in any::<u64>(),
        start in any::<u64>(),
        near in any::<bool>(),
        bytes in prop::collection::vec(any::<u8>(), 0..20_000),
        header in any::<bool>(),
    ) {
        let at = Lsn(at);
        let start = if near { Lsn(at.0.saturating_add(start % 10_000)) } else { Lsn(start) };
        let mut bytes = bytes;
        if header && bytes.len() > 40 {
            PageHeader::new(PgVersion::V15, 1, at.page_start(), 1, SEG).encode_into(&mut bytes[..40]);
        }
        let at = if header { at.page_start() } else { at };
        let mut decoder = StreamDecoder::new(start, None, SEG).unwrap();
        if decoder.feed(at, &bytes).is_ok() {
            while let Ok(Some((span, _))) = decoder.next() {
                prop_assert!(span.end >= span.start);
            }
        }
    }
}
