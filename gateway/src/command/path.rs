//! From a path to a command: `POST /set/key?EX=100` with a body is `SET key <body> EX 100`.
//!
//! Every segment of the path is an argument, an empty one too; then comes the body, if it is not empty, as it is; then each
//! parameter of the query, its name and, behind a `=`, its value.

use std::borrow::Cow;

use percent_encoding::percent_decode;

use super::{Batch, Builder, ParseError, Rules};

/// Reads a command from the path and query of a URL, as they were sent, and the body of the request.
pub(crate) fn parse_path(
    path: &str,
    query: Option<&str>,
    body: &[u8],
    rules: &Rules,
) -> Result<Batch, ParseError> {
    let mut builder = Builder::new(path.len() + query.unwrap_or_default().len() + body.len(), rules);
    let path = path.strip_prefix('/').unwrap_or(path);
    if path.is_empty() {
        return Err(ParseError::EmptyCommand);
    }
    for segment in path.split('/') {
        builder.argument(&decoded(segment.as_bytes()));
    }
    if !body.is_empty() {
        builder.argument(body);
    }
    let parameters = query.unwrap_or_default().split('&').filter(|parameter| !parameter.is_empty());
    for (name, value) in parameters.map(|parameter| match parameter.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (parameter, None),
    }) {
        if name == TOKEN {
            continue;
        }
        for part in [Some(name), value].into_iter().flatten() {
            // In a query, unlike in a path, `+` is a space.
            builder.argument(&decoded(part.replace('+', " ").as_bytes()));
        }
    }
    builder.end_command();
    Ok(builder.build())
}

fn decoded(text: &[u8]) -> Cow<'_, [u8]> {
    percent_decode(text).into()
}

/// The parameter that carries the token instead of a header; it is no argument.
pub(crate) const TOKEN: &str = "_token";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn arguments(path: &str, query: Option<&str>, body: &[u8]) -> Vec<Vec<u8>> {
        let batch = parse_path(path, query, body, &Rules::default()).unwrap();
        batch.arguments(batch.sending().next().unwrap()).map(<[u8]>::to_vec).collect()
    }

    #[test]
    fn segments_body_and_parameters_are_arguments_in_this_order() {
        for (path, query, body, expected) in [
            ("/get/a", None, "", "get|a"),
            ("/set/a%2Fb/c+d%20e", None, "", "set|a/b|c+d e"),
            ("/set/a", Some("EX=100&_token=secret&NX"), "{\"x\": 1}", "set|a|{\"x\": 1}|EX|100|NX"),
            ("/set/a/", None, "", "set|a|"),
            ("/set/a", Some("&k+1=&%26&"), "", "set|a|k 1||&"),
            ("/set/a/%zz%", None, "", "set|a|%zz%"),
        ] {
            let expected: Vec<&[u8]> = expected.split('|').map(str::as_bytes).collect();
            assert_eq!(arguments(path, query, body.as_bytes()), expected, "{path} {query:?}");
        }
        assert_eq!(arguments("/set/%ff", None, b"\xfe\0"), [&b"set"[..], b"\xff", b"\xfe\0"]);
        assert_eq!(parse_path("/", None, b"x", &Rules::default()).map(drop), Err(ParseError::EmptyCommand));
    }

    #[test]
    fn commands_of_a_shared_connection_are_refused_here_too() {
        assert!(parse_path("/auth/x", None, b"", &Rules::default()).unwrap().refusal().is_some());
    }

    proptest! {
        #[test]
        fn any_arguments_survive_being_encoded(words in prop::collection::vec(any::<Vec<u8>>(), 1..5)) {
            let encoded: Vec<String> = words
                .iter()
                .map(|word| percent_encoding::percent_encode(word, percent_encoding::NON_ALPHANUMERIC).to_string())
                .collect();
            let path = format!("/echo/{}", encoded.join("/"));
            prop_assert_eq!(&arguments(&path, None, b"")[1..], &words[..]);
            let query = encoded.iter().map(|word| format!("{word}=")).collect::<Vec<_>>().join("&");
            let names: Vec<Vec<u8>> = arguments("/echo", Some(&query), b"").into_iter().skip(1).step_by(2).collect();
            prop_assert_eq!(names, words);
        }

        #[test]
        fn any_path_is_parsed_without_a_panic(path: String, query: Option<String>, body: Vec<u8>) {
            let _ = parse_path(&path, query.as_deref(), &body, &Rules::default());
        }
    }
}
