//! `tollgate check --request`: which route a request takes, and what it would count under.

use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::{Context as _, ensure};

use tollgate_shared::config::KeyPart;
use tollgate_shared::policy::{Counted, Explanation, Policy, Rule, Seen};
use tollgate_shared::request::{MAX_BODY, Request};

use super::describe::conditions;
use crate::cli::CheckArgs;

/// The request that is asked about.
pub(super) struct Asked {
    method: String,
    target: String,
    host: String,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    peer: IpAddr,
}

impl Asked {
    /// The request of a line such as `POST /users/7`, and of the flags beside it.
    pub(super) fn new(line: &str, args: &CheckArgs) -> anyhow::Result<Self> {
        let (method, target) = line.split_once(' ').unwrap_or(("GET", line));
        let is_token = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        ensure!(
            is_token(method) && target.starts_with('/') && !target.contains(' '),
            "`--request` is `{line}`: expected a method and a path, such as `POST /users/7`"
        );
        let headers = args.headers.iter().map(|field| {
            let (name, value) = field.split_once(':').with_context(|| {
                // The field may be a secret.
                "a `--header` has no colon: expected a field such as `x-api-key: k`"
            })?;
            Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        });
        let mut body = args.body.clone().unwrap_or_default().into_bytes();
        body.truncate(MAX_BODY);
        Ok(Self {
            method: method.to_owned(),
            target: target.to_owned(),
            host: args.host.clone(),
            headers: headers.collect::<anyhow::Result<_>>()?,
            body,
            peer: args.peer_ip,
        })
    }

    /// What `policy` makes of it.
    pub(super) fn explain(&self, policy: &Policy) -> String {
        let told = policy.explain(self);
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = writeln!(text, "{} {} on {}", self.method, self.target, self.host);
        let path = String::from_utf8_lossy(&told.path).escape_debug().to_string();
        if path != self.target {
            let _ = writeln!(text, "  path: {path}");
        }
        match told.route {
            Err(_) => text.push_str(
                "  refused with 400: servers read this path in different ways, and more than one of the routes with guards is for it\n",
            ),
            Ok(None) => text.push_str("  route: none, so it passes without a limit\n"),
            Ok(Some(number)) => {
                let name = policy.routes().get(number).map(|route| route.name()).unwrap_or_default();
                let takes = policy.conditions(number).map_or_else(|| "everything else".to_owned(), conditions);
                let _ = writeln!(text, "  route: {}. {name}: {takes}", number + 1);
                self.counted(policy, &told, &mut text);
            }
        }
        text
    }

    fn counted(&self, policy: &Policy, told: &Explanation, text: &mut String) {
        match &told.token {
            None => {}
            Some(Ok(())) => {
                text.push_str("  token: read, not verified here; what it claims is believed below\n");
            }
            Some(Err(error)) => {
                let _ = writeln!(text, "  token: {}", error.description());
            }
        }
        if told.limits.is_empty() && told.guards.is_empty() {
            text.push_str("  not limited\n");
        }
        for counted in &told.guards {
            let Some(guard) = policy.guards().get(counted.number) else { continue };
            let (kind, name) = (guard.rule().kind(), guard.name());
            let subject = match guard.rule() {
                Rule::Idempotency { .. } => format!("{} and its Idempotency-Key", parts(counted)),
                Rule::CircuitBreaker { .. } => "all its requests together".to_owned(),
                Rule::Token { .. } | Rule::Revocation { .. } | Rule::Revokes { .. } => "its token".to_owned(),
                Rule::Dedup { .. } | Rule::Lock { .. } => parts(counted),
            };
            let _ = writeln!(text, "  {kind} {name}: {subject}{}", key(counted));
        }
        for counted in &told.limits {
            let Some(limit) = policy.limits().get(counted.number) else { continue };
            let (name, quota, cost) = (limit.name(), limit.quota(), counted.cost);
            let _ = writeln!(
                text,
                "  limit {name}: {quota}, costs {cost}, counts under {}{}",
                parts(counted),
                key(counted)
            );
        }
    }
}

fn parts(counted: &Counted) -> String {
    let parts = counted.parts.iter().map(|(part, seen)| match (part, seen) {
        (KeyPart::Const(_), _) => part.to_string(),
        (_, Seen::Missing) => format!("{part} missing"),
        (KeyPart::Path, Seen::Several) => format!("{part} ambiguous"),
        (_, Seen::Several) => format!("{part} sent twice"),
        (KeyPart::ClientIp, Seen::Once(bytes)) => format!("{part}={}", address(bytes)),
        (_, Seen::Once(bytes)) => format!("{part}={}", String::from_utf8_lossy(bytes).escape_debug()),
    });
    parts.collect::<Vec<_>>().join(" + ")
}

fn key(counted: &Counted) -> String {
    counted.key.as_ref().map(|key| format!("\n    key {}", key.as_str())).unwrap_or_default()
}

/// The address that stands in a key as 4 or 16 bytes.
fn address(bytes: &[u8]) -> String {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let v6 = <[u8; 16]>::try_from(bytes).map(IpAddr::from);
    v4.or(v6).map(|address| address.to_string()).unwrap_or_default()
}

impl Request for Asked {
    fn method(&self, read: &mut dyn FnMut(&[u8])) {
        read(self.method.as_bytes());
    }

    fn target(&self, read: &mut dyn FnMut(&[u8])) {
        read(self.target.as_bytes());
    }

    fn authority(&self, read: &mut dyn FnMut(&[u8])) {
        read(self.host.as_bytes());
    }

    fn header(&self, name: &str, read: &mut dyn FnMut(&[u8])) {
        self.headers.iter().filter(|(own, _)| own == name).for_each(|(_, value)| read(value.as_bytes()));
    }

    fn peer(&self) -> Option<IpAddr> {
        Some(self.peer)
    }

    fn body(&self) -> &[u8] {
        &self.body
    }
}
