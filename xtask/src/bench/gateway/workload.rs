//! What everybody is asked for, and what they have to answer.

use std::fmt;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tollgate_shared::key::Key;
use tollgate_shared::rate_limit::{Algorithm, Check, Quota};
use tollgate_shared::redis::{Clock, Pipeline};
use tollgate_shared::store::Op;
use tollgate_shared::time::Span;

/// So many commands at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Workload {
    pub(super) command: Command,
    pub(super) depth: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    Limit,
    Get,
}

impl Workload {
    pub(super) const ALL: [Workload; 4] = [
        Workload { command: Command::Limit, depth: DEPTH },
        Workload { command: Command::Get, depth: DEPTH },
        Workload { command: Command::Limit, depth: 1 },
        Workload { command: Command::Get, depth: 1 },
    ];

    /// The path and the body by which the gateway is asked.
    pub(super) fn rest(self) -> (&'static str, String) {
        let commands: Vec<Value> = (0..self.depth).map(|n| self.command.with_key(&number(n))).collect();
        if self.depth == 1 {
            ("/", commands[0].to_string())
        } else {
            ("/pipeline", json!(commands).to_string())
        }
    }

    /// Fails unless these are the results of its commands.
    pub(super) fn check(self, results: &[Value]) -> Result<()> {
        let right = |(n, result): (usize, &Value)| match self.command {
            Command::Get => *result == json!(stored(n)),
            // The time, what remains, when more does, and that it was admitted.
            Command::Limit => matches!(result.as_array().map(Vec::as_slice),
                Some([at, left, _, retry]) if at.is_u64() && left.as_u64() > Some(0) && retry.as_u64() == Some(0)),
        };
        ensure!(
            results.len() == self.depth && results.iter().enumerate().all(right),
            "{self}: a wrong answer: {}",
            json!(results)
        );
        Ok(())
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.command {
            Command::Limit => "the limit script",
            Command::Get => "`GET` of 64 bytes",
        })?;
        if self.depth == 1 {
            f.write_str(", one at a time")
        } else {
            write!(f, ", pipelines of {}", self.depth)
        }
    }
}

impl Command {
    /// As JSON, with the key of this number.
    fn with_key(self, number: &str) -> Value {
        match self {
            Command::Get => json!(["GET", format!("bench:{number}")]),
            Command::Limit => {
                let zeros = "0".repeat(20);
                let key = Key::from_stored(&format!("tg:{{{zeros}{number}}}:g3600000:bench"));
                let hour = Span::from_millis(3_600_000).expect("an hour is a span");
                let quota = Quota::new(Algorithm::Gcra, PLENTY, hour, PLENTY).expect("within the bounds");
                let check = Check { key, quota, cost: 1, enforced: true };
                let body = Pipeline::new(vec![vec![Op::RateLimit(vec![check])]]).body(Clock::Store);
                let mut commands: Vec<Value> = serde_json::from_str(&body).expect("a pipeline is JSON");
                commands.remove(0)
            }
        }
    }

    /// As words, for those who take no JSON.
    pub(super) fn words(self, number: &str) -> Vec<String> {
        let word = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        self.with_key(number).as_array().into_iter().flatten().map(word).collect()
    }
}

pub(super) fn number(n: usize) -> String {
    format!("{n:012}")
}

/// What is stored under the key of this number.
pub(super) fn stored(n: usize) -> String {
    format!("{n:064}")
}

/// Commands in a pipeline.
pub(super) const DEPTH: usize = 30;
/// A quota that no load here empties.
const PLENTY: u64 = 300_000_000;

#[cfg(test)]
mod tests {
    use tollgate_shared::redis::script;

    use super::*;

    #[test]
    fn the_limit_is_asked_as_the_filter_asks_it() {
        let (path, body) = Workload { command: Command::Limit, depth: 2 }.rest();
        let sha = script::RATE_LIMIT.sha1;
        let one = |n| {
            format!(
                r#"["EVALSHA","{sha}",1,"tg:{{{n:032}}}:g3600000:bench","","g",300000000,3600000,300000000,1]"#
            )
        };
        assert_eq!((path, body), ("/pipeline", format!("[{},{}]", one(0), one(1))));
        let (path, body) = Workload { command: Command::Limit, depth: 1 }.rest();
        assert_eq!((path, body), ("/", one(0)));
    }

    #[test]
    fn wrong_answers_are_noticed() {
        let gets = Workload { command: Command::Get, depth: 2 };
        assert!(gets.check(&[json!(stored(0)), json!(stored(1))]).is_ok());
        assert!(gets.check(&[json!(stored(1)), json!(stored(0))]).is_err());
        assert!(gets.check(&[json!(stored(0))]).is_err());
        let limit = Workload { command: Command::Limit, depth: 1 };
        assert!(limit.check(&[json!([1_800_000_000_000_u64, 7, 12, 0])]).is_ok());
        assert!(limit.check(&[json!([1_800_000_000_000_u64, 0, 12, 12])]).is_err());
        assert!(limit.check(&[Value::Null]).is_err());
    }
}
