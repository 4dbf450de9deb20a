//! The committed JSON Schema is the one that the policy's types give.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use tollgate_tests::tools;

#[test]
fn the_schema_is_up_to_date() {
    let committed = std::fs::read_to_string(tools::workspace().join("policy.schema.json")).unwrap();
    assert_eq!(committed, tollgate_shared::config::schema(), "run `cargo xtask schema`");
}
