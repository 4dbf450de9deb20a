//! One step of a command: a line with its name and its time, its output in a log, and the end of that log when it
//! fails.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tollgate_tests::process::last_lines;
use tollgate_tests::tools;

/// Cargo, at the root of the repository.
pub(crate) fn cargo<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(tools::workspace());
    command
}

/// Runs a command with its output in a log, and returns what it wrote. `fix` says what helps when it fails.
pub(crate) fn run(name: &str, command: &mut Command, fix: &str) -> Result<String> {
    run_quoting(name, command, fix, |_| false)
}

/// The same; the error of a command that fails has the lines that `quote` accepts, if there are any, instead of the last.
pub(crate) fn run_quoting(
    name: &str,
    command: &mut Command,
    fix: &str,
    quote: impl Fn(&str) -> bool,
) -> Result<String> {
    let path = log_path(name)?;
    let log = File::create(&path).with_context(|| format!("cannot write `{}`", path.display()))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).env("CARGO_TERM_COLOR", "never");
    timed(name, || {
        let mut child =
            command.spawn().with_context(|| format!("cannot run {:?}: {fix}", command.get_program()))?;
        let status = watch(name, &path, &mut child)?;
        let output = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
        if status.success() {
            return Ok(output);
        }
        let quoted: Vec<&str> = output.lines().filter(|line| quote(line)).collect();
        let most = if quoted.is_empty() { 30 } else { quoted.len() };
        let quoted = if quoted.is_empty() { output } else { quoted.join("\n") };
        bail!("{name}: {status}\n{}\n  all of it: {}\n  {fix}", last_lines(&quoted, most), path.display())
    })
}

/// Runs a command whose output is passed on as it comes. Returns how it ended and each line of its standard output
/// that `keep` accepts.
pub(crate) fn streamed(
    name: &str,
    command: &mut Command,
    keep: impl Fn(&str) -> bool,
) -> Result<(ExitStatus, Vec<String>)> {
    println!("{name}");
    let begun = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let output = child.stdout.take().context("the output is piped")?;
    let mut kept = Vec::new();
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        println!("{line}");
        if keep(&line) {
            kept.push(line);
        }
    }
    let status = child.wait()?;
    finished(name, status.success(), begun.elapsed());
    Ok((status, kept))
}

/// Runs work that starts no program of its own.
pub(crate) fn timed<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    if io::stdout().is_terminal() {
        print!("    …      {name}");
        io::stdout().flush()?;
    }
    let begun = Instant::now();
    let result = work();
    finished(name, result.is_ok(), begun.elapsed());
    result
}

fn finished(name: &str, success: bool, took: Duration) {
    let back = if io::stdout().is_terminal() { "\r\x1b[K" } else { "" };
    let word = if success { "ok" } else { "FAILED" };
    println!("{back}{:>7.1} s  {name}: {word}", took.as_secs_f64());
}

/// Waits for a child; on a terminal, with a line that moves.
fn watch(name: &str, log: &Path, child: &mut Child) -> Result<ExitStatus> {
    if !io::stdout().is_terminal() {
        return Ok(child.wait()?);
    }
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        let text =
            fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let last: String = text.lines().last().unwrap_or_default().trim().chars().take(50).collect();
        print!("\r\x1b[K{:>7.0} s  {name}  {last}", begun.elapsed().as_secs_f64());
        io::stdout().flush()?;
        thread::sleep(Duration::from_millis(200));
    }
}

fn log_path(name: &str) -> Result<PathBuf> {
    let dir = tools::target_dir().join("xtask");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create `{}`", dir.display()))?;
    let file: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    Ok(dir.join(format!("{file}.log")))
}
