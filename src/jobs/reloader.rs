//! [`Reloader`]: looks whether the files of users and rules have changed, and keeps the keys of
//! tokens fresh.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::Job;
use crate::auth::{Guard, RELOAD_INTERVAL};

/// After how many looks at the files the keys are read again: about once in a minute.
const LOOKS_PER_KEYS: u32 = 30;

/// What keeps a guard up to date.
#[derive(Debug)]
pub struct Reloader {
    guard: Arc<Guard>,
    looks: AtomicU32,
}

impl Reloader {
    /// For this guard.
    pub fn new(guard: Arc<Guard>) -> Self {
        Self { guard, looks: AtomicU32::new(0) }
    }
}

impl Job for Reloader {
    fn interval(&self) -> Duration {
        RELOAD_INTERVAL
    }

    async fn run(&self) {
        let guard = Arc::clone(&self.guard);
        if tokio::task::spawn_blocking(move || guard.reload()).await.is_err() {
            tracing::error!("looking at the files of users and rules panicked");
        }
        if self.looks.fetch_add(1, Ordering::Relaxed) % LOOKS_PER_KEYS == LOOKS_PER_KEYS - 1 {
            self.guard.refresh_keys().await;
        }
    }
}
