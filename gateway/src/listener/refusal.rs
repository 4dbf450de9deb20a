//! Refusals of hyper's own, in JSON.
//!
//! hyper answers what is no HTTP, and heads that are too large, before any code of ours is asked, and without a body. Clients of
//! the dialect parse a body whatever the status, so one is put in on the way out.

/// What every refusal begins with.
pub(super) const BEGINNING: &[u8] = b"HTTP/1.1 4";

/// The answer that says the same as `head`, if that is a refusal of hyper's own: all of ours have a type. hyper says that a head
/// is too large where the length of a body is `endless`.
pub(super) fn in_json(head: &[u8], endless: bool) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(head).ok()?;
    let lines = text.strip_suffix("\r\n\r\n")?;
    if lines.contains("\r\n\r\n")
        || lines.contains("\r\ncontent-type:")
        || !lines.contains("\r\ncontent-length: 0")
    {
        return None;
    }
    let mut status = lines.lines().next()?;
    let reason = match status.get(9..12)? {
        "431" if endless => {
            status = "HTTP/1.1 413 Payload Too Large";
            "ERR max request size exceeded"
        }
        "431" => "ERR max header size exceeded",
        "414" => "ERR max path size exceeded",
        _ => "ERR the request is not valid HTTP",
    };
    let body = format!(r#"{{"error":"{reason}"}}"#);
    let length = body.len();
    let head = format!(
        "{status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close"
    );
    Some(format!("{head}\r\n\r\n{body}").into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_answers_without_a_body_are_rewritten() {
        let bare = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\ndate: x\r\n\r\n";
        let text = String::from_utf8(in_json(bare, false).unwrap()).unwrap();
        assert!(text.starts_with(
            "HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\n"
        ));
        assert!(text.ends_with(
            "\r\ncontent-length: 40\r\nconnection: close\r\n\r\n{\"error\":\"ERR max header size exceeded\"}"
        ));
        let text = String::from_utf8(in_json(bare, true).unwrap()).unwrap();
        assert!(
            text.starts_with("HTTP/1.1 413 ")
                && text.ends_with(r#"{"error":"ERR max request size exceeded"}"#)
        );
        for other in [
            &b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: 0\r\n\r\n"[..],
            b"HTTP/1.1 400 Bad Request\r\ncontent-length: 01\r\n\r\nx",
            b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 400 Bad Request\r\ncontent-le",
            b"HTTP/1.1 4\xff",
            b"",
        ] {
            assert_eq!(in_json(other, false), None);
        }
    }
}
