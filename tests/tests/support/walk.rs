//! A walk through the control path of running hosts, which holds every answer against the description, `openapi.json`.

#[path = "../../../shared/tests/control/description.rs"]
mod description;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::Result;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request};
use serde_json::Value;
use tollgate_tests::client::{self, Answer};

use description::{Answered, DOCUMENT, Status, questions, succeeding};

/// A policy with one of everything that the control path is about; the variable `SECRET` holds what tokens are signed with.
pub(crate) fn policy() -> Value {
    description::policy()
}

/// Asks for something on the control path of a host, which has the usual prefix; its answer is one that the description foresees.
pub(crate) async fn ask(
    address: SocketAddr,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: impl Into<Bytes>,
) -> Result<Answer> {
    let mut request =
        Request::builder().method(method).uri(format!("/.tollgate{path}")).header("host", "tollgate.test");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let answer = client::send(address, request.body(Full::new(body.into()))?).await?;
    let header = |name: &str| answer.header(name);
    let status = answer.status.as_u16();
    Answered { method, path, status, header: &header, body: &answer.body }.is_described();
    Ok(answer)
}

/// Has the control path do something.
pub(crate) async fn post(address: SocketAddr, path: &str, token: &str, body: &Value) -> Result<Answer> {
    ask(address, "POST", &format!("/{path}"), Some(token), body.to_string()).await
}

/// Walks through the description at each of the hosts, which have [`policy`] and share a store that `breaks` in the end: asks for
/// everything until each described status of each method and path has been seen there.
///
/// # Panics
/// An answer is not as described, or nothing provokes one that is.
pub(crate) async fn through(hosts: &[SocketAddr], token: &str, breaks: impl AsyncFnOnce()) -> Result<()> {
    let mut walks: Vec<Walk<'_>> =
        hosts.iter().map(|host| Walk { host: *host, token, seen: BTreeSet::new() }).collect();
    for walk in &mut walks {
        for (method, path, is_authorized, body) in questions() {
            walk.ask(&method, &path, is_authorized, body).await?;
        }
        walk.asks_for_what_is_not_there().await?;
        let document = ask(walk.host, "GET", "/openapi.json", Some(token), "").await?;
        assert_eq!(document.json()?, *DOCUMENT);
    }
    breaks().await;
    for walk in &mut walks {
        walk.ask("GET", "/health/detailed", true, Vec::new()).await?;
        for (path, body) in succeeding() {
            walk.ask("POST", &format!("/{path}"), true, body.to_string().into()).await?;
        }
        let unseen: Vec<_> = description::statuses().difference(&walk.seen).cloned().collect();
        assert!(unseen.is_empty(), "{}: {unseen:?}", walk.host);
    }
    Ok(())
}

struct Walk<'a> {
    host: SocketAddr,
    token: &'a str,
    seen: BTreeSet<Status>,
}

impl Walk<'_> {
    async fn ask(&mut self, method: &str, path: &str, is_authorized: bool, body: Vec<u8>) -> Result<()> {
        let answer = ask(self.host, method, path, is_authorized.then_some(self.token), body).await?;
        self.seen.insert((method.to_owned(), path.to_owned(), answer.status.as_u16()));
        Ok(())
    }

    /// Other methods, of which `HEAD` is answered like `GET`, and other paths.
    async fn asks_for_what_is_not_there(&self) -> Result<()> {
        let paths: BTreeSet<_> =
            description::statuses().into_iter().map(|(method, path, _)| (path, method)).collect();
        for (path, described) in paths {
            let allowed = if described == "GET" { "GET, HEAD" } else { "POST" };
            for method in
                [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS]
            {
                let answer = ask(self.host, method.as_str(), &path, Some(self.token), "").await?;
                let is_head = method == Method::HEAD;
                if is_head {
                    assert!(answer.body.is_empty(), "{path}: {answer}");
                }
                if described == method.as_str() || (is_head && described == "GET") {
                    assert!(answer.status != 405, "{method} {path}: {answer}");
                } else {
                    let seen = (answer.status.as_u16(), answer.header("allow"));
                    assert_eq!(seen, (405, Some(allowed)), "{method} {path}: {answer}");
                }
            }
            let answer = ask(self.host, &described, &format!("{path}/"), Some(self.token), "").await?;
            assert_eq!(answer.status, 404, "{path}: {answer}");
        }
        Ok(())
    }
}
