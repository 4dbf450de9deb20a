//! The vectors on the wasm32 build of the core: in Node, or with the feature `browser` in a browser, which is told what
//! `webdriver.json` says.

#![cfg(target_arch = "wasm32")]
#![allow(clippy::panic, reason = "test code: a panic is a failed test")]

use anyhow::{Result, ensure};
use tollgate_vectors::files::{self, FILES};
use tollgate_vectors::host::CoreAdapter;
use tollgate_vectors::{Plan, Summary, Target};
use wasm_bindgen_test::{console_log, wasm_bindgen_test};

#[cfg(feature = "browser")]
wasm_bindgen_test::wasm_bindgen_test_configure!(run_in_browser);

#[wasm_bindgen_test]
async fn vectors_pass_on_wasm() {
    let summary = run().await.unwrap_or_else(|error| {
        console_log!("FAILED   {error:#}");
        panic!("{error:#}");
    });
    console_log!("{summary}");
    assert!(summary.failures.is_empty(), "{} failed, see above", summary.failures.len());
}

/// Runs them all: as many as the files have, counted in another way than they are read.
async fn run() -> Result<Summary> {
    let on = if cfg!(feature = "browser") { Target::Browser } else { Target::Node };
    let plan = Plan::new(files::vectors()?, on);
    let adapter = CoreAdapter::in_memory(plan.vectors())?;
    let summary = plan.run(adapter).await;
    let lines = FILES.iter().flat_map(|(_, text)| text.lines());
    let written = lines.filter(|line| line.trim_end() == "[[vector]]").count();
    ensure!(written > 0, "there is no vector");
    let run = summary.passed + summary.failures.len() + summary.skipped.len();
    ensure!(run == written, "{run} vectors ran or were skipped, and the files have {written}");
    Ok(summary)
}
