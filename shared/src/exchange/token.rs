//! The token of a request: found, checked, and verified here or by the host's platform.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{GuardVerdict, Report, Ruling, Source, Step, begin_with};
use crate::jwt::{JwtPolicy, Signature, Token, TokenError, Verification};
use crate::local::Local;
use crate::policy::{Guard, Policy, Route, Rule};
use crate::request::Request;
use crate::store::memory::Shards;
use crate::time::{Span, Timestamp};

/// Who a request comes from.
pub(super) enum Identity {
    /// The bearer of this token, or anybody.
    Known(Option<Token>),
    /// The platform has to verify the signature.
    Ask(Verify),
    /// Nobody who is let in.
    Refused(TokenError),
}

/// A decision that waits for the platform to verify a signature.
#[derive(Debug)]
pub struct Verify {
    policy: Arc<Policy>,
    token: Token,
}

impl Verify {
    /// What to ask the platform: the signature holds if it holds for one of these. There is at least one.
    pub fn questions(&self) -> Vec<Verification<'_>> {
        match self.policy.jwt().map(|jwt| jwt.verify(&self.token)) {
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
        begin_with(&self.policy, local, request, Some(holds), now)
    }
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
    let found = jwt.find(request).and_then(|token| {
        jwt.check(token.claims(), now)?;
        // It could not be kept for as long that it is revoked.
        let kept = now.plus(Span::MAX.as_millis());
        if is_revocable(policy, route) && jwt.last_use(token.claims()).is_none_or(|last| last > kept) {
            return Err(TokenError::LivesTooLong);
        }
        let holds = holds_by(jwt, &token, local, holds, now)?;
        Ok((token, holds))
    });
    let (ruling, identity) = match found {
        Ok((token, Some(()))) => (Ruling::Admitted, Identity::Known(Some(token))),
        Ok((token, None)) => return Identity::Ask(Verify { policy: Arc::clone(policy), token }),
        Err(TokenError::Missing) if *optional => (Ruling::Admitted, Identity::Known(None)),
        Err(error) if guard.is_enforced() => (Ruling::Refused, Identity::Refused(error)),
        Err(_) => (Ruling::ShadowRefused, Identity::Known(None)),
    };
    report.guards.push(GuardVerdict { guard: number, ruling, source: Source::Store });
    identity
}

/// Whether a token's signature holds: `None` if only the platform can tell.
fn holds_by<S: Shards>(
    jwt: &JwtPolicy,
    token: &Token,
    local: &mut Local<S>,
    holds: Option<bool>,
    now: Timestamp,
) -> Result<Option<()>, TokenError> {
    // A secret is as quick to use as a digest to make; public keys are slow.
    let has_secret = token.algorithm().is_some_and(|algorithm| algorithm.secret_bytes().is_some());
    let known = (!has_secret).then(|| token.digest_with_signature());
    if known.is_some_and(|known| local.verified.has(&known, now)) {
        return Ok(Some(()));
    }
    let verified = match jwt.verify(token)? {
        Signature::Holds => true,
        Signature::Ask(_) => match holds {
            None => return Ok(None),
            Some(holds) => holds,
        },
    };
    if !verified {
        return Err(TokenError::Signature);
    }
    if let (Some(known), Some(until)) = (known, jwt.last_use(token.claims())) {
        local.verified.insert(known, until, now);
    }
    Ok(Some(()))
}

/// Whether the route refuses or revokes tokens that the store knows of.
fn is_revocable(policy: &Policy, route: &Route) -> bool {
    route.guards().iter().any(|place| {
        let rule = policy.guards().get(place.guard).map(Guard::rule);
        matches!(rule, Some(Rule::Revocation { .. } | Rule::Revokes { .. }))
    })
}
