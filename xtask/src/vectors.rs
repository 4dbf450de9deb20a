//! `vectors`: runs a folder of test vectors on one interpreter.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};
use tollgate_tests::tools;
use tollgate_tests::vectors::{Target, run_folder};

use crate::{build, setup, step};

/// What `vectors` is told.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// The folder with `*.toml` files.
    #[arg(long, default_value = FOLDER)]
    dir: PathBuf,
    /// What decides: `memory` (the core alone), `browser` or `node` (the same as wasm32 in headless Chromium or in Node),
    /// `redis` (the core, the gateway and Redis), `filter` (Envoy with all of it), `edge` (workerd with all of it).
    #[arg(long, default_value = "memory")]
    on: Target,
}

/// Runs the vectors; fails if one does.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    match options.on {
        Target::Browser | Target::Node => {
            let output = on_wasm(options.on, &options.dir)?;
            let ours = |line: &&str| line.starts_with("skipped  ") || line.starts_with("vectors on ");
            output.lines().map(str::trim).filter(ours).for_each(|line| println!("{line}"));
            return Ok(ExitCode::SUCCESS);
        }
        Target::Memory => {}
        Target::Redis | Target::Filter | Target::Edge => {
            setup::run()?;
            build::run()?;
        }
    }
    match options.on {
        Target::Filter => build::test_clock()?,
        Target::Edge => {
            setup::edge_tools()?;
            build::worker_test_clock()?;
        }
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let summary = runtime.block_on(run_folder(&options.dir, options.on))?;
    Ok(if summary.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Compiles the core and the vectors of `dir` to wasm32, runs them in Node or in a browser, and returns what was said.
pub(crate) fn on_wasm(on: Target, dir: &Path) -> Result<String> {
    setup::wasm_pack()?;
    let dir = dir.canonicalize().with_context(|| format!("cannot read the folder `{}`", dir.display()))?;
    let mut wasm_pack = Command::new(tools::WASM_PACK.path()?);
    wasm_pack.current_dir(tools::workspace());
    wasm_pack.env("PATH", tools::path_with([tools::WASM_BINDGEN.bin()?.as_path()])?);
    if dir != tools::workspace().join(FOLDER).canonicalize()? {
        wasm_pack.env("TOLLGATE_VECTORS", dir);
    }
    wasm_pack.args(["test", "--mode", "no-install"]);
    if on == Target::Browser {
        setup::browser()?;
        wasm_pack.args(["--headless", "--chrome", "--chromedriver"]).arg(tools::chromedriver()?);
        wasm_pack.args([FOLDER, "--features", "browser"]);
    } else {
        wasm_pack.args(["--node", FOLDER]);
    }
    // Otherwise only a test that fails may speak.
    wasm_pack.args(["--", "--nocapture"]);
    wasm_pack.env("RUST_BACKTRACE", "0");
    let fix = match on {
        Target::Browser => {
            "fix: change the vector or the core; if no vector is named, see whether Chromium starts"
        }
        _ => {
            "fix: change the vector or the core; if no vector is named, see whether there is Node 20 or newer"
        }
    };
    let failed = |line: &str| line.starts_with("FAILED   ");
    let output = step::run_quoting(&format!("vectors on {on}"), &mut wasm_pack, fix, failed)?;
    let ran = output.lines().any(|line| line.trim().starts_with(&format!("vectors on {on}: ")));
    ensure!(ran, "wasm-pack ended well and ran no vector on {on}:\n{output}");
    Ok(output)
}

/// Our vectors, and the package that runs them on wasm32.
pub(crate) const FOLDER: &str = "tests/vectors";
