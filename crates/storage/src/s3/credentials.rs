//! [`CachedS3Credentials`]: the credentials that sign requests, also while they cannot be renewed.
//!
//! Temporary credentials are renewed five minutes before they expire. Their source may fail at that
//! moment, or not respond. That is no reason to fail requests: the last credentials are still good,
//! and when they are not the bucket says so.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use object_store::aws::{AwsCredential, AwsCredentialProvider};
use tokio::time::{Instant, timeout};

use super::failure::{FailureClass, S3Failure};
use super::sources::CredentialSources;
use crate::error_chain;

/// How long the metadata of an instance may take to give the first credentials: that service is on
/// the same machine, and elsewhere there is no such service.
const METADATA_WAIT: Duration = Duration::from_millis(800);

/// How long no renewal is tried after one failed.
const PAUSE: Duration = Duration::from_secs(10);

/// The credentials of a bucket.
#[derive(Debug)]
pub(super) struct CachedS3Credentials {
    provider: AwsCredentialProvider,
    /// How long a request waits for a renewal.
    patience: Duration,
    sources: CredentialSources,
    last: Arc<Mutex<Option<LastCredentials>>>,
}

#[derive(Clone, Debug)]
struct LastCredentials {
    keys: Arc<AwsCredential>,
    /// Until when they are used without asking for others.
    until: Option<Instant>,
}

impl CachedS3Credentials {
    pub(super) fn new(
        provider: AwsCredentialProvider,
        patience: Duration,
        sources: CredentialSources,
    ) -> Self {
        Self { provider, patience, sources, last: Arc::default() }
    }

    /// The first credentials. Where no source is configured, a retry finds none either.
    async fn first(&self) -> Result<Arc<AwsCredential>, S3Failure> {
        if !self.sources.are_unnamed {
            let verdict = FailureClass::Unsent;
            return self.renew().await.map_err(|error| {
                S3Failure::new(verdict, self.sources.no_keys(error_chain(&error)))
            });
        }
        let no_keys =
            |why: String| S3Failure::new(FailureClass::Refused, self.sources.no_keys(why));
        match timeout(METADATA_WAIT, self.renew()).await {
            Ok(keys) => keys.map_err(|error| no_keys(error_chain(&error))),
            Err(_) => Err(no_keys(format!("no response within {} s", METADATA_WAIT.as_secs_f32()))),
        }
    }

    /// The credentials to sign with now.
    pub(super) async fn get(&self) -> Result<Arc<AwsCredential>, S3Failure> {
        let last = lock(&self.last).clone();
        let Some(last) = last else { return self.first().await };
        if last.until.is_some_and(|until| Instant::now() < until) {
            return Ok(last.keys);
        }
        // Not cancelled with the request: others would begin it again, and be cancelled too.
        let renewal = tokio::spawn(self.renew());
        let why = match timeout(self.patience, renewal).await {
            Ok(Ok(Ok(keys))) => return Ok(keys),
            Ok(Ok(Err(error))) => error.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no response within {} s", self.patience.as_secs_f32()),
        };
        tracing::warn!(error = why, "credentials renewal failed; using the last ones");
        let mut known = lock(&self.last);
        match &mut *known {
            // Others have come meanwhile.
            Some(known) if !Arc::ptr_eq(&known.keys, &last.keys) => Ok(Arc::clone(&known.keys)),
            known => {
                let until = Some(Instant::now() + PAUSE);
                *known = Some(LastCredentials { keys: Arc::clone(&last.keys), until });
                Ok(last.keys)
            }
        }
    }

    /// Fetches credentials, which the provider mostly has cached, and caches them.
    fn renew(
        &self,
    ) -> impl Future<Output = object_store::Result<Arc<AwsCredential>>> + Send + 'static {
        let (provider, last) = (Arc::clone(&self.provider), Arc::clone(&self.last));
        async move {
            let keys = provider.get_credential().await?;
            *lock(&last) = Some(LastCredentials { keys: Arc::clone(&keys), until: None });
            Ok(keys)
        }
    }
}

fn lock(last: &Mutex<Option<LastCredentials>>) -> MutexGuard<'_, Option<LastCredentials>> {
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

    /// Gives out what the script says, and then never responds.
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

    fn keys(
        script: impl IntoIterator<Item = object_store::Result<&'static str>>,
    ) -> CachedS3Credentials {
        slow_keys(Duration::ZERO, script)
    }

    /// The first keys come at once, all others after so long.
    fn slow_keys(
        takes: Duration,
        script: impl IntoIterator<Item = object_store::Result<&'static str>>,
    ) -> CachedS3Credentials {
        let script = Mutex::new(script.into_iter().collect());
        let named = AmazonS3Builder::new()
            .with_config(AmazonS3ConfigKey::ContainerCredentialsRelativeUri, "/");
        let provider = Arc::new(Scripted { script, takes });
        CachedS3Credentials::new(
            provider,
            Duration::from_secs(5),
            CredentialSources::of(&named, None),
        )
    }

    async fn id(keys: &CachedS3Credentials) -> String {
        keys.get().await.unwrap().key_id.clone()
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_keys_are_used_while_there_are_no_others() {
        let keys = keys([Ok("one"), failure(), Ok("two")]);
        assert_eq!(id(&keys).await, "one");
        assert_eq!(id(&keys).await, "one");
        // There is no renewal for a while.
        assert_eq!(id(&keys).await, "one");
        tokio::time::advance(PAUSE).await;
        assert_eq!(id(&keys).await, "two");
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_without_a_response_is_waited_for_once() {
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

    /// Outside of such an instance there is no such service.
    #[tokio::test(start_paused = true)]
    async fn without_a_named_source_the_metadata_is_waited_for_briefly_and_once() {
        let provider = Arc::new(Scripted { script: Mutex::default(), takes: Duration::ZERO });
        let sources = CredentialSources::of(&AmazonS3Builder::new(), None);
        let keys = CachedS3Credentials::new(provider, Duration::from_secs(5), sources);
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
    async fn without_any_keys_the_failure_is_returned() {
        let keys = keys([failure(), Ok("one")]);
        assert!(keys.get().await.is_err());
        assert_eq!(id(&keys).await, "one");
    }
}
