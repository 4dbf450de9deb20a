//! The vectors' files, carried along: wasm has no file system to read them from.
//!
//! The build script lists the folder, so that a new file needs no line here. It is the folder of this package, or the
//! one that `TOLLGATE_VECTORS` names when this is compiled.

use anyhow::{Context as _, Result};

use crate::format::{self, Vector};

/// Reads them all.
pub fn vectors() -> Result<Vec<Vector>> {
    let mut vectors = Vec::new();
    for (file, text) in FILES {
        vectors.extend(format::read(file, text).with_context(|| format!("`{file}`"))?);
    }
    Ok(vectors)
}

/// Name and text of each, in the order of their names.
pub const FILES: &[(&str, &str)] = &include!(concat!(env!("OUT_DIR"), "/files.rs"));
