//! `bench`: what Tollgate costs, measured beside peers in the same interleaved run.
//!
//! Machines differ and are noisy, so what counts are the ratios within one run. Every contender idles while others are
//! measured; each round measures all of them once, and the medians of the rounds are shown.

mod decisions;
mod edge;
mod filter;
mod gateway;
mod generator;
mod origin;
mod programs;

use std::process::ExitCode;

use anyhow::Result;

/// What `bench` is told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// How often each contender is measured; medians are shown.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// Keep-alive connections of the load generator.
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// Measure only contenders whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Measure the core alone instead: time by criterion, and instructions by valgrind.
    #[arg(long)]
    core: bool,
    /// Measure the gateway instead: against redis-benchmark, webdis and an npm server, in about five minutes.
    #[arg(long, conflicts_with = "core")]
    gateway: bool,
    /// Measure the Worker instead: against a bare Worker and one with `@upstash/ratelimit`, in about three minutes.
    #[arg(long, conflicts_with_all = ["core", "gateway"])]
    edge: bool,
    /// One round of one second each, to see whether all of it works.
    #[arg(long, conflicts_with_all = ["rounds", "seconds"])]
    quick: bool,
    /// Install the Debian packages that are missing, which only root may.
    #[arg(long)]
    install: bool,
}

/// Builds what is measured, measures it, and prints the tables.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let mut options = options.clone();
    if options.quick {
        (options.rounds, options.seconds) = (1, 1);
    }
    match () {
        () if options.core => decisions::run(),
        () if options.gateway => gateway::run(&options),
        () if options.edge => edge::run(&options),
        () => filter::run(&options),
    }
}

/// The one in the middle, which a single disturbance does not move.
fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
