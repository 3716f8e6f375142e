//! [`Keys`]: what signs, also while it cannot be renewed.
//!
//! Temporary keys are renewed five minutes before they end. Whoever gives them out may fail at
//! that moment, or not answer. That is no reason to fail requests: the last keys are still good,
//! and when they are not the bucket says so.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use object_store::aws::{AwsCredential, AwsCredentialProvider};
use tokio::time::{Instant, timeout};

/// How long nobody asks again after a renewal failed.
const PAUSE: Duration = Duration::from_secs(10);

/// The keys of a bucket.
#[derive(Debug)]
pub(super) struct Keys {
    provider: AwsCredentialProvider,
    /// How long a request waits for a renewal.
    patience: Duration,
    last: Mutex<Option<Last>>,
}

#[derive(Clone, Debug)]
struct Last {
    keys: Arc<AwsCredential>,
    /// Until when they are used without asking for others.
    until: Option<Instant>,
}

impl Keys {
    pub(super) fn new(provider: AwsCredentialProvider, patience: Duration) -> Self {
        Self { provider, patience, last: Mutex::default() }
    }

    /// The keys to sign with now.
    pub(super) async fn get(&self) -> object_store::Result<Arc<AwsCredential>> {
        let last = self.last().clone();
        let Some(last) = last else {
            return self.provider.get_credential().await.inspect(|keys| self.set(keys, None));
        };
        if last.until.is_some_and(|until| Instant::now() < until) {
            return Ok(last.keys);
        }
        let why = match timeout(self.patience, self.provider.get_credential()).await {
            Ok(Ok(keys)) => {
                self.set(&keys, None);
                return Ok(keys);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", self.patience.as_secs_f32()),
        };
        tracing::warn!(error = why, "the bucket's keys cannot be renewed: using the last ones");
        self.set(&last.keys, Some(Instant::now() + PAUSE));
        Ok(last.keys)
    }

    fn set(&self, keys: &Arc<AwsCredential>, until: Option<Instant>) {
        *self.last() = Some(Last { keys: Arc::clone(keys), until });
    }

    fn last(&self) -> MutexGuard<'_, Option<Last>> {
        self.last.lock().expect("no holder of the keys panics")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::VecDeque;

    use async_trait::async_trait;
    use object_store::CredentialProvider;

    use super::*;

    /// Gives out what it is told to, and nothing for ever after that.
    #[derive(Debug)]
    struct Scripted(Mutex<VecDeque<object_store::Result<&'static str>>>);

    #[async_trait]
    impl CredentialProvider for Scripted {
        type Credential = AwsCredential;

        async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
            let next = self.0.lock().unwrap().pop_front();
            let Some(next) = next else { return std::future::pending().await };
            let (key_id, secret_key) = (next?.to_owned(), "secret".to_owned());
            Ok(Arc::new(AwsCredential { key_id, secret_key, token: None }))
        }
    }

    fn failure() -> object_store::Result<&'static str> {
        Err(object_store::Error::Generic { store: "test", source: "out of order".into() })
    }

    fn keys(script: impl IntoIterator<Item = object_store::Result<&'static str>>) -> Keys {
        let script = Mutex::new(script.into_iter().collect());
        Keys::new(Arc::new(Scripted(script)), Duration::from_secs(5))
    }

    async fn id(keys: &Keys) -> String {
        keys.get().await.unwrap().key_id.clone()
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_keys_are_used_while_there_are_no_others() {
        let keys = keys([Ok("one"), failure(), Ok("two")]);
        assert_eq!(id(&keys).await, "one");
        assert_eq!(id(&keys).await, "one");
        // Nobody is asked for a while.
        assert_eq!(id(&keys).await, "one");
        tokio::time::advance(PAUSE).await;
        assert_eq!(id(&keys).await, "two");
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_without_an_answer_is_waited_for_once() {
        let keys = keys([Ok("one")]);
        assert_eq!(id(&keys).await, "one");
        let start = Instant::now();
        for _ in 0..10 {
            assert_eq!(id(&keys).await, "one");
        }
        assert_eq!(start.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test]
    async fn without_any_keys_the_failure_is_told() {
        let keys = keys([failure(), Ok("one")]);
        assert!(keys.get().await.is_err());
        assert_eq!(id(&keys).await, "one");
    }
}
