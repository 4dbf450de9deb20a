//! Lists the vectors' files for `src/files.rs`, which carries them along.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a build script: a panic is an error of the build")]

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-env-changed={FOLDER}");
    let dir = env::var_os(FOLDER).or_else(|| env::var_os("CARGO_MANIFEST_DIR")).map(PathBuf::from).unwrap();
    println!("cargo::rerun-if-changed={}", dir.display());
    let entries = fs::read_dir(&dir);
    let entries =
        entries.unwrap_or_else(|error| panic!("cannot read the folder `{}`: {error}", dir.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "toml"));
    files.retain(|file| file.file_name().is_some_and(|name| name != "Cargo.toml"));
    files.sort();
    let mut list = String::from("[\n");
    for file in files {
        let name = file.file_name().unwrap();
        writeln!(list, "    ({name:?}, include_str!({file:?})),").unwrap();
    }
    list.push_str("]\n");
    fs::write(PathBuf::from(env::var_os("OUT_DIR").unwrap()).join("files.rs"), list).unwrap();
}

const FOLDER: &str = "TOLLGATE_VECTORS";
