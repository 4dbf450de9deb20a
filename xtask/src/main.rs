//! The commands of this repository.
//!
//! `cargo xtask <command>` installs what the command needs, says what it is doing, and names the step that failed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::float_arithmetic,
    reason = "a tool for developers: it measures in fractions, and a panic is a bug report with a place"
)]

mod bench;
mod build;
mod check;
mod commands;
mod debian;
mod demo;
mod manifests;
mod mutants;
mod npm;
mod schema;
mod setup;
mod soak;
mod step;
mod up;
mod vectors;
mod wasm;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Builds, runs and checks Tollgate.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Installs the pinned tools: compiler targets, Envoy, Redis.
    Setup,
    /// Builds the gateway and the filter, and inspects the filter; or what runs at the edge.
    Build {
        /// Check the policy of `wrangler.toml` and build the Worker into `target/worker` instead.
        #[arg(long)]
        worker: bool,
        /// Build the npm package into `target/npm` instead.
        #[arg(long, conflicts_with = "worker")]
        npm: bool,
    },
    /// Runs Redis, the gateway and Envoys with the filter, and Workers if asked, until Ctrl-C.
    Up(up::Options),
    /// Shows one limit shared by three Envoys, or by Workers and an Envoy, and what happens when Redis goes away and comes back.
    Demo(demo::Options),
    /// Runs every check and every test.
    Test {
        /// Run one step of `lint`, `vectors-browser` or `vectors-node`, or else only the tests whose name contains this.
        #[arg(long, value_name = "NAME")]
        only: Option<String>,
    },
    /// Runs a folder of test vectors on one interpreter.
    Vectors(vectors::Options),
    /// Measures what the filter costs an Envoy, or what the gateway costs, beside peers in the same run.
    Bench(bench::Options),
    /// Writes the gateway's table of commands, as the pinned Redis describes them.
    Commands,
    /// Keeps thousands of clients on the gateway for minutes: its memory has to stay flat and every answer right.
    Soak(soak::Options),
    /// Changes the code in small ways and runs tests, for hours: what no test notices is printed.
    Mutants(mutants::Options),
    /// Writes the policy's JSON Schema to `policy.schema.json`.
    Schema,
    /// Runs every check that runs no test: format, clippy, `no_std`, dependencies, manifests, documentation.
    Lint,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Setup => setup::run().map(|()| ExitCode::SUCCESS),
        Command::Build { worker: false, npm: false } => {
            setup::run().and_then(|()| build::run()).map(|()| ExitCode::SUCCESS)
        }
        Command::Build { worker: true, .. } => {
            setup::edge_tools().and_then(|()| build::worker()).map(|()| ExitCode::SUCCESS)
        }
        Command::Build { npm: true, .. } => {
            setup::npm_tools().and_then(|()| npm::build()).map(|()| ExitCode::SUCCESS)
        }
        Command::Up(options) => up::run(&options),
        Command::Demo(options) => demo::run(&options),
        Command::Test { only } => check::test(only.as_deref()),
        Command::Vectors(options) => vectors::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Commands => commands::run(),
        Command::Soak(options) => soak::run(&options),
        Command::Mutants(options) => mutants::run(&options),
        Command::Schema => schema::run(),
        Command::Lint => check::lint(),
    }
}
