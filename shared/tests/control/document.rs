//! The description, held against the paths there are and the answers they give.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tollgate_shared::control;

use crate::actions::every_status;
use crate::description::{DOCUMENT, SCHEMAS, statuses};
use crate::host::{Host, json_of, policy};

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
    let described = statuses();
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
