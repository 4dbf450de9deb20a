//! `GET /health`: whether this gateway can serve, for a readiness probe. It asks Redis each time, for half a second at
//! most, and needs no token, because probes have none; it tells nothing but the reason of a failure.

use std::time::Duration;

use hyper::StatusCode;

use super::answer::Answer;
use super::worker::Worker;
use crate::reply::{error, write_error};

pub(crate) async fn health(worker: &Worker) -> Answer {
    for backend in &worker.backends {
        let problem = match backend.ping(BOUND).await {
            // A user that may not PING still got an answer.
            Ok(reply) => match error(&reply) {
                Some(text) if !text.starts_with(b"NOPERM") => text.to_vec(),
                _ => continue,
            },
            Err(failure) => failure.to_string().into_bytes(),
        };
        let mut body = br#"{"status":"unavailable","#.to_vec();
        let mut text = Vec::new();
        write_error(&mut text, &problem);
        body.extend_from_slice(text.strip_prefix(b"{").unwrap_or_default());
        return Answer::json(StatusCode::SERVICE_UNAVAILABLE, body);
    }
    Answer::json(StatusCode::OK, br#"{"status":"ok"}"#.to_vec())
}

const BOUND: Duration = Duration::from_millis(500);
