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

/// For how long probes of the store must contradict the last verdict until it changes: a store that fails now and
/// then must not take an instance out of its load balancer.
const SETTLING_TIME: Duration = Duration::from_secs(3);

/// The last result, so that many probes cost one store request.
#[derive(Debug, Default)]
pub struct Readiness(Mutex<ReadinessState>);

#[derive(Debug, Default)]
struct ReadinessState {
    probed_at: Option<Instant>,
    verdict: ReadinessVerdict,
}

impl Readiness {
    /// # Errors
    ///
    /// What is missing, for the log.
    pub(crate) async fn check(&self, gate: &RegistryGate, tls: Option<&Tls>) -> Result<(), String> {
        if tls.is_some_and(Tls::lacks_certificate) {
            return Err("there is no TLS certificate yet".to_owned());
        }
        let mut state = self.0.lock().await;
        if state.probed_at.is_none_or(|at| at.elapsed() >= READINESS_AGE_MAX) {
            let began = Instant::now();
            let result = probe(gate).await;
            let ended = Instant::now();
            state.probed_at = Some(ended);
            state.verdict.take(result, began, ended);
        }
        state.verdict.current()
    }
}

/// Whether the store can be read, by probes of some time.
#[derive(Debug, Default)]
struct ReadinessVerdict {
    /// `None` before the first probe.
    result: Option<Result<(), String>>,
    /// When the first of the probes began that contradict it.
    contradicted_since: Option<Instant>,
}

impl ReadinessVerdict {
    fn current(&self) -> Result<(), String> {
        self.result.clone().unwrap_or(Ok(()))
    }

    /// Takes the result of a probe. The first decides; a probe that took as long as probes must agree does, too.
    fn take(&mut self, result: Result<(), String>, began: Instant, ended: Instant) {
        let agrees = self.result.as_ref().is_none_or(|last| last.is_ok() == result.is_ok());
        let since = *self.contradicted_since.get_or_insert(began);
        if !agrees && ended.saturating_duration_since(since) < SETTLING_TIME {
            if let Err(error) = &result {
                tracing::debug!(error = error.as_str(), "a probe of the store failed");
            }
            return;
        }
        match &result {
            _ if agrees => {}
            Ok(()) => tracing::info!("ready: the store responds to reads"),
            Err(error) => {
                tracing::warn!(error = error.as_str(), "not ready: the store cannot be read")
            }
        }
        *self = Self { result: Some(result), contradicted_since: None };
    }
}

async fn probe(gate: &RegistryGate) -> Result<(), String> {
    match tokio::time::timeout(READINESS_WAIT_MAX, gate.ready()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error_chain(&error)),
        Err(_) => Err("the store does not respond".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The verdicts after probes of a second each: `+` succeeds, `-` fails.
    async fn verdicts(probes: &str) -> String {
        let mut verdict = ReadinessVerdict::default();
        let mut shown = String::new();
        for probe in probes.chars() {
            let began = Instant::now();
            tokio::time::advance(READINESS_AGE_MAX).await;
            let result = if probe == '+' { Ok(()) } else { Err("unavailable".to_owned()) };
            verdict.take(result, began, Instant::now());
            shown.push(if verdict.current().is_ok() { '+' } else { '-' });
        }
        shown
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_fails_now_and_then_does_not_change_the_verdict() {
        for (probes, expected) in [
            ("+--+--+-+--+", "++++++++++++"),
            ("+-----++-++-+++-", "+++-----------++"),
            ("-", "-"),
            ("-++-+++", "------+"),
        ] {
            assert_eq!(verdicts(probes).await, expected, "{probes}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_probe_that_the_store_did_not_respond_to_is_enough() {
        let mut verdict = ReadinessVerdict::default();
        verdict.take(Ok(()), Instant::now(), Instant::now());
        let began = Instant::now();
        tokio::time::advance(READINESS_WAIT_MAX).await;
        verdict.take(Err("the store does not respond".to_owned()), began, Instant::now());
        assert!(verdict.current().is_err());
    }
}
