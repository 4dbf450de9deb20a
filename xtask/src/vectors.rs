//! `vectors`: runs a folder of test vectors on one interpreter.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use tollgate_tests::vectors::{Target, run_folder};

use crate::{build, setup};

/// What `vectors` is told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// The folder with `*.toml` files.
    #[arg(long, default_value = "tests/vectors")]
    dir: PathBuf,
    /// What decides: `memory` (the core alone), `redis` (the core, the gateway and Redis), `filter` (Envoy with all of it).
    #[arg(long, default_value = "memory")]
    on: Target,
}

/// Runs the vectors; fails if one does.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if options.on != Target::Memory {
        setup::run()?;
        build::run()?;
    }
    if options.on == Target::Filter {
        build::test_clock()?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let summary = runtime.block_on(run_folder(&options.dir, options.on))?;
    Ok(if summary.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
