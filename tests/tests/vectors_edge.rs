//! The vectors of `tests/vectors` on the adapter `edge`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code: a panic is a failed test")]

use tollgate_tests::tools;
use tollgate_tests::vectors::{Target, run_folder};

#[tokio::test]
async fn vectors_pass_on_edge() {
    let target: Target = "edge".parse().unwrap();
    let summary = run_folder(&tools::workspace().join("tests/vectors"), target).await.unwrap();
    assert!(summary.failures.is_empty(), "{} failed, see above", summary.failures.len());
}
