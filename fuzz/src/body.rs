//! A line as the path of a request, with its query, and everything behind it as the body: what is sent to Redis.
//!
//! ```text
//! /set/key?EX=100
//! [["SET", "key", 1.0]]
//! ```

use serde_json::Value;
use tollgate_gateway::fuzzing::{self, Commands};

/// Reads `data` in all three ways.
pub fn run(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (line, body) = (&data[..end], data.get(end + 1..).unwrap_or_default());
    let json = serde_json::from_slice::<Value>(body);
    // A float would not hold such a number; it is no business of ours.
    let too_large = json.as_ref().is_err_and(|error| error.to_string().contains("number out of range"));
    let json = json.ok();
    let single = fuzzing::body(body, false);
    let pipeline = fuzzing::body(body, true);
    if !too_large {
        let expected = json.as_ref().and_then(|json| arguments(json).filter(|words| !words.is_empty()));
        is_what_was_meant(&single, expected.map(|words| vec![words]).as_deref(), body);
        let commands = json.as_ref().and_then(Value::as_array).filter(|commands| !commands.is_empty());
        let expected = commands.and_then(|commands| {
            let commands: Option<Vec<Vec<&Value>>> = commands.iter().map(arguments).collect();
            commands
                .filter(|commands| commands.len() <= 100 && commands.iter().all(|words| !words.is_empty()))
        });
        is_what_was_meant(&pipeline, expected.as_deref(), body);
    }
    if let Ok(line) = std::str::from_utf8(line) {
        let (path, query) = line.split_once('?').map_or((line, None), |(path, query)| (path, Some(query)));
        if let Ok(commands) = fuzzing::path(path, query, body) {
            assert_eq!(commands.len(), 1, "a path is one command");
            if let Ok(words) = &commands[0] {
                let segments = path.strip_prefix('/').unwrap_or(path).split('/').count();
                let place = words.get(segments).map(Vec::as_slice);
                // Scripts are the one thing that is changed on the way, and they come before the body.
                assert!(
                    body.is_empty() || place == Some(body) || path.len() > 5 && is_script(words),
                    "{words:?}"
                );
            }
        }
    }
}

fn arguments(json: &Value) -> Option<Vec<&Value>> {
    let words = json.as_array()?;
    let scalar = |word: &Value| word.is_string() || word.is_number() || word.is_boolean();
    words.iter().all(scalar).then(|| words.iter().collect())
}

/// A body that means something is read as that, and others are refused.
fn is_what_was_meant(read: &Commands, meant: Option<&[Vec<&Value>]>, body: &[u8]) {
    let (read, meant) = match (read, meant) {
        (Ok(read), Some(meant)) => (read, meant),
        (Err(text), None) => return assert!(text.starts_with("ERR "), "{text}"),
        _ => panic!("{read:?} is not {meant:?}: {}", String::from_utf8_lossy(body)),
    };
    assert_eq!(read.len(), meant.len());
    for (read, meant) in read.iter().zip(meant) {
        let words = match read {
            Ok(words) => words,
            Err(text) => {
                let refused = ["ERR Command is not available: '", "NOPERM this token may not use '"];
                assert!(refused.iter().any(|begin| text.starts_with(begin)), "{text}");
                continue;
            }
        };
        assert_eq!(words.len(), meant.len());
        for (word, meant) in words.iter().zip(meant) {
            match meant {
                Value::String(text) => assert!(word == text.as_bytes() || is_script(words), "{words:?}"),
                // As it was written, so it reads as the same number.
                other => assert_eq!(serde_json::from_slice::<Value>(word).as_ref().ok(), Some(*other)),
            }
        }
    }
}

fn is_script(words: &[Vec<u8>]) -> bool {
    let name = words[0].to_ascii_uppercase();
    name.starts_with(b"EVAL") || name == b"SCRIPT"
}
