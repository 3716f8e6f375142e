//! [`CertificateJob`]: renews the TLS certificate by ACME.

use std::sync::Arc;
use std::time::Duration;

use jreg_net::acme::{Acme, LOOK_INTERVAL};

use super::Job;

#[derive(Clone, Debug)]
pub struct CertificateJob(pub Arc<Acme>);

impl Job for CertificateJob {
    fn interval(&self) -> Duration {
        LOOK_INTERVAL
    }

    async fn run(&self) {
        self.0.look().await;
    }
}
