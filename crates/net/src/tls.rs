//! TLS: the server's certificate and key, who vouches for clients, and what their certificates say.
//!
//! The files are read when jreg starts, where anything wrong with them ends it, and again when they
//! change. What they say is taken as a whole: a certificate without its key, or one that is over,
//! never takes the place of what worked. Connections that are open keep what they began with.
//!
//! With ACME the certificate and its key are in no file: whoever orders them hands them over, and
//! there may be none yet. What proves a name to an authority comes from a [`ChallengeSource`].

mod issued;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use chrono::{DateTime, SecondsFormat, Utc};
use jreg_auth::ClientCertificate;
use jreg_reload::{FileError, FileFault, ReloadOutcome, ReloadedFiles};
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

/// The largest file of certificates or of a key, in bytes.
pub const FILE_BYTES_MAX: usize = 1024 * 1024;
/// How long before its end a certificate is worth a warning.
pub const EXPIRY_NOTICE: Duration = Duration::from_secs(14 * 24 * 3600);
/// How often that is repeated.
const NOTICE_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// How often it is said that clients are turned away for want of a certificate.
const LACK_INTERVAL: Duration = Duration::from_secs(60);
/// The longest name of a client certificate that counts, in bytes.
const NAME_BYTES_MAX: usize = 1024;
/// The most URIs of a client certificate that count.
const URIS_MAX: usize = 16;

use issued::CertificateSlot;
pub(crate) use issued::IssuedCertificate;

/// What is spoken over TLS, the better first (RFC 7301).
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// What a client speaks that looks whether a name is ours (RFC 8737).
pub(crate) const CHALLENGE_PROTOCOL: &[u8] = b"acme-tls/1";

/// Where the files stand among those that are watched.
const CERT: usize = 0;
const KEY: usize = 1;
const CLIENT_CA: usize = 2;

/// Why TLS cannot be spoken.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up TLS")]
pub struct TlsError(#[from] FileError);

/// What an operator can set about TLS.
#[derive(Clone, Debug, Default)]
pub struct TlsOptions {
    /// PEM bundle of the CAs that issue client certificates.
    pub client_ca: Option<PathBuf>,
    /// Whether a connection needs a client certificate.
    pub client_cert_required: bool,
    /// Whether TLS 1.2 is spoken, beside 1.3.
    pub allows_tls12: bool,
}

/// Where the certificate and its key come from.
#[derive(Clone, Debug)]
pub enum CertificateSource {
    /// From files.
    Files {
        /// The certificate, with those above it (PEM).
        cert: PathBuf,
        /// Its key (PEM).
        key: PathBuf,
    },
    /// From an authority, which looks whether names are ours.
    Acme(Arc<dyn ChallengeSource>),
}

/// What proves to an authority that names are ours.
#[async_trait]
pub trait ChallengeSource: fmt::Debug + Send + Sync + 'static {
    /// The handshake that proves a name; `None`: no order asks for that.
    async fn config(&self, name: &str) -> Option<Arc<ServerConfig>>;
}

/// The name that a client wants to see proved, if that is what it speaks and nothing else.
pub(crate) fn challenged_name(hello: &ClientHello<'_>) -> Option<String> {
    let mut protocols = hello.alpn()?;
    let is_asked = protocols.next() == Some(CHALLENGE_PROTOCOL) && protocols.next().is_none();
    is_asked.then(|| hello.server_name().map(str::to_ascii_lowercase)).flatten()
}

/// What handshakes are made with, kept up to date.
pub struct Tls {
    files: ReloadedFiles<LoadedTls>,
    automatic: Option<AcmeState>,
    metrics: Arc<Metrics>,
    /// When it was last said that the certificate is about to expire.
    noticed: Mutex<Option<SystemTime>>,
}

/// What the files say.
struct LoadedTls {
    config: Arc<ServerConfig>,
    /// The same for clients that are only told to try again: what they are told is HTTP/1.1.
    refusing: Arc<ServerConfig>,
    /// When the certificate is over, if it is among the files.
    expires: Option<SystemTime>,
}

/// What stands in the place of the files of a certificate and its key.
#[derive(Debug)]
struct AcmeState {
    slot: Arc<CertificateSlot>,
    challenges: Arc<dyn ChallengeSource>,
    /// When it was last said that there is no certificate.
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
    /// Reads the files. Blocks as a disk does.
    ///
    /// # Errors
    ///
    /// A file cannot be read, or does not say what it should.
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

    /// What is shown to an authority that looks whether names are ours, if one issues the certificate.
    pub(crate) fn challenges(&self) -> Option<&dyn ChallengeSource> {
        self.automatic.as_ref().map(|automatic| &*automatic.challenges)
    }

    /// Whether no certificate is there yet: then there is no handshake.
    pub fn lacks_certificate(&self) -> bool {
        self.automatic.as_ref().is_some_and(|automatic| automatic.slot.expires().is_none())
    }

    /// Shows a certificate that an authority has issued, from the next connection on.
    pub(crate) fn show(&self, issued: IssuedCertificate) {
        if let Some(automatic) = &self.automatic {
            automatic.slot.set(issued);
            self.metrics.count_tls_reload("ok");
            self.look(SystemTime::now());
        }
    }

    /// Says that a client was turned away because there is no certificate, but not each time.
    pub(crate) fn notice_lack(&self, now: SystemTime) {
        let Some(automatic) = &self.automatic else { return };
        let mut noticed = automatic.noticed.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = |last: SystemTime| now.duration_since(last).is_ok_and(|t| t >= LACK_INTERVAL);
        if noticed.is_none_or(is_due) {
            *noticed = Some(now);
            tracing::warn!("TLS connections are refused: the CA has not issued a certificate yet");
        }
    }

    /// What makes connections of sockets.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.files.get().config))
    }

    /// The same for connections over which a refusal in HTTP/1.1 is sent.
    pub(crate) fn refusing_acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.files.get().refusing))
    }

    /// Looks whether the files have changed, and how long the certificate is good. Blocks as a disk
    /// does.
    pub fn reload(&self) {
        match self.files.reload() {
            ReloadOutcome::Unchanged => {}
            ReloadOutcome::Done => self.metrics.count_tls_reload("ok"),
            ReloadOutcome::Failed => self.metrics.count_tls_reload("failed"),
        }
        self.look(SystemTime::now());
    }

    /// Counts a handshake.
    pub(crate) fn count(&self, outcome: &'static str) {
        self.metrics.count_tls_handshake(outcome);
    }

    fn look(&self, now: SystemTime) {
        let automatic = self.automatic.as_ref().map(|automatic| automatic.slot.expires());
        let Some(expires) = automatic.unwrap_or_else(|| self.files.get().expires) else { return };
        self.metrics.tls_expires(expires);
        // Some authorities issue for hours: what is not renewed in time is told by who renews it.
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

/// What to say of a certificate that expires at a time, if anything: from `margin` before it.
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

/// A time as it stands in the log.
pub(crate) fn written(time: SystemTime) -> String {
    DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// How the files are read.
struct TlsRules {
    /// What does the cryptography.
    provider: Arc<CryptoProvider>,
    allows_tls12: bool,
    clients_must: bool,
    /// Where the certificate is, if not in the files.
    slot: Option<Arc<CertificateSlot>>,
}

/// The versions that are spoken, the better first.
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
        let asks_clients = clients.is_some();
        let verifier = clients.unwrap_or_else(WebPkiClientVerifier::no_client_auth);
        let mut config = builder.with_client_cert_verifier(verifier).with_cert_resolver(resolver);
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        if asks_clients {
            // A session that goes on would not look at the client's certificate again.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        let mut refusing = config.clone();
        refusing.alpn_protocols.retain(|name| name != b"h2");
        Ok(LoadedTls { config: Arc::new(config), refusing: Arc::new(refusing), expires })
    }

    /// The certificate and the key of the files, and when the former is over.
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
        // What is wrong in detail may hold part of the key.
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

/// What a client's certificate, which was verified, says of its holder; `None` if it names nobody.
///
/// - Of several common names none counts: it would not be clear whose it is.
/// - What is longer than 1024 bytes, or more than 16 URIs, is not looked at.
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
