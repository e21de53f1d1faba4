//! The demo's load in SQL, and the figures that tell whether two clusters hold the same.

use super::super::output::CommandError;
use crate::postgres::SqlClient;
use std::collections::BTreeMap;

/// Tables that live to the end.
const TABLES: [&str; 3] = ["accounts", "transfers", "documents"];
/// The table that is dropped after the branch point.
pub const DROPPED: &str = "drafts";

const SETUP: &str = "
    CREATE TABLE accounts (id int PRIMARY KEY, owner text NOT NULL, balance bigint NOT NULL, note text);
    CREATE INDEX accounts_owner ON accounts (owner);
    CREATE TABLE transfers (id bigserial PRIMARY KEY, client int NOT NULL, account int NOT NULL REFERENCES accounts, amount int NOT NULL, at timestamptz NOT NULL DEFAULT now());
    CREATE INDEX transfers_account ON transfers (account, at);
    CREATE TABLE documents (id int PRIMARY KEY, title text UNIQUE, body text NOT NULL);
    CREATE TABLE drafts (id int PRIMARY KEY, body text NOT NULL);
    INSERT INTO accounts SELECT i, 'owner ' || md5(i::text), 1000, NULL FROM generate_series(1, 10000) i;
    INSERT INTO documents SELECT i, 'title ' || i, (SELECT string_agg(md5((i * 1000 + j)::text), '') FROM generate_series(1, 150) j) FROM generate_series(1, 200) i;
    INSERT INTO drafts SELECT i, repeat(md5(i::text), 5) FROM generate_series(1, 2000) i;
";

/// Clients that write at the same time; each has accounts of its own, so that none waits for another for ever.
pub const CLIENTS: u32 = 2;

/// One round of one client: several transactions, one of them rolled back, one with a savepoint.
fn round(client: u32, number: u32) -> String {
    let mine = format!("id % {CLIENTS} = {client}");
    format!(
        "BEGIN;
         INSERT INTO transfers (client, account, amount)
             SELECT {client}, id, (random() * 100)::int FROM accounts WHERE {mine} AND random() < 0.03;
         UPDATE accounts SET balance = balance - 1, note = md5(random()::text) WHERE {mine} AND random() < 0.03;
         COMMIT;
         BEGIN;
         SAVEPOINT before;
         DELETE FROM transfers WHERE client = {client} AND id % 13 = {number} % 13;
         ROLLBACK TO before;
         DELETE FROM transfers WHERE client = {client} AND id % 29 = {number} % 29;
         COMMIT;
         BEGIN;
         UPDATE accounts SET balance = 0 WHERE {mine} AND random() < 0.01;
         ROLLBACK;
         UPDATE documents SET body = md5(random()::text) || body WHERE id % 40 = {number} % 40 AND {mine};"
    )
}

fn failed(error: impl std::fmt::Display) -> CommandError {
    CommandError::new(error)
}

pub async fn set_up(sql: &mut SqlClient) -> Result<(), CommandError> {
    sql.execute(SETUP).await.map_err(failed)?;
    sql.execute("VACUUM ANALYZE").await.map_err(failed)
}

/// Runs `rounds` rounds of one client, with a checkpoint and a vacuum in between.
pub async fn run_client(sql: &mut SqlClient, client: u32, rounds: std::ops::Range<u32>) -> Result<(), CommandError> {
    for number in rounds {
        sql.execute(&round(client, number)).await.map_err(failed)?;
        let upkeep = match (client, number % 12) {
            (0, 4) => "CHECKPOINT",
            (0, 8) => "VACUUM accounts",
            (1, 6) => "VACUUM (INDEX_CLEANUP ON) transfers",
            _ => continue,
        };
        sql.execute(upkeep).await.map_err(failed)?;
    }
    Ok(())
}

/// What happens after the branch point only.
pub async fn diverge(sql: &mut SqlClient) -> Result<(), CommandError> {
    for statement in [
        "DROP TABLE drafts",
        "ALTER TABLE accounts ADD COLUMN closed boolean NOT NULL DEFAULT false",
        "UPDATE accounts SET closed = true WHERE id % 10 = 0",
        "TRUNCATE documents",
        "CREATE TABLE later (id int PRIMARY KEY)",
        "INSERT INTO later SELECT generate_series(1, 1000)",
        "VACUUM FULL accounts",
        "CREATE DATABASE later",
    ] {
        sql.execute(statement).await.map_err(failed)?;
    }
    Ok(())
}

/// What a cluster holds: names of tables and databases, count and checksum of each table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figures {
    pub tables: String,
    pub databases: String,
    /// Table -> (rows, checksum of all of them in the order of their ids).
    pub rows: BTreeMap<&'static str, (u64, String)>,
}

impl Figures {
    pub async fn take(sql: &mut SqlClient) -> Result<Figures, CommandError> {
        let tables = text(
            sql,
            "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'",
        )
        .await?;
        let databases = text(sql, "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database").await?;
        let mut rows = BTreeMap::new();
        for table in TABLES.into_iter().chain([DROPPED]).filter(|table| tables.split(' ').any(|t| t == *table)) {
            let count = text(sql, &format!("SELECT count(*) FROM {table}")).await?;
            let count = count.parse().map_err(|_| CommandError::new(format!("count(*) of {table} gave \"{count}\"")))?;
            let sum = text(sql, &format!("SELECT coalesce(md5(string_agg(t::text, ',' ORDER BY id)), 'empty') FROM {table} t")).await?;
            rows.insert(table, (count, sum));
        }
        Ok(Figures { tables, databases, rows })
    }

    pub fn row_count(&self) -> u64 {
        self.rows.values().map(|(rows, _)| rows).sum()
    }

    /// Errors: names the first thing that differs.
    pub fn compare(&self, found: &Figures) -> Result<(), CommandError> {
        let differs = |what: &str, want: &str, got: &str| Err(CommandError::new(format!("{what}: expected {want}, found {got}")));
        if self.tables != found.tables {
            return differs("tables", &self.tables, &found.tables);
        }
        if self.databases != found.databases {
            return differs("databases", &self.databases, &found.databases);
        }
        for (table, (rows, sum)) in &self.rows {
            match found.rows.get(table) {
                None => return differs(table, &format!("{rows} rows"), "no such table"),
                Some((other, _)) if other != rows => return differs(table, &format!("{rows} rows"), &format!("{other} rows")),
                Some((_, other)) if other != sum => {
                    return differs(table, &format!("checksum {sum}"), &format!("{other} over as many rows"));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

/// The first value of the first row, which must be there.
pub async fn text(sql: &mut SqlClient, query: &str) -> Result<String, CommandError> {
    sql.query_value(query).await.map_err(failed)?.ok_or_else(|| CommandError::new(format!("{query} gave nothing")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_difference_is_told() {
        let figures = |tables: &str, rows: u64, sum: &str| Figures {
            tables: tables.to_string(),
            databases: "postgres".to_string(),
            rows: BTreeMap::from([("accounts", (rows, sum.to_string()))]),
        };
        let want = figures("accounts", 2, "x");
        assert!(want.compare(&want.clone()).is_ok());
        let no_rows = Figures { rows: BTreeMap::new(), ..want.clone() };
        let other_databases = Figures { databases: "later postgres".to_string(), ..want.clone() };
        for (found, part) in [
            (figures("accounts later", 2, "x"), "tables"),
            (figures("accounts", 3, "x"), "3 rows"),
            (figures("accounts", 2, "y"), "checksum"),
            (no_rows, "no such table"),
            (other_databases, "databases"),
        ] {
            let error = want.compare(&found).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
