//! Vectors: a policy, requests at given times, and what must come of them, as TOML that needs no Rust.
//!
//! This package is the folder that holds them, and everything about them that needs no I/O: the [`mod@format`], the
//! [`adapter`] that each [`Target`] has, the one of the core over its embedded memory in [`host`], and the runner, a
//! [`Plan`]. It compiles to wasm32, where it takes along the [`files`] themselves; what starts real parts is in
//! `tollgate-tests`.
//!
//! Time is virtual everywhere: a step says when it happens, and nobody waits.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is a failed test"
)]

pub mod adapter;
mod expect;
pub mod files;
pub mod format;
pub mod host;
pub mod request;

use std::fmt;
use std::str::FromStr;

use anyhow::{Context as _, Error, Result, anyhow};

use adapter::Adapter;
use format::{Step, Vector};

/// What vectors run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The core with the embedded memory as its store.
    Memory,
    /// The core with Redis behind the gateway.
    Redis,
    /// Envoy with the filter, Redis behind the gateway.
    Filter,
    /// The core on wasm32 in a browser, with the embedded memory as its store.
    Browser,
    /// The same in Node.
    Node,
    /// The Worker in its runtime, Redis behind the gateway.
    Edge,
}

impl Target {
    /// As written in `skip` and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Target::Memory => "memory",
            Target::Redis => "redis",
            Target::Filter => "filter",
            Target::Browser => "browser",
            Target::Node => "node",
            Target::Edge => "edge",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Target> {
        let found = TARGETS.into_iter().find(|target| target.as_str() == text);
        found.ok_or_else(|| {
            let names = TARGETS.map(|target| format!("`{target}`"));
            anyhow!("`{text}` is not one of {}", names.join(", "))
        })
    }
}

/// The vectors that run on a target, and why the others do not.
#[derive(Debug)]
pub struct Plan {
    on: Target,
    vectors: Vec<Vector>,
    skipped: Vec<String>,
}

impl Plan {
    /// Leaves out what says that it does not run `on` this target.
    pub fn new(vectors: Vec<Vector>, on: Target) -> Plan {
        let mut plan = Plan { on, vectors: Vec::with_capacity(vectors.len()), skipped: Vec::new() };
        for vector in vectors {
            match vector.skip.get(on.as_str()) {
                Some(reason) => plan.skipped.push(format!("{}: {reason}", vector.place())),
                None => plan.vectors.push(vector),
            }
        }
        plan
    }

    /// What an adapter is started with.
    pub fn vectors(&self) -> &[Vector] {
        &self.vectors
    }

    /// Runs vectors one after the other; each has counters of its own.
    pub async fn run(self, mut adapter: impl Adapter) -> Summary {
        let mut summary = Summary { on: self.on, passed: 0, failures: Vec::new(), skipped: self.skipped };
        for (number, vector) in self.vectors.iter().enumerate() {
            match run(&mut adapter, number, vector).await {
                Ok(()) => summary.passed += 1,
                Err(failure) => summary.failures.push(failure),
            }
        }
        summary
    }
}

/// How a run went.
#[derive(Debug)]
pub struct Summary {
    /// On what.
    pub on: Target,
    /// Vectors of which every step came out as expected.
    pub passed: usize,
    /// One line for each other vector: where, what was expected, what was got.
    pub failures: Vec<String>,
    /// One line for each vector that says why it does not run on this target.
    pub skipped: Vec<String>,
}

/// A line for each vector that was skipped or failed, and the counts.
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { on, passed, failures, skipped } = self;
        skipped.iter().try_for_each(|skipped| writeln!(f, "skipped  {skipped}"))?;
        failures.iter().try_for_each(|failure| writeln!(f, "FAILED   {failure}"))?;
        let (failed, skipped) = (failures.len(), skipped.len());
        write!(f, "vectors on {on}: {passed} passed, {failed} failed, {skipped} skipped")
    }
}

async fn run(adapter: &mut impl Adapter, number: usize, vector: &Vector) -> Result<(), String> {
    for (position, step) in vector.steps.iter().enumerate() {
        take(adapter, number, step)
            .await
            .map_err(|error| format!("{}, step {} ({step}): {error:#}", vector.place(), position + 1))?;
    }
    Ok(())
}

/// Sends the requests of one step and holds each answer against it.
async fn take(adapter: &mut impl Adapter, vector: usize, step: &Step) -> Result<()> {
    let count = step.allow + step.deny;
    for sent in 1..=count {
        let answer = adapter.ask(vector, step).await.context("no answer")?;
        let refused = sent > step.allow;
        let ordinal = if count == 1 { String::new() } else { format!("request {sent} of {count}: ") };
        expect::verdict(&answer, refused).map_err(|error| anyhow!("{ordinal}{error}"))?;
        if sent == count {
            expect::details(&answer, step, refused).map_err(|error| anyhow!("{ordinal}{error}"))?;
        }
    }
    Ok(())
}

const TARGETS: [Target; 6] =
    [Target::Memory, Target::Redis, Target::Filter, Target::Browser, Target::Node, Target::Edge];
