//! [`Acme`]: obtains and renews the TLS certificate from an ACME CA (RFC 8555).
//!
//! The state is in the store, shared by all instances: the account, the certificate with its key,
//! and the current order. The first instance that finds a renewal due claims the order; the others
//! keep the current certificate and load the new one later. The CA validates names by TLS-ALPN-01
//! (RFC 8737) on the ordinary port, and any instance can serve the challenge.
//!
//! Failures are retried with exponential back-off, by one instance for all: CAs limit failures. The
//! current certificate stays in use meanwhile, even when it has expired.

mod ca;
mod challenges;
mod client;
mod records;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jreg_registry::{acme_certificate, acme_order};
use jreg_storage::{Clock, ETag, PutMode, Store, error_chain};
use jreg_telemetry::metrics::Metrics;
use rustls::crypto::CryptoProvider;
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::tls::{IssuedCertificate, Tls, written};

use ca::{AcmeCa, IssuedPair};
pub use challenges::AcmeChallenges;
pub use client::ClientError;
use records::{CertificateRecord, OrderRecord};

/// Interval at which an instance reads the certificate from the store.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(15);
/// Timeout of an order.
const ORDER_TIME_MAX: Duration = Duration::from_secs(180);
/// Validity of a claim on an order: after a crash, other instances wait this long.
const CLAIM: Duration = Duration::from_secs(240);
/// Delay after a failure; each further failure doubles it. It allows at most five attempts in the
/// first hour, the limit of Let's Encrypt.
pub const BACKOFF_MIN: Duration = Duration::from_secs(120);
/// Maximum back-off.
pub const BACKOFF_MAX: Duration = Duration::from_secs(6 * 3600);
/// Maximum delay by `Retry-After` of the CA.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);
/// Minimum time between two certificates: instances with outdated state or different settings must
/// not order again.
pub const PAUSE: Duration = Duration::from_secs(5 * 60);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum AcmeError {
    /// The ACME client cannot be set up.
    #[error("cannot set up ACME (acme-domains)")]
    Client(#[from] ClientError),
    #[error(transparent)]
    Store(#[from] jreg_storage::Error),
    /// The CA cannot be reached, or its response is invalid.
    #[error("cannot reach the ACME server")]
    Asking(#[source] instant_acme::Error),
    /// The CA refuses.
    #[error("the ACME server refused the request: {0}")]
    Refused(String),
    #[error("the order was not completed within {} s", ORDER_TIME_MAX.as_secs())]
    Timeout,
    /// The CA does not offer TLS-ALPN-01.
    #[error("the ACME server does not offer tls-alpn-01 for {0}")]
    Challenge(String),
    /// The CA's response is inconsistent.
    #[error("invalid response of the ACME server: {0}")]
    Unusable(String),
    #[error("cannot generate a key")]
    Key(#[from] rcgen::Error),
    /// Another instance has claimed the order.
    #[error("another instance has taken over the order")]
    Superseded,
}

#[derive(Clone, Debug)]
pub struct AcmeOptions {
    /// Host names of the certificate.
    pub domains: Vec<String>,
    /// Directory URL of the CA.
    pub directory: String,
    /// E-mail address for notices of the CA.
    pub contact: Option<String>,
    /// PEM bundle of CAs that verify the ACME server's own certificate.
    pub ca_file: Option<PathBuf>,
}

/// Obtains and renews the certificate.
pub struct Acme {
    ca: AcmeCa,
    domains: Vec<String>,
    tls: Arc<Tls>,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    provider: CryptoProvider,
    /// Name of this instance in claims.
    holder: String,
    seen: Mutex<SeenCertificate>,
}

/// The certificate as last read from the store.
#[derive(Debug, Default)]
struct SeenCertificate {
    etag: Option<ETag>,
    known: Option<KnownCertificate>,
}

#[derive(Debug)]
struct KnownCertificate {
    directory: String,
    issued: IssuedCertificate,
}

/// An order claimed by this instance.
#[derive(Debug)]
struct OrderClaim {
    etag: ETag,
    record: OrderRecord,
}

impl fmt::Debug for Acme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acme").field("domains", &self.domains).finish_non_exhaustive()
    }
}

impl Acme {
    /// Starts ACME for these names. A certificate in the store is used at once.
    ///
    /// # Errors
    ///
    /// The ACME client cannot be set up. A store failure is not an error: the read is retried.
    pub async fn open(
        options: AcmeOptions,
        tls: &Arc<Tls>,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, AcmeError> {
        let acme = Self {
            domains: options.domains.clone(),
            ca: AcmeCa::open(options, Arc::clone(&store)).await?,
            tls: Arc::clone(tls),
            store,
            clock,
            metrics,
            provider: rustls::crypto::ring::default_provider(),
            holder: Uuid::new_v4().simple().to_string(),
            seen: Mutex::default(),
        };
        let mut seen = acme.seen.lock().await;
        if let Err(error) = acme.read(&mut seen).await {
            tracing::warn!(
                error = error_chain(&error),
                "cannot read the certificate from the store"
            );
        }
        drop(seen);
        Ok(acme)
    }

    /// Loads the certificate from the store, and orders the next one if it is due and not claimed.
    pub async fn look(&self) {
        // Concurrent callers wait for the same order.
        let mut seen = self.seen.lock().await;
        if let Err(error) = Box::pin(self.attend(&mut seen)).await {
            tracing::warn!(
                error = error_chain(&error),
                "cannot look up or renew the certificate; retrying later"
            );
        }
    }

    async fn attend(&self, seen: &mut SeenCertificate) -> Result<(), AcmeError> {
        self.read(seen).await?;
        let now = self.clock.now();
        let Some(reason) = self.due(seen, now) else { return Ok(()) };
        let Some(mut claim) = self.claim(now).await? else { return Ok(()) };
        let directory = self.ca.directory();
        let domains = self.domains.join(" ");
        tracing::info!(domains, directory, reason, "ordering a certificate");
        let ordering = Box::pin(self.order(&mut claim));
        let result = tokio::time::timeout(ORDER_TIME_MAX, ordering).await;
        let result = match result.unwrap_or(Err(AcmeError::Timeout)) {
            Ok(pair) => self.install(pair, seen).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => self.succeeded(claim).await,
            // The callee counts the result.
            Err(AcmeError::Superseded) => {
                tracing::info!("another instance is ordering a certificate")
            }
            Err(error) => self.failed(claim, &error).await,
        }
        Ok(())
    }

    /// Loads the certificate, and uses it if it has changed.
    async fn read(&self, seen: &mut SeenCertificate) -> Result<(), AcmeError> {
        let record = match self.store.get(&acme_certificate()).await {
            Ok(record) => record,
            Err(error) if error.is_not_found() => {
                *seen = SeenCertificate::default();
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        if seen.etag.as_ref() == Some(&record.etag) {
            return Ok(());
        }
        seen.etag = Some(record.etag);
        seen.known = match self.known(&record.bytes) {
            Ok(known) => {
                self.tls.show(known.issued.clone());
                let expires = written(known.issued.expires);
                tracing::info!(
                    expires,
                    names = known.issued.names.join(" "),
                    "loaded a certificate from the store"
                );
                Some(known)
            }
            Err(error) => {
                self.metrics.count_tls_reload("failed");
                tracing::error!(error, "the stored certificate is invalid");
                None
            }
        };
        Ok(())
    }

    fn known(&self, bytes: &[u8]) -> Result<KnownCertificate, String> {
        let record = CertificateRecord::of_bytes(bytes)?;
        let issued = IssuedCertificate::read(&record.chain, &record.key, &self.provider)?;
        Ok(KnownCertificate { directory: record.directory, issued })
    }

    /// Why a new certificate is needed; `None` if it is not.
    fn due(&self, seen: &SeenCertificate, now: SystemTime) -> Option<&'static str> {
        let Some(KnownCertificate { directory, issued }) = &seen.known else {
            return Some("there is none");
        };
        if directory != self.ca.directory() {
            return Some("the current certificate is from another CA");
        }
        if !self.domains.iter().all(|name| issued.names.contains(name)) {
            return Some("the one that there is lacks a name");
        }
        (now >= renewal(issued)).then_some("two thirds of the life of the last one are over")
    }

    /// Claims the order, unless another instance holds it or it is too early.
    async fn claim(&self, now: SystemTime) -> Result<Option<OrderClaim>, AcmeError> {
        let key = acme_order();
        let (before, mode) = match self.store.get(&key).await {
            // An unreadable record is replaced.
            Ok(record) => (OrderRecord::of_bytes(&record.bytes), PutMode::Match(record.etag)),
            Err(error) if error.is_not_found() => (None, PutMode::Create),
            Err(error) => return Err(error.into()),
        };
        let before = before.unwrap_or_default();
        let directory = self.ca.directory();
        let is_same = before.directory == directory && before.domains == self.domains;
        let is_others = before.holder.as_ref().is_some_and(|holder| *holder != self.holder);
        // A time further ahead than possible was written with a wrong clock.
        let is_ahead = |at: u64, max: Duration| {
            let (now, max) = (seconds(now), max.as_secs());
            now < at && at <= now.saturating_add(max)
        };
        if (is_others && is_ahead(before.until, CLAIM))
            || is_ahead(before.done.saturating_add(PAUSE.as_secs()), PAUSE)
            || (is_same && is_ahead(before.not_before, RETRY_AFTER_MAX))
        {
            tracing::debug!(holder = ?before.holder, "certificate order postponed");
            return Ok(None);
        }
        let record = OrderRecord {
            directory: directory.to_owned(),
            domains: self.domains.clone(),
            holder: Some(self.holder.clone()),
            until: seconds(now + CLAIM),
            failures: if is_same { before.failures } else { 0 },
            done: before.done,
            ..OrderRecord::default()
        };
        match self.store.put(&key, record.to_bytes(), mode).await {
            Ok(written) => Ok(Some(OrderClaim { etag: written.etag, record })),
            Err(error) if error.is_conflict() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Records the result of the order, if it is still claimed by this instance.
    async fn keep(&self, claim: &mut OrderClaim) -> Result<(), AcmeError> {
        let mode = PutMode::Match(claim.etag.clone());
        match self.store.put(&acme_order(), claim.record.to_bytes(), mode).await {
            Ok(written) => {
                claim.etag = written.etag;
                Ok(())
            }
            Err(error) if error.is_conflict() => Err(AcmeError::Superseded),
            Err(error) => Err(error.into()),
        }
    }

    async fn order(&self, claim: &mut OrderClaim) -> Result<IssuedPair, AcmeError> {
        let (order, challenges) = self.ca.begin(&self.domains).await?;
        if !challenges.is_empty() {
            claim.record.challenges = challenges;
            self.keep(claim).await?;
        }
        self.ca.finish(order, &self.domains).await
    }

    /// Stores the issued certificate and uses it.
    async fn install(&self, pair: IssuedPair, seen: &mut SeenCertificate) -> Result<(), AcmeError> {
        let IssuedPair { chain, key } = pair;
        let issued =
            IssuedCertificate::read(&chain, &key, &self.provider).map_err(AcmeError::Unusable)?;
        if issued.expires <= self.clock.now() {
            let why = format!("the certificate expired at {}", written(issued.expires));
            return Err(AcmeError::Unusable(why));
        }
        if let Some(name) = self.domains.iter().find(|name| !issued.names.contains(name)) {
            return Err(AcmeError::Unusable(format!("the certificate is not for {name}")));
        }
        let directory = self.ca.directory().to_owned();
        let record = CertificateRecord { directory: directory.clone(), chain, key };
        let mode = seen.etag.clone().map_or(PutMode::Create, PutMode::Match);
        match self.store.put(&acme_certificate(), record.to_bytes(), mode).await {
            Ok(written) => seen.etag = Some(written.etag),
            Err(error) if error.is_conflict() => return Err(AcmeError::Superseded),
            Err(error) => return Err(error.into()),
        }
        self.tls.show(issued.clone());
        tracing::info!(
            expires = written(issued.expires),
            renewal = written(renewal(&issued)),
            names = issued.names.join(" "),
            "the CA has issued a certificate"
        );
        seen.known = Some(KnownCertificate { directory, issued });
        Ok(())
    }

    async fn succeeded(&self, mut claim: OrderClaim) {
        self.metrics.count_acme_order("ok");
        let done = seconds(self.clock.now());
        let OrderRecord { directory, domains, .. } = claim.record;
        claim.record = OrderRecord { directory, domains, done, ..OrderRecord::default() };
        if let Err(error) = self.keep(&mut claim).await {
            tracing::debug!(error = error_chain(&error), "cannot release the order; it expires");
        }
    }

    async fn failed(&self, mut claim: OrderClaim, error: &AcmeError) {
        self.metrics.count_acme_order("failed");
        let OrderRecord { directory, domains, failures, done, .. } = claim.record;
        let asked = self.ca.retry_after().unwrap_or_default().min(RETRY_AFTER_MAX);
        let wait = backoff(failures).max(asked);
        let (failures, next) = (failures.saturating_add(1), self.clock.now() + wait);
        tracing::warn!(
            error = error_chain(error),
            failures,
            next = written(next),
            domains = self.domains.join(" "),
            "certificate renewal failed; keeping the current certificate"
        );
        claim.record = OrderRecord {
            directory,
            domains,
            failures,
            reason: Some(error_chain(error)),
            not_before: seconds(next),
            done,
            ..OrderRecord::default()
        };
        if let Err(error) = self.keep(&mut claim).await {
            tracing::debug!(error = error_chain(&error), "cannot release the order; it expires");
        }
    }
}

/// When a certificate is due for renewal.
fn renewal(issued: &IssuedCertificate) -> SystemTime {
    let life = issued.expires.duration_since(issued.begins).unwrap_or_default();
    issued.expires - life / 3
}

/// The back-off after a number of failures.
fn backoff(failures: u32) -> Duration {
    BACKOFF_MIN.saturating_mul(1 << failures.min(16)).min(BACKOFF_MAX)
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests;
