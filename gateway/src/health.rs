//! `GET /health`: whether this gateway can serve, for a readiness probe. It asks Redis each time, for half a second at
//! most, and needs no token, because probes have none; it tells nothing but the reason of a failure.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use redis::Value;

use crate::reply::{error_text, write_error};
use crate::server::{Shared, json};

pub(crate) async fn health(State(shared): State<Arc<Shared>>) -> Response {
    let problem = match shared.backend.ping(BOUND).await {
        // A user that may not PING still got an answer.
        Ok(Value::ServerError(error)) if error.code() != "NOPERM" => error_text(&error),
        Ok(_) => return json(StatusCode::OK, br#"{"status":"ok"}"#.to_vec()),
        Err(error) => error.to_string(),
    };
    let mut body = br#"{"status":"unavailable","#.to_vec();
    let mut error = Vec::new();
    write_error(&mut error, &problem);
    body.extend_from_slice(error.strip_prefix(b"{").unwrap_or_default());
    json(StatusCode::SERVICE_UNAVAILABLE, body)
}

const BOUND: Duration = Duration::from_millis(500);
