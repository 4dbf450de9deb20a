//! Programs that only the system's packages carry.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use tollgate_tests::tools;

use crate::step;

/// A program, and the Debian package that holds it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Program {
    name: &'static str,
    package: &'static str,
}

impl Program {
    /// Where it is.
    pub(super) fn path(self) -> Result<PathBuf> {
        tools::on_path(self.name).with_context(|| format!("`{}` is not installed", self.name))
    }
}

pub(super) const WRK: Program = Program { name: "wrk", package: "wrk" };
pub(super) const NGINX: Program = Program { name: "nginx", package: "nginx" };
pub(super) const H2LOAD: Program = Program { name: "h2load", package: "nghttp2-client" };
pub(super) const REDIS_BENCHMARK: Program = Program { name: "redis-benchmark", package: "redis-tools" };
pub(super) const WEBDIS: Program = Program { name: "webdis", package: "webdis" };

/// Fails when one of them is missing, naming each and its package; with `install` it is installed first.
pub(super) fn require(programs: &[Program], install: bool) -> Result<()> {
    let missing = || programs.iter().filter(|program| tools::on_path(program.name).is_none());
    let packages: Vec<&str> = missing().map(|program| program.package).collect();
    if packages.is_empty() {
        return Ok(());
    }
    if install {
        let mut apt = Command::new("apt-get");
        apt.args(["install", "--yes", "--no-install-recommends"]).args(&packages);
        // Packages with a daemon start it, unless the machine seems to run for a single user.
        apt.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
        let fix = "fix: run as root, on Debian or Ubuntu, after `apt-get update`";
        step::run(&format!("install {}", packages.join(", ")), &mut apt, fix)?;
    }
    let lines: Vec<String> = missing()
        .map(|program| format!("  `{}`, of the package {}", program.name, program.package))
        .collect();
    if !lines.is_empty() {
        bail!(
            "NOT INSTALLED, and in no registry that serves users without root:\n{}\n\
             fix: `apt-get install --no-install-recommends {}` as root, or `--install` added to this command",
            lines.join("\n"),
            packages.join(" ")
        );
    }
    Ok(())
}
