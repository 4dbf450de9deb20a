//! Everything that runs, and one measurement of it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tollgate_shared::redis::script;
use tollgate_tests::gateway::Gateway;
use tollgate_tests::process::Process;
use tollgate_tests::redis::Redis;
use tollgate_tests::{client, ports, run_dir};

use super::super::Options;
use super::super::generator::{H2load, Run, h2load, machine_busy, redis_benchmark};
use super::peers::{self, TOKEN, post};
use super::workload::{Command, DEPTH, Workload, number, stored};
use super::{Contender, Http, Row, Sample};

/// Everything that runs.
pub(super) struct Parts {
    dir: PathBuf,
    redis: Redis,
    gateway: Gateway,
    webdis: Process,
    webdis_address: SocketAddr,
    npm_server: Process,
    npm_address: SocketAddr,
}

impl Parts {
    pub(super) async fn start(npm_server: &Path) -> Result<Parts> {
        let dir = run_dir::create()?;
        let redis = Redis::start(&dir, ports::free()?).await?;
        let gateway = Gateway::start(&dir, ports::free()?, &redis.url(), TOKEN).await?;
        let (webdis, webdis_address) = peers::start_webdis(&dir, &redis).await?;
        let (npm_server, npm_address) = peers::start_npm_server(&dir, &redis, npm_server).await?;
        let parts = Parts { dir, redis, gateway, webdis, webdis_address, npm_server, npm_address };
        let mut seed: Vec<Value> =
            (0..DEPTH).map(|n| json!(["SET", format!("bench:{}", number(n)), stored(n)])).collect();
        seed.push(json!(["SCRIPT", "LOAD", script::RATE_LIMIT.text]));
        let answer =
            client::raw(parts.gateway.address(), &post("/pipeline", &json!(seed).to_string())).await?;
        ensure!(answer.status == 200 && !answer.text().contains("error"), "the keys cannot be set: {answer}");
        Ok(parts)
    }

    fn process(&self, contender: Contender) -> Option<&Process> {
        match contender {
            Contender::RedisBenchmark => None,
            Contender::Gateway(_) => Some(&self.gateway),
            Contender::Webdis => Some(&self.webdis),
            Contender::NpmServer => Some(&self.npm_server),
        }
    }

    /// Measures for about so long; `rate` is what to expect.
    pub(super) async fn sample(
        &self,
        options: &Options,
        row: &Row,
        seconds: u64,
        rate: f64,
    ) -> Result<Sample> {
        let own = || self.process(row.contender).map_or(Ok(Duration::ZERO), Process::cpu_time);
        let used = || anyhow::Ok((own()?, self.redis.cpu_time()?, machine_busy()?));
        let (counted, before, begun) = (self.counted(row.workload).await?, used()?, Instant::now());
        let run = tokio::select! {
            run = self.load(options, row, seconds, rate) => run?,
            Err(error) = self.watch(row) => return Err(error),
        };
        let (elapsed, after) = (begun.elapsed(), used()?);
        let commands = match row.contender {
            Contender::RedisBenchmark => run.requests,
            _ => run.requests * row.workload.depth as u64,
        };
        let what = format!("{}, {}", row.contender, row.workload);
        ensure!(run.not_ok == 0, "{what}: {} of {} answers were refusals", run.not_ok, run.requests);
        let (ran, failed) = self.counted(row.workload).await?;
        let (ran, failed) = (ran - counted.0, failed - counted.1);
        ensure!(failed == 0, "{what}: Redis answered {failed} commands with an error");
        // What was under way in the end was run without being answered; the other client's commands are few.
        let most = commands + (4 * u64::from(options.connections) + 10 * seconds) * row.workload.depth as u64;
        ensure!((commands..=most).contains(&ran), "{what}: {commands} commands answered, {ran} run by Redis");
        let per_command = |cpu: Duration| cpu.as_secs_f64() * 1e6 / commands.max(1) as f64;
        let (own, redis) = (after.0 - before.0, after.1 - before.1);
        let others = (after.2 - before.2).saturating_sub(own + redis + run.cpu);
        Ok(Sample {
            per_second: commands as f64 / run.elapsed.as_secs_f64(),
            p50_ms: run.p50_ms,
            p99_ms: run.p99_ms,
            own_cpu: per_command(own),
            redis_cpu: per_command(redis),
            generator_cpu: per_command(run.cpu),
            generator_busy: run.cpu.as_secs_f64() / run.elapsed.as_secs_f64(),
            others: others.as_secs_f64() / elapsed.as_secs_f64(),
        })
    }

    async fn load(&self, options: &Options, row: &Row, seconds: u64, rate: f64) -> Result<Run> {
        let Row { workload, contender, .. } = row;
        if *contender == Contender::RedisBenchmark {
            let placeholder = if workload.depth == 1 { &number(0) } else { "__rand_int__" };
            let command = workload.command.words(placeholder);
            let commands = (rate * seconds as f64) as u64;
            let port = self.redis.address().port();
            return redis_benchmark(port, options.connections, workload.depth, commands, &command).await;
        }
        let (path, text) = workload.rest();
        let body = self.dir.join("body.json");
        std::fs::write(&body, text)?;
        let streams = if let Contender::Gateway(Http::Two(streams)) = contender { *streams } else { 1 };
        let mut load = H2load {
            url: format!("http://{}{path}", self.gateway.address()),
            h2c: matches!(contender, Contender::Gateway(Http::Two(_))),
            connections: (options.connections / streams).max(1),
            streams,
            seconds,
            body: Some(body),
            headers: vec![format!("authorization: Bearer {TOKEN}"), "content-type: application/json".into()],
            log: self.dir.join("h2load.log"),
        };
        match contender {
            Contender::Webdis => {
                load.url = format!("http://{}{}", self.webdis_address, webdis_path(*workload));
                load.body = None;
                load.headers.clear();
            }
            Contender::NpmServer => load.url = format!("http://{}{path}", self.npm_address),
            _ => {}
        }
        h2load(&load).await
    }

    /// Asks for the same, ten times a second, until an answer is wrong.
    async fn watch(&self, row: &Row) -> Result<()> {
        loop {
            // At leisure is the point: it must not weigh on what is measured.
            tokio::time::sleep(Duration::from_millis(100)).await;
            self.ask(row.workload, row.contender).await?;
        }
    }

    /// Asks once and reads the answer.
    async fn ask(&self, workload: Workload, contender: Contender) -> Result<()> {
        let (path, body) = workload.rest();
        let (address, request) = match contender {
            Contender::RedisBenchmark => return Ok(()),
            Contender::Gateway(_) => (self.gateway.address(), post(path, &body)),
            Contender::NpmServer => (self.npm_address, post(path, &body)),
            Contender::Webdis => {
                let line = format!("GET {} HTTP/1.1\r\n", webdis_path(workload));
                (self.webdis_address, format!("{line}host: bench\r\nconnection: close\r\n\r\n").into_bytes())
            }
        };
        let answer = client::raw(address, &request).await?;
        ensure!(answer.status == 200, "{contender}, {workload}: {answer}");
        let body = answer.json()?;
        let results: Vec<Value> = match (&body, contender) {
            (_, Contender::Webdis) => {
                body.as_object().into_iter().flat_map(|object| object.values().cloned()).collect()
            }
            (Value::Array(answers), _) => answers.iter().map(|answer| answer["result"].clone()).collect(),
            _ => vec![body["result"].clone()],
        };
        workload.check(&results).with_context(|| contender.to_string())
    }

    /// How many commands of this kind Redis has run, and how many of them with an error.
    async fn counted(&self, workload: Workload) -> Result<(u64, u64)> {
        let port = self.redis.address().port().to_string();
        let mut cli = tokio::process::Command::new("redis-cli");
        let output = cli
            .args(["-p", &port, "INFO", "commandstats"])
            .output()
            .await
            .context("cannot run `redis-cli`")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let name = if workload.command == Command::Limit { "cmdstat_evalsha:" } else { "cmdstat_get:" };
        let Some(line) = text.lines().find_map(|line| line.strip_prefix(name)) else { return Ok((0, 0)) };
        let count = |field: &str| {
            let value = line.split(',').find_map(|pair| pair.strip_prefix(field)?.strip_prefix('='));
            value
                .and_then(|value| value.trim().parse::<u64>().ok())
                .with_context(|| format!("no `{field}` in `{line}`"))
        };
        Ok((count("calls")?, count("failed_calls")? + count("rejected_calls")?))
    }
}

/// A command as webdis takes it: its words between slashes. An empty word is one too.
fn webdis_path(workload: Workload) -> String {
    let words = workload.command.words(&number(0));
    words.iter().fold(String::new(), |path, word| path + "/" + &word.replace('{', "%7B").replace('}', "%7D"))
}
