//! The policies in the documentation are policies, and the package's types have all that a policy may have.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is a failed test"
)]

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tollgate_shared::policy::Policy;

#[test]
fn examples_compile_without_warnings() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let mut examples = 0;
    for page in fs::read_dir(docs).unwrap() {
        let page = page.unwrap().path();
        let text = fs::read_to_string(&page).unwrap();
        for block in text.split("```json\n").skip(1) {
            let example = block.split("```").next().unwrap();
            let example: Value =
                serde_json::from_str(example).unwrap_or_else(|error| panic!("{page:?}: {error}\n{example}"));
            // An example is a policy, or a route of one whose tokens are found.
            let policy = if example.get("routes").is_some() {
                example
            } else {
                let key = json!({ "alg": "HS256", "secret": { "env": "JWT_SECRET" } });
                json!({ "jwt": { "algorithms": ["HS256"], "keys": [key] }, "routes": [example] })
            };
            match Policy::from_json(policy.to_string().as_bytes()) {
                Ok(policy) => assert_eq!(policy.warnings(&[]), [], "{page:?}"),
                Err(errors) => panic!("{page:?}: {errors:?}\n{policy:#}"),
            }
            examples += 1;
        }
    }
    assert!(examples >= 5, "{examples}");
}

#[test]
fn the_types_of_the_package_have_every_field_of_a_policy() {
    let read =
        |path: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap();
    let schema: Value = serde_json::from_str(&read("policy.schema.json")).unwrap();
    let objects = schema["$defs"].as_object().unwrap().values().chain([&schema]);
    let fields = objects.flat_map(|object| object["properties"].as_object().into_iter().flatten());
    let types = read("edge/npm/index.d.ts");
    // Both are for a filter behind Envoy's own `jwt_authn`.
    let missing = fields.map(|(name, _)| name).filter(|name| {
        let is_there = types.contains(&format!(" {name}: ")) || types.contains(&format!(" {name}?: "));
        !is_there && !["verified_by", "payload_in_metadata"].contains(&name.as_str())
    });
    assert_eq!(missing.collect::<Vec<_>>(), Vec::<&String>::new());
}
