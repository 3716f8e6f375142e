//! [`AcmeCa`]: the steps of an order at a CA (RFC 8555 section 7), with the account in the
//! store.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Error, Identifier, NewAccount,
    NewOrder, Order, OrderStatus, Problem,
};
use jreg_registry::acme_account;
use jreg_storage::{PutMode, Store};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};

use super::client::{AcmeHttp, client};
use super::records::AccountRecord;
use super::{AcmeError, AcmeOptions};

/// Polling interval of a pending order.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// Maximum length of a CA's error text in the log, in characters.
const REASON_CHARS_MAX: usize = 512;
/// Error type of an unknown account (RFC 8555 section 6.7).
const NO_ACCOUNT: &str = "urn:ietf:params:acme:error:accountDoesNotExist";

/// A certificate with its chain, and its key, as PEM.
pub(super) struct IssuedPair {
    pub(super) chain: String,
    pub(super) key: String,
}

/// The CA and its client.
pub(super) struct AcmeCa {
    directory: String,
    contact: Option<String>,
    store: Arc<dyn Store>,
    http: AcmeHttp,
}

impl fmt::Debug for AcmeCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcmeCa").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl From<Error> for AcmeError {
    fn from(error: Error) -> Self {
        match error {
            Error::Api(problem) => Self::Refused(reason(&problem)),
            error => Self::Asking(error),
        }
    }
}

impl AcmeCa {
    /// The configured CA.
    pub(super) async fn open(
        options: AcmeOptions,
        store: Arc<dyn Store>,
    ) -> Result<Self, AcmeError> {
        let AcmeOptions { directory, contact, ca_file, .. } = options;
        let http = AcmeHttp::new(client(ca_file).await?);
        Ok(Self { directory, contact, store, http })
    }

    /// Its directory URL.
    pub(super) fn directory(&self) -> &str {
        &self.directory
    }

    /// `Retry-After` of its last refusal.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        self.http.take_retry_after()
    }

    /// Starts an order; returns the expected challenge responses.
    pub(super) async fn begin(
        &self,
        domains: &[String],
    ) -> Result<(Order, BTreeMap<String, [u8; 32]>), AcmeError> {
        self.http.take_retry_after();
        let names: Vec<_> = domains.iter().cloned().map(Identifier::Dns).collect();
        let new = NewOrder::new(&names);
        let mut order = match self.account(false).await?.new_order(&new).await {
            // The CA does not know the account any more, as test CAs do.
            Err(Error::Api(problem)) if problem.r#type.as_deref() == Some(NO_ACCOUNT) => {
                self.account(true).await?.new_order(&new).await?
            }
            order => order?,
        };
        let count = order.state().authorizations.len();
        if count > domains.len() {
            let why = format!("{count} authorizations for {} names", domains.len());
            return Err(AcmeError::Unusable(why));
        }
        let mut challenges = BTreeMap::new();
        let mut all = order.authorizations();
        while let Some(authorization) = all.next().await {
            let mut authorization = authorization?;
            if authorization.status != AuthorizationStatus::Pending {
                continue;
            }
            let name = authorization.identifier().to_string();
            if !domains.contains(&name) {
                return Err(AcmeError::Unusable("an authorization for another name".to_owned()));
            }
            let Some(challenge) = authorization.challenge(ChallengeType::TlsAlpn01) else {
                return Err(AcmeError::Challenge(name));
            };
            let digest = challenge.key_authorization().digest();
            let digest = digest.as_ref().try_into();
            let digest = digest.map_err(|_| AcmeError::Unusable("no SHA-256".to_owned()))?;
            challenges.insert(name, digest);
        }
        Ok((order, challenges))
    }

    /// Requests validation of the names and downloads the certificate.
    pub(super) async fn finish(
        &self,
        mut order: Order,
        domains: &[String],
    ) -> Result<IssuedPair, AcmeError> {
        let mut all = order.authorizations();
        while let Some(authorization) = all.next().await {
            let mut authorization = authorization?;
            if authorization.status == AuthorizationStatus::Pending
                && let Some(mut challenge) = authorization.challenge(ChallengeType::TlsAlpn01)
            {
                challenge.set_ready().await?;
            }
        }
        wait(&mut order, OrderStatus::Ready).await?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(domains)?;
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&key)?;
        order.finalize_csr(request.der()).await?;
        wait(&mut order, OrderStatus::Valid).await?;
        let chain = order.certificate().await?;
        let chain = chain.ok_or_else(|| AcmeError::Unusable("no certificate".to_owned()))?;
        Ok(IssuedPair { chain, key: key.serialize_pem() })
    }

    /// The account in the store, or a new one.
    async fn account(&self, must_be_new: bool) -> Result<Account, AcmeError> {
        let key = acme_account();
        let (record, mode) = match self.store.get(&key).await {
            Ok(record) => (AccountRecord::of_bytes(&record.bytes), PutMode::Match(record.etag)),
            Err(error) if error.is_not_found() => (None, PutMode::Create),
            Err(error) => return Err(error.into()),
        };
        let record = record.filter(|known| known.directory == self.directory && !must_be_new);
        let credentials = record.as_ref().and_then(|known| {
            serde_json::from_value::<AccountCredentials>(known.credentials.clone()).ok()
        });
        let http = Box::new(self.http.clone());
        let builder = Account::builder_with_http(http);
        let Some((known, credentials)) = record.zip(credentials) else {
            return self.open_account(builder, mode).await;
        };
        let account = builder.from_credentials(credentials).await?;
        if known.contact != self.contact {
            let contact = self.contacts();
            let contact: Vec<_> = contact.iter().map(String::as_str).collect();
            account.update_contacts(&contact).await?;
            self.keep(&AccountRecord { contact: self.contact.clone(), ..known }, mode).await?;
        }
        Ok(account)
    }

    async fn open_account(
        &self,
        builder: instant_acme::AccountBuilder,
        mode: PutMode,
    ) -> Result<Account, AcmeError> {
        let contact = self.contacts();
        let contact: Vec<_> = contact.iter().map(String::as_str).collect();
        let new = NewAccount {
            contact: &contact,
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let (account, credentials) = builder.create(&new, self.directory.clone(), None).await?;
        let (directory, contact) = (self.directory.clone(), self.contact.clone());
        let credentials = serde_json::to_value(&credentials).map_err(Error::Json)?;
        self.keep(&AccountRecord { directory, contact, credentials }, mode).await?;
        tracing::info!(directory = self.directory, "created an ACME account");
        Ok(account)
    }

    async fn keep(&self, record: &AccountRecord, mode: PutMode) -> Result<(), AcmeError> {
        match self.store.put(&acme_account(), record.to_bytes(), mode).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_conflict() => Err(AcmeError::Superseded),
            Err(error) => Err(error.into()),
        }
    }

    fn contacts(&self) -> Vec<String> {
        self.contact.iter().map(|address| format!("mailto:{address}")).collect()
    }
}

/// Waits until an order has this state. The caller has a timeout.
async fn wait(order: &mut Order, wanted: OrderStatus) -> Result<(), AcmeError> {
    loop {
        let state = order.refresh().await?;
        if let Some(problem) = &state.error {
            return Err(AcmeError::Refused(reason(problem)));
        }
        match state.status {
            status if status == wanted => return Ok(()),
            OrderStatus::Invalid => return Err(refusal(order).await),
            OrderStatus::Pending | OrderStatus::Ready | OrderStatus::Processing => {}
            OrderStatus::Valid => {
                return Err(AcmeError::Unusable("the order is done already".to_owned()));
            }
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Why an order failed; the reason is in its authorizations.
async fn refusal(order: &mut Order) -> AcmeError {
    let mut all = order.authorizations();
    while let Some(Ok(mut authorization)) = all.next().await {
        if let Ok(state) = authorization.refresh().await
            && let Some(problem) = state.challenges.iter().find_map(|one| one.error.as_ref())
        {
            let name = state.identifier();
            return AcmeError::Refused(format!("{name}: {}", reason(problem)));
        }
    }
    AcmeError::Refused("it does not say why".to_owned())
}

/// A problem document as text for the log.
fn reason(problem: &Problem) -> String {
    let kind = problem.r#type.as_deref().unwrap_or_default();
    let detail = problem.detail.as_deref().unwrap_or("it does not say why");
    let mut text = if kind.is_empty() { detail.to_owned() } else { format!("{detail} ({kind})") };
    for part in &problem.subproblems {
        text.push_str(&format!("; {part}"));
    }
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(printable).take(REASON_CHARS_MAX).collect()
}
