//! Signatures of public keys, verified here.

use p256::ecdsa::signature::Verifier as _;
use rsa::{BoxedUint, Pkcs1v15Sign};
use sha2::{Digest as _, Sha256};

use super::PublicKey;

/// A public key, ready to verify.
#[derive(Clone)]
pub(super) enum Verifier {
    Rsa(rsa::PublicKey),
    P256(p256::ecdsa::VerifyingKey),
    Ed25519(ed25519_dalek::VerifyingKey),
}

impl Verifier {
    /// `None` if the key is no point on its curve, or one of the few that verify anything.
    pub(super) fn new(key: &PublicKey) -> Option<Self> {
        match key {
            PublicKey::Rsa { modulus, exponent } => {
                let [modulus, exponent] = [modulus, exponent].map(|n| BoxedUint::from_be_slice_vartime(n));
                rsa::PublicKey::new(modulus, exponent).ok().map(Self::Rsa)
            }
            PublicKey::P256 { x, y } => {
                let point = [&[4][..], x, y].concat();
                p256::ecdsa::VerifyingKey::from_sec1_bytes(&point).ok().map(Self::P256)
            }
            PublicKey::Ed25519(point) => {
                let key = ed25519_dalek::VerifyingKey::from_bytes(point).ok()?;
                (!key.is_weak()).then_some(Self::Ed25519(key))
            }
        }
    }

    pub(super) fn holds(&self, signing_input: &[u8], signature: &[u8]) -> Option<bool> {
        Some(match self {
            Self::Rsa(key) => {
                let hash = Sha256::digest(signing_input);
                key.verify(Pkcs1v15Sign::new::<Sha256>(), &hash, signature).is_ok()
            }
            Self::P256(key) => p256::ecdsa::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify(signing_input, &signature).is_ok()),
            // Strictly: two verifiers never differ on what they accept (RFC 8032 §8.4 leaves room for that).
            Self::Ed25519(key) => ed25519_dalek::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify_strict(signing_input, &signature).is_ok()),
        })
    }
}
