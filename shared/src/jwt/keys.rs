//! Keys, and which of them a token is tried with.
//!
//! A key is for one algorithm, and a token is tried only with keys of the algorithm that it names: a public key is never
//! taken for a secret (RFC 8725 §2.1), and keys that a token brings along (`jwk`, `jku`, `x5c`) are not looked at.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use super::error::TokenError;
use super::object::Object;
use super::public_key::PublicKey;
use super::token::Token;
use super::verify::{Mac, Verification, Verifier};
use crate::config::{ConfigError, JwtAlgorithm, MAX_JWT_KEYS};
use crate::json::{Reader, Stop, Value};

/// A key that verifies. It prints as its algorithm and name.
#[derive(Clone)]
pub struct Key {
    algorithm: JwtAlgorithm,
    id: Option<String>,
    material: Material,
}

#[derive(Clone)]
#[allow(clippy::large_enum_variant, reason = "a policy has few keys")]
pub(super) enum Material {
    Secret(Mac),
    Public(PublicKey, Verifier),
}

impl Key {
    /// A secret for one of the HMAC algorithms. `None` if it is shorter than the hash (RFC 7518 §3.2), or the algorithm has
    /// public keys.
    pub fn from_secret(algorithm: JwtAlgorithm, id: Option<String>, secret: &[u8]) -> Option<Self> {
        Some(Self { algorithm, id, material: Material::Secret(Mac::new(algorithm, secret)?) })
    }

    /// A public key. `None` if it is no point on its curve, as far as this build can tell.
    pub fn from_public(id: Option<String>, key: PublicKey) -> Option<Self> {
        let verifier = Verifier::new(&key)?;
        Some(Self { algorithm: key.algorithm(), id, material: Material::Public(key, verifier) })
    }

    /// What it is for.
    pub fn algorithm(&self) -> JwtAlgorithm {
        self.algorithm
    }

    /// Its name (`kid`).
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The key itself, to be handed to who verifies; `None` for a secret, which stays here.
    pub fn public(&self) -> Option<&PublicKey> {
        match &self.material {
            Material::Secret(_) => None,
            Material::Public(key, _) => Some(key),
        }
    }

    /// The question whether this key signed `signing_input`.
    pub fn verification<'a>(&'a self, signing_input: &'a [u8], signature: &'a [u8]) -> Verification<'a> {
        Verification { key: self, signing_input, signature }
    }

    pub(super) fn material(&self) -> &Material {
        &self.material
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.algorithm.as_str())?;
        f.write_str(" ")?;
        f.write_str(self.id().unwrap_or("without a name"))
    }
}

/// Keys, at most 64 of them.
#[derive(Clone, Debug, Default)]
pub struct KeySet(Vec<Key>);

/// What is known of a signature.
#[derive(Debug)]
pub enum Signature<'a> {
    /// One of the keys made it, or the host's guard verified it.
    Holds,
    /// The host has to ask its platform: if one of these 1 to 4 holds, the signature does.
    Ask(Vec<Verification<'a>>),
}

impl KeySet {
    /// Reads a JWK Set (RFC 7517 §5). Entries that are of no use here are skipped: of other types and
    /// algorithms, for encryption, too short, not on their curve, secrets, with a member twice, and
    /// what is no key at all.
    ///
    /// # Errors
    /// More than 64 KiB or 64 keys, and what is no JSON of this form.
    pub fn from_jwks(json: &[u8], algorithms: &[JwtAlgorithm]) -> Result<Self, ConfigError> {
        if json.len() > MAX_JWKS_BYTES {
            return Err(ConfigError::new("", format!("{} bytes", json.len()), "at most 64 KiB of JSON"));
        }
        let entries = entries(json)
            .map_err(|_| ConfigError::new("", "what cannot be read", "a JWK Set: `{\"keys\": […]}`"))?
            .ok_or_else(|| ConfigError::new("", "no list called `keys`, or two", "one"))?;
        if entries.len() > MAX_JWT_KEYS {
            return Err(ConfigError::new("keys", format!("{} keys", entries.len()), "at most 64"));
        }
        let usable = |jwk: &Object| {
            let id = jwk.text("kid").ok()?.map(String::from);
            let key = PublicKey::from_jwk(jwk).ok().filter(|key| algorithms.contains(&key.algorithm()))?;
            Key::from_public(id, key)
        };
        Ok(Self(entries.iter().flatten().filter_map(usable).collect()))
    }

    /// All keys.
    pub fn keys(&self) -> &[Key] {
        &self.0
    }

    /// Verifies a token's signature with the keys that it may have been made with: those of its algorithm that are called as
    /// it says; if none is, those without a name; and any if the token names none. At most 4 are tried.
    ///
    /// # Errors
    /// There is no such key, or none of them made the signature.
    pub fn verify<'a>(&'a self, token: &'a Token) -> Result<Signature<'a>, TokenError> {
        self.verify_by(token, Verification::holds)
    }

    fn verify_by<'a>(
        &'a self,
        token: &'a Token,
        holds: fn(&Verification<'a>) -> Option<bool>,
    ) -> Result<Signature<'a>, TokenError> {
        let mut tried = false;
        let mut open = Vec::new();
        for key in self.candidates(token) {
            tried = true;
            let verification = key.verification(token.signing_input(), token.signature());
            match holds(&verification) {
                Some(true) => return Ok(Signature::Holds),
                Some(false) => {}
                None => open.push(verification),
            }
        }
        match (tried, open.is_empty()) {
            (false, _) => Err(TokenError::UnknownKey),
            (true, true) => Err(TokenError::Signature),
            (true, false) => Ok(Signature::Ask(open)),
        }
    }

    fn candidates(&self, token: &Token) -> impl Iterator<Item = &Key> {
        let fits = |key: &&Key| Some(key.algorithm) == token.algorithm();
        let named = token.key_id().filter(|id| self.0.iter().any(|key| fits(&key) && key.id() == Some(id)));
        self.0
            .iter()
            .filter(fits)
            .filter(move |key| token.key_id().is_none() || key.id() == named)
            .take(MAX_CANDIDATES)
    }

    pub(super) fn push(&mut self, key: Key) {
        self.0.push(key);
    }
}

/// The entries of the list called `keys`, `None` for each that is no object that can be read; and
/// `None` if there is no such list, or more than one.
fn entries(json: &[u8]) -> Result<Option<Vec<Option<Object>>>, Stop> {
    let mut reader = Reader::new(json);
    let Value::Object = reader.value()? else { return Ok(None) };
    let (mut found, mut is_first, mut is_one) = (None, true, true);
    while let Some(name) = reader.member(is_first)? {
        is_first = false;
        let value = reader.value()?;
        if name.decode().is_none_or(|name| name != "keys") {
            reader.skip_rest(&value)?;
            continue;
        }
        is_one &= found.is_none();
        let Value::List = value else { return Ok(None) };
        let entries = found.insert(Vec::new());
        while reader.element(entries.is_empty())? {
            entries.push(Object::read(&mut reader)?);
        }
    }
    if !reader.is_at_end() {
        return Err(Stop::Broken);
    }
    Ok(found.filter(|_| is_one))
}

/// How many keys are tried for one token: a signature of RSA takes a fraction of a millisecond, and anybody can send one.
pub(super) const MAX_CANDIDATES: usize = 4;
/// Most bytes of a JWK Set. Hosts read one more, so that one which is larger is seen to be.
pub const MAX_JWKS_BYTES: usize = 64 * 1024;
/// Milliseconds that a request waits for keys to be fetched, at most: it is told before others may be asked for, which is once in
/// 10 s, or it would wait for those too.
pub const MAX_JWKS_WAIT: u64 = 5_000;

#[cfg(test)]
mod tests {
    use super::*;

    /// A host whose platform verifies.
    fn asked(keys: &KeySet, token: &Token) -> Vec<String> {
        match keys.verify_by(token, |verification| verification.key().public().is_none().then_some(false)) {
            Ok(Signature::Ask(open)) => open
                .iter()
                .map(|verification| {
                    assert_eq!(verification.signing_input(), token.signing_input());
                    assert_eq!(verification.signature(), token.signature());
                    String::from(verification.key().id().unwrap_or_default())
                })
                .collect(),
            Ok(Signature::Holds) => panic!("nobody verified it"),
            Err(_) => Vec::new(),
        }
    }

    #[test]
    fn the_host_is_asked_about_keys_that_a_token_may_have_been_signed_with() {
        let mut keys = KeySet::default();
        let point = PublicKey::P256 { x: X, y: Y };
        for name in [Some("a"), Some("b"), None, Some("c"), Some("b"), Some("d")] {
            keys.push(Key::from_public(name.map(String::from), point.clone()).unwrap());
        }
        keys.push(Key::from_secret(JwtAlgorithm::Hs256, Some(String::from("s")), &[7; 32]).unwrap());
        let token = |header: &str| {
            use base64::Engine as _;
            let header = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(header);
            Token::parse(format!("{header}.e30.AAAA").as_bytes()).unwrap()
        };
        assert_eq!(asked(&keys, &token(r#"{"alg":"ES256","kid":"a"}"#)), ["a"]);
        assert_eq!(asked(&keys, &token(r#"{"alg":"ES256","kid":"b"}"#)), ["b", "b"]);
        assert_eq!(asked(&keys, &token(r#"{"alg":"ES256","kid":"e"}"#)), [""]);
        assert_eq!(asked(&keys, &token(r#"{"alg":"ES256"}"#)), ["a", "b", "", "c"]);
        // The secret's name is of no use with another algorithm, and secrets are never handed over.
        assert_eq!(asked(&keys, &token(r#"{"alg":"ES256","kid":"s"}"#)), [""]);
        let [with_secret, of_rsa] =
            [r#"{"alg":"HS256","kid":"s"}"#, r#"{"alg":"RS256","kid":"a"}"#].map(token);
        assert_eq!(keys.verify(&with_secret).unwrap_err(), TokenError::Signature);
        assert_eq!(keys.verify(&of_rsa).unwrap_err(), TokenError::UnknownKey);
    }

    /// RFC 7515, appendix A.3.
    const X: [u8; 32] = [
        127, 205, 206, 39, 112, 246, 196, 93, 65, 131, 203, 238, 111, 219, 75, 123, 88, 7, 51, 53, 123, 233,
        239, 19, 186, 207, 110, 60, 123, 209, 84, 69,
    ];
    const Y: [u8; 32] = [
        199, 241, 68, 205, 27, 189, 155, 126, 135, 44, 223, 237, 185, 238, 185, 244, 179, 105, 93, 110, 169,
        11, 36, 173, 138, 70, 35, 40, 133, 136, 229, 173,
    ];
}
