//! An issued certificate with its key, and the slot from which handshakes take it.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{NO_CERTIFICATE, certificates, private_key};

/// A certificate with its matching key.
#[derive(Clone)]
pub(crate) struct IssuedCertificate {
    certified: Arc<CertifiedKey>,
    /// Start of validity.
    pub(crate) begins: SystemTime,
    /// End of validity.
    pub(crate) expires: SystemTime,
    /// Host names of the certificate.
    pub(crate) names: Vec<String>,
}

impl fmt::Debug for IssuedCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("names", &self.names).finish_non_exhaustive()
    }
}

impl IssuedCertificate {
    /// Parses certificate and key (PEM).
    ///
    /// # Errors
    ///
    /// What is wrong, without any part of the key.
    pub(crate) fn read(chain: &str, key: &str, provider: &CryptoProvider) -> Result<Self, String> {
        let (chain, key) = (certificates(chain)?, private_key(key)?);
        let first = chain.first().ok_or(NO_CERTIFICATE)?;
        let (begins, expires) = validity(first)?;
        let names = names(first)?;
        let certified =
            CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => "the key is not the certificate's".to_owned(),
                error => format!("the key cannot be used: {error}"),
            })?;
        Ok(Self { certified: Arc::new(certified), begins, expires, names })
    }
}

/// The current certificate, if there is one.
#[derive(Debug, Default)]
pub(super) struct CertificateSlot(RwLock<Option<IssuedCertificate>>);

impl CertificateSlot {
    /// Sets the current certificate.
    pub(super) fn set(&self, issued: IssuedCertificate) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(issued);
    }

    /// When the current certificate expires.
    pub(super) fn expires(&self) -> Option<SystemTime> {
        let issued = self.0.read().unwrap_or_else(PoisonError::into_inner);
        issued.as_ref().map(|issued| issued.expires)
    }
}

impl ResolvesServerCert for CertificateSlot {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let issued = self.0.read().unwrap_or_else(PoisonError::into_inner);
        issued.as_ref().map(|issued| Arc::clone(&issued.certified))
    }
}

/// The validity of a certificate.
pub(super) fn validity(
    certificate: &CertificateDer<'_>,
) -> Result<(SystemTime, SystemTime), String> {
    let (_, parsed) = X509Certificate::from_der(certificate)
        .map_err(|error| format!("the certificate cannot be read: {error}"))?;
    let time = |seconds: i64| {
        let seconds = u64::try_from(seconds).unwrap_or_default();
        let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        time.ok_or_else(|| "the expiry of the certificate is out of range".to_owned())
    };
    let validity = parsed.validity();
    Ok((time(validity.not_before.timestamp())?, time(validity.not_after.timestamp())?))
}

/// The host names of a certificate.
fn names(certificate: &CertificateDer<'_>) -> Result<Vec<String>, String> {
    let (_, parsed) = X509Certificate::from_der(certificate)
        .map_err(|error| format!("the certificate cannot be read: {error}"))?;
    let alternatives = parsed.subject_alternative_name().ok().flatten();
    let alternatives = alternatives.iter().flat_map(|extension| &extension.value.general_names);
    let hosts = alternatives.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    Ok(hosts.collect())
}
