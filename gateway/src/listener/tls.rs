//! HTTPS: a certificate that can be renewed without anybody noticing.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::{self, Ticketer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;

use crate::config::Identity;
use crate::pem;

/// What speaks TLS to clients.
#[derive(Clone)]
pub(crate) struct Tls {
    acceptor: TlsAcceptor,
    certificate: Arc<Certificate>,
}

/// A certificate and its key, as they are in their files.
#[derive(Debug)]
struct Certificate {
    files: Identity,
    current: RwLock<Current>,
}

#[derive(Debug)]
struct Current {
    key: Arc<CertifiedKey>,
    /// What the files held.
    read: [Vec<u8>; 2],
}

impl Tls {
    /// Reads the files.
    pub(crate) fn load(files: &Identity) -> anyhow::Result<Self> {
        let read = read(files)?;
        let key = Arc::new(certified(files, &read)?);
        let current = RwLock::new(Current { key, read });
        let certificate = Arc::new(Certificate { files: files.clone(), current });
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .context("cannot use TLS")?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&certificate) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.ticketer = Ticketer::new().context("cannot use TLS")?;
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), certificate })
    }

    /// What shakes hands.
    pub(crate) fn acceptor(&self) -> &TlsAcceptor {
        &self.acceptor
    }

    /// Reads the files again when they change, or on SIGHUP; clients that are there keep what they have.
    pub(crate) async fn keep_current(&self) {
        let Ok(mut hangup) = signal(SignalKind::hangup()) else {
            return tracing::warn!("cannot catch SIGHUP, the certificate is not renewed");
        };
        let mut ticks = interval_at(Instant::now() + LOOK_AGAIN, LOOK_AGAIN);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = hangup.recv() => {}
            }
            match self.certificate.renew() {
                Ok(true) => tracing::info!("the certificate was renewed"),
                Ok(false) => {}
                Err(error) => tracing::warn!("the certificate is not renewed: {error:#}"),
            }
        }
    }
}

impl Certificate {
    /// Takes over what the files hold; `true` when that is something new. Nonsense is told of once, and then counts as known.
    fn renew(&self) -> anyhow::Result<bool> {
        let read = read(&self.files)?;
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if read == current.read {
            return Ok(false);
        }
        let key = certified(&self.files, &read);
        current.read = read;
        current.key = Arc::new(key?);
        Ok(true)
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).key))
    }
}

fn read(files: &Identity) -> anyhow::Result<[Vec<u8>; 2]> {
    Ok([pem::read(&files.cert)?, pem::read(&files.key)?])
}

fn certified(files: &Identity, [cert, key]: &[Vec<u8>; 2]) -> anyhow::Result<CertifiedKey> {
    let chain = pem::certificates(cert, &files.cert)?;
    let key = pem::private_key(key, &files.key)?;
    CertifiedKey::from_der(chain, key, &ring::default_provider())
        .with_context(|| format!("`{}` is not the key of `{}`", files.key.display(), files.cert.display()))
}

/// How often the files are looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
