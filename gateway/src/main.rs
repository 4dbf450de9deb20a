//! The `tollgate` program: reads its command line, starts what was asked for, and turns a failure into one line on
//! stderr and exit status 1. Everything else lives in the library, where tests reach it.

use std::process::ExitCode;

use clap::Parser as _;
use tollgate_gateway::cli::Cli;

fn main() -> ExitCode {
    match tollgate_gateway::run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tollgate: {error:#}");
            ExitCode::FAILURE
        }
    }
}
