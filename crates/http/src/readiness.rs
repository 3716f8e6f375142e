//! [`Readiness`]: whether the server can serve requests.

use std::time::Duration;

use jreg_access::RegistryGate;
use jreg_net::tls::Tls;
use jreg_storage::error_chain;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How long a result is reused.
const READINESS_AGE_MAX: Duration = Duration::from_secs(1);
/// How long the store may take to respond.
const READINESS_WAIT_MAX: Duration = Duration::from_secs(5);

/// The last result, so that many probes cost one store request.
#[derive(Debug, Default)]
pub struct Readiness(Mutex<Option<ReadinessVerdict>>);

#[derive(Clone, Debug)]
struct ReadinessVerdict {
    at: Instant,
    result: Result<(), String>,
}

impl Readiness {
    /// # Errors
    ///
    /// What is missing, for the log.
    pub(crate) async fn check(&self, gate: &RegistryGate, tls: Option<&Tls>) -> Result<(), String> {
        let mut last = self.0.lock().await;
        match &*last {
            Some(verdict) if verdict.at.elapsed() < READINESS_AGE_MAX => verdict.result.clone(),
            Some(_) | None => {
                let result = probe(gate, tls).await;
                *last = Some(ReadinessVerdict { at: Instant::now(), result: result.clone() });
                result
            }
        }
    }
}

async fn probe(gate: &RegistryGate, tls: Option<&Tls>) -> Result<(), String> {
    if tls.is_some_and(Tls::lacks_certificate) {
        return Err("there is no TLS certificate yet".to_owned());
    }
    match tokio::time::timeout(READINESS_WAIT_MAX, gate.ready()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error_chain(&error)),
        Err(_) => Err("the store does not respond".to_owned()),
    }
}
