//! The policy's JSON Schema, from the very types that read it.

use alloc::string::String;

use super::PolicyConfig;

/// The schema, as the repository holds it in `policy.schema.json`.
pub fn schema() -> String {
    let mut schema = schemars::schema_for!(PolicyConfig);
    schema.insert("title".into(), "Tollgate policy".into());
    // A schema is made of strings, numbers and maps with string keys, which serialise.
    serde_json::to_string_pretty(&schema).unwrap_or_default() + "\n"
}
