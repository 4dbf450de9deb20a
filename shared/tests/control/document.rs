//! The description, held against the paths there are and the answers they give.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::{Value, json};
use tollgate_shared::answer::Answer;
use tollgate_shared::control;

use crate::actions::every_status;
use crate::host::{Host, json_of, policy};

/// Checks that the description foresees an answer. Of methods and paths that it does not know, it says so in words.
pub(crate) fn describes(method: &str, path: &str, answer: &Answer) {
    let is_upper = !method.bytes().any(|b| b.is_ascii_lowercase());
    let operation =
        &DOCUMENT["paths"][path][if is_upper { method.to_ascii_lowercase() } else { String::new() }];
    if operation.is_null() {
        assert!(matches!(answer.status, 404 | 405) || method == "HEAD", "{method} {path}: {answer:?}");
        return;
    }
    let status = answer.status.to_string();
    let response = resolved(&operation["responses"][&status]);
    assert!(response.is_object(), "{method} {path} answers with {status}");
    for (name, _) in response["headers"].as_object().into_iter().flatten() {
        assert!(answer.headers.get(&name.to_ascii_lowercase()).is_some(), "{method} {path} {status}: {name}");
    }
    assert_eq!(answer.headers.get("cache-control"), Some("no-store"), "{method} {path} {status}");
    let (media_type, content) = response["content"].as_object().unwrap().iter().next().unwrap();
    assert_eq!(answer.headers.get("content-type"), Some(media_type.as_str()), "{method} {path} {status}");
    let name = content["schema"]["$ref"].as_str().unwrap_or_default();
    if let Some(validator) = SCHEMAS.get(name) {
        let found = json_of(answer);
        let errors: Vec<String> = validator.iter_errors(&found).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{method} {path} {status} is no {name}: {errors:?}");
    } else {
        assert_eq!((path, status.as_str()), ("/openapi.json", "200"), "{name}");
    }
}

/// Whether the description takes a text for a body of this path.
pub(crate) fn takes(path: &str, body: &Value) -> bool {
    let name =
        &DOCUMENT["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"];
    SCHEMAS[name.as_str().unwrap()].is_valid(body)
}

#[test]
fn it_has_the_paths_and_methods_that_there_are() {
    let described = DOCUMENT["paths"].as_object().unwrap().iter().flat_map(|(path, item)| {
        item.as_object().unwrap().keys().map(move |method| (method.to_ascii_uppercase(), path.clone()))
    });
    let there_are = control::endpoints().map(|(method, path)| (method.to_owned(), format!("/{path}")));
    assert_eq!(described.collect::<BTreeSet<_>>(), there_are.collect());
}

/// What is described happens: to each path, each of its statuses.
#[test]
fn each_of_its_statuses_is_seen() {
    let described = DOCUMENT["paths"].as_object().unwrap().iter().flat_map(|(path, item)| {
        item.as_object().unwrap().iter().flat_map(move |(method, operation)| {
            let statuses = operation["responses"].as_object().unwrap().keys();
            statuses.map(move |status| (method.to_ascii_uppercase(), path.clone(), status.parse().unwrap()))
        })
    });
    let described: BTreeSet<(String, String, u16)> = described.collect();
    let seen = every_status();
    let unseen: Vec<_> = described.difference(&seen).collect();
    assert!(unseen.is_empty(), "{unseen:?}");
}

#[test]
fn it_is_of_this_version_and_served_with_the_prefix_of_the_host() {
    assert_eq!(DOCUMENT["openapi"], "3.1.0");
    assert_eq!(DOCUMENT["info"]["version"], env!("CARGO_PKG_VERSION"));
    let mut host = Host::new(&policy());
    assert_eq!(json_of(&host.get("openapi.json")), *DOCUMENT);
    host.control = control::Control::new(Some("/ops/gate/"), crate::host::TOKEN).unwrap();
    let head = crate::host::Head::new("GET", "/ops/gate/openapi.json").authorized();
    let Some(control::Found::Answer(answer)) = host.control.find(&head) else { panic!("{head:?}") };
    let mut expected = DOCUMENT.clone();
    expected["servers"][0]["url"] = json!("/ops/gate");
    assert_eq!(json_of(&answer), expected);
}

/// A reference that leads nowhere would be found by nobody.
#[test]
fn each_of_its_parts_is_used() {
    let text = DOCUMENT.to_string();
    for kind in ["schemas", "responses"] {
        for name in DOCUMENT["components"][kind].as_object().unwrap().keys() {
            let reference = format!("\"#/components/{kind}/{name}\"");
            assert!(text.contains(&reference), "{reference}");
        }
    }
}

fn resolved(value: &Value) -> &Value {
    match value["$ref"].as_str() {
        Some(reference) => DOCUMENT.pointer(reference.strip_prefix('#').unwrap()).unwrap(),
        None => value,
    }
}

static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../../../openapi.json")).unwrap());

/// By the reference that leads there. None of them refers to another one.
static SCHEMAS: LazyLock<BTreeMap<String, Validator>> = LazyLock::new(|| {
    let schemas = DOCUMENT["components"]["schemas"].as_object().unwrap().iter();
    let compiled = schemas.map(|(name, schema)| {
        let validator = jsonschema::draft202012::new(schema).unwrap();
        (format!("#/components/schemas/{name}"), validator)
    });
    compiled.collect()
});
