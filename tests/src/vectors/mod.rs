//! Vectors: a policy, requests at given times, and what must come of them, as TOML that needs no Rust.
//!
//! The same folder of vectors runs on three [`Target`]s, by way of one [`Adapter`] each. The format is described where it
//! is read, in [`mod@format`]; `tests/vectors` holds ours.
//!
//! | adapter | what it runs |
//! | --- | --- |
//! | [`memory`](core::MemoryStore) | the core, with the embedded memory as its store |
//! | [`redis`](core::GatewayStore) | the core, with a real Redis behind the real gateway |
//! | [`filter`] | a real Envoy with the built filter, and the same Redis and gateway |
//!
//! Time is virtual in all of them: a step says when it happens, and nobody waits.

pub mod adapter;
pub mod core;
mod expect;
pub mod filter;
pub mod format;
mod forwarder;
pub mod request;

use std::path::Path;
use std::str::FromStr;

use anyhow::{Context as _, Result, anyhow, ensure};

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
}

impl Target {
    /// As written in `skip` and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Target::Memory => "memory",
            Target::Redis => "redis",
            Target::Filter => "filter",
        }
    }
}

impl FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Target> {
        let all = [Target::Memory, Target::Redis, Target::Filter];
        let found = all.into_iter().find(|target| target.as_str() == text);
        found.ok_or_else(|| anyhow!("`{text}` is not one of `memory`, `redis`, `filter`"))
    }
}

/// How a run went.
#[derive(Debug, Default)]
pub struct Summary {
    /// Vectors of which every step came out as expected.
    pub passed: usize,
    /// One line for each other vector: where, what was expected, what was got.
    pub failures: Vec<String>,
    /// One line for each vector that says why it does not run on this target.
    pub skipped: Vec<String>,
}

/// Runs every vector of the `.toml` files in `dir`. Prints a line for each failure and each skipped vector, and a count.
pub async fn run_folder(dir: &Path, on: Target) -> Result<Summary> {
    let vectors = format::read_folder(dir)?;
    ensure!(!vectors.is_empty(), "there is no vector in `{}`", dir.display());
    let (skipped, vectors): (Vec<_>, Vec<_>) =
        vectors.into_iter().partition(|vector| vector.skip.contains_key(on.as_str()));
    let mut summary = Summary::default();
    for vector in skipped {
        summary.skipped.push(format!("{}: {}", vector.place(), vector.skip[on.as_str()]));
    }
    let results = match on {
        Target::Memory => run(core::CoreAdapter::in_memory(&vectors)?, &vectors).await,
        Target::Redis => run(core::CoreAdapter::on_redis(&vectors).await?, &vectors).await,
        Target::Filter => run(filter::FilterAdapter::start(&vectors).await?, &vectors).await,
    };
    for result in results {
        match result {
            Ok(()) => summary.passed += 1,
            Err(failure) => summary.failures.push(failure),
        }
    }
    summary.skipped.iter().for_each(|skipped| println!("skipped  {skipped}"));
    summary.failures.iter().for_each(|failure| println!("FAILED   {failure}"));
    println!(
        "vectors on {}: {} passed, {} failed, {} skipped",
        on.as_str(),
        summary.passed,
        summary.failures.len(),
        summary.skipped.len()
    );
    Ok(summary)
}

/// Runs vectors one after the other; each has counters of its own.
async fn run<A: Adapter>(mut adapter: A, vectors: &[Vector]) -> Vec<Result<(), String>> {
    let mut results = Vec::with_capacity(vectors.len());
    for (number, vector) in vectors.iter().enumerate() {
        let mut result = Ok(());
        for (position, step) in vector.steps.iter().enumerate() {
            if let Err(error) = take(&mut adapter, number, step).await {
                let place = format!("{}, step {} ({step})", vector.place(), position + 1);
                result = Err(format!("{place}: {error:#}"));
                break;
            }
        }
        results.push(result);
    }
    results
}

/// Sends the requests of one step and holds each answer against it.
async fn take<A: Adapter>(adapter: &mut A, vector: usize, step: &Step) -> Result<()> {
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
