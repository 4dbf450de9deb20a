//! A real workerd with the built Worker: one process, one or more Workers, each with variables and a port of its own.
//!
//! Each Worker of a process has an isolate of its own, hence memory of its own; all share one thread.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::ports;
use crate::process::{Process, Ready, Spec};
use crate::tools;

/// What a workerd runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// What errors and the log file call it.
    pub name: String,
    /// Where the modules of the Worker are. The main one is [`tools::WORKER_MAIN`], or the only one of JavaScript.
    pub modules: PathBuf,
    /// The Workers.
    pub workers: Vec<Worker>,
}

/// One Worker and its port.
#[derive(Debug, Clone)]
pub struct Worker {
    /// The port, on loopback.
    pub port: u16,
    /// Its variables and secrets.
    pub variables: Vec<(String, String)>,
    /// Whether it has a dataset of Analytics Engine. That is a double: workerd alone has none. It writes each data point to
    /// the log, see [`Workerd::data_points`], and throws at those whose index is `not-taken`.
    pub metrics: bool,
}

impl Worker {
    /// On a free port, with variables.
    pub fn new<const N: usize>(variables: [(&str, String); N]) -> Result<Worker> {
        let variables = variables.map(|(name, value)| (name.to_owned(), value)).into();
        Ok(Worker { port: ports::free()?, variables, metrics: false })
    }
}

/// A running workerd.
#[derive(Debug)]
pub struct Workerd {
    process: Process,
    addresses: Vec<SocketAddr>,
}

impl Workerd {
    /// Starts it in `dir`, and waits until its first Worker listens.
    pub async fn start(dir: &Path, options: &Options) -> Result<Workerd> {
        let Options { name, modules, workers } = options;
        let first = workers.first().context("a workerd has at least one Worker")?;
        // What is embedded is found beside the configuration.
        let own = dir.join(name);
        let modules = copy(modules, &own)?;
        fs::write(own.join(METRICS), METRICS_DOUBLE)?;
        fs::write(own.join("config.capnp"), config(&modules, workers))?;
        let process = Process::start(Spec {
            name: name.clone(),
            program: tools::workerd()?,
            args: ["serve", "config.capnp"].map(Into::into).into(),
            env: Vec::new(),
            dir: own,
            ready: Ready::listens(ports::local(first.port)),
            ready_within: Duration::from_secs(60),
        });
        let addresses = workers.iter().map(|worker| ports::local(worker.port)).collect();
        Ok(Workerd { process: process.await?, addresses })
    }

    /// Where each Worker listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What its Workers have handed to Analytics Engine so far: indexes, blobs and doubles.
    pub fn data_points(&self) -> Result<Vec<Value>> {
        let log = self.log();
        let points = log.lines().filter_map(|line| Some(line.split_once(POINT)?.1));
        points
            .map(|point| serde_json::from_str(point).with_context(|| format!("not a data point: `{point}`")))
            .collect()
    }
}

impl Deref for Workerd {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for Workerd {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// Copies the modules, and returns their names, the main one first.
fn copy(from: &Path, to: &Path) -> Result<Vec<String>> {
    fs::create_dir_all(to)?;
    let mut names = Vec::new();
    let entries = fs::read_dir(from)
        .with_context(|| format!("`{}` is not there: run `cargo xtask build --worker`", from.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().into_string().ok().context("a module's name is text")?;
        if name.ends_with(".js") || name.ends_with(".wasm") {
            fs::copy(entry.path(), to.join(&name))?;
            names.push(name);
        }
    }
    names.sort_by_key(|name| (name != tools::WORKER_MAIN, !name.ends_with(".js"), name.clone()));
    let main = names.first().is_some_and(|name| name.ends_with(".js"));
    ensure!(main, "there is no JavaScript in `{}`", from.display());
    Ok(names)
}

fn config(modules: &[String], workers: &[Worker]) -> String {
    let mut text = String::from("using Workerd = import \"/workerd/workerd.capnp\";\n");
    text.push_str("const config :Workerd.Config = (\n  services = [\n");
    // Writing to a String does not fail.
    for number in 0..workers.len() {
        let _ = writeln!(text, "    (name = \"w{number}\", worker = .w{number}),");
    }
    text.push_str("    (name = \"network\", network = (allow = [\"public\", \"private\", \"local\"])),\n  ],\n  sockets = [\n");
    for (number, Worker { port, .. }) in workers.iter().enumerate() {
        let address = ports::local(*port);
        let _ = writeln!(
            text,
            "    (name = \"s{number}\", address = \"{address}\", http = (), service = \"w{number}\"),"
        );
    }
    let _ = writeln!(
        text,
        "  ],\n  extensions = [(modules = [(name = \"tollgate:metrics\", internal = true, esModule = embed \"{METRICS}\")])],"
    );
    text.push_str(");\nconst modules :List(Workerd.Worker.Module) = [\n");
    for module in modules {
        let kind = if module.ends_with(".wasm") { "wasm" } else { "esModule" };
        let _ = writeln!(text, "  (name = \"{module}\", {kind} = embed \"{module}\"),");
    }
    text.push_str("];\n");
    for (number, Worker { variables, metrics, .. }) in workers.iter().enumerate() {
        let _ = writeln!(
            text,
            "const w{number} :Workerd.Worker = (\n  modules = .modules,\n  compatibilityDate = \"{COMPATIBILITY_DATE}\",\n  \
             compatibilityFlags = [\"{COMPATIBILITY_FLAG}\"],\n  globalOutbound = \"network\",\n  bindings = ["
        );
        for (name, value) in variables {
            let _ = writeln!(text, "    (name = \"{name}\", text = \"{}\"),", escaped(value));
        }
        if *metrics {
            text.push_str(
                "    (name = \"TOLLGATE_METRICS\", wrapped = (moduleName = \"tollgate:metrics\")),\n",
            );
        }
        text.push_str("  ],\n);\n");
    }
    text
}

/// As a text literal of Cap'n Proto.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' | '\\' => escaped.extend(['\\', character]),
            '\n' => escaped.push_str("\\n"),
            _ if character.is_ascii_control() => {
                let _ = write!(escaped, "\\x{:02x}", u32::from(character));
            }
            _ => escaped.push(character),
        }
    }
    escaped
}

const METRICS: &str = "metrics-double.mjs";

/// A dataset that writes what it is given to the log, but takes no points of the index `not-taken`.
const METRICS_DOUBLE: &str = "
export default () => ({
  writeDataPoint(point) {
    if (point.indexes[0] === 'not-taken') throw new TypeError('no more data points');
    console.log('data point ' + JSON.stringify(point));
  },
});
";

const POINT: &str = "data point ";

/// As in `wrangler.toml`; not after the day of the pinned workerd.
const COMPATIBILITY_DATE: &str = "2026-10-01";
const COMPATIBILITY_FLAG: &str = "enable_request_signal";
