//! Answers that no policy has a part in: to requests that cannot be read, and in the place of
//! answers that are none.

use tollgate_shared::answer::{Answer, problem};

/// The host and the path of the request make no URL, so nobody can say what it is about.
pub(crate) fn invalid_url() -> Answer {
    let detail = "The host and the path of the request make no URL.";
    problem(400, "Bad Request", detail, "INVALID_URL")
}

/// A header field that no runtime has.
pub(crate) fn invalid_field() -> Answer {
    let detail = "A header field of the request has a character that none may have.";
    problem(400, "Bad Request", detail, "INVALID_HEADER")
}

/// The client broke off.
pub(crate) fn incomplete() -> Answer {
    let detail = "The body of the request did not come to its end.";
    problem(400, "Bad Request", detail, "REQUEST_INCOMPLETE")
}

/// The origin did not answer, or its answer is none.
pub(crate) fn unreachable() -> Answer {
    let detail =
        "The origin cannot be reached, broke the connection before it answered, or gave no valid answer.";
    problem(502, "Bad Gateway", detail, "ORIGIN_UNREACHABLE")
}
