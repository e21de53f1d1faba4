//! What the demo tells: a line per step as it ends, or one JSON object when all has ended.

use super::super::output::CommandError;
use super::super::progress::Progress;
use super::say;
use crate::io_abstraction::{Env, Mono};
use serde::Serialize;
use std::time::Duration;

/// Width of the column of names.
const NAME: usize = 46;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Step {
    name: String,
    ms: u64,
    detail: String,
}

/// The last line of `--json`.
#[derive(Serialize)]
struct Summary<'a> {
    ok: bool,
    postgres: &'a str,
    steps: &'a [Step],
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

pub struct Report {
    env: Env,
    json: bool,
    started: Mono,
    /// As `postgres --version` says; empty before it is known.
    pub postgres: String,
    steps: Vec<Step>,
    /// The step under way.
    current: Option<&'static str>,
}

impl Report {
    pub fn new(env: Env, json: bool) -> Report {
        let started = env.clock.mono();
        Report { env, json, started, postgres: String::new(), steps: Vec::new(), current: None }
    }

    /// Runs a step, which gives its result and what to tell of it.
    pub async fn step<T>(
        &mut self,
        name: &'static str,
        work: impl Future<Output = Result<(T, String), CommandError>>,
    ) -> Result<T, CommandError> {
        self.current = Some(name);
        let progress = Progress::spinner(name);
        let begun = self.env.clock.mono();
        let (value, detail) = work.await?;
        drop(progress);
        let ms = millis(self.env.clock.mono().since(begun));
        if !self.json {
            say(&format!("{name:<NAME$} {ms:>6} ms  {detail}"))?;
        }
        self.steps.push(Step { name: name.to_string(), ms, detail });
        self.current = None;
        Ok(value)
    }

    /// Tells how it ended.
    pub fn finish(&mut self, error: Option<&CommandError>) -> Result<(), CommandError> {
        let error = error.map(|error| match self.current {
            Some(step) => format!("{step}: {error}"),
            None => error.to_string(),
        });
        if self.json {
            return say(&self.summary(error.as_deref())?);
        }
        let seconds = self.env.clock.mono().since(self.started).as_secs_f64();
        match error {
            None => say(&format!("everything matched, in {seconds:.1} s on PostgreSQL {}", self.postgres)),
            Some(error) => {
                eprintln!("pal demo: {error}");
                Ok(())
            }
        }
    }

    fn summary(&self, error: Option<&str>) -> Result<String, CommandError> {
        let summary = Summary { ok: error.is_none(), postgres: &self.postgres, steps: &self.steps, error };
        serde_json::to_string(&summary).map_err(CommandError::new)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::client::command_env;

    #[tokio::test]
    async fn the_last_line_tells_the_outcome() {
        let mut report = Report::new(command_env().unwrap(), true);
        report.postgres = "15.18".to_string();
        assert_eq!(report.step("first", async { Ok((7, "seven".to_string())) }).await.unwrap(), 7);
        let json: serde_json::Value = serde_json::from_str(&report.summary(None).unwrap()).unwrap();
        assert_eq!((&json["ok"], &json["postgres"], &json["steps"][0]["detail"]), (&true.into(), &"15.18".into(), &"seven".into()));
        assert!(json["steps"][0]["ms"].is_u64() && json.get("error").is_none());
        report.step::<()>("second", async { Err(CommandError::new("no")) }).await.unwrap_err();
        assert_eq!(report.current, Some("second"));
        let json: serde_json::Value = serde_json::from_str(&report.summary(Some("second: no")).unwrap()).unwrap();
        assert_eq!((&json["ok"], &json["error"]), (&false.into(), &"second: no".into()));
    }
}
