//! [`TraceExporter`]: sends traces to a collector, over OTLP/HTTP.

use std::sync::Arc;
use std::time::Duration;

use jreg_telemetry::metrics::Metrics;
use jreg_telemetry::trace::{CONTENT_TYPE, FinishedTrace, encode};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// Maximum number of requests in one message, and how long the first of them waits.
const BATCH_MAX: usize = 256;
const BATCH_WAIT_MAX: Duration = Duration::from_secs(2);
/// Timeout of a message.
const SEND_WAIT_MAX: Duration = Duration::from_secs(5);

/// Sends traces.
#[derive(Debug)]
pub struct TraceExporter {
    http: reqwest::Client,
    url: String,
    queue: mpsc::Receiver<FinishedTrace>,
    metrics: Arc<Metrics>,
    instance: String,
    has_failed: bool,
}

impl TraceExporter {
    /// Sends what comes out of `queue` to a collector at this base URL.
    ///
    /// # Errors
    ///
    /// There are no root certificates.
    pub fn new(
        collector: &str,
        instance: String,
        queue: mpsc::Receiver<FinishedTrace>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, reqwest::Error> {
        // Fails if a provider is already installed; then that one is used.
        rustls::crypto::ring::default_provider().install_default().ok();
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(SEND_WAIT_MAX)
            .no_proxy()
            .build()?;
        let url = format!("{}/v1/traces", collector.trim_end_matches('/'));
        Ok(Self { http, url, queue, metrics, instance, has_failed: false })
    }

    /// Sends until `ending`, then what is left.
    pub async fn run(mut self, ending: CancellationToken) {
        while let Some(first) = ending.run_until_cancelled(self.queue.recv()).await.flatten() {
            let mut batch = vec![first];
            let until = Instant::now() + BATCH_WAIT_MAX;
            let filling = async {
                while batch.len() < BATCH_MAX
                    && let Ok(Some(next)) = timeout_at(until, self.queue.recv()).await
                {
                    batch.push(next);
                }
            };
            ending.run_until_cancelled(filling).await;
            self.send(&batch).await;
        }
        let mut rest = Vec::new();
        while let Ok(next) = self.queue.try_recv() {
            rest.push(next);
        }
        for batch in rest.chunks(BATCH_MAX) {
            self.send(batch).await;
        }
    }

    async fn send(&mut self, batch: &[FinishedTrace]) {
        let body = encode(batch, &self.instance);
        let request = self.http.post(&self.url).header("content-type", CONTENT_TYPE).body(body);
        let sent = request.send().await.and_then(reqwest::Response::error_for_status);
        let outcome = if sent.is_ok() { "sent" } else { "failed" };
        self.metrics.count_traces(outcome, batch.len() as u64);
        match sent {
            Ok(_) => self.has_failed = false,
            // Once until it works again: there may be many.
            Err(error) if !self.has_failed => {
                self.has_failed = true;
                let error = jreg_storage::error_chain(&error.without_url());
                tracing::warn!(collector = self.url, error, "traces cannot be sent");
            }
            Err(_) => {}
        }
    }
}
