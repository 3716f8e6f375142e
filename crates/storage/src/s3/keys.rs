//! [`Keys`]: what signs, also while it cannot be renewed.
//!
//! Temporary keys are renewed five minutes before they end. Whoever gives them out may fail at
//! that moment, or not answer. That is no reason to fail requests: the last keys are still good,
//! and when they are not the bucket says so.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use object_store::aws::{AwsCredential, AwsCredentialProvider};
use tokio::time::{Instant, timeout};

use super::failure::{Failure, Verdict};
use super::sources::Sources;
use crate::error_chain;

/// How long the metadata of an instance may take to give the first keys: that service is on the same
/// machine, and where there is no instance nothing answers.
const METADATA_WAIT: Duration = Duration::from_millis(1500);

/// How long nobody asks again after a renewal failed.
const PAUSE: Duration = Duration::from_secs(10);

/// The keys of a bucket.
#[derive(Debug)]
pub(super) struct Keys {
    provider: AwsCredentialProvider,
    /// How long a request waits for a renewal.
    patience: Duration,
    sources: Sources,
    last: Arc<Mutex<Option<Last>>>,
}

#[derive(Clone, Debug)]
struct Last {
    keys: Arc<AwsCredential>,
    /// Until when they are used without asking for others.
    until: Option<Instant>,
}

impl Keys {
    pub(super) fn new(
        provider: AwsCredentialProvider,
        patience: Duration,
        sources: Sources,
    ) -> Self {
        Self { provider, patience, sources, last: Arc::default() }
    }

    /// The first keys. Where no source is named, whoever asks again finds none either.
    async fn first(&self) -> Result<Arc<AwsCredential>, Failure> {
        if !self.sources.are_unnamed {
            let verdict = Verdict::Unsent;
            return self
                .renew()
                .await
                .map_err(|error| Failure::new(verdict, self.sources.no_keys(error_chain(&error))));
        }
        let no_keys = |why: String| Failure::new(Verdict::Refused, self.sources.no_keys(why));
        match timeout(METADATA_WAIT, self.renew()).await {
            Ok(keys) => keys.map_err(|error| no_keys(error_chain(&error))),
            Err(_) => Err(no_keys(format!("no answer within {} s", METADATA_WAIT.as_secs_f32()))),
        }
    }

    /// The keys to sign with now.
    pub(super) async fn get(&self) -> Result<Arc<AwsCredential>, Failure> {
        let last = lock(&self.last).clone();
        let Some(last) = last else { return self.first().await };
        if last.until.is_some_and(|until| Instant::now() < until) {
            return Ok(last.keys);
        }
        // Not cut off when nobody waits any more: others would begin it again, and be cut off too.
        let renewal = tokio::spawn(self.renew());
        let why = match timeout(self.patience, renewal).await {
            Ok(Ok(Ok(keys))) => return Ok(keys),
            Ok(Ok(Err(error))) => error.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", self.patience.as_secs_f32()),
        };
        tracing::warn!(error = why, "the bucket's keys cannot be renewed: using the last ones");
        let mut known = lock(&self.last);
        match &mut *known {
            // Others have come meanwhile.
            Some(known) if !Arc::ptr_eq(&known.keys, &last.keys) => Ok(Arc::clone(&known.keys)),
            known => {
                let until = Some(Instant::now() + PAUSE);
                *known = Some(Last { keys: Arc::clone(&last.keys), until });
                Ok(last.keys)
            }
        }
    }

    /// Asks for keys, which the provider has at hand mostly, and keeps them.
    fn renew(
        &self,
    ) -> impl Future<Output = object_store::Result<Arc<AwsCredential>>> + Send + 'static {
        let (provider, last) = (Arc::clone(&self.provider), Arc::clone(&self.last));
        async move {
            let keys = provider.get_credential().await?;
            *lock(&last) = Some(Last { keys: Arc::clone(&keys), until: None });
            Ok(keys)
        }
    }
}

fn lock(last: &Mutex<Option<Last>>) -> MutexGuard<'_, Option<Last>> {
    last.lock().expect("no holder of the keys panics")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::VecDeque;

    use async_trait::async_trait;
    use object_store::CredentialProvider;
    use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};

    use super::*;

    /// Gives out what it is told to, and nothing for ever after that.
    #[derive(Debug)]
    struct Scripted {
        script: Mutex<VecDeque<object_store::Result<&'static str>>>,
        takes: Duration,
    }

    #[async_trait]
    impl CredentialProvider for Scripted {
        type Credential = AwsCredential;

        async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
            let next = self.script.lock().unwrap().pop_front();
            let Some(next) = next else { return std::future::pending().await };
            let first = next.as_ref().is_ok_and(|id| *id == "one");
            tokio::time::sleep(if first { Duration::ZERO } else { self.takes }).await;
            let (key_id, secret_key) = (next?.to_owned(), "secret".to_owned());
            Ok(Arc::new(AwsCredential { key_id, secret_key, token: None }))
        }
    }

    fn failure() -> object_store::Result<&'static str> {
        Err(object_store::Error::Generic { store: "test", source: "out of order".into() })
    }

    fn keys(script: impl IntoIterator<Item = object_store::Result<&'static str>>) -> Keys {
        slow_keys(Duration::ZERO, script)
    }

    /// The first keys come at once, all others after so long.
    fn slow_keys(
        takes: Duration,
        script: impl IntoIterator<Item = object_store::Result<&'static str>>,
    ) -> Keys {
        let script = Mutex::new(script.into_iter().collect());
        let named = AmazonS3Builder::new()
            .with_config(AmazonS3ConfigKey::ContainerCredentialsRelativeUri, "/");
        let provider = Arc::new(Scripted { script, takes });
        Keys::new(provider, Duration::from_secs(5), Sources::of(&named))
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

    #[tokio::test(start_paused = true)]
    async fn a_renewal_that_takes_longer_than_requests_wait_is_not_cut_off() {
        let keys = slow_keys(Duration::from_secs(8), [Ok("one"), Ok("two")]);
        assert_eq!(id(&keys).await, "one");
        assert_eq!(id(&keys).await, "one");
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert_eq!(lock(&keys.last).as_ref().unwrap().keys.key_id, "two");
    }

    /// On a machine that is no instance nothing answers there.
    #[tokio::test(start_paused = true)]
    async fn without_a_named_source_the_metadata_is_waited_for_briefly_and_once() {
        let provider = Arc::new(Scripted { script: Mutex::default(), takes: Duration::ZERO });
        let sources = Sources::of(&AmazonS3Builder::new());
        let keys = Keys::new(provider, Duration::from_secs(5), sources);
        let start = Instant::now();
        let failure = keys.get().await.unwrap_err();
        assert_eq!(start.elapsed(), METADATA_WAIT);
        assert!(!failure.verdict.is_passing(), "it is not asked for again");
        let told = std::error::Error::source(&failure.on("key")).unwrap().to_string();
        for source in ["settings", "environment", "web identity", "container", "instance metadata"]
        {
            assert!(told.contains(source), "{told}");
        }
    }

    #[tokio::test]
    async fn without_any_keys_the_failure_is_told() {
        let keys = keys([failure(), Ok("one")]);
        assert!(keys.get().await.is_err());
        assert_eq!(id(&keys).await, "one");
    }
}
