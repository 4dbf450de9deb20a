//! A line of three numbers and what Redis sends: replies asked for at once, bytes they may take, bytes that come at once.
//!
//! ```text
//! 2 1000 7
//! +OK
//! ```

use redis::parse_redis_value;
use serde_json::Value;
use tollgate_gateway::fuzzing::conversation;

/// Lets Redis send what `data` says, in one piece and in several.
pub fn run(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (line, bytes) = (&data[..end], data.get(end + 1..).unwrap_or_default());
    let line = String::from_utf8_lossy(line);
    let mut numbers = line.split(' ').map(|number| number.parse::<usize>().unwrap_or(1));
    let mut number = |most: usize| numbers.next().unwrap_or(1).clamp(1, most);
    let (asked, largest, piece) = (number(5), number(10_000), number(100));
    let whole = conversation(&[bytes], asked, largest);
    let pieces: Vec<&[u8]> = bytes.chunks(piece).collect();
    assert_eq!(whole, conversation(&pieces, asked, largest), "how it arrives changes nothing");

    let mut replies = replies(bytes).into_iter();
    for (json, count) in whole {
        let results: Vec<Value> = serde_json::from_str(&json).expect("an answer is JSON");
        assert_eq!(results.len(), count);
        for result in results {
            let object = result.as_object().expect("each result is an object");
            assert_eq!(object.len(), 1);
            // As long as nothing was thrown away for its size, the replies are those that came, in their order.
            if largest == 10_000
                && let Some(is_error) = replies.next()
            {
                let too_deep = object.get("error").is_some_and(|text| text.as_str() == Some(TOO_DEEP));
                assert!(too_deep || object.contains_key(if is_error { "error" } else { "result" }), "{json}");
            }
        }
    }
}

/// Whether each reply is an error, by way of somebody else's parser, up to where it gives up.
fn replies(mut bytes: &[u8]) -> Vec<bool> {
    let mut replies = Vec::new();
    while let Some(end) = (1..=bytes.len()).find(|end| parse_redis_value(&bytes[..*end]).is_ok()) {
        replies.push(bytes[0] == b'-');
        bytes = &bytes[end..];
        if replies.len() == 15 {
            break;
        }
    }
    replies
}

const TOO_DEEP: &str = "ERR the reply of redis is nested too deeply";
