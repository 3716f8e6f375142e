//! [`ReloadJob`]: reloads the htpasswd, policy, TLS and lifecycle files when they change, and
//! refreshes the token signing keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use jreg_access::{AccessGuard, RELOAD_INTERVAL};
use jreg_net::tls::Tls;
use jreg_registry::{Event, EventAction, EventDetail, Registry};

use super::Job;
use crate::lifecycle::LifecycleFile;

/// Number of file checks per refresh of the keys: about one refresh per minute.
const LOOKS_PER_KEYS: u32 = 30;

#[derive(Debug)]
pub struct ReloadJob {
    registry: Registry,
    guard: Option<Arc<AccessGuard>>,
    tls: Option<Arc<Tls>>,
    lifecycle: Option<Arc<LifecycleFile>>,
    looks: AtomicU32,
}

impl ReloadJob {
    /// `None` if there is nothing to reload.
    pub fn new(
        registry: &Registry,
        guard: Option<Arc<AccessGuard>>,
        tls: Option<Arc<Tls>>,
        lifecycle: Option<Arc<LifecycleFile>>,
    ) -> Option<Self> {
        let (registry, looks) = (registry.clone(), AtomicU32::new(0));
        let any = guard.is_some() || tls.is_some() || lifecycle.is_some();
        any.then_some(Self { registry, guard, tls, lifecycle, looks })
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
            let mut reloads: Vec<_> = guard.iter().flat_map(|guard| guard.reload()).collect();
            reloads.extend(tls.and_then(|tls| tls.reload()));
            reloads.extend(lifecycle.and_then(|lifecycle| lifecycle.reload()));
            let reloads = reloads.into_iter();
            reloads.map(|reload| (reload.file, reload.is_done)).collect::<Vec<_>>()
        };
        match tokio::task::spawn_blocking(looking).await {
            Ok(reloads) => {
                for (file, is_done) in reloads {
                    let outcome = if is_done { "ok" } else { "failed" };
                    let detail = [("file", file), ("outcome", outcome)];
                    let detail = detail.map(|(name, value)| (name.to_owned(), value.into()));
                    let detail = EventDetail::from_iter(detail);
                    let event = Event::of_fact(EventAction::Reload, SystemTime::now(), detail);
                    super::record(&self.registry, event).await;
                }
            }
            Err(_) => tracing::error!(
                "reloading the htpasswd, policy and TLS and lifecycle files panicked"
            ),
        }
        let looks = self.looks.fetch_add(1, Ordering::Relaxed);
        if let Some(guard) = &self.guard
            && looks % LOOKS_PER_KEYS == LOOKS_PER_KEYS - 1
        {
            guard.refresh_keys().await;
        }
    }
}
