//! What the patient and the busy clients ask, and what they have to be answered.

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use serde_json::{Value, json};

use super::{MEDIUM, MEDIUM_SIZE, TOKEN};
use crate::client::Answer;

/// The request of these clients with this number. What it is to be answered follows from the two.
pub(super) fn request(who: &str, number: u64) -> Request<Full<Bytes>> {
    let (path, body, _) = question(who, number);
    Request::post(path)
        .header("host", "gateway")
        .header("authorization", format!("Bearer {TOKEN}"))
        .body(Full::from(body.to_string()))
        .expect("a valid request")
}

pub(super) fn is_right(who: &str, number: u64, answer: &Answer) -> bool {
    let (_, _, expected) = question(who, number);
    match (expected, answer.json()) {
        (Expected::Answer(expected), Ok(found)) => answer.status == 200 && expected == found,
        (Expected::Error(prefix), Ok(found)) => {
            answer.status == 400 && found["error"].as_str().is_some_and(|text| text.starts_with(prefix))
        }
        (_, Err(_)) => false,
    }
}

enum Expected {
    Answer(Value),
    Error(&'static str),
}

/// A path, a body, and what is to be answered.
fn question(who: &str, number: u64) -> (&'static str, Value, Expected) {
    let result = |value: Value| json!({ "result": value });
    let key = format!("soak:{{{who} {number}}}");
    let text = format!("ünïcode \"{number}\" \\ \u{1f980}");
    match number % 6 {
        0 => ("/", json!(["ECHO", text]), Expected::Answer(result(json!(text)))),
        1 => ("/", json!(["GET", MEDIUM]), Expected::Answer(result(json!("v".repeat(MEDIUM_SIZE))))),
        2 => ("/", json!(["GET"]), Expected::Error("ERR wrong number of arguments")),
        3 => {
            let commands = json!([["SET", key, text], ["GET", key], ["DEL", key], ["GET", key]]);
            let results = [json!("OK"), json!(text), json!(1), Value::Null].map(result);
            ("/pipeline", commands, Expected::Answer(json!(results)))
        }
        4 => {
            let echoes: Vec<Value> = (0..30).map(|n| json!(["ECHO", format!("{number}/{n}")])).collect();
            let results: Vec<Value> = (0..30).map(|n| result(json!(format!("{number}/{n}")))).collect();
            ("/pipeline", json!(echoes), Expected::Answer(json!(results)))
        }
        _ => {
            let commands = json!([["INCR", key], ["INCRBY", key, 41], ["DEL", key]]);
            let results = [json!(1), json!(42), json!(1)].map(result);
            ("/multi-exec", commands, Expected::Answer(json!(results)))
        }
    }
}
