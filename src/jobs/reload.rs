//! [`ReloadJob`]: reloads the htpasswd, policy, TLS and lifecycle files when they change, and
//! refreshes the token signing keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use jreg_access::{AccessGuard, RELOAD_INTERVAL};
use jreg_net::tls::Tls;

use super::Job;
use crate::lifecycle::LifecycleFile;

/// Number of file checks per refresh of the keys: about one refresh per minute.
const LOOKS_PER_KEYS: u32 = 30;

#[derive(Debug)]
pub struct ReloadJob {
    guard: Option<Arc<AccessGuard>>,
    tls: Option<Arc<Tls>>,
    lifecycle: Option<Arc<LifecycleFile>>,
    looks: AtomicU32,
}

impl ReloadJob {
    /// `None` if there is nothing to reload.
    pub fn new(
        guard: Option<Arc<AccessGuard>>,
        tls: Option<Arc<Tls>>,
        lifecycle: Option<Arc<LifecycleFile>>,
    ) -> Option<Self> {
        let looks = AtomicU32::new(0);
        let any = guard.is_some() || tls.is_some() || lifecycle.is_some();
        any.then_some(Self { guard, tls, lifecycle, looks })
    }
}

impl Job for ReloadJob {
    fn interval(&self) -> Duration {
        RELOAD_INTERVAL
    }

    async fn run(&self) {
        let (guard, tls) = (self.guard.clone(), self.tls.clone());
        let lifecycle = self.lifecycle.clone();
        let looking = move || {
            if let Some(guard) = guard {
                guard.reload();
            }
            if let Some(tls) = tls {
                tls.reload();
            }
            if let Some(lifecycle) = lifecycle {
                lifecycle.reload();
            }
        };
        if tokio::task::spawn_blocking(looking).await.is_err() {
            tracing::error!("reloading the htpasswd, policy, TLS and lifecycle files panicked");
        }
        let looks = self.looks.fetch_add(1, Ordering::Relaxed);
        if let Some(guard) = &self.guard
            && looks % LOOKS_PER_KEYS == LOOKS_PER_KEYS - 1
        {
            guard.refresh_keys().await;
        }
    }
}
