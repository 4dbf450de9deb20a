//! `soak`: the gateway among thousands of clients of every kind, for minutes.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use tollgate_tests::redis::Redis;
use tollgate_tests::soak::{Soak, SoakedGateway};
use tollgate_tests::{ports, run_dir};

use crate::{build, setup, up};

/// How long, and with how many.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Soak the gateway, which is all there is to soak.
    #[arg(long, required = true)]
    gateway: bool,
    /// Minutes for which memory is watched; a warm-up of a fifth of that comes before.
    #[arg(long, default_value_t = 10.0, value_parser = minutes)]
    minutes: f64,
    /// Clients: most ask now and then, one in twenty reads slowly, as many read nothing, and as many leave and
    /// come again.
    #[arg(long, default_value_t = 4_000, value_parser = clap::value_parser!(u32).range(100..=30_000))]
    connections: u32,
}

/// Soaks, prints how memory goes, and fails unless it was flat and every answer right.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    setup::run()?;
    build::gateway()?;
    let watched = Duration::from_secs_f64(options.minutes * 60.0);
    let clients = options.connections as usize;
    let rude = clients / 20;
    let soak = Soak {
        patient: clients - 3 * rude - BUSY,
        patience: Duration::from_secs(5),
        busy: BUSY,
        slow: rude,
        deaf: rude,
        leaving: rude,
        warm_up: watched / 5,
        watched,
    };
    up::until_signal(async move {
        let dir = run_dir::create()?;
        let redis = Redis::start(&dir, ports::free()?).await?;
        let gateway = SoakedGateway::start(&dir, &redis, &soak).await?;
        let warm_up = soak.warm_up.as_secs();
        println!("{clients} clients, a warm-up of {warm_up} s; gateway and Redis log to {}", dir.display());
        let mut next = Duration::ZERO;
        let outcome = soak.run(&gateway, |moment| {
            if moment.at >= next {
                println!("{moment}");
                next = moment.at + BETWEEN_LINES;
            }
        });
        let outcome = outcome.await?;
        let [patient, busy] = &outcome.reports;
        println!(
            "patient clients: {} right answers, p99 {:.1?}; busy: {}, p99 {:.1?}; slow: {} large answers begun; deaf: {}; {} departures",
            patient.answers(),
            patient.quantile(0.99),
            busy.answers(),
            busy.quantile(0.99),
            outcome.slow_answers,
            outcome.unread_answers,
            outcome.departures
        );
        if let Some((first, last)) = outcome.peaks() {
            println!(
                "memory at most: {} kB in the first third, {} kB in the last",
                first / 1024,
                last / 1024
            );
        }
        outcome.judge()?;
        println!("flat, and every answer right");
        Ok(ExitCode::SUCCESS)
    })
}

fn minutes(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(minutes) if (0.1..=10_000.0).contains(&minutes) => Ok(minutes),
        _ => Err("expected 0.1 to 10000 minutes".into()),
    }
}

/// Clients that ask one thing after the other.
const BUSY: usize = 16;
const BETWEEN_LINES: Duration = Duration::from_secs(10);
