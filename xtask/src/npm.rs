//! `build --npm`: the npm package, from the core's wasm and the modules of `edge/npm`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tollgate_tests::tools;

use crate::build::{FIX, gzip_size};
use crate::step;

/// Builds the package, and packs it into the file that would be published.
pub(crate) fn build() -> Result<()> {
    let work = tools::npm_dir()?;
    let package = work.join("package");
    // What is no longer a part of it must not stay in it.
    clear(&work)?;
    fs::create_dir_all(&package).with_context(|| format!("cannot create `{}`", package.display()))?;
    compile(&work.join("core"))?;
    shrink(&work.join("core"), &package)?;
    copy(&package)?;
    pack(&package, &work)?;
    let packed = fs::metadata(tools::npm_package()?)?.len();
    let [wasm, glue] = [CORE_WASM, CORE_JS].map(|file| gzip_size(&package.join(file)));
    println!(
        "           the npm package: {packed} bytes packed; gzip {} of wasm, {} of its glue",
        wasm?, glue?
    );
    ensure!(
        packed <= MOST_PACKED_BYTES,
        "the npm package has {packed} bytes, at most {MOST_PACKED_BYTES} are allowed"
    );
    Ok(())
}

/// Compiles the core to wasm, with the JavaScript that calls it.
fn compile(core: &Path) -> Result<()> {
    let mut wasm_pack = Command::new(tools::WASM_PACK.path()?);
    wasm_pack
        .args(["build", "edge", "--mode", "no-install", "--target", "web", "--profile", "npm", "--no-opt"])
        .args(["--no-pack", "--no-gitignore", "--no-typescript", "--out-name", "core", "--out-dir"])
        .arg(core)
        .args(["--", "--no-default-features", "--features", "package"])
        .envs(tools::edge_environment()?)
        .env("CARGO_ENCODED_RUSTFLAGS", rustc_flags().join("\u{1f}"))
        .current_dir(tools::workspace());
    step::run("compile the core of the npm package", &mut wasm_pack, FIX).map(drop)
}

fn rustc_flags() -> Vec<String> {
    // The digest of a subject takes a fraction of a call to the store, whichever form its loop has; this one is shorter.
    let mut flags = vec!["--cfg".to_owned(), "sha2_backend_soft=\"compact\"".to_owned()];
    // What is published is the same wherever it was built, and does not say where.
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(home) = set("CARGO_HOME").or_else(|| set("HOME").map(|home| home.join(".cargo"))) {
        flags.push(format!("--remap-path-prefix={}=cargo", home.display()));
    }
    flags
}

/// Makes both smaller, and the JavaScript one file.
fn shrink(core: &Path, package: &Path) -> Result<()> {
    let mut wasm_opt = Command::new(tools::wasm_opt()?);
    // Functions that are called once stay functions: they are larger so, and smaller gzipped.
    wasm_opt.args(["-Oz", "--one-caller-inline-max-function-size=0", "--strip-producers"]);
    wasm_opt.arg(core.join("core_bg.wasm")).arg("--output").arg(package.join(CORE_WASM));
    step::run("shrink the core of the npm package", &mut wasm_opt, FIX)?;
    let mut esbuild = Command::new(tools::esbuild()?);
    esbuild.arg(core.join("core.js")).args(["--bundle", "--minify", "--format=esm", "--target=es2022"]);
    // Where the wasm is, the modules say; bundlers must not find another place.
    esbuild
        .arg("--define:import.meta.url=undefined")
        .arg(format!("--outfile={}", package.join(CORE_JS).display()));
    step::run("bundle the core of the npm package", &mut esbuild, FIX).map(drop)
}

/// Copies what is shipped as it is.
fn copy(package: &Path) -> Result<()> {
    let modules = tools::workspace().join("edge/npm");
    for entry in fs::read_dir(&modules)? {
        let entry = entry?;
        fs::copy(entry.path(), package.join(entry.file_name()))?;
    }
    fs::copy(tools::workspace().join("LICENSE"), package.join("LICENSE"))?;
    let manifest: Value = serde_json::from_slice(&fs::read(package.join("package.json"))?)?;
    let (found, expected) = (&manifest["version"], env!("CARGO_PKG_VERSION"));
    ensure!(
        found == expected,
        "edge/npm/package.json: found version {found}, expected {expected:?} as in Cargo.toml"
    );
    Ok(())
}

fn pack(package: &Path, to: &Path) -> Result<()> {
    let mut npm = Command::new("npm");
    npm.args(["pack", "--ignore-scripts", "--pack-destination"]).arg(to).current_dir(package);
    step::run(
        "pack the npm package",
        &mut npm,
        "fix: Node with npm is needed (Debian: `apt install nodejs npm`)",
    )
    .map(drop)
}

fn clear(work: &PathBuf) -> Result<()> {
    match fs::remove_dir_all(work) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            bail!("cannot clear `{}`: {error}", work.display())
        }
        _ => Ok(()),
    }
}

const CORE_WASM: &str = "core.wasm";
const CORE_JS: &str = "core.js";

/// The bound of the packed package, which npm gzips: what it has, and 3 %. Nine tenths are the core, whose largest part reads policies
/// and says what is wrong with them; tokens and guards beside the limits are two fifths. What is done by name is 8 kB.
const MOST_PACKED_BYTES: u64 = 249_000;
