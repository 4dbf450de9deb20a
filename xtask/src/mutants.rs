//! `mutants`: changes the code in small ways, one at a time, and runs tests. A change that no test notices is a test that is missing.
//!
//! It takes hours, so it is not a part of `test`. The tests that take seconds come first, and all of the package's own only for what these
//! let pass.

use std::fs;
use std::process::{Command, ExitCode};

use anyhow::{Result, ensure};
use tollgate_tests::tools;

use crate::{setup, step};

/// Whose code is changed.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Which code: what decides in the core, or what decides which commands a token may send.
    #[arg(long, value_enum)]
    of: Of,
    /// Change only files that match this glob, such as `shared/src/lease.rs`.
    #[arg(long, value_name = "GLOB")]
    file: Option<String>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Of {
    /// `shared`, held against its own tests and the vectors on memory.
    Core,
    /// `command` of the gateway, held against its own tests.
    Commands,
}

/// Runs the tests on each changed code, and prints what passed them all.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    setup::run()?;
    setup::cargo_tool(tools::CARGO_MUTANTS)?;
    let (package, tested, files, quick, thorough) = match options.of {
        Of::Core => ("tollgate-shared", CORE_TESTED, CORE, CORE_QUICKLY, &[][..]),
        Of::Commands => {
            ("tollgate-gateway", COMMANDS_TESTED, COMMANDS, COMMANDS_QUICKLY, COMMANDS_THOROUGHLY)
        }
    };
    let files = options.file.as_deref().map_or(files.to_vec(), |file| vec![file]);
    let output = tools::workspace().join("target").join(package);
    fs::create_dir_all(&output)?;
    for (pass, targets) in [("the quick tests", quick), ("all tests, on what is left", thorough)] {
        // cargo-mutants would look for all of these targets in the one package whose code it changes.
        let of_packages = tested.iter().flat_map(|package| ["--package", package]);
        let mut unchanged =
            step::cargo(["test"].into_iter().chain(of_packages).chain(targets.iter().copied()));
        step::run("the tests of the code as it is", &mut unchanged, "fix: mend what fails first")?;
        let mut mutants = Command::new(tools::CARGO_MUTANTS.path()?);
        mutants.current_dir(tools::workspace());
        mutants.args(["mutants", "--baseline", "skip", "--timeout", "120", "--iterate"]);
        mutants.args(["--package", package, "--output"]).arg(&output);
        mutants.args(files.iter().flat_map(|file| ["--file", file]));
        mutants.args(tested.iter().flat_map(|package| ["--test-package", package]));
        // Other tests are not even built then.
        mutants.args(targets.iter().flat_map(|target| ["--cargo-arg", target]));
        // Smaller programs are linked sooner, and nobody reads their stacks.
        mutants.env("CARGO_PROFILE_DEV_DEBUG", "0");
        let (status, _) = step::streamed(pass, &mut mutants, |_| false)?;
        ensure!(
            matches!(status.code(), Some(0 | FOUND_MISSED | FOUND_TIMEOUT)),
            "cargo-mutants: {status}; its logs are in `{}`",
            output.display()
        );
    }
    let missed = fs::read_to_string(output.join("mutants.out/missed.txt"))?;
    println!("{missed}{} changes passed every test", missed.lines().count());
    Ok(if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

const CORE: &[&str] = &[
    "shared/src/exchange/**",
    "shared/src/local/**",
    "shared/src/store/**",
    "shared/src/rate_limit/**",
    "shared/src/lease.rs",
    "shared/src/revocation.rs",
    "shared/src/time.rs",
];
const CORE_TESTED: &[&str] = &["tollgate-shared", "tollgate-vectors"];
const CORE_QUICKLY: &[&str] = &["--lib", "--test=memory", "--test=exchange"];
const COMMANDS: &[&str] = &["gateway/src/command/**"];
const COMMANDS_TESTED: &[&str] = &["tollgate-gateway"];
const COMMANDS_QUICKLY: &[&str] = &["--lib"];
const COMMANDS_THOROUGHLY: &[&str] = &["--test=gateway"];
/// How cargo-mutants ends if tests missed something, or ran for too long.
const FOUND_MISSED: i32 = 2;
const FOUND_TIMEOUT: i32 = 3;
