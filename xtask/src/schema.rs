//! `schema`: the policy's JSON Schema, written from the types that read policies.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use tollgate_tests::tools;

/// Writes `policy.schema.json`.
pub(crate) fn run() -> Result<ExitCode> {
    let path: PathBuf = tools::workspace().join("policy.schema.json");
    std::fs::write(&path, tollgate_shared::config::schema())
        .with_context(|| format!("cannot write `{}`", path.display()))?;
    println!("written to {}", path.display());
    Ok(ExitCode::SUCCESS)
}
