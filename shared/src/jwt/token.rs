//! A token as it came: parsed, and nothing in it believed.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::error::TokenError;
use super::object::{NotOne, Object, Value};
use crate::config::JwtAlgorithm;
use crate::json::Found;
use crate::key::Digest;
use crate::time::Timestamp;

/// A JSON Web Token in compact form (RFC 7519, RFC 7515). Who holds one is its bearer, so it does not print.
///
/// What it says is to be believed after [`JwtPolicy::verify`](super::JwtPolicy::verify) and
/// [`JwtPolicy::check`](super::JwtPolicy::check) alone.
#[derive(Clone)]
pub struct Token {
    signing_input: Vec<u8>,
    signature: Vec<u8>,
    algorithm: Option<JwtAlgorithm>,
    key_id: Option<String>,
    claims: Claims,
}

impl Token {
    /// Reads a token: three parts of base64url without padding, each written in the one way there is, the first two being
    /// objects whose members are named once.
    ///
    /// # Errors
    /// What is wrong with its form; see [`TokenError`].
    pub fn parse(compact: &[u8]) -> Result<Self, TokenError> {
        if compact.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLong);
        }
        let mut parts = compact.split(|b| *b == b'.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Malformed);
        };
        let signing_input = compact.get(..header.len() + 1 + claims.len()).unwrap_or_default().to_vec();
        let decode = |part: &[u8]| {
            URL_SAFE_NO_PAD.decode(part).ok().filter(|bytes| !bytes.is_empty()).ok_or(TokenError::Malformed)
        };
        let (header, claims, signature) = (decode(header)?, decode(claims)?, decode(signature)?);
        let header = Object::parse(&header).ok_or(TokenError::Header)?;
        if header.get("crit").is_some() {
            return Err(TokenError::Critical);
        }
        let text = |name| header.text(name).map_err(|NotOne| TokenError::Header);
        Ok(Self {
            signing_input,
            signature,
            algorithm: JwtAlgorithm::parse(text("alg")?.ok_or(TokenError::Header)?),
            key_id: text("kid")?.map(String::from),
            claims: Claims::parse(&claims)?,
        })
    }

    /// What the header says it is signed with; `None` for anything that is not supported, `none` included.
    pub fn algorithm(&self) -> Option<JwtAlgorithm> {
        self.algorithm
    }

    /// The name of the key that the header says it is signed with.
    pub fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    /// What is signed: header and claims as they came.
    pub fn signing_input(&self) -> &[u8] {
        &self.signing_input
    }

    /// The signature.
    pub fn signature(&self) -> &[u8] {
        &self.signature
    }

    /// The claims.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// What the token is known by once it is revoked: its `jti` together with its issuer, within whose tokens that is unique
    /// (RFC 7519 §4.1.7), or else what is signed. The signature has no part in it: of one content there can be several
    /// that are valid, as anybody can make another of an ECDSA signature.
    pub fn digest(&self) -> Digest {
        match self.claims.id() {
            Some(id) => digest_of_id(self.claims.issuer(), id),
            None => Digest::of_parts(&[b"jws", &self.signing_input]),
        }
    }
}

/// Whoever has a token that holds, and what revocations know him by.
#[derive(Debug)]
pub(crate) struct Bearer {
    pub(crate) claims: Claims,
    /// Of the token.
    pub(crate) digest: Digest,
    /// Of its subject, if it names one.
    pub(crate) subject: Option<Digest>,
}

impl From<Token> for Bearer {
    fn from(token: Token) -> Self {
        Self { digest: token.digest(), ..Self::with_claims(token.claims) }
    }
}

impl Bearer {
    /// The bearer of a token of which only the claims are known.
    pub(crate) fn with_claims(claims: Claims) -> Self {
        let subject = claims.subject().map(|subject| digest_of_subject(claims.issuer(), subject));
        // Without a name there is no digest by which others know the token: where that matters, it is refused.
        let digest = digest_of_id(claims.issuer(), claims.id().unwrap_or_default());
        Self { digest, subject, claims }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token { .. }")
    }
}

/// The digest of the tokens whose `jti` is `id`, for who revokes one without having it.
pub fn digest_of_id(issuer: Option<&str>, id: &str) -> Digest {
    match issuer {
        Some(issuer) => Digest::of_parts(&[b"jti", issuer.as_bytes(), id.as_bytes()]),
        None => Digest::of_parts(&[b"jti", id.as_bytes()]),
    }
}

/// The digest of everything that was issued to `subject`.
pub fn digest_of_subject(issuer: Option<&str>, subject: &str) -> Digest {
    match issuer {
        Some(issuer) => Digest::of_parts(&[b"sub", issuer.as_bytes(), subject.as_bytes()]),
        None => Digest::of_parts(&[b"sub", subject.as_bytes()]),
    }
}

/// What a token claims. Most of it is personal, so it does not print.
#[derive(Clone)]
pub struct Claims {
    members: Object,
    expires: Option<Timestamp>,
    not_before: Option<Timestamp>,
    issued: Option<Timestamp>,
}

/// A claim that can tell callers apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim<'a> {
    /// A text.
    Text(&'a str),
    /// A whole number from 0 to 2⁶⁴ - 1.
    Unsigned(u64),
    /// A whole number from -2⁶³ to -1.
    Negative(i64),
    /// `true` or `false`.
    Boolean(bool),
}

impl Claims {
    pub(crate) fn parse(json: &[u8]) -> Result<Self, TokenError> {
        let members = Object::parse(json).ok_or(TokenError::Claims)?;
        let date = |name| members.date(name).map_err(|NotOne| TokenError::Claims);
        let (expires, not_before, issued) = (date("exp")?, date("nbf")?, date("iat")?);
        if ["iss", "sub", "jti"].into_iter().any(|name| members.text(name).is_err()) {
            return Err(TokenError::Claims);
        }
        match members.get("aud") {
            None | Some(Value::Text(_) | Value::Texts(_)) => {}
            Some(_) => return Err(TokenError::Claims),
        }
        Ok(Self { members, expires, not_before, issued })
    }

    /// `iss`: who issued the token.
    pub fn issuer(&self) -> Option<&str> {
        self.members.text("iss").ok()?
    }

    /// `sub`: whom it is about.
    pub fn subject(&self) -> Option<&str> {
        self.members.text("sub").ok()?
    }

    /// `jti`: its name among the tokens of its issuer.
    pub fn id(&self) -> Option<&str> {
        self.members.text("jti").ok()?
    }

    /// Whether `aud` names `audience`.
    pub fn is_for(&self, audience: &str) -> bool {
        match self.members.get("aud") {
            Some(Value::Text(text)) => text == audience,
            Some(Value::Texts(texts)) => texts.iter().any(|text| text == audience),
            _ => false,
        }
    }

    /// `exp`: from when on it is not valid any more.
    pub fn expires(&self) -> Option<Timestamp> {
        self.expires
    }

    /// `nbf`: until when it is not valid yet.
    pub fn not_before(&self) -> Option<Timestamp> {
        self.not_before
    }

    /// `iat`: when it was issued.
    pub fn issued(&self) -> Option<Timestamp> {
        self.issued
    }

    /// The claim called `name`. `None` if there is none, or it is of another kind: `null`, a number with a fraction or beyond
    /// 64 bits, a list, an object.
    pub fn claim(&self, name: &str) -> Option<Claim<'_>> {
        Some(match self.members.get(name)? {
            Value::Text(text) => Claim::Text(text),
            Value::Number(number) => {
                let text = number.text.as_deref()?;
                text.parse().map(Claim::Unsigned).or_else(|_| text.parse().map(Claim::Negative)).ok()?
            }
            Value::Boolean(boolean) => Claim::Boolean(*boolean),
            Value::Texts(_) | Value::Other => return None,
        })
    }

    /// What the claim called `name` tells callers apart by: numbers of any size, with or without a fraction.
    pub(crate) fn find(&self, name: &str) -> Found<'_> {
        match self.members.get(name) {
            Some(Value::Text(text)) => Found::One(text.into()),
            Some(Value::Number(number)) => {
                number.text.as_deref().map_or(Found::Several, |text| Found::One(text.into()))
            }
            Some(Value::Boolean(boolean)) => Found::One(if *boolean { "true" } else { "false" }.into()),
            None | Some(Value::Texts(_) | Value::Other) => Found::Nothing,
        }
    }
}

impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Claims { .. }")
    }
}

/// Most bytes of a token.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;
