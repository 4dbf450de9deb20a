//! A server whose documents are written by who asks for them: `PUT /NAME` says what `GET /NAME` is answered from then on, and is
//! answered with how often that has been asked so far.
//!
//! `PUT /NAME?status=302&location=/OTHER&delay=100` has it answered with this status and this header field, after so many milliseconds.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::{Method, Request, Response};

use crate::server::{Answer, Server, whole};

/// A running server.
#[derive(Debug)]
pub struct Documents(Server);

impl Documents {
    /// Listens on `port`, and has no document.
    pub async fn start(port: u16) -> Result<Documents> {
        let documents = Arc::default();
        Ok(Documents(Server::start(port, move |request| answer(Arc::clone(&documents), request)).await?))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }
}

/// Documents by their paths.
type Shelf = Mutex<HashMap<String, Document>>;

#[derive(Debug, Clone, Default)]
struct Document {
    /// What the `PUT` had as its query.
    answer: HashMap<String, String>,
    body: Bytes,
    asked: u64,
}

async fn answer(shelf: Arc<Shelf>, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    if request.method() == Method::PUT {
        let parts =
            request.uri().query().unwrap_or_default().split('&').filter_map(|part| part.split_once('='));
        let answer = parts.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let body = request.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
        let mut shelf = shelf.lock().unwrap_or_else(PoisonError::into_inner);
        let document = shelf.entry(path).or_default();
        *document = Document { answer, body, asked: document.asked };
        return Ok(Response::new(whole(document.asked.to_string())));
    }
    let document = {
        let mut shelf = shelf.lock().unwrap_or_else(PoisonError::into_inner);
        let document = shelf.entry(path).or_default();
        document.asked = document.asked.saturating_add(1);
        document.clone()
    };
    let of = |name: &str| document.answer.get(name).map(String::as_str);
    if let Some(millis) = of("delay").and_then(|text| text.parse().ok()) {
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }
    let mut response = Response::builder().status(of("status").unwrap_or("200"));
    if let Some(location) = of("location") {
        response = response.header("location", location);
    }
    response.body(whole(document.body)).map_err(io::Error::other)
}
