//! What a request says that keys and fingerprints are made of.

use alloc::vec::Vec;
use core::cell::Cell;

use crate::id::Fingerprint;
use crate::idempotency::request_key;
use crate::jwt::Claims;
use crate::key::{Digest, Facts, Subject};
use crate::path::query;
use crate::policy::Route;

/// The subjects of a route's keys, each digested when it is first asked for.
pub(super) struct Subjects<'a> {
    route: &'a Route,
    facts: Facts<'a>,
    /// Keys of one route mostly ask about one subject.
    latest: Cell<Option<(usize, Subject)>>,
}

impl<'a> Subjects<'a> {
    pub(super) fn new(route: &'a Route, facts: Facts<'a>) -> Self {
        Self { route, facts, latest: Cell::new(None) }
    }

    /// The same with the claims of a token. No subject that is made of claims may have been asked for before.
    pub(super) fn with_claims(self, claims: Option<&'a Claims>) -> Self {
        Self { facts: Facts { claims, ..self.facts }, ..self }
    }

    /// What the subjects are made of.
    pub(super) fn facts(&self) -> &Facts<'a> {
        &self.facts
    }

    /// The subject by which requests that differ in anything are told apart.
    pub(super) fn exact(&self, number: usize) -> Subject {
        let parts = self.route.subjects().get(number).map_or(&[][..], Vec::as_slice);
        Subject::of(parts, &Facts { is_exact: true, ..self.facts })
    }

    pub(super) fn get(&self, number: usize) -> Subject {
        match self.latest.get() {
            Some((latest, subject)) if latest == number => subject,
            _ => {
                let parts = self.route.subjects().get(number).map_or(&[][..], Vec::as_slice);
                let subject = Subject::of(parts, &self.facts);
                self.latest.set(Some((number, subject)));
                subject
            }
        }
    }

    /// The idempotency key of a request together with who sent it; `None` if there is none.
    ///
    /// # Errors
    /// It cannot be read, or there are several.
    pub(super) fn idempotency_key(&self, caller: Digest) -> Result<Option<Digest>, Malformed> {
        let mut found = Ok(None);
        self.facts.request.header(IDEMPOTENCY_KEY, &mut |line| {
            found = match (request_key(line), &found) {
                (Some(key), Ok(None)) => Ok(Some(Digest::of_parts(&[&caller.bytes(), key]))),
                _ => Err(Malformed),
            };
        });
        found
    }

    /// What tells a retry from another request: method, path, query, and the body as far as it was read.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        let Facts { request, path, .. } = self.facts;
        let mut method = Vec::new();
        request.method(&mut |bytes| method.extend(bytes.to_ascii_uppercase()));
        let mut asked = Vec::new();
        request.target(&mut |target| asked.extend_from_slice(query(target)));
        Digest::of_parts(&[&method, path.as_bytes(), &asked, request.body()]).into()
    }
}

/// An idempotency key that cannot be read.
pub(super) struct Malformed;

/// The header field of draft-ietf-httpapi-idempotency-key-header, in lower case.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
