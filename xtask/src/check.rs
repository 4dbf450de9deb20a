//! `lint` and `test`: every check, each named when it fails.

use std::process::{Command, ExitCode};

use anyhow::{Result, bail};
use tollgate_tests::process::last_lines;
use tollgate_tests::tools;
use tollgate_tests::vectors::Target;

use crate::{build, manifests, npm, setup, step, vectors};

/// Runs the checks.
pub(crate) fn lint() -> Result<ExitCode> {
    setup::run()?;
    let mut failed = Failed::default();
    CHECKS.iter().for_each(|check| failed.note(check.name, check.run()));
    failed.note(manifests::NAME, manifests::check());
    failed.note(DEPENDENCIES, dependencies());
    failed.note(ADVISORIES, advisories());
    Ok(failed.conclude())
}

/// Runs the checks and then the tests. The last line is their sum; a failed step counts as one failure.
pub(crate) fn test(only: Option<&str>) -> Result<ExitCode> {
    let mut failed = Failed::default();
    let mut sum = Sum::default();
    let only_check = CHECKS.iter().find(|check| Some(check.name) == only);
    let setup = if only_check.is_some() { setup::run } else { setup::run_for_tests };
    failed.note("setup", setup());
    if !failed.names.is_empty() {
        // Nothing else can succeed.
    } else if let Some(check) = only_check {
        failed.note(check.name, check.run());
    } else if only == Some(manifests::NAME) {
        failed.note(manifests::NAME, manifests::check());
    } else if let Some((name, target)) = ON_WASM.into_iter().find(|(name, _)| Some(*name) == only) {
        failed.note(name, on_wasm(target, &mut sum));
    } else {
        failed.note("build", build::run().and_then(|()| build::test_clock()));
        failed.note("build-edge", build::worker().and_then(|()| build::worker_test_clock()));
        failed.note("build-npm", npm::build());
        if only.is_none() {
            CHECKS.iter().for_each(|check| failed.note(check.name, check.run()));
            failed.note(manifests::NAME, manifests::check());
            failed.note(DEPENDENCIES, dependencies());
        }
        failed.note(TESTS, tests(only, &mut sum));
        if only.is_none() {
            ON_WASM.into_iter().for_each(|(name, target)| failed.note(name, on_wasm(target, &mut sum)));
        }
    }
    let code = failed.conclude();
    // Failed tests are counted one by one; tests that did not even compile count as one.
    let steps = failed.names.iter().filter(|name| **name != TESTS || sum.failed == 0).count();
    println!("{} passed, {} failed", sum.passed, sum.failed + steps as u64);
    Ok(code)
}

/// The steps that failed; the others go on all the same.
#[derive(Debug, Default)]
struct Failed {
    names: Vec<&'static str>,
}

impl Failed {
    fn note(&mut self, name: &'static str, result: Result<()>) {
        if let Err(error) = result {
            println!("{error:#}");
            self.names.push(name);
        }
    }

    fn conclude(&self) -> ExitCode {
        if self.names.is_empty() {
            return ExitCode::SUCCESS;
        }
        println!("failed: {}", self.names.join(", "));
        ExitCode::FAILURE
    }
}

/// One check: a cargo command.
struct Check {
    name: &'static str,
    args: &'static [&'static str],
    env: Option<(&'static str, &'static str)>,
    fix: &'static str,
}

impl Check {
    fn run(&self) -> Result<()> {
        let mut command = step::cargo(self.args);
        command.envs(self.env);
        step::run(self.name, &mut command, self.fix).map(drop)
    }
}

const CHECKS: [Check; 9] = [
    Check {
        name: "fmt",
        args: &["fmt", "--all", "--check", "--", "--color", "never"],
        env: None,
        fix: "fix: run `cargo fmt --all`",
    },
    Check {
        name: "fmt-fuzz",
        args: &["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check", "--", "--color", "never"],
        env: None,
        fix: "fix: run `cargo fmt --manifest-path fuzz/Cargo.toml`",
    },
    Check {
        name: "fmt-client",
        args: &[
            "fmt",
            "--manifest-path",
            "tests/clients/rust/Cargo.toml",
            "--check",
            "--",
            "--color",
            "never",
        ],
        env: None,
        fix: "fix: run `cargo fmt --manifest-path tests/clients/rust/Cargo.toml`",
    },
    Check {
        name: "clippy",
        args: &[
            "clippy",
            "--workspace",
            "--exclude",
            "tollgate-filter",
            "--all-targets",
            "--",
            "--deny",
            "warnings",
        ],
        env: None,
        fix: "fix: change the code, or lift the lint where it is wrong with a reason",
    },
    Check {
        name: "clippy-filter",
        args: &[
            "clippy",
            "--package",
            "tollgate-filter",
            "--target",
            "wasm32-wasip1",
            "--",
            "--deny",
            "warnings",
        ],
        env: None,
        fix: "fix: change the code, or lift the lint where it is wrong with a reason",
    },
    Check {
        name: "clippy-wasm",
        args: &[
            "clippy",
            "--package",
            "tollgate-edge",
            "--package",
            "tollgate-vectors",
            "--target",
            "wasm32-unknown-unknown",
            "--all-features",
            "--all-targets",
            "--",
            "--deny",
            "warnings",
        ],
        env: None,
        fix: "fix: change the code, or lift the lint where it is wrong with a reason",
    },
    Check {
        name: "no-std",
        args: &[
            "build",
            "--package",
            "tollgate-shared",
            "--features",
            "asymmetric",
            "--target",
            "wasm32v1-none",
        ],
        env: None,
        fix: "fix: `shared` uses core and alloc only, its dependencies too",
    },
    Check {
        name: "doc",
        args: &[
            "doc",
            "--workspace",
            "--exclude",
            "tollgate-filter",
            "--no-deps",
            "--document-private-items",
        ],
        env: Some(("RUSTDOCFLAGS", "--deny warnings --allow rustdoc::private-intra-doc-links")),
        fix: "fix: repair the link or the markup in the doc comment",
    },
    Check {
        name: "doc-filter",
        args: &[
            "doc",
            "--package",
            "tollgate-filter",
            "--target",
            "wasm32-wasip1",
            "--no-deps",
            "--document-private-items",
        ],
        env: Some(("RUSTDOCFLAGS", "--deny warnings --allow rustdoc::private-intra-doc-links")),
        fix: "fix: repair the link or the markup in the doc comment",
    },
];

/// Licences and sources of what we depend on.
fn dependencies() -> Result<()> {
    let mut deny = cargo_deny()?;
    deny.args(["bans", "licenses", "sources"]);
    step::run(DEPENDENCIES, &mut deny, "fix: see `deny.toml`, which says what is allowed and why").map(drop)
}

/// Known vulnerabilities of what we depend on. Not part of `test`: a new one appears without a change of ours.
fn advisories() -> Result<()> {
    let output = cargo_deny()?.arg("advisories").output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        println!("           {ADVISORIES}: ok");
    } else if said.contains("failed to fetch advisory database") {
        println!("    !!!    {ADVISORIES}: NOT CHECKED, their database cannot be reached from here");
    } else {
        let fix = "fix: update the dependency, or list the advisory in `deny.toml` with the reason";
        bail!("{ADVISORIES}: {}\n{}\n  {fix}", output.status, last_lines(&said, 60));
    }
    Ok(())
}

/// The pinned cargo-deny, which is installed when it is missing.
fn cargo_deny() -> Result<Command> {
    setup::cargo_tool(tools::CARGO_DENY)?;
    let mut command = Command::new(tools::CARGO_DENY.path()?);
    command.args(["--color", "never", "check"]).current_dir(tools::workspace());
    Ok(command)
}

/// What the test binaries said, added up.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sum {
    passed: u64,
    failed: u64,
}

impl Sum {
    /// Adds a line such as `test result: ok. 3 passed; 0 failed; 0 ignored; …`.
    fn add(&mut self, line: &str) {
        let count = |word: &str| {
            let words: Vec<&str> = line.split([' ', ';']).collect();
            let at = words.iter().position(|found| *found == word)?;
            words.get(at.checked_sub(1)?)?.parse::<u64>().ok()
        };
        self.passed += count("passed").unwrap_or(0);
        self.failed += count("failed").unwrap_or(0);
    }
}

fn tests(only: Option<&str>, sum: &mut Sum) -> Result<()> {
    let mut suites =
        vec![step::cargo(["test", "--workspace", "--exclude", "tollgate-filter", "--no-fail-fast"])];
    if only.is_none() {
        // Builds the fuzz targets and puts every committed seed through them.
        suites.push(step::cargo([
            "test",
            "--locked",
            "--manifest-path",
            "fuzz/Cargo.toml",
            "--no-fail-fast",
        ]));
    }
    let mut failed = None;
    for mut suite in suites {
        suite.args(only.map(|name| ["--", name]).into_iter().flatten());
        let (status, lines) = step::streamed(TESTS, &mut suite, |line| line.starts_with(RESULT))?;
        lines.iter().for_each(|line| sum.add(line));
        if !status.success() {
            failed = Some(status);
        }
    }
    match failed {
        Some(status) => bail!("{TESTS}: {status}; `cargo xtask test --only NAME` repeats one"),
        None => Ok(()),
    }
}

/// Runs our vectors on the wasm32 build of the core.
fn on_wasm(target: Target, sum: &mut Sum) -> Result<()> {
    let output = vectors::on_wasm(target, &tools::workspace().join(vectors::FOLDER))?;
    output.lines().filter(|line| line.starts_with(RESULT)).for_each(|line| sum.add(line));
    Ok(())
}

const TESTS: &str = "tests";
const RESULT: &str = "test result:";
const ON_WASM: [(&str, Target); 2] = [("vectors-browser", Target::Browser), ("vectors-node", Target::Node)];
const DEPENDENCIES: &str = "dependencies";
const ADVISORIES: &str = "advisories";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_add_up() {
        let mut sum = Sum::default();
        sum.add(
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        );
        sum.add("test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 9 filtered out; finished in 1.20s");
        assert_eq!(sum, Sum { passed: 15, failed: 2 });
    }
}
