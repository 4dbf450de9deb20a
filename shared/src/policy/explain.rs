//! What a policy makes of one request, in parts that can be shown: for people who write policies, not for
//! hosts.

use alloc::vec::Vec;

use super::{AmbiguousPath, Policy, Rule};
use crate::config::KeyPart;
use crate::jwt::{Claims, Token, TokenError};
use crate::key::{Facts, Key, Subject};
use crate::request::Request;

/// What becomes of a request before anything is counted.
#[derive(Debug)]
pub struct Explanation {
    /// The path in normal form.
    pub path: Vec<u8>,
    /// Which route it takes; `None` if no route is for it.
    ///
    /// # Errors
    /// It is refused with 400, because servers read its path in different ways.
    pub route: Result<Option<usize>, Ambiguous>,
    /// What the route's limits count it under, in their order.
    pub limits: Vec<Counted>,
    /// What the route's guards know it by, in the order in which they are asked.
    pub guards: Vec<Counted>,
    /// Its token, which is read and not verified; `None` where the route asks for none.
    pub token: Option<Result<(), TokenError>>,
}

/// The path may be read as several that take different guarded routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ambiguous;

/// What one limit or guard counts a request under.
#[derive(Debug)]
pub struct Counted {
    /// Its number in [`Policy::limits`] or [`Policy::guards`].
    pub number: usize,
    /// Each part of its key and what the request says there.
    pub parts: Vec<(KeyPart, Seen)>,
    /// What it consumes; 0 for guards.
    pub cost: u64,
    /// The key in the store; `None` where that is not for the key's parts to say.
    pub key: Option<Key>,
}

/// What a request says of one part of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Nothing.
    Missing,
    /// This.
    Once(Vec<u8>),
    /// More than one thing, which is a value of its own.
    Several,
}

impl Policy {
    /// Says which route `request` takes and what it would be counted under. Its token is taken at its word.
    pub fn explain(&self, request: &dyn Request) -> Explanation {
        let path = self.path(request);
        let found = self.find_route(&path, request);
        let mut told = Explanation {
            path: path.as_bytes().to_vec(),
            route: found.map_err(|AmbiguousPath| Ambiguous),
            limits: Vec::new(),
            guards: Vec::new(),
            token: None,
        };
        let Some(route) = found.ok().flatten().and_then(|route| self.routes.get(route)) else { return told };
        let rule = |guard: usize| self.guards.get(guard).map(super::Guard::rule);
        let asks = route.guards.iter().any(|place| matches!(rule(place.guard), Some(Rule::Token { .. })));
        let token = self.jwt.as_ref().filter(|_| asks).map(|jwt| {
            let text = jwt.find_text(request)?;
            Token::parse(&text)
        });
        let claims: Option<&Claims> = token.as_ref().and_then(|token| token.as_ref().ok()).map(Token::claims);
        let facts = Facts {
            client_ip: &self.client_ip,
            route: route.name(),
            path: &path,
            request,
            claims,
            is_exact: false,
        };
        let counted = |number: usize, subject: Option<usize>, is_exact| {
            let facts = Facts { is_exact, ..facts };
            let mut parts = Vec::new();
            let key = subject.and_then(|subject| route.subjects.get(subject)).map_or(&[][..], Vec::as_slice);
            let subject = Subject::seen(key, &facts, &mut |part, lines, value| {
                let seen = match lines {
                    0 => Seen::Missing,
                    1 => Seen::Once(value.to_vec()),
                    _ => Seen::Several,
                };
                parts.push((part.clone(), seen));
            });
            (Counted { number, parts, cost: 0, key: None }, subject.digest)
        };
        for place in &route.limits {
            let Some(limit) = self.limits.get(place.limit) else { continue };
            let (told_of, digest) = counted(place.limit, Some(place.subject), false);
            let key = Some(limit.keys().key(digest));
            told.limits.push(Counted { cost: limit.cost_of(request), key, ..told_of });
        }
        for place in &route.guards {
            let Some(guard) = self.guards.get(place.guard) else { continue };
            let has_key = !guard.key().is_empty();
            let is_exact = matches!(guard.rule(), Rule::Dedup { .. });
            let (told_of, digest) = counted(place.guard, has_key.then_some(place.subject), is_exact);
            let key = match guard.rule() {
                Rule::CircuitBreaker { .. } => Some(guard.keys().whole()),
                Rule::Dedup { .. } | Rule::Lock { .. } => Some(guard.keys().key(digest)),
                // Together with what the request names, or by the token.
                Rule::Idempotency { .. }
                | Rule::Token { .. }
                | Rule::Revocation { .. }
                | Rule::Revokes { .. } => None,
            };
            told.guards.push(Counted { key, ..told_of });
        }
        told.token = token.map(|token| token.map(drop));
        told
    }
}
