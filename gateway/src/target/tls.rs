//! Encryption of the connections to Redis, and whom to believe that it is the right one.
//!
//! Names are always verified: the host that is connected to, an address among the certificate's alternative names, or the
//! one name that the configuration gives for all servers.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{AlertDescription, CertificateError, ClientConfig, Error, RootCertStore};

use super::Address;
use crate::pem;

/// What TLS needs; every file is PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authorities to trust instead of those that this machine trusts.
    pub ca: Option<PathBuf>,
    /// Our certificate, with those between it and its authority.
    pub cert: Option<PathBuf>,
    /// The key of our certificate.
    pub key: Option<PathBuf>,
    /// The name to ask for and to verify, instead of the host that is connected to.
    pub server_name: Option<String>,
}

/// How to encrypt a connection.
#[derive(Clone)]
pub(crate) struct Tls {
    files: TlsFiles,
    connector: TlsConnector,
    server_name: Option<ServerName<'static>>,
}

impl Tls {
    /// Reads the files.
    pub(super) fn load(files: &TlsFiles) -> anyhow::Result<Self> {
        let roots = match &files.ca {
            Some(path) => authorities(path)?,
            None => native_authorities()?,
        };
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .context("cannot use TLS")?
            .with_root_certificates(roots);
        let config = match (&files.cert, &files.key) {
            (Some(cert), Some(key)) => config
                .with_client_auth_cert(
                    pem::certificates(&pem::read(cert)?, cert)?,
                    pem::private_key(&pem::read(key)?, key)?,
                )
                .with_context(|| format!("`{}` is not the key of `{}`", key.display(), cert.display()))?,
            (None, None) => config.with_no_client_auth(),
            (Some(cert), None) => bail!("the certificate `{}` is given without its key", cert.display()),
            (None, Some(key)) => bail!("the key `{}` is given without its certificate", key.display()),
        };
        let server_name = files.server_name.as_deref().map(|name| {
            ServerName::try_from(name)
                .map(|name| name.to_owned())
                .ok()
                .with_context(|| format!("the server name `{name}` is neither a host name nor an address"))
        });
        let connector = TlsConnector::from(Arc::new(config));
        Ok(Self { files: files.clone(), connector, server_name: server_name.transpose()? })
    }

    /// Begins TLS on a connection to `address`.
    pub(crate) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        address: &Address,
        stream: S,
    ) -> Result<TlsStream<S>, TlsError> {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(address.host.clone()).map_err(|_| TlsError::NoName)?,
        };
        self.connector
            .connect(name, stream)
            .await
            .map_err(|error| TlsError::of(&error).unwrap_or_else(|| TlsError::Other(error.to_string())))
    }
}

/// What comes of the same files is the same.
impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        self.files == other.files
    }
}

impl Eq for Tls {}

/// Why TLS failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TlsError {
    /// The host is no name that a certificate can be for.
    NoName,
    /// Nobody we trust signed the certificate.
    UnknownIssuer,
    /// The certificate is for somebody else.
    OtherName,
    /// The certificate is not valid any more, or not yet.
    OtherTime,
    /// Redis wants a certificate of ours, or another one.
    CertificateWanted,
    /// What answers does not speak TLS.
    NotSpoken,
    /// Anything else, in the words of the library or the system.
    Other(String),
}

impl TlsError {
    /// What is wrong with TLS, if that is what `error` is about; some of it is told only after the handshake.
    pub(crate) fn of(error: &std::io::Error) -> Option<Self> {
        Some(match error.get_ref()?.downcast_ref::<Error>()? {
            Error::InvalidCertificate(error) => match error {
                // An authority of the same name with another key.
                CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UnknownIssuer,
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    Self::OtherName
                }
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => Self::OtherTime,
                other => Self::Other(format!("the certificate of redis is refused: {other}")),
            },
            Error::AlertReceived(
                AlertDescription::CertificateRequired
                | AlertDescription::BadCertificate
                | AlertDescription::UnknownCA
                | AlertDescription::CertificateUnknown
                | AlertDescription::CertificateExpired
                | AlertDescription::AccessDenied,
            ) => Self::CertificateWanted,
            Error::InvalidMessage(_) => Self::NotSpoken,
            other => Self::Other(other.to_string()),
        })
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoName => {
                f.write_str("TLS: the host is no name a certificate can be for, set a server name")
            }
            Self::UnknownIssuer => f.write_str(
                "TLS: the certificate of redis comes from an authority that is not trusted, give its CA",
            ),
            Self::OtherName => f.write_str(
                "TLS: the certificate of redis is for another name, connect by that one or set it",
            ),
            Self::OtherTime => f.write_str("TLS: the certificate of redis has expired, or is not valid yet"),
            Self::CertificateWanted => {
                f.write_str("TLS: redis wants a client certificate that it trusts, give one and its key")
            }
            Self::NotSpoken => f.write_str("TLS: redis does not speak it on this port, or not in time"),
            Self::Other(text) => write!(f, "TLS: {text}"),
        }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

fn authorities(path: &Path) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in pem::certificates(&pem::read(path)?, path)? {
        roots.add(certificate).with_context(|| {
            format!("a certificate in `{}` cannot be used as an authority", path.display())
        })?;
    }
    Ok(roots)
}

fn native_authorities() -> anyhow::Result<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    ensure!(
        usable > 0,
        "this machine trusts no certificate authority: give a CA file for Redis, or install `ca-certificates`"
    );
    Ok(roots)
}
