//! `bench`: what Tollgate costs, measured beside peers in the same interleaved run.
//!
//! Machines differ and are noisy, so what counts are the ratios within one run. Every contender idles while others are measured;
//! each round measures all of them once, and the medians of the rounds are shown.

mod decisions;
mod filter;
mod generator;
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
}

/// Builds what is measured, measures it, and prints the tables.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if options.core { decisions::run() } else { filter::run(options) }
}
