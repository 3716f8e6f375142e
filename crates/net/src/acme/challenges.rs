//! [`AcmeChallenges`]: TLS-ALPN-01 challenge responses (RFC 8737).
//!
//! The expected response is read from the store during the handshake, so that an instance can serve
//! an order that another one has just started.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use jreg_registry::acme_order;
use jreg_storage::{Store, error_chain};
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ServerConfig, SupportedProtocolVersion};
use tokio::sync::Semaphore;

use super::records::OrderRecord;
use crate::tls::{self, CHALLENGE_PROTOCOL, ChallengeSource};

/// Maximum number of concurrent challenge handshakes; more wait. Any client can start one, and each
/// reads from the store.
const AT_ONCE_MAX: usize = 4;

pub struct AcmeChallenges {
    domains: Vec<String>,
    store: Arc<dyn Store>,
    provider: Arc<CryptoProvider>,
    versions: Vec<&'static SupportedProtocolVersion>,
    slots: Semaphore,
}

impl fmt::Debug for AcmeChallenges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenges").field("domains", &self.domains).finish_non_exhaustive()
    }
}

impl AcmeChallenges {
    /// For these names, whose order is in `store`.
    pub fn new(domains: Vec<String>, store: Arc<dyn Store>, allows_tls12: bool) -> Self {
        Self {
            domains,
            store,
            provider: Arc::new(rustls::crypto::ring::default_provider()),
            versions: tls::versions(allows_tls12),
            slots: Semaphore::new(AT_ONCE_MAX),
        }
    }

    /// The TLS configuration that validates a name; `None`: there is no order for it.
    async fn handshake(&self, name: &str) -> Option<Arc<ServerConfig>> {
        if !self.domains.iter().any(|domain| domain == name) {
            return None;
        }
        let _slot = self.slots.acquire().await.ok()?;
        let record = match self.store.get(&acme_order()).await {
            Ok(record) => record,
            Err(error) => {
                if !error.is_not_found() {
                    tracing::warn!(
                        error = error_chain(&error),
                        name,
                        "cannot answer the ACME challenge"
                    );
                }
                return None;
            }
        };
        let order = OrderRecord::of_bytes(&record.bytes)?;
        let proof = order.challenges.get(name)?;
        match self.prove(name, proof) {
            Ok(config) => Some(Arc::new(config)),
            Err(error) => {
                tracing::warn!(error, name, "cannot answer the ACME challenge");
                None
            }
        }
    }

    fn prove(&self, name: &str, proof: &[u8; 32]) -> Result<ServerConfig, String> {
        let key = KeyPair::generate().map_err(|error| error.to_string())?;
        let params = CertificateParams::new([name.to_owned()]);
        let mut params = params.map_err(|error| error.to_string())?;
        params.custom_extensions = vec![CustomExtension::new_acme_identifier(proof)];
        let certificate = params.self_signed(&key).map_err(|error| error.to_string())?;
        let chain = vec![CertificateDer::from(certificate)];
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let key = self.provider.key_provider.load_private_key(key);
        // The key match is not verified, because rustls rejects the critical extension that a
        // challenge certificate must have.
        let shown = CertifiedKey::new(chain, key.map_err(|error| error.to_string())?);
        let shown = SingleCertAndKey::from(shown);
        let builder = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&self.versions)
            .map_err(|error| error.to_string())?;
        // A CA has no client certificate, even if clients must.
        let mut config = builder.with_no_client_auth().with_cert_resolver(Arc::new(shown));
        config.alpn_protocols = vec![CHALLENGE_PROTOCOL.to_vec()];
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

#[async_trait]
impl ChallengeSource for AcmeChallenges {
    async fn config(&self, name: &str) -> Option<Arc<ServerConfig>> {
        self.handshake(name).await
    }
}
