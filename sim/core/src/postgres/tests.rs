//! The generator's WAL decodes, and the data directory is one that PostgreSQL's own tools read.

use super::datadir;
use super::generator::{Generator, VERSION, Weights, WorkloadKnobs};
use palimpsest::io_abstraction::RngSource;
use palimpsest::pg::xlog::record::Record;
use palimpsest::pg::xlog::stream::StreamDecoder;
use palimpsest::pg::xlog::synthesize::WalIdentity;
use palimpsest::types::Lsn;
use std::collections::BTreeMap;

pub fn generator(seed: u128, full_page_writes: bool) -> Generator {
    let identity = WalIdentity { version: VERSION, system_id: 7_300_000_000_000_000_001, tli: 1, segment_size: 16 << 20 };
    let knobs = WorkloadKnobs {
        relations_max: 4,
        tuple_bytes_max: 300,
        transaction_records_max: 5,
        checkpoint_steps: 100,
        full_page_writes,
        weights: Weights::default(),
    };
    Generator::new(identity, Lsn(16 << 20), knobs, &RngSource::new(seed))
}

#[test]
fn generated_wal_decodes_and_has_every_kind_of_record() {
    let mut kinds: BTreeMap<(u8, u8), u32> = BTreeMap::new();
    for seed in 0..6 {
        let mut generator = generator(seed, seed % 2 == 0);
        datadir::build(&mut generator, &RngSource::new(seed));
        let start = generator.checkpoint.start;
        for _ in 0..2000 {
            generator.step();
        }
        let bytes = generator.writer.bytes(start.page_start()..generator.end()).expect("nothing is discarded").to_vec();
        let mut decoder = StreamDecoder::new(start, Some(VERSION), 16 << 20).expect("starts");
        decoder.feed(start, &bytes[start.page_offset()..]).expect("is fed");
        let mut last = Lsn::INVALID;
        while let Some((span, record)) = decoder.next().expect("every record is valid") {
            let record = Record::decode(record, VERSION).expect("every record decodes");
            *kinds.entry((record.header.rmid, record.header.info & 0x70)).or_default() += 1;
            last = span.end;
        }
        assert_eq!(last, generator.end());
    }
    let expected = [(0, 0x00), (0, 0x10), (0, 0x30), (0, 0x20), (1, 0x00), (1, 0x20), (2, 0x10), (2, 0x20), (8, 0x10)];
    let heap = [0x00, 0x10, 0x20, 0x40, 0x60].map(|opcode| (10, opcode));
    for kind in expected.into_iter().chain(heap) {
        assert!(kinds.contains_key(&kind), "rmgr and opcode {kind:?} missing in {kinds:?}");
    }
}

#[test]
fn the_model_answers_by_lsn() {
    let mut generator = generator(1, true);
    datadir::build(&mut generator, &RngSource::new(1));
    let base = generator.model.base();
    for _ in 0..500 {
        generator.step();
    }
    let model = &generator.model;
    assert!(model.versions_len() > 300, "{}", model.versions_len());
    for v in (0..model.versions_len()).filter_map(|n| model.version_number(n as u64)) {
        assert_eq!(model.last_change(v.rel, v.block, v.lsn), Some(v.lsn));
        let found = model.page(v.rel, v.block, v.lsn);
        assert!(model.page_between(v.rel, v.block, base, generator.end(), found));
        assert!(model.page_between(v.rel, v.block, v.lsn, v.lsn, found));
    }
    assert_ne!(model.clog_page(base), model.clog_page(generator.end()));
}

#[test]
fn the_same_seed_gives_the_same_wal() {
    let wal = |seed| {
        let mut generator = generator(seed, true);
        datadir::build(&mut generator, &RngSource::new(seed));
        for _ in 0..200 {
            generator.step();
        }
        let start = generator.writer.kept_from();
        generator.writer.bytes(start..generator.end()).map(<[u8]>::to_vec)
    };
    assert_eq!(wal(3), wal(3));
    assert_ne!(wal(3), wal(4));
}
