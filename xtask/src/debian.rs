//! What only the system has: installed from Debian for `root`, named for everybody else.
//!
//! Nothing here starts a service: Debian keeps the program of Redis in `redis-tools`, under another name, and only its
//! service in `redis-server`.

use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use tollgate_tests::tools;

use crate::step;

/// Packages, and how to see that they are there, be it from Debian or not.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    packages: &'static [&'static str],
    is_there: fn() -> bool,
}

/// A Redis that speaks TLS.
pub(crate) const REDIS: Part = Part { packages: &["redis-tools"], is_there: || redis_program().is_some() };

/// The headers that some Rust programs are compiled with.
pub(crate) const OPENSSL: Part = Part { packages: &["libssl-dev", "pkg-config"], is_there: openssl };

/// A browser, and what drives it.
pub(crate) const CHROMIUM: Part = Part { packages: &["chromium", "chromium-driver"], is_there: chromium };

/// Installs what is missing of these.
pub(crate) fn install(parts: &[Part]) -> Result<()> {
    let missing = parts.iter().filter(|part| !(part.is_there)());
    let missing: Vec<&str> = missing.flat_map(|part| part.packages).copied().collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = missing.join(" ");
    let root = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    ensure!(
        root && tools::on_path("apt-get").is_some(),
        "install `{packages}` (Debian's names: `apt install {packages}`)"
    );
    let apt = |arguments: &[&str]| {
        let mut apt = Command::new("apt-get");
        apt.args(["--quiet", "--yes", "-o", "DPkg::Lock::Timeout=120"]).args(arguments);
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        apt
    };
    let fix = format!("fix: a Debian mirror must be reachable, or install `{packages}` yourself");
    step::run("update the list of Debian packages", &mut apt(&["update"]), &fix)?;
    let mut install = apt(&["install", "--no-install-recommends"]);
    step::run(&format!("install {packages}"), install.args(missing), &fix)?;
    Ok(())
}

/// The program of the system's Redis: it is a server, unless it is called by the name of one of its checkers.
pub(crate) fn redis_program() -> Option<PathBuf> {
    tools::on_path("redis-server").or_else(|| tools::on_path("redis-check-rdb"))
}

fn openssl() -> bool {
    let asked = Command::new("pkg-config").args(["--exists", "openssl"]).stderr(Stdio::null()).status();
    asked.is_ok_and(|status| status.success())
}

/// A `CHROMEDRIVER` that is wrong is for whoever set it to repair.
fn chromium() -> bool {
    env::var_os("CHROMEDRIVER").is_some() || tools::chromedriver().is_ok()
}
