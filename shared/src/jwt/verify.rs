//! Signatures, verified here or handed over as data.
//!
//! Secrets are always used here. Signatures of public keys are verified here with the feature `asymmetric`; without it the host
//! asks its platform, which gets the key, the algorithm, what was signed and the signature.

use hmac::{Hmac, KeyInit, Mac as _};
use sha2::{Sha256, Sha384, Sha512};

#[cfg(feature = "asymmetric")]
pub(super) use super::asymmetric::Verifier;
use super::keys::{Key, Material};
use crate::config::JwtAlgorithm;

/// The question whether a key made a signature.
#[derive(Clone, Copy)]
pub struct Verification<'a> {
    pub(super) key: &'a Key,
    pub(super) signing_input: &'a [u8],
    pub(super) signature: &'a [u8],
}

impl<'a> Verification<'a> {
    /// The key, and with it the algorithm.
    pub fn key(&self) -> &'a Key {
        self.key
    }

    /// What was signed.
    pub fn signing_input(&self) -> &'a [u8] {
        self.signing_input
    }

    /// The signature as it stands in a token (RFC 7518 §3): of ES256, the two numbers one after the other.
    pub fn signature(&self) -> &'a [u8] {
        self.signature
    }

    /// Whether it holds; `None` if this build leaves that to the host's platform.
    pub fn holds(&self) -> Option<bool> {
        match self.key.material() {
            Material::Secret(mac) => Some(mac.holds(self.signing_input, self.signature)),
            Material::Public(_, verifier) => verifier.holds(self.signing_input, self.signature),
        }
    }
}

impl core::fmt::Debug for Verification<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Verification with ")?;
        self.key.fmt(f)
    }
}

/// The algorithm as WebCrypto's `importKey` and `verify` both take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WebCrypto {
    /// `name`.
    pub name: &'static str,
    /// `hash`, where there is one.
    pub hash: Option<&'static str>,
    /// `namedCurve`, where there is one.
    pub named_curve: Option<&'static str>,
}

impl JwtAlgorithm {
    /// What WebCrypto calls it; `None` for those with a secret, which are verified here.
    pub const fn web_crypto(self) -> Option<WebCrypto> {
        Some(match self {
            Self::Hs256 | Self::Hs384 | Self::Hs512 => return None,
            Self::Rs256 => WebCrypto { name: "RSASSA-PKCS1-v1_5", hash: Some("SHA-256"), named_curve: None },
            Self::Es256 => WebCrypto { name: "ECDSA", hash: Some("SHA-256"), named_curve: Some("P-256") },
            Self::EdDsa => WebCrypto { name: "Ed25519", hash: None, named_curve: None },
        })
    }

    /// The length of the hash in bytes, which a secret must have at least (RFC 7518 §3.2); `None` for those with public keys.
    pub const fn secret_bytes(self) -> Option<usize> {
        match self {
            Self::Hs256 => Some(32),
            Self::Hs384 => Some(48),
            Self::Hs512 => Some(64),
            Self::Rs256 | Self::Es256 | Self::EdDsa => None,
        }
    }
}

/// A secret, already mixed into the hash that it keys.
#[derive(Clone)]
pub(super) enum Mac {
    Sha256(Hmac<Sha256>),
    Sha384(Hmac<Sha384>),
    Sha512(Hmac<Sha512>),
}

impl Mac {
    pub(super) fn new(algorithm: JwtAlgorithm, secret: &[u8]) -> Option<Self> {
        if secret.len() < algorithm.secret_bytes()? {
            return None;
        }
        match algorithm {
            JwtAlgorithm::Hs256 => Hmac::new_from_slice(secret).ok().map(Self::Sha256),
            JwtAlgorithm::Hs384 => Hmac::new_from_slice(secret).ok().map(Self::Sha384),
            JwtAlgorithm::Hs512 => Hmac::new_from_slice(secret).ok().map(Self::Sha512),
            JwtAlgorithm::Rs256 | JwtAlgorithm::Es256 | JwtAlgorithm::EdDsa => None,
        }
    }

    /// In a time that does not depend on how much of the signature is right.
    fn holds(&self, signing_input: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Sha256(mac) => mac.clone().chain_update(signing_input).verify_slice(signature),
            Self::Sha384(mac) => mac.clone().chain_update(signing_input).verify_slice(signature),
            Self::Sha512(mac) => mac.clone().chain_update(signing_input).verify_slice(signature),
        }
        .is_ok()
    }
}

/// Leaves public keys to the host's platform.
#[cfg(not(feature = "asymmetric"))]
#[derive(Clone)]
pub(super) struct Verifier;

#[cfg(not(feature = "asymmetric"))]
impl Verifier {
    pub(super) fn new(_: &super::PublicKey) -> Option<Self> {
        Some(Self)
    }

    fn holds(&self, _: &[u8], _: &[u8]) -> Option<bool> {
        None
    }
}
