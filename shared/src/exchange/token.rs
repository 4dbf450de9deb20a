//! The token of a request: found, checked, and verified here or by the host's platform.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{Reason, Report, Ruling, Source, Step, begin_with};
use crate::jwt::{Bearer, Claims, JwtPolicy, Signature, Token, TokenError, Verification};
use crate::key::Digest;
use crate::local::Local;
use crate::policy::{Guard, Policy, Route, Rule};
use crate::request::Request;
use crate::store::memory::Shards;
use crate::time::{Span, Timestamp};

/// Who a request comes from.
pub(super) enum Identity {
    /// The bearer of a token that holds, or anybody.
    Known(Option<Arc<Bearer>>),
    /// The platform has to verify the signature.
    Ask(Verify),
    /// Keys have to be fetched first.
    NoKeys,
    /// Nobody who is let in.
    Refused(Reason),
}

/// A decision that waits for the platform to verify a signature.
#[derive(Debug)]
pub struct Verify {
    policy: Arc<Policy>,
    token: Token,
    /// What the keys were read from that are asked about, if they were fetched.
    document: Option<Digest>,
}

impl Verify {
    /// What to ask the platform: the signature holds if it holds for one of these.
    pub fn questions<'a, S: Shards>(&'a self, local: &'a Local<S>) -> Vec<Verification<'a>> {
        match self.policy.jwt().map(|jwt| jwt.verify(&self.token, local.keys.set.as_ref())) {
            Some(Ok(Signature::Ask(questions))) => questions,
            _ => Vec::new(),
        }
    }

    /// Goes on with whether the signature holds; the request is the same one.
    pub fn resume<S: Shards>(
        self,
        local: &mut Local<S>,
        request: &dyn Request,
        holds: bool,
        now: Timestamp,
    ) -> Step {
        // Keys that came in the meantime may be others of the same names.
        let holds = (self.document == local.keys.document).then_some(holds);
        begin_with(&self.policy, local, request, holds, now)
    }
}

/// What is known of a token.
enum Verified {
    /// It holds.
    Holds(Arc<Bearer>),
    /// It does if its signature does.
    Ask(Token),
    /// Keys have to be fetched first.
    NoKeys,
}

/// Finds the token of a request, if its route asks for one.
pub(super) fn identify<S: Shards>(
    policy: &Arc<Policy>,
    route: &Route,
    local: &mut Local<S>,
    request: &dyn Request,
    holds: Option<bool>,
    report: &mut Report,
    now: Timestamp,
) -> Identity {
    // A guard for the token comes first.
    let asks =
        route.guards().first().and_then(|place| Some((place.guard, policy.guards().get(place.guard)?)));
    let (Some((number, guard)), Some(jwt)) = (asks, policy.jwt()) else { return Identity::Known(None) };
    let Rule::Token { optional } = guard.rule() else { return Identity::Known(None) };
    let check = |claims: &Claims| {
        jwt.check(claims, now)?;
        // It could not be kept for as long that it is revoked.
        let kept = now.plus(Span::MAX.as_millis());
        let is_kept = jwt.last_use(claims).is_some_and(|last| last <= kept);
        if !is_kept && is_revocable(policy, route) { Err(TokenError::LivesTooLong) } else { Ok(()) }
    };
    let found = if jwt.is_verified_in_front() {
        jwt.verified_claims(request).and_then(|claims| {
            check(&claims)?;
            if claims.id().is_none() && is_revocable(policy, route) {
                return Err(TokenError::NoId);
            }
            Ok(Verified::Holds(Arc::new(Bearer::with_claims(claims))))
        })
    } else {
        jwt.find_text(request).and_then(|text| verify(jwt, &text, local, holds, &check, now))
    };
    let (ruling, identity) = match found {
        Ok(Verified::Holds(bearer)) => (Ruling::Admitted, Identity::Known(Some(bearer))),
        Ok(Verified::Ask(token)) => {
            let document = local.keys.document;
            return Identity::Ask(Verify { policy: Arc::clone(policy), token, document });
        }
        Ok(Verified::NoKeys) => return Identity::NoKeys,
        Err(TokenError::Missing) if *optional => (Ruling::Admitted, Identity::Known(None)),
        Err(_) if !guard.is_enforced() => (Ruling::ShadowRefused, Identity::Known(None)),
        // Of keys that were never fetched, nobody knows which there are.
        Err(TokenError::UnknownKey) if jwt.jwks().is_some() && local.keys.set.is_none() => {
            (Ruling::Unavailable, Identity::Refused(Reason::Unavailable(number)))
        }
        Err(error) => (Ruling::Refused, Identity::Refused(Reason::Token(error))),
    };
    report.add(number, ruling, Source::Store);
    identity
}

/// What is known of a token that stands in a request as `text`. `holds` is what the platform has said of its signature.
fn verify<S: Shards>(
    jwt: &JwtPolicy,
    text: &[u8],
    local: &mut Local<S>,
    holds: Option<bool>,
    check: &dyn Fn(&Claims) -> Result<(), TokenError>,
    now: Timestamp,
) -> Result<Verified, TokenError> {
    if let Some(jwks) = jwt.jwks() {
        local.forget_old_keys(jwks.refresh_millis(), now);
    }
    let known = local.bearers.find(text);
    let token = if known.is_some() { None } else { Some(Token::parse(text)?) };
    check(match (&known, &token) {
        (Some(bearer), _) => &bearer.claims,
        (None, Some(token)) => token.claims(),
        (None, None) => return Err(TokenError::Malformed),
    })?;
    let asks = match &token {
        None => Ok(false),
        Some(token) => {
            let verified = jwt.verify(token, local.keys.set.as_ref());
            verified.map(|signature| matches!(signature, Signature::Ask(_)))
        }
    };
    if let Some(jwks) = jwt.jwks() {
        let is_known = asks != Err(TokenError::UnknownKey);
        if local.keys.are_wanted(is_known, jwks.refresh_millis(), now) {
            return Ok(Verified::NoKeys);
        }
    }
    match (known, token, asks?, holds) {
        (Some(bearer), ..) => Ok(Verified::Holds(bearer)),
        (None, Some(token), true, None) => Ok(Verified::Ask(token)),
        (None, Some(_), true, Some(false)) => Err(TokenError::Signature),
        (None, Some(token), ..) => Ok(Verified::Holds(local.bearers.insert(text, token))),
        (None, None, ..) => Err(TokenError::Malformed),
    }
}

/// Whether the route refuses or revokes tokens that the store knows of.
fn is_revocable(policy: &Policy, route: &Route) -> bool {
    route.guards().iter().any(|place| {
        let rule = policy.guards().get(place.guard).map(Guard::rule);
        matches!(rule, Some(Rule::Revocation { .. } | Rule::Revokes { .. }))
    })
}
