//! Public keys in one form, however they are written: as a JWK or in PEM.
//!
//! Both forms are read here and not by the crates that verify, because hosts whose platform verifies do without those, and
//! because a policy is refused alike everywhere.

use alloc::string::String;
use alloc::vec::Vec;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use super::object::{NotOne, Object, Value};
use crate::config::JwtAlgorithm;

/// A public key of one of the three kinds that tokens are verified with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublicKey {
    /// RSA: 2048 to 8192 bits.
    Rsa {
        /// The modulus, odd, most significant byte first, without leading zeros.
        modulus: Vec<u8>,
        /// The exponent, odd and from 3 to 2³² - 1, most significant byte first, without leading zeros.
        exponent: Vec<u8>,
    },
    /// A point on P-256. Whether it lies on the curve is for who verifies to find out.
    P256 {
        /// The x coordinate.
        x: [u8; 32],
        /// The y coordinate.
        y: [u8; 32],
    },
    /// A compressed point on Curve25519 (RFC 8032 §5.1.5).
    Ed25519([u8; 32]),
}

/// What is wrong with a JWK: the member, and what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) member: &'static str,
    pub(super) expected: &'static str,
}

impl PublicKey {
    /// What signatures of this key are made with.
    pub fn algorithm(&self) -> JwtAlgorithm {
        match self {
            Self::Rsa { .. } => JwtAlgorithm::Rs256,
            Self::P256 { .. } => JwtAlgorithm::Es256,
            Self::Ed25519(_) => JwtAlgorithm::EdDsa,
        }
    }

    /// The key as a JWK (RFC 7517), as WebCrypto imports it.
    pub fn jwk(&self) -> String {
        let mut jwk = String::from("{\"kty\":\"");
        let (kind, members): (_, [(&str, &[u8]); 2]) = match self {
            Self::Rsa { modulus, exponent } => ("RSA", [("n", modulus), ("e", exponent)]),
            Self::P256 { x, y } => ("EC\",\"crv\":\"P-256", [("x", x), ("y", y)]),
            Self::Ed25519(x) => ("OKP\",\"crv\":\"Ed25519", [("x", x), ("", &[])]),
        };
        jwk.push_str(kind);
        for (name, bytes) in members.into_iter().filter(|(name, _)| !name.is_empty()) {
            for part in ["\",\"", name, "\":\"", &URL_SAFE_NO_PAD.encode(bytes)] {
                jwk.push_str(part);
            }
        }
        jwk.push_str("\"}");
        jwk
    }

    /// Reads a JWK: of a public key, and for signatures.
    pub(super) fn from_jwk(jwk: &Object) -> Result<Self, Fault> {
        let text = |member, expected| match jwk.text(member) {
            Ok(Some(text)) => Ok(text),
            Ok(None) | Err(NotOne) => Err(Fault { member, expected }),
        };
        let bytes = |member| {
            let fault = Fault { member, expected: "bytes in base64url, without padding" };
            URL_SAFE_NO_PAD.decode(text(member, fault.expected)?).map_err(|_| fault)
        };
        let coordinate = |member| {
            let fault = Fault { member, expected: "32 bytes in base64url, without padding" };
            <[u8; 32]>::try_from(bytes(member)?).map_err(|_| fault)
        };
        let key = match text("kty", "`RSA`, `EC` or `OKP`")? {
            "RSA" => Self::rsa(bytes("n")?, bytes("e")?).map_err(|expected| Fault { member: "n", expected }),
            "EC" if text("crv", "`P-256`")? == "P-256" => {
                Ok(Self::P256 { x: coordinate("x")?, y: coordinate("y")? })
            }
            "EC" => Err(Fault { member: "crv", expected: "`P-256`" }),
            "OKP" if text("crv", "`Ed25519`")? == "Ed25519" => Ok(Self::Ed25519(coordinate("x")?)),
            "OKP" => Err(Fault { member: "crv", expected: "`Ed25519`" }),
            "oct" => Err(Fault {
                member: "kty",
                expected: "a public key: a secret's place is a variable that `secret` names",
            }),
            _ => Err(Fault { member: "kty", expected: "`RSA`, `EC` or `OKP`" }),
        }?;
        if jwk.get("d").is_some() {
            return Err(Fault { member: "d", expected: "a public key without its private part" });
        }
        if jwk.get("use").is_some() && text("use", "`sig`")? != "sig" {
            return Err(Fault { member: "use", expected: "`sig`" });
        }
        if let Some(operations) = jwk.get("key_ops")
            && !matches!(operations, Value::Texts(all) if all.iter().any(|operation| operation == "verify"))
        {
            return Err(Fault { member: "key_ops", expected: "`verify` among them" });
        }
        let algorithm = key.algorithm().as_str();
        if jwk.get("alg").is_some() && text("alg", algorithm)? != algorithm {
            return Err(Fault { member: "alg", expected: algorithm });
        }
        Ok(key)
    }

    /// Reads a `SubjectPublicKeyInfo` (RFC 5280 §4.1.2.7) in PEM (RFC 7468 §13). Who fails is told what is expected.
    pub(super) fn from_pem(pem: &str) -> Result<Self, &'static str> {
        let expected = "`-----BEGIN PUBLIC KEY-----`, base64 and `-----END PUBLIC KEY-----`";
        if pem.contains("PRIVATE KEY-----") {
            return Err("a public key: a private one has no place in a policy");
        }
        let body = pem.trim_ascii().strip_prefix("-----BEGIN PUBLIC KEY-----");
        let body = body.and_then(|rest| rest.strip_suffix("-----END PUBLIC KEY-----")).ok_or(expected)?;
        let body: Vec<u8> = body.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
        let der = STANDARD.decode(body).map_err(|_| expected)?;
        Self::from_spki(&der)
    }

    fn from_spki(der: &[u8]) -> Result<Self, &'static str> {
        let expected = "a SubjectPublicKeyInfo in DER";
        let (info, rest) = element(SEQUENCE, der).ok_or(expected)?;
        let (algorithm, info) = element(SEQUENCE, info).ok_or(expected)?;
        let (bits, after) = element(BIT_STRING, info).ok_or(expected)?;
        // The first byte counts the bits of the last one that do not belong: none, in whole bytes.
        let key = bits.strip_prefix(&[0]).filter(|_| rest.is_empty() && after.is_empty()).ok_or(expected)?;
        if algorithm == RSA_ENCRYPTION {
            let (numbers, rest) = element(SEQUENCE, key).ok_or(expected)?;
            let (modulus, numbers) = element(INTEGER, numbers).ok_or(expected)?;
            let (exponent, after) = element(INTEGER, numbers).ok_or(expected)?;
            if !rest.is_empty() || !after.is_empty() {
                return Err(expected);
            }
            return Self::rsa(modulus.to_vec(), exponent.to_vec());
        }
        let fixed = if algorithm == EC_P256 {
            // Uncompressed (SEC 1 §2.3.3).
            key.strip_prefix(&[4]).and_then(|point| match point.as_chunks::<32>() {
                ([x, y], []) => Some(Self::P256 { x: *x, y: *y }),
                _ => None,
            })
        } else if algorithm == ED25519 {
            key.try_into().ok().map(Self::Ed25519)
        } else {
            return Err("a key of RSA, of P-256 or of Ed25519");
        };
        fixed.ok_or(expected)
    }

    fn rsa(mut modulus: Vec<u8>, mut exponent: Vec<u8>) -> Result<Self, &'static str> {
        for number in [&mut modulus, &mut exponent] {
            let zeros = number.iter().take_while(|byte| **byte == 0).count();
            number.drain(..zeros);
        }
        let unused = modulus.first().map_or(0, |first| first.leading_zeros() as usize);
        let is_odd = |number: &[u8]| number.last().is_some_and(|last| last % 2 == 1);
        if !(2048..=8192).contains(&(modulus.len() * 8).saturating_sub(unused)) || !is_odd(&modulus) {
            return Err("an RSA key of 2048 to 8192 bits");
        }
        if exponent.len() > 4 || exponent == [1] || !is_odd(&exponent) {
            return Err("an RSA key with an odd exponent from 3 to 4294967295");
        }
        Ok(Self::Rsa { modulus, exponent })
    }
}

/// The content of the DER element that `der` begins with, if it is of this tag, and what comes after it.
fn element(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = match der.strip_prefix(&[tag])? {
        [length @ ..=0x7f, rest @ ..] => (usize::from(*length), rest),
        // A length is written as short as it can be.
        [0x81, length @ 0x80..=0xff, rest @ ..] => (usize::from(*length), rest),
        [0x82, high @ 1..=0xff, low, rest @ ..] => (usize::from(*high) << 8 | usize::from(*low), rest),
        _ => return None,
    };
    rest.split_at_checked(length)
}

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const SEQUENCE: u8 = 0x30;
/// 1.2.840.113549.1.1.1 and NULL (RFC 3279 §2.3.1).
const RSA_ENCRYPTION: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";
/// 1.2.840.10045.2.1 and 1.2.840.10045.3.1.7 (RFC 5480 §2.1.1).
const EC_P256: &[u8] = b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
/// 1.3.101.112 (RFC 8410 §3).
const ED25519: &[u8] = b"\x06\x03\x2b\x65\x70";
