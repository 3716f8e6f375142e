//! TLS: the server certificate and key, the CAs of client certificates, and client identities.
//!
//! The files are loaded at the start, where an error ends the process, and reloaded when they
//! change. They are replaced as a whole: a certificate without its key, or an expired one, never
//! replaces a working one. Open connections keep their certificate.
//!
//! With ACME, certificate and key are set by [`Tls`]'s caller instead of loaded from files, and
//! there may be none yet. The challenge certificates come from a [`ChallengeSource`].

mod issued;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use chrono::{DateTime, SecondsFormat, Utc};
use jreg_auth::ClientCertificate;
use jreg_reload::{FileError, FileFault, FileReload, ReloadedFiles};
use jreg_telemetry::metrics::Metrics;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Maximum size of a certificate or key file, in bytes.
pub const FILE_BYTES_MAX: usize = 1024 * 1024;
/// Time before expiry at which a certificate causes a warning.
pub const EXPIRY_NOTICE: Duration = Duration::from_secs(14 * 24 * 3600);
/// Interval of that warning.
const NOTICE_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// Interval of the log message about connections refused for lack of a certificate.
const LACK_INTERVAL: Duration = Duration::from_secs(60);
/// Maximum length of a name in a client certificate, in bytes.
const NAME_BYTES_MAX: usize = 1024;
/// Maximum number of URIs in a client certificate.
const URIS_MAX: usize = 16;

use issued::CertificateSlot;
pub(crate) use issued::IssuedCertificate;

/// ALPN protocols, preferred first (RFC 7301).
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// ALPN protocol of a CA that validates a name (RFC 8737).
pub(crate) const CHALLENGE_PROTOCOL: &[u8] = b"acme-tls/1";

/// Indexes of the reloaded files.
const CERT: usize = 0;
const KEY: usize = 1;
const CLIENT_CA: usize = 2;

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up TLS")]
pub struct TlsError(#[from] FileError);

#[derive(Clone, Debug, Default)]
pub struct TlsOptions {
    /// PEM bundle of the CAs that issue client certificates.
    pub client_ca: Option<PathBuf>,
    /// Whether a client certificate is required.
    pub client_cert_required: bool,
    /// Whether TLS 1.2 is allowed besides 1.3.
    pub allows_tls12: bool,
}

/// Source of the server certificate.
#[derive(Clone, Debug)]
pub enum CertificateSource {
    Files {
        /// The certificate chain (PEM).
        cert: PathBuf,
        /// The private key (PEM).
        key: PathBuf,
    },
    /// ACME, with the source of challenge certificates.
    Acme(Arc<dyn ChallengeSource>),
}

/// Source of challenge certificates.
#[async_trait]
pub trait ChallengeSource: fmt::Debug + Send + Sync + 'static {
    /// The TLS configuration that validates a name; `None`: there is no order for it.
    async fn config(&self, name: &str) -> Option<Arc<ServerConfig>>;
}

/// The name to validate, if this is the only protocol that the client offers.
pub(crate) fn challenged_name(hello: &ClientHello<'_>) -> Option<String> {
    let mut protocols = hello.alpn()?;
    let is_asked = protocols.next() == Some(CHALLENGE_PROTOCOL) && protocols.next().is_none();
    is_asked.then(|| hello.server_name().map(str::to_ascii_lowercase)).flatten()
}

/// The TLS configuration, reloaded when files change.
pub struct Tls {
    files: ReloadedFiles<LoadedTls>,
    automatic: Option<AcmeState>,
    metrics: Arc<Metrics>,
    /// When the expiry warning was last logged.
    noticed: Mutex<Option<SystemTime>>,
}

/// The loaded files.
struct LoadedTls {
    config: Arc<ServerConfig>,
    /// For refused connections: HTTP/1.1 only.
    refusing: Arc<ServerConfig>,
    /// When the certificate expires, if it comes from a file.
    expires: Option<SystemTime>,
}

/// State in place of certificate files.
#[derive(Debug)]
struct AcmeState {
    slot: Arc<CertificateSlot>,
    challenges: Arc<dyn ChallengeSource>,
    /// When the missing certificate was last logged.
    noticed: Mutex<Option<SystemTime>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

impl fmt::Debug for LoadedTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded").field("expires", &self.expires).finish_non_exhaustive()
    }
}

impl Tls {
    /// Loads the files. Blocks on disk I/O.
    ///
    /// # Errors
    ///
    /// A file cannot be read or is invalid.
    pub fn open(
        options: TlsOptions,
        source: CertificateSource,
        metrics: Arc<Metrics>,
    ) -> Result<Self, TlsError> {
        let (mut paths, automatic) = match source {
            CertificateSource::Files { cert, key } => (vec![cert, key], None),
            CertificateSource::Acme(challenges) => {
                let (slot, noticed) = Default::default();
                (Vec::new(), Some(AcmeState { slot, challenges, noticed }))
            }
        };
        paths.extend(options.client_ca);
        let rules = TlsRules {
            provider: Arc::new(rustls::crypto::ring::default_provider()),
            allows_tls12: options.allows_tls12,
            clients_must: options.client_cert_required,
            slot: automatic.as_ref().map(|automatic| Arc::clone(&automatic.slot)),
        };
        let parse = move |texts: &[String]| rules.load(texts, SystemTime::now());
        let files = ReloadedFiles::open_all(paths, FILE_BYTES_MAX, parse)?;
        let tls = Self { files, automatic, metrics, noticed: Mutex::default() };
        tls.look(SystemTime::now());
        Ok(tls)
    }

    /// The challenge source, with ACME.
    pub(crate) fn challenges(&self) -> Option<&dyn ChallengeSource> {
        self.automatic.as_ref().map(|automatic| &*automatic.challenges)
    }

    /// Whether there is no certificate yet: then handshakes are refused.
    pub fn lacks_certificate(&self) -> bool {
        self.automatic.as_ref().is_some_and(|automatic| automatic.slot.expires().is_none())
    }

    /// Uses an issued certificate for new connections.
    pub(crate) fn show(&self, issued: IssuedCertificate) {
        if let Some(automatic) = &self.automatic {
            automatic.slot.set(issued);
            self.metrics.count_tls_reload("ok");
            self.look(SystemTime::now());
        }
    }

    /// Logs that a connection was refused for lack of a certificate, at intervals.
    pub(crate) fn notice_lack(&self, now: SystemTime) {
        let Some(automatic) = &self.automatic else { return };
        let mut noticed = automatic.noticed.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = |last: SystemTime| now.duration_since(last).is_ok_and(|t| t >= LACK_INTERVAL);
        if noticed.is_none_or(is_due) {
            *noticed = Some(now);
            tracing::warn!("TLS connections are refused: the CA has not issued a certificate yet");
        }
    }

    /// Accepts connections.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.files.get().config))
    }

    /// Accepts connections that get a refusal in HTTP/1.1.
    pub(crate) fn refusing_acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.files.get().refusing))
    }

    /// Reloads changed files and checks when the certificate expires. Blocks on disk I/O.
    pub fn reload(&self) -> Option<FileReload> {
        let reload = FileReload::new("tls", self.files.reload());
        if let Some(reload) = reload {
            self.metrics.count_tls_reload(if reload.is_done { "ok" } else { "failed" });
        }
        self.look(SystemTime::now());
        reload
    }

    /// Counts a handshake.
    pub(crate) fn count(&self, outcome: &'static str) {
        self.metrics.count_tls_handshake(outcome);
    }

    fn look(&self, now: SystemTime) {
        let automatic = self.automatic.as_ref().map(|automatic| automatic.slot.expires());
        let Some(expires) = automatic.unwrap_or_else(|| self.files.get().expires) else { return };
        self.metrics.tls_expires(expires);
        // Some CAs issue certificates for hours only: the renewal logs when it is late.
        let margin = if self.automatic.is_some() { Duration::ZERO } else { EXPIRY_NOTICE };
        let mut noticed = self.noticed.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due =
            |last: SystemTime| now.duration_since(last).is_ok_and(|t| t >= NOTICE_INTERVAL);
        if noticed.is_none_or(is_due)
            && let Some(notice) = notice(expires, now, margin)
        {
            tracing::warn!(expires = written(expires), "{notice}");
            *noticed = Some(now);
        }
    }
}

/// A warning about a certificate that expires at a time, from `margin` before it.
fn notice(expires: SystemTime, now: SystemTime, margin: Duration) -> Option<String> {
    match expires.duration_since(now) {
        Ok(left) if left > margin => None,
        Ok(left) => {
            let days = left.as_secs() / (24 * 3600);
            Some(format!("the TLS certificate expires in {days} days: replace its files"))
        }
        Err(_) => Some("the TLS certificate has expired: clients reject it".to_owned()),
    }
}

/// A time for the log.
pub(crate) fn written(time: SystemTime) -> String {
    DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// How files are parsed.
struct TlsRules {
    /// The cryptography provider.
    provider: Arc<CryptoProvider>,
    allows_tls12: bool,
    clients_must: bool,
    /// The certificate, if it does not come from files.
    slot: Option<Arc<CertificateSlot>>,
}

/// The enabled protocol versions, preferred first.
pub(crate) fn versions(allows_tls12: bool) -> Vec<&'static SupportedProtocolVersion> {
    match allows_tls12 {
        true => vec![&rustls::version::TLS13, &rustls::version::TLS12],
        false => vec![&rustls::version::TLS13],
    }
}

impl TlsRules {
    fn load(&self, texts: &[String], now: SystemTime) -> Result<LoadedTls, FileFault> {
        let (resolver, expires, client_ca) = match &self.slot {
            Some(slot) => (Arc::clone(slot) as Arc<dyn ResolvesServerCert>, None, 0),
            None => {
                let (resolver, expires) = self.pair(texts, now)?;
                (resolver, Some(expires), CLIENT_CA)
            }
        };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&versions(self.allows_tls12))
            .map_err(|error| FileFault { file: CERT, why: error.to_string() })?;
        let clients = texts.get(client_ca).map(|text| self.clients(text)).transpose();
        let clients = clients.map_err(of(client_ca))?;
        let has_client_cas = clients.is_some();
        let verifier = clients.unwrap_or_else(WebPkiClientVerifier::no_client_auth);
        let mut config = builder.with_client_cert_verifier(verifier).with_cert_resolver(resolver);
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        if has_client_cas {
            // Resumption is disabled: a resumed session would not verify the client certificate
            // again.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        let mut refusing = config.clone();
        refusing.alpn_protocols.retain(|name| name != b"h2");
        Ok(LoadedTls { config: Arc::new(config), refusing: Arc::new(refusing), expires })
    }

    /// The certificate and key of the files, and when the certificate expires.
    fn pair(
        &self,
        texts: &[String],
        now: SystemTime,
    ) -> Result<(Arc<dyn ResolvesServerCert>, SystemTime), FileFault> {
        let text = |file: usize| texts.get(file).map_or("", String::as_str);
        let chain = certificates(text(CERT)).map_err(of(CERT))?;
        let validity = chain.first().map_or(Err(NO_CERTIFICATE.to_owned()), issued::validity);
        let (_, expires) = validity.map_err(of(CERT))?;
        if expires <= now {
            let why = format!("the certificate expired at {}", written(expires));
            return Err(FileFault { file: CERT, why });
        }
        let key = private_key(text(KEY)).map_err(of(KEY))?;
        let certified = CertifiedKey::from_der(chain, key, &self.provider)
            .map_err(|error| FileFault { file: KEY, why: unfit(&error) })?;
        Ok((Arc::new(SingleCertAndKey::from(certified)), expires))
    }

    fn clients(&self, text: &str) -> Result<Arc<dyn ClientCertVerifier>, String> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(text)? {
            roots.add(certificate).map_err(|error| format!("not a CA certificate: {error}"))?;
        }
        let provider = Arc::clone(&self.provider);
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let builder = if self.clients_must { builder } else { builder.allow_unauthenticated() };
        builder.build().map_err(|error| error.to_string())
    }
}

fn of(file: usize) -> impl Fn(String) -> FileFault {
    move |why| FileFault { file, why }
}

const NO_CERTIFICATE: &str = "it has no certificate (-----BEGIN CERTIFICATE-----)";

pub(crate) fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match all {
        Ok(all) if all.is_empty() => Err(NO_CERTIFICATE.to_owned()),
        Ok(all) => Ok(all),
        Err(error) => Err(format!("it is not PEM: {error}")),
    }
}

fn private_key(text: &str) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| match error {
        pem::Error::NoItemsFound => {
            "it has no private key that is not encrypted (-----BEGIN PRIVATE KEY-----, RSA PRIVATE \
             KEY or EC PRIVATE KEY)"
                .to_owned()
        }
        // The cause may contain part of the key.
        _ => "it is not PEM".to_owned(),
    })
}

fn unfit(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InconsistentKeys(_) => {
            "it is not the key of the certificate in tls-cert".to_owned()
        }
        error => format!("the key cannot be used: {error}"),
    }
}

/// The identity in a verified client certificate; `None` if it has none.
///
/// - If there are several common names, none is used: the owner would be ambiguous.
/// - Names longer than 1024 bytes, and URIs after the first 16, are ignored.
pub(crate) fn holder(certificate: &CertificateDer<'_>) -> Option<ClientCertificate> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let is_fit = |name: &&str| !name.is_empty() && name.len() <= NAME_BYTES_MAX;
    let mut names = parsed.subject().iter_common_name();
    let common_name = match (names.next(), names.next()) {
        (Some(name), None) => name.as_str().ok().filter(is_fit).map(str::to_owned),
        _ => None,
    };
    let alternatives = parsed.subject_alternative_name().ok().flatten();
    let alternatives = alternatives.iter().flat_map(|extension| &extension.value.general_names);
    let uris = alternatives.filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri).filter(is_fit).map(str::to_owned),
        _ => None,
    });
    let certificate = ClientCertificate { common_name, uris: uris.take(URIS_MAX).collect() };
    certificate.identity().is_some().then_some(certificate)
}

#[cfg(test)]
mod tests;
