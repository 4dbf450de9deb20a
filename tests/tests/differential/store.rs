//! A real Redis that performs operations.

use redis::{Connection, ConnectionLike as _, Value};
use serde_json::json;
use tollgate_shared::circuit_breaker::{CircuitBreaker, Trip};
use tollgate_shared::id::Id;
use tollgate_shared::key::Key;
use tollgate_shared::rate_limit::{Algorithm, Check, Quota};
use tollgate_shared::redis::rest::Progress;
use tollgate_shared::redis::{Clock, Pipeline};
use tollgate_shared::revocation::Reach;
use tollgate_shared::store::{Op, Outcome, StoreError};
use tollgate_shared::time::{Span, Timestamp};
use tollgate_tests::redis::Redis;
use tollgate_tests::{ports, run_dir};

use crate::BASE;
use crate::sequence::Sequence;

/// A Redis that performs operations.
pub(crate) struct RedisStore {
    connection: Connection,
    names: u64,
}

impl RedisStore {
    pub(crate) fn connect(redis: &Redis) -> Self {
        let connection = redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
        Self { connection, names: u64::MAX / 2 }
    }

    /// Goes through the round with the scripts' texts, so that no later operation overtakes another in it.
    pub(crate) fn learn_scripts(&mut self) {
        let key = Key::from_stored("tg:{learn}");
        let hour = Span::from_millis(3_600_000).unwrap();
        let quota = Quota::new(Algorithm::Gcra, 1, hour, 1).unwrap();
        let checks = vec![Check { key: key.clone(), quota, cost: 1, enforced: true }];
        let breaker = CircuitBreaker::new(Trip::Failures(1), hour, 1, hour, 1, hour).unwrap();
        let holder = Id::default();
        for op in [
            Op::RateLimit(checks.clone()),
            Op::Refund { checks, at: Timestamp::default() },
            Op::Release { key: key.clone(), holder },
            Op::Abandon { key: key.clone(), holder },
            Op::View { key: key.clone(), breaker },
            Op::Revoke { key, ttl: hour, reach: Reach::default() },
        ] {
            let mut pipelines = vec![Pipeline::new(vec![vec![op]])];
            let clocks = [Clock::Host(Timestamp::from_millis(BASE))];
            assert_eq!(self.round(&mut pipelines, &clocks), [Progress::Again]);
            assert_eq!(self.round(&mut pipelines, &clocks), [Progress::Done]);
            assert_eq!(pipelines[0].failure(), None);
        }
        self.clear();
    }

    /// Performs all steps of all sequences in one go.
    pub(crate) fn perform(&mut self, sequences: &[Sequence]) -> Vec<Vec<Result<Outcome, StoreError>>> {
        let steps = || sequences.iter().flat_map(|sequence| &sequence.steps);
        let clocks: Vec<Clock> = steps().map(|(now, _)| Clock::Host(Timestamp::from_millis(*now))).collect();
        let mut pipelines: Vec<_> = steps().map(|(_, op)| Pipeline::new(vec![vec![op.clone()]])).collect();
        let progress = self.round(&mut pipelines, &clocks);
        assert!(progress.iter().all(|progress| *progress == Progress::Done), "the scripts are known");
        let mut outcomes =
            pipelines.into_iter().map(|pipeline| pipeline.finish().next().unwrap().1.remove(0));
        sequences.iter().map(|sequence| outcomes.by_ref().take(sequence.steps.len()).collect()).collect()
    }

    pub(crate) fn one(&mut self, op: &Op, clock: Clock) -> Result<Outcome, StoreError> {
        let mut pipelines = vec![Pipeline::new(vec![vec![op.clone()]])];
        self.round(&mut pipelines, &[clock]);
        pipelines.remove(0).finish().next().unwrap().1.remove(0)
    }

    /// Sends each pipeline's commands, all in one write, and hands each its answer.
    fn round(&mut self, pipelines: &mut [Pipeline<Vec<Op>>], clocks: &[Clock]) -> Vec<Progress> {
        let mut commands = redis::pipe();
        for (pipeline, clock) in pipelines.iter().zip(clocks) {
            let body: Vec<Vec<serde_json::Value>> = serde_json::from_str(&pipeline.body(*clock)).unwrap();
            for argument in &body[0] {
                let text = argument.as_str().map_or_else(|| argument.to_string(), str::to_owned);
                if argument == &body[0][0] {
                    commands.cmd(&text)
                } else {
                    commands.arg(text)
                };
            }
        }
        let packed = commands.get_packed_pipeline();
        let replies = self.connection.req_packed_commands(&packed, 0, pipelines.len()).unwrap();
        let answers = replies.into_iter().map(|reply| json!([rest(reply)]).to_string());
        pipelines
            .iter_mut()
            .zip(answers)
            .map(|(pipeline, answer)| pipeline.receive(200, answer.as_bytes()))
            .collect()
    }

    pub(crate) fn clear(&mut self) {
        redis::cmd("FLUSHALL").exec(&mut self.connection).unwrap();
    }

    pub(crate) fn time(&mut self) -> Timestamp {
        let (seconds, micros): (u64, u64) = redis::cmd("TIME").query(&mut self.connection).unwrap();
        Timestamp::from_millis(seconds * 1000 + micros / 1000)
    }

    /// How many changes Redis has counted since it started; it saves nothing here.
    pub(crate) fn changes(&mut self) -> u64 {
        let info: String = redis::cmd("INFO").arg("persistence").query(&mut self.connection).unwrap();
        let line = info.lines().find_map(|line| line.strip_prefix("rdb_changes_since_last_save:")).unwrap();
        line.trim().parse().unwrap()
    }

    /// Milliseconds after which Redis forgets a key.
    pub(crate) fn expires_in(&mut self, key: &Key) -> i64 {
        redis::cmd("PTTL").arg(key.as_str()).query(&mut self.connection).unwrap()
    }

    /// A name that no sequence has.
    pub(crate) fn fresh_name(&mut self) -> u64 {
        self.names += 1;
        self.names
    }
}

/// A reply as the gateway puts it.
fn rest(reply: Value) -> serde_json::Value {
    let result = match reply {
        Value::Array(items) => {
            let number = |item: Value| match item {
                Value::Int(number) => number,
                other => panic!("scripts answer with integers: {other:?}"),
            };
            json!(items.into_iter().map(number).collect::<Vec<i64>>())
        }
        Value::BulkString(text) => json!(String::from_utf8(text).unwrap()),
        Value::Int(number) => json!(number),
        Value::Nil => json!(null),
        Value::ServerError(error) => {
            let details = error.details().unwrap_or_default();
            return json!({ "error": format!("{} {details}", error.code()) });
        }
        other => panic!("no command of ours answers with this: {other:?}"),
    };
    json!({ "result": result })
}

/// Starts a Redis with more arguments.
pub(crate) async fn start(more: &[&str]) -> Redis {
    Redis::start_with(&run_dir::create().unwrap(), ports::free().unwrap(), more).await.unwrap()
}
