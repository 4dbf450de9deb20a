//! Certificates and keys in PEM files. Errors name the file, and never repeat what is in it.

use std::path::Path;

use anyhow::{Context as _, anyhow, ensure};
use tokio_rustls::rustls::pki_types::pem::{Error, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Reads a file.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))
}

/// The certificates in `pem`, which comes from `path`.
pub(crate) fn certificates(pem: &[u8], path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .with_context(|| format!("`{}` is not PEM", path.display()))?;
    ensure!(
        !certificates.is_empty(),
        "`{}` holds no certificate, expected PEM with `BEGIN CERTIFICATE`",
        path.display()
    );
    Ok(certificates)
}

/// The private key in `pem`, which comes from `path`.
pub(crate) fn private_key(pem: &[u8], path: &Path) -> anyhow::Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        Error::NoItemsFound => {
            anyhow!("`{}` holds no private key, expected PEM with `BEGIN PRIVATE KEY`", path.display())
        }
        // The error could repeat a line of the key.
        _ => anyhow!("`{}` is not PEM", path.display()),
    })
}
