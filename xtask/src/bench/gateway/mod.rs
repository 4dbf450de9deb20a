//! What the gateway costs, beside what a Redis can do without it and beside other ways of speaking HTTP to a Redis.
//!
//! Everybody asks one Redis for the same commands under the same keys: the limit script as the filter sends it, and
//! `GET` of 64 bytes. While one is measured, one more client asks the same at leisure and reads every answer; afterwards
//! Redis must have run as many commands as were answered, none of them with an error. So no contender can win by
//! answering something else.

mod parts;
mod peers;
mod report;
mod workload;

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use tollgate_tests::tools;

use super::{Options, median, programs};
use crate::{build, setup};
use parts::Parts;
use workload::{Command, Workload};

/// Builds what is measured, measures it, prints the tables and writes them to `target/bench-gateway.md`.
pub(super) fn run(options: &Options) -> Result<ExitCode> {
    setup::run()?;
    programs::require(&[programs::REDIS_BENCHMARK, programs::H2LOAD, programs::WEBDIS], options.install)?;
    build::gateway()?;
    let npm_server = peers::install_npm_server()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(measure(options, &npm_server))?;
    println!("\n{report}");
    let path = tools::target_dir().join("bench-gateway.md");
    std::fs::write(&path, report)?;
    println!("written to {}", path.display());
    Ok(ExitCode::SUCCESS)
}

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Contender {
    /// Redis itself.
    RedisBenchmark,
    Gateway(Http),
    Webdis,
    NpmServer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Http {
    One,
    /// With so many requests under way on each connection, and as many fewer connections.
    Two(u32),
}

impl fmt::Display for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Http::One => f.write_str("HTTP/1.1"),
            Http::Two(1) => f.write_str("h2c"),
            Http::Two(streams) => write!(f, "h2c, {streams} streams each"),
        }
    }
}

impl Contender {
    const ALL: [Contender; 6] = [
        Contender::RedisBenchmark,
        Contender::Gateway(Http::One),
        Contender::Gateway(Http::Two(1)),
        Contender::Gateway(Http::Two(16)),
        Contender::Webdis,
        Contender::NpmServer,
    ];

    /// Webdis takes one command at a time, and of the npm server only `GET` is of interest.
    fn takes(self, workload: Workload) -> bool {
        match self {
            Contender::RedisBenchmark | Contender::Gateway(_) => true,
            Contender::Webdis => workload.depth == 1,
            Contender::NpmServer => workload == Workload { command: Command::Get, depth: 1 },
        }
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Contender::RedisBenchmark => f.write_str("redis-benchmark, no HTTP"),
            Contender::Gateway(http) => write!(f, "gateway, {http}"),
            Contender::Webdis => f.write_str("webdis"),
            Contender::NpmServer => f.write_str("@humanwhocodes/upstash-redis-server"),
        }
    }
}

/// One row of one table.
struct Row {
    workload: Workload,
    contender: Contender,
    samples: Vec<Sample>,
}

impl Row {
    fn median(&self, of: impl Fn(&Sample) -> f64) -> f64 {
        median(self.samples.iter().map(of))
    }
}

/// What one measurement gave. Processor time is in microseconds per command.
#[derive(Debug, Clone, Copy)]
struct Sample {
    per_second: f64,
    /// Of what was sent at once.
    p50_ms: f64,
    p99_ms: f64,
    own_cpu: f64,
    redis_cpu: f64,
    generator_cpu: f64,
    /// The share of one core that the generator used: it has no more than one.
    generator_busy: f64,
    /// Cores that were busy with something else.
    others: f64,
}

async fn measure(options: &Options, npm_server: &Path) -> Result<String> {
    let parts = Parts::start(npm_server).await?;
    let only = |contender: &Contender| {
        options.only.as_ref().is_none_or(|only| contender.to_string().contains(only.as_str()))
    };
    let mut rows: Vec<Row> = Vec::new();
    for workload in Workload::ALL {
        let contenders =
            Contender::ALL.into_iter().filter(|contender| contender.takes(workload)).filter(only);
        rows.extend(contenders.map(|contender| Row { workload, contender, samples: Vec::new() }));
    }
    // What is measured first fills connection pools, and tells how many commands redis-benchmark is to send.
    let mut rates = Vec::new();
    for row in &rows {
        let guess = if row.workload.depth == 1 { 30e3 } else { 100e3 };
        rates.push(parts.sample(options, row, 1, guess).await?.per_second);
    }
    for round in 1..=options.rounds {
        for (row, rate) in rows.iter_mut().zip(&rates) {
            let sample = parts.sample(options, row, options.seconds, *rate).await?;
            println!(
                "round {round}: {:<32} {:<36} {:>9.0} commands/s",
                row.workload.to_string(),
                row.contender.to_string(),
                sample.per_second
            );
            row.samples.push(sample);
        }
    }
    Ok(report::report(options, &rows))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
