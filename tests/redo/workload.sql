-- Makes WAL with every opcode of heap, heap2, btree, sequence and XLOG that a stock 15 server writes in normal work, for
-- the redo oracles. Run by psql against a cluster with wal_consistency_checking=all, full_page_writes=off,
-- wal_level=logical, max_prepared_transactions=20, track_commit_timestamp=on, autovacuum=off.
-- Knob: -v n=ROWS (WAL grows with it: see the driver).
-- Transactions that must overlap others are left prepared (PREPARE TRANSACTION), so that one session is enough.
\set ON_ERROR_STOP on
\if :{?n}
\else
  \set n 4000
\endif
SET client_min_messages = warning;
SET synchronous_commit = off;
SELECT setseed(0.5);

-- heap: insert, update to another page, hot update, delete, multi insert, toast
CREATE TABLE h (id int PRIMARY KEY, a int, b text) WITH (fillfactor = 70);
INSERT INTO h SELECT i, i % 100, repeat('x', i % 50) FROM generate_series(1, :n / 4) i;
UPDATE h SET b = b || 'y' WHERE id % 3 = 0;
UPDATE h SET b = repeat('z', 300) WHERE id % 5 = 0;
UPDATE h SET a = a + 1, b = NULL WHERE id % 7 = 0;
DELETE FROM h WHERE id % 11 = 0;
CREATE TABLE wide (id int, v text);
ALTER TABLE wide ALTER v SET STORAGE EXTERNAL;
INSERT INTO wide SELECT i, repeat(md5(i::text), 200) FROM generate_series(1, :n / 400) i;
UPDATE wide SET v = v || 'more' WHERE id % 4 = 0;
DELETE FROM wide WHERE id % 5 = 0;
CREATE TABLE many (x int, y text);
COPY many (x) FROM PROGRAM 'seq 1 5000';
COPY many (x) FROM PROGRAM 'seq 1 300';
BEGIN;
CREATE TABLE frozen (x int);
COPY frozen FROM PROGRAM 'seq 1 3000' WITH (FREEZE);
COMMIT;
SELECT count(*) FROM frozen;
UPDATE frozen SET x = x + 1 WHERE x % 10 = 0;
INSERT INTO frozen SELECT 1 FROM generate_series(1, 50);

-- rows that move between partitions
CREATE TABLE part (k int, v int) PARTITION BY LIST (k);
CREATE TABLE part1 PARTITION OF part FOR VALUES IN (1);
CREATE TABLE part2 PARTITION OF part FOR VALUES IN (2);
INSERT INTO part SELECT 1, i FROM generate_series(1, 300) i;
UPDATE part SET k = 2 WHERE v % 2 = 0;

-- speculative insertion
CREATE TABLE upsert (k int PRIMARY KEY, v int);
INSERT INTO upsert SELECT i % 400, i FROM generate_series(1, 400) i ON CONFLICT (k) DO NOTHING;
INSERT INTO upsert SELECT i, i FROM generate_series(200, 600) i ON CONFLICT (k) DO UPDATE SET v = excluded.v;

-- subtransactions, row locks, multixacts, two-phase commit
CREATE TABLE locks (id int PRIMARY KEY, v int);
INSERT INTO locks SELECT i, 0 FROM generate_series(1, 600) i;
VACUUM (FREEZE) locks;
BEGIN;
SELECT count(*) FROM (SELECT * FROM locks WHERE id <= 100 FOR KEY SHARE) s;
SAVEPOINT a;
SELECT count(*) FROM (SELECT * FROM locks WHERE id <= 60 FOR NO KEY UPDATE) s;
SAVEPOINT b;
UPDATE locks SET v = v + 1 WHERE id <= 40;
ROLLBACK TO b;
SELECT count(*) FROM (SELECT * FROM locks WHERE id BETWEEN 30 AND 90 FOR UPDATE) s;
RELEASE a;
COMMIT;
BEGIN; UPDATE locks SET v = 1 WHERE id BETWEEN 101 AND 200; PREPARE TRANSACTION 'updater';
BEGIN; SELECT count(*) FROM (SELECT * FROM locks WHERE id BETWEEN 101 AND 160 FOR KEY SHARE) s; PREPARE TRANSACTION 'locker';
BEGIN; SELECT count(*) FROM (SELECT * FROM locks WHERE id BETWEEN 141 AND 200 FOR KEY SHARE) s; COMMIT;
COMMIT PREPARED 'updater';
BEGIN; UPDATE locks SET v = 2 WHERE id BETWEEN 121 AND 180; COMMIT;
BEGIN; SELECT count(*) FROM (SELECT * FROM locks WHERE id BETWEEN 121 AND 140 FOR SHARE) s; SAVEPOINT s; UPDATE locks SET v = 5 WHERE id = 121; PREPARE TRANSACTION 'second';
ROLLBACK PREPARED 'locker';
ROLLBACK PREPARED 'second';
BEGIN; SELECT count(*) FROM (SELECT * FROM locks WHERE id > 300 FOR SHARE) s; PREPARE TRANSACTION 'p1';
BEGIN; SELECT count(*) FROM (SELECT * FROM locks WHERE id > 300 FOR SHARE) s; PREPARE TRANSACTION 'p2';
BEGIN; SELECT count(*) FROM (SELECT * FROM locks WHERE id > 300 FOR KEY SHARE) s; SAVEPOINT x; INSERT INTO locks VALUES (1001, 1); PREPARE TRANSACTION 'p3';
COMMIT PREPARED 'p1'; COMMIT PREPARED 'p2'; COMMIT PREPARED 'p3';
DO $$ BEGIN FOR i IN 1..200 LOOP BEGIN INSERT INTO locks VALUES (2000 + i, i); IF i % 3 = 0 THEN RAISE 'undo'; END IF; EXCEPTION WHEN raise_exception THEN NULL; END; END LOOP; END $$;
UPDATE locks SET v = 3;
VACUUM (FREEZE) locks;

-- btree: splits left and right, upper levels, new roots
SET wal_compression = 'pglz';
CREATE TABLE up (k int);
CREATE INDEX up_k ON up (k);
INSERT INTO up SELECT i FROM generate_series(1, :n) i;
SET wal_compression = 'lz4';
CREATE TABLE rnd (k text, d int);
CREATE INDEX rnd_k ON rnd (k);
CREATE INDEX rnd_d ON rnd (d);
INSERT INTO rnd SELECT repeat(md5(i::text), 1 + i % 4), i % 50 FROM generate_series(1, :n / 3) i;
SET wal_compression = 'zstd';
CREATE TABLE down (k int, w text);
CREATE INDEX down_k ON down (k, w);
INSERT INTO down SELECT -i, repeat('w', 100) FROM generate_series(1, :n / 4) i;
SET wal_compression = 'off';

-- btree: posting lists. Even tuples make lists with gaps; the gaps are freed and filled with the same keys.
CREATE TABLE dup (k int, filler int);
CREATE INDEX dup_k ON dup (k);
INSERT INTO dup SELECT CASE WHEN i % 2 = 0 THEN i % 10 ELSE 1000000 + i END, i FROM generate_series(1, :n / 2) i;
DELETE FROM dup WHERE k >= 1000000;
VACUUM dup;
INSERT INTO dup SELECT i % 10, -i FROM generate_series(1, :n / 3) i;
DELETE FROM dup WHERE filler % 3 = 0;
VACUUM dup;
INSERT INTO dup SELECT (random() * 10)::int, i FROM generate_series(1, :n / 4) i;
DELETE FROM dup WHERE filler % 7 <> 0;
VACUUM dup;

-- btree: dead items found by scans, bottom-up deletion
CREATE TABLE queue (k int, v int);
CREATE UNIQUE INDEX queue_k ON queue (k);
INSERT INTO queue SELECT i * 10, 0 FROM generate_series(1, greatest(900, :n / 4)) i;
DELETE FROM queue WHERE k % 3 = 0;
SET enable_seqscan = off; SET enable_bitmapscan = off;
SELECT count(*) FROM queue WHERE k > 0;
SELECT count(*) FROM queue WHERE k > 0;
INSERT INTO queue SELECT i * 10 + 1, 0 FROM generate_series(1, greatest(900, :n / 4)) i;
CREATE TABLE churn (id int PRIMARY KEY, a int, b int);
CREATE INDEX churn_a ON churn (a);
CREATE INDEX churn_b ON churn (b);
INSERT INTO churn SELECT i, i % 20, i FROM generate_series(1, 500) i;
SELECT format('UPDATE churn SET b = b + 1, a = CASE WHEN id %% 50 = %s THEN a + 1 ELSE a END', i % 50) FROM generate_series(1, greatest(6, :n / 1000)) i \gexec
RESET enable_seqscan; RESET enable_bitmapscan;

-- btree: page deletion down to one leaf (fast root), growth again, cleanup, reuse
CREATE TABLE del (k int, pad text);
CREATE INDEX del_k ON del (k, pad);
INSERT INTO del SELECT i, repeat('p', 400) FROM generate_series(1, greatest(1200, :n / 8)) i;
DELETE FROM del WHERE k % 1000 <> 3;
VACUUM del;
DELETE FROM del WHERE k < (SELECT max(k) FROM del);
VACUUM del;
INSERT INTO del SELECT 1000000 + i, repeat('q', 400) FROM generate_series(1, 200) i;
SELECT txid_current(); SELECT txid_current();
VACUUM del;
INSERT INTO del SELECT 500000 + i, repeat('r', 400) FROM generate_series(1, 800) i;
TRUNCATE del;
CREATE TABLE fast (k int, pad text);
CREATE INDEX fast_k ON fast (k, pad);
INSERT INTO fast SELECT i, repeat('f', 400) FROM generate_series(1, 200) i;
DELETE FROM fast WHERE k < 200;
VACUUM fast;
INSERT INTO fast SELECT 1000 + i, repeat('g', 400) FROM generate_series(1, 100) i;
DROP INDEX up_k;
CREATE INDEX up_k2 ON up (k);
REINDEX INDEX up_k2;
DELETE FROM up WHERE k > 100;
VACUUM up;
INSERT INTO up SELECT i FROM generate_series(1, :n / 4) i;

-- heap2: prune on access, vacuum in two steps, freeze, visible; truncation of the heap with its map
CREATE TABLE hot (id int PRIMARY KEY, v int) WITH (fillfactor = 50);
INSERT INTO hot SELECT i, 0 FROM generate_series(1, greatest(250, :n / 10)) i;
SELECT format('UPDATE hot SET v = %s', i) FROM generate_series(1, 8) i \gexec
SELECT sum(v) FROM hot;
DELETE FROM hot WHERE id % 4 = 0;
VACUUM hot;
INSERT INTO hot SELECT 5000 + i, 0 FROM generate_series(1, 300) i;
VACUUM (FREEZE, ANALYZE) hot;
UPDATE hot SET v = -1 WHERE id % 10 = 0;
SELECT count(*) FROM (SELECT * FROM hot WHERE id % 9 = 0 FOR UPDATE) s;
VACUUM hot;
DELETE FROM many WHERE x > 200;
VACUUM many;
INSERT INTO many SELECT i FROM generate_series(1, :n / 4) i;
VACUUM (FREEZE) many;
VACUUM (FREEZE) h;

-- sequences, brin, rewrites, catalog changes, databases
CREATE SEQUENCE s CACHE 1;
SELECT count(nextval('s')) FROM generate_series(1, 500);
SELECT setval('s', 100000);
ALTER SEQUENCE s INCREMENT 5;
CREATE TABLE ident (id bigint GENERATED ALWAYS AS IDENTITY, v int);
INSERT INTO ident (v) SELECT i FROM generate_series(1, 200) i;
CREATE TABLE ranges (k int, v text);
CREATE INDEX ranges_k ON ranges USING brin (k, v) WITH (pages_per_range = 2, autosummarize = off);
INSERT INTO ranges SELECT i, repeat('b', 100) FROM generate_series(1, greatest(1000, :n / 4)) i;
SELECT brin_summarize_new_values('ranges_k');
UPDATE ranges SET v = repeat('c', 300) WHERE k % 50 = 0;
INSERT INTO ranges SELECT -i, repeat('a', 800) FROM generate_series(1, 200) i;
SELECT brin_summarize_new_values('ranges_k');
SELECT brin_desummarize_range('ranges_k', 0);
SELECT brin_summarize_range('ranges_k', 0);
CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY, v text);
INSERT INTO unlogged SELECT i, 'u' FROM generate_series(1, 100) i;
SELECT count(*) FROM (SELECT pg_create_logical_replication_slot('redo_workload', 'pgoutput')) slot;
CREATE TABLE catalog1 (a int, b int);
ALTER TABLE catalog1 ADD c int, DROP b;
ANALYZE h;
VACUUM FULL pg_class;
VACUUM FULL pg_attribute;
CLUSTER h USING h_pkey;
VACUUM FULL locks;
SELECT pg_drop_replication_slot('redo_workload');
VACUUM (ANALYZE);
CREATE DATABASE copy_log STRATEGY wal_log;
CREATE DATABASE copy_file STRATEGY file_copy;
DROP DATABASE copy_log;
DROP DATABASE copy_file;
DROP TABLE churn;

-- XLOG: checkpoints, hint bits after one, switches, restore point, backup, full_page_writes
CHECKPOINT;
SELECT count(*) FROM rnd;
SELECT count(*) FROM dup;
SELECT count(*) FROM pg_backup_start('redo', true) b;
INSERT INTO h SELECT 900000 + i, 1, 'during backup' FROM generate_series(1, 500) i;
UPDATE hot SET v = v + 1;
SELECT count(*) FROM pg_backup_stop(false) b;
SELECT pg_create_restore_point('redo') IS NOT NULL;
SELECT pg_switch_wal() IS NOT NULL;
ALTER SYSTEM SET full_page_writes = on;
SELECT pg_reload_conf();
CHECKPOINT;
UPDATE h SET a = a + 1 WHERE id % 2 = 0;
SELECT count(*) FROM up;
UPDATE rnd SET d = d + 1 WHERE d < 5;
INSERT INTO dup SELECT i % 10, i FROM generate_series(1, 2000) i;
DELETE FROM hot WHERE id % 2 = 0;
VACUUM hot;
ALTER SYSTEM SET full_page_writes = off;
SELECT pg_reload_conf();
CHECKPOINT;
UPDATE h SET a = a + 1 WHERE id % 2 = 1;
