//! Certificates of a run: an authority, a server and its clients, and a stranger whom nobody trusts.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// Where they are, as PEM.
#[derive(Debug)]
pub struct Certificates {
    /// The authority that signed the server and the client.
    pub authority: PathBuf,
    /// The server, for [`SERVER_NAME`] and 127.0.0.1.
    pub server: Pair,
    /// A client that the server knows.
    pub client: Pair,
    /// An authority of its own.
    pub stranger_authority: PathBuf,
    /// A client that the stranger signed.
    pub stranger: Pair,
}

/// A certificate and its key.
#[derive(Debug)]
pub struct Pair {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl Certificates {
    /// Makes new ones in `dir`.
    pub fn create(dir: &Path) -> Result<Certificates> {
        fs::create_dir_all(dir).with_context(|| format!("cannot create `{}`", dir.display()))?;
        let (authority, issuer) = create_authority(dir, "authority")?;
        let (stranger_authority, stranger) = create_authority(dir, "stranger-authority")?;
        Ok(Certificates {
            authority,
            server: issue(dir, "server", &[SERVER_NAME, "127.0.0.1"], &issuer)?,
            client: issue(dir, "client", &[], &issuer)?,
            stranger_authority,
            stranger: issue(dir, "stranger", &[], &stranger)?,
        })
    }

    /// What makes a redis-server speak TLS on `port`; with `clients`, only to clients whom the authority signed.
    pub fn arguments(&self, port: u16, clients: bool) -> Vec<String> {
        let text = |path: &Path| path.display().to_string();
        [
            ["--tls-port", &port.to_string()],
            ["--tls-cert-file", &text(&self.server.certificate)],
            ["--tls-key-file", &text(&self.server.key)],
            ["--tls-ca-cert-file", &text(&self.authority)],
            ["--tls-auth-clients", if clients { "yes" } else { "no" }],
        ]
        .as_flattened()
        .iter()
        .map(|argument| (*argument).to_owned())
        .collect()
    }
}

/// The host that the server's certificate names.
pub const SERVER_NAME: &str = "redis.tollgate.test";

fn create_authority(dir: &Path, name: &str) -> Result<(PathBuf, Issuer<'static, KeyPair>)> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, format!("Tollgate test {name}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    let path = write(dir, &format!("{name}.pem"), &certificate.pem())?;
    Ok((path, Issuer::new(params, key)))
}

fn issue(dir: &Path, name: &str, hosts: &[&str], issuer: &Issuer<'_, KeyPair>) -> Result<Pair> {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts)?;
    params.distinguished_name.push(DnType::CommonName, format!("Tollgate test {name}"));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // Nodes of a cluster are servers and each other's clients.
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, issuer)?;
    Ok(Pair {
        certificate: write(dir, &format!("{name}.pem"), &certificate.pem())?,
        key: write(dir, &format!("{name}.key"), &key.serialize_pem())?,
    })
}

fn write(dir: &Path, file: &str, text: &str) -> Result<PathBuf> {
    let path = dir.join(file);
    fs::write(&path, text).with_context(|| format!("cannot write `{}`", path.display()))?;
    Ok(path)
}
