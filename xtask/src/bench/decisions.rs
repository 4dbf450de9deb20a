//! The core alone: time by criterion, and instructions by valgrind, which are repeatable where time is not.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use tollgate_tests::tools;

use crate::{build, step};

/// Measures and prints.
pub(super) fn run() -> Result<ExitCode> {
    let mut criterion = step::cargo(["bench", "--package", "tollgate-shared", "--bench", "decisions"]);
    let (status, _) = step::streamed("time of a decision", &mut criterion, |_| false)?;
    if !status.success() {
        bail!("the benchmarks failed: {status}");
    }
    if tools::on_path("valgrind").is_none() {
        bail!("`valgrind` is not installed: `apt-get install -y valgrind` counts instructions");
    }
    let mut example =
        step::cargo(["build", "--release", "--package", "tollgate-shared", "--example", "decisions"]);
    step::run("build the example", &mut example, build::FIX)?;
    for from in ["memory", "store"] {
        // The difference of two runs leaves out what starting costs.
        let per_decision = (instructions(from, 6400)? - instructions(from, 3200)?) / 3200;
        println!("instructions of a decision, {from}: {per_decision}");
    }
    Ok(ExitCode::SUCCESS)
}

fn instructions(from: &str, decisions: u64) -> Result<u64> {
    let program = tools::target_dir().join("release/examples/decisions");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args([from, &decisions.to_string()])
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    let count = text.split("Collected :").nth(1).and_then(|rest| rest.split_whitespace().next());
    count.and_then(|count| count.parse().ok()).with_context(|| format!("valgrind counted nothing:\n{text}"))
}
