//! Vectors on real parts: what `tollgate-vectors` describes, with Redis, the gateway, Envoy and workerd.
//!
//! The same folder of vectors runs on every [`Target`], by way of one adapter each; `tests/vectors` holds ours.
//!
//! | adapter | what it runs |
//! | --- | --- |
//! | [`memory`](tollgate_vectors::host::MemoryStore) | the core, with the embedded memory as its store |
//! | [`redis`](redis::GatewayStore) | the core, with a real Redis behind the real gateway |
//! | [`filter`] | a real Envoy with the built filter, and the same Redis and gateway |
//! | [`edge`] | a real workerd with the built Worker, and the same Redis and gateway |
//!
//! `browser` and `node` are the adapter `memory` again, compiled to wasm32: the package of the vectors is what runs there.

pub mod edge;
pub mod filter;
mod forwarder;
mod origin;
mod over_http;
pub mod redis;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use tollgate_vectors::format::{self, Vector};
use tollgate_vectors::host::CoreAdapter;
pub use tollgate_vectors::{Plan, Summary, Target};

use edge::EdgeAdapter;
use filter::FilterAdapter;
use redis::GatewayStore;

/// Runs every vector of the `.toml` files in `dir`. Prints a line for each failure and each skipped vector, and a count.
pub async fn run_folder(dir: &Path, on: Target) -> Result<Summary> {
    let plan = Plan::new(read_folder(dir)?, on);
    let vectors = plan.vectors();
    let summary = match on {
        Target::Memory => {
            let adapter = CoreAdapter::in_memory(vectors)?;
            plan.run(adapter).await
        }
        Target::Redis => {
            let adapter = CoreAdapter::new(vectors, GatewayStore::start().await?)?;
            plan.run(adapter).await
        }
        Target::Filter => {
            let adapter = FilterAdapter::start(vectors).await?;
            plan.run(adapter).await
        }
        Target::Edge => {
            let adapter = EdgeAdapter::start(vectors).await?;
            plan.run(adapter).await
        }
        Target::Browser | Target::Node => {
            bail!("run `cargo xtask vectors --on {on}`, which compiles to wasm32")
        }
    };
    println!("{summary}");
    Ok(summary)
}

/// Reads every `.toml` file of a folder, in the order of their names. `Cargo.toml` is none: our folder is a package, too.
pub fn read_folder(dir: &Path) -> Result<Vec<Vector>> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read the folder `{}`", dir.display()))?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    files.retain(|file| file.file_name().is_some_and(|name| name != "Cargo.toml"));
    files.sort();
    let mut vectors = Vec::new();
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read `{}`", file.display()))?;
        vectors.extend(format::read(&name, &text).with_context(|| format!("`{}`", file.display()))?);
    }
    ensure!(!vectors.is_empty(), "there is no vector in `{}`", dir.display());
    Ok(vectors)
}
