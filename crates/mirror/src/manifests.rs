//! Tags and manifests.
//!
//! A tag that is absent, or not fresh, costs a HEAD there, and a GET by digest if it has moved: the one request
//! that Docker Hub counts. The manifest is stored before the tag, so a tag never lacks its manifest. Clients
//! that ask for the same at the same time share these requests, which go on when they leave.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join;
use jreg_client::{UpstreamClient, UpstreamError, UpstreamErrorKind, UpstreamManifestHead};
use jreg_oci::{Digest, MediaType, Reference, RepositoryName, Tag};
use jreg_registry::{Error, MirrorTagVersion, StoredManifest, TouchPolicy};
use jreg_storage::error_chain;

use crate::error::{failure, outcome_of};
use crate::shared::SharedRequests;
use crate::{
    DecisionInput, LocalState, MirrorAction, MirrorError, MirrorRepository, RequestedMethod,
    RequestedReference, UpstreamOutcome, decide,
};

/// How long a request waits for a registry that fails, if what is stored can be served instead.
const PATIENCE_STALE: Duration = Duration::from_secs(2);

/// A manifest of a mirror.
#[derive(Clone, Debug)]
pub struct MirroredManifest {
    pub digest: Digest,
    pub media_type: MediaType,
    pub size_bytes: u64,
    /// `None`: only its head was asked for.
    pub manifest: Option<Arc<StoredManifest>>,
    /// Why it may be outdated, for a `Warning`.
    pub warning: Option<&'static str>,
}

/// What the mirrored registry said of a reference, and the manifest if it was got.
#[derive(Clone, Debug)]
pub(crate) struct CheckedManifest {
    outcome: UpstreamOutcome,
    error: Option<UpstreamError>,
    manifest: Option<Arc<StoredManifest>>,
    /// Content that must not be fetched.
    blocked: Option<Digest>,
}

pub(crate) type ManifestRequests = SharedRequests<(RepositoryName, Reference), CheckedManifest>;

impl CheckedManifest {
    fn failed(error: UpstreamError) -> Self {
        let outcome = outcome_of(&error);
        Self { outcome, error: Some(error), manifest: None, blocked: None }
    }

    fn found(outcome: UpstreamOutcome, manifest: Arc<StoredManifest>) -> Self {
        Self { outcome, error: None, manifest: Some(manifest), blocked: None }
    }

    fn said(outcome: UpstreamOutcome) -> Self {
        Self { outcome, error: None, manifest: None, blocked: None }
    }

    /// A manifest that has gone between a HEAD and a GET has not gone: it was there a moment ago.
    fn failed_after_head(error: UpstreamError) -> Self {
        let checked = Self::failed(error);
        match checked.outcome {
            UpstreamOutcome::NotFound | UpstreamOutcome::RepositoryRefused => {
                Self { outcome: UpstreamOutcome::Failed, ..checked }
            }
            _ => checked,
        }
    }
}

/// What is stored of a reference.
struct LocalManifest {
    state: LocalState,
    manifest: Option<Arc<StoredManifest>>,
    /// The tag as it was read.
    seen: MirrorTagVersion,
}

impl From<UpstreamManifestHead> for MirroredManifest {
    fn from(head: UpstreamManifestHead) -> Self {
        Self {
            digest: head.digest,
            media_type: head.media_type.unwrap_or(MediaType::OCI_IMAGE_MANIFEST),
            size_bytes: head.size.unwrap_or_default(),
            manifest: None,
            warning: None,
        }
    }
}

impl From<Arc<StoredManifest>> for MirroredManifest {
    fn from(manifest: Arc<StoredManifest>) -> Self {
        Self {
            digest: manifest.digest.clone(),
            media_type: manifest.media_type.clone(),
            size_bytes: manifest.bytes.len() as u64,
            manifest: Some(manifest),
            warning: None,
        }
    }
}

impl MirrorRepository {
    /// Reads a manifest.
    ///
    /// # Errors
    ///
    /// [`MirrorError`].
    pub async fn manifest(
        &self,
        reference: &Reference,
        method: RequestedMethod,
        may_fetch: bool,
    ) -> Result<MirroredManifest, MirrorError> {
        if self.is_local()
            && let Some(manifest) = self.found(reference).await?
        {
            return Ok(manifest.into());
        }
        if !self.is_allowed() {
            return Err(MirrorError::NameUnknown { name: self.name().clone() });
        }
        let local = match reference {
            Reference::Tag(tag) => self.local_tag(tag).await?,
            Reference::Digest(digest) => self.local_digest(digest).await?,
        };
        let metrics = &self.shared.metrics.mirror;
        if let (LocalState::Fresh, Some(manifest)) = (local.state, &local.manifest) {
            metrics.count_response(self.namespace(), "cache");
            return Ok(Arc::clone(manifest).into());
        }
        let kind = match reference {
            Reference::Tag(_) => RequestedReference::Tag,
            Reference::Digest(_) => RequestedReference::Digest,
        };
        let is_head = (kind, method) == (RequestedReference::Digest, RequestedMethod::Head);
        if may_fetch && is_head && local.state == LocalState::Absent {
            return self.forward_head(reference).await;
        }
        let (state, stored) = (local.state, local.manifest.clone());
        let checked = match may_fetch {
            true => self.check(reference, local).await?,
            false => CheckedManifest::said(UpstreamOutcome::NotAsked),
        };
        let on_gone = self.registry.options.on_gone;
        let upstream = checked.outcome;
        let action =
            decide(DecisionInput { local: state, upstream, reference: kind, method, on_gone });
        self.act(reference, action, stored, checked).await
    }

    async fn act(
        &self,
        reference: &Reference,
        action: MirrorAction,
        stored: Option<Arc<StoredManifest>>,
        checked: CheckedManifest,
    ) -> Result<MirroredManifest, MirrorError> {
        let metrics = &self.shared.metrics.mirror;
        if let Some(digest) = checked.blocked {
            return Err(MirrorError::Blocked { digest });
        }
        let is_stored = stored.is_some();
        let (fetched, served) = match action {
            MirrorAction::Serve => ("cache", checked.manifest.or(stored)),
            MirrorAction::ServeStale => ("stale", stored),
            MirrorAction::Fetch | MirrorAction::Forward => ("upstream", checked.manifest),
            _ => ("failed", None),
        };
        metrics.count_response(self.namespace(), fetched);
        if let Some(manifest) = served {
            let warning = (action == MirrorAction::ServeStale)
                .then_some("the registry that is mirrored does not confirm this content now");
            return Ok(MirroredManifest { warning, ..manifest.into() });
        }
        if let (MirrorAction::NotFound | MirrorAction::NameUnknown, Reference::Tag(tag)) =
            (action, reference)
            && is_stored
        {
            self.repository.remove_mirror_tag(tag).await?;
        }
        let absent = MirrorError::ManifestUnknown {
            name: self.name().clone(),
            reference: reference.clone(),
        };
        Err(failure(action, self.name(), checked.error.as_ref(), absent))
    }

    /// A manifest of the store.
    async fn found(
        &self,
        reference: &Reference,
    ) -> Result<Option<Arc<StoredManifest>>, MirrorError> {
        match self.repository.manifest_get(reference, TouchPolicy::Never).await {
            Ok(manifest) => Ok(Some(manifest)),
            // One that cannot be decoded is fetched again.
            Err(Error::ManifestUnknown { .. } | Error::Damaged { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn local_tag(&self, tag: &Tag) -> Result<LocalManifest, MirrorError> {
        let options = &self.registry.options;
        let seen = self.repository.mirror_tag(tag).await?;
        let Some(read) = &seen.tag else {
            return Ok(LocalManifest { state: LocalState::Absent, manifest: None, seen });
        };
        let manifest = self.found(&Reference::Digest(read.digest.clone())).await?;
        let state = match &manifest {
            None => LocalState::Absent,
            Some(_) if options.is_immutable(tag) => LocalState::Fresh,
            Some(_) => self.state_at(read.age, options.fresh),
        };
        Ok(LocalManifest { state, manifest, seen })
    }

    async fn local_digest(&self, digest: &Digest) -> Result<LocalManifest, MirrorError> {
        let options = &self.registry.options;
        let manifest = self.found(&Reference::Digest(digest.clone())).await?;
        let state = match &manifest {
            None => LocalState::Absent,
            // What everyone can read there stays what it is.
            Some(_) if !options.has_credentials() => LocalState::Fresh,
            Some(_) => match self.shared.remembered.checked(self.name(), digest) {
                Some(age) => self.state_at(age, options.fresh_digest),
                None => LocalState::Stale,
            },
        };
        Ok(LocalManifest { state, manifest, seen: MirrorTagVersion::default() })
    }

    fn state_at(&self, age: Duration, fresh: Duration) -> LocalState {
        if age < fresh {
            LocalState::Fresh
        } else if age < fresh.saturating_add(self.registry.options.stale_if_error) {
            LocalState::Stale
        } else {
            LocalState::Expired
        }
    }

    /// Asks the mirrored registry for the head of a manifest that is not stored.
    async fn forward_head(&self, reference: &Reference) -> Result<MirroredManifest, MirrorError> {
        if let Some(outcome) = self.shared.remembered.absence(self.name(), reference) {
            let checked = CheckedManifest::said(outcome);
            return self.decide_absent(reference, checked).await;
        }
        let head = self.registry.client.head_manifest(&self.upstream, reference).await;
        let head = head.and_then(|head| self.check_type_of(head, reference));
        match head {
            Ok(head) => {
                self.shared.metrics.mirror.count_response(self.namespace(), "upstream");
                Ok(head.into())
            }
            Err(error) => {
                let checked = CheckedManifest::failed(error);
                self.note_absence(reference, checked.outcome);
                self.decide_absent(reference, checked).await
            }
        }
    }

    async fn decide_absent(
        &self,
        reference: &Reference,
        checked: CheckedManifest,
    ) -> Result<MirroredManifest, MirrorError> {
        let action = decide(DecisionInput {
            local: LocalState::Absent,
            upstream: checked.outcome,
            reference: RequestedReference::Digest,
            method: RequestedMethod::Head,
            on_gone: self.registry.options.on_gone,
        });
        self.act(reference, action, None, checked).await
    }

    fn note_absence(&self, reference: &Reference, outcome: UpstreamOutcome) {
        let negative = self.registry.options.negative;
        self.shared.remembered.note_absence(self.name(), reference, outcome, negative);
    }

    /// Asks the mirrored registry, together with others that want the same.
    async fn check(
        &self,
        reference: &Reference,
        local: LocalManifest,
    ) -> Result<CheckedManifest, MirrorError> {
        if let Some(outcome) = self.shared.remembered.absence(self.name(), reference) {
            return Ok(CheckedManifest::said(outcome));
        }
        let key = (self.name().clone(), reference.clone());
        let (mirror, reference) = (self.clone(), reference.clone());
        let request = || {
            let checking: futures::future::BoxFuture<'static, CheckedManifest> =
                Box::pin(async move {
                    let checked = mirror.check_alone(&reference, &local).await;
                    mirror.note_absence(&reference, checked.outcome);
                    checked
                });
            checking
        };
        let checked = self.shared.manifests.get(key, request).await;
        let stopped = || MirrorError::Unavailable { error: "the request was stopped".to_owned() };
        checked.ok_or_else(stopped)
    }

    async fn check_alone(&self, reference: &Reference, local: &LocalManifest) -> CheckedManifest {
        let client = match local.state {
            LocalState::Stale => self.registry.client.in_a_hurry(PATIENCE_STALE),
            _ => self.registry.client.clone(),
        };
        match reference {
            Reference::Tag(tag) => self.check_tag(&client, tag, local).await,
            Reference::Digest(digest) => self.check_digest(&client, digest, local).await,
        }
    }

    async fn check_tag(
        &self,
        client: &UpstreamClient,
        tag: &Tag,
        local: &LocalManifest,
    ) -> CheckedManifest {
        let head = client.head_manifest(&self.upstream, &Reference::Tag(tag.clone())).await;
        let digest = match head {
            Ok(head) => head.digest,
            Err(error) => return CheckedManifest::failed(error),
        };
        let known = local.manifest.as_ref().filter(|manifest| manifest.digest == digest);
        let checked = match known {
            Some(manifest) => CheckedManifest::found(UpstreamOutcome::Same, Arc::clone(manifest)),
            None => match self.found(&Reference::Digest(digest.clone())).await {
                Ok(Some(manifest)) => CheckedManifest::found(UpstreamOutcome::Other, manifest),
                _ => self.fetch(client, &digest).await,
            },
        };
        // Others may have to fetch it again, if it is not stored.
        if checked.manifest.is_some()
            && let Err(error) = self.repository.set_mirror_tag(tag, &digest, &local.seen).await
        {
            self.warn_unstored(&digest, &error);
        }
        checked
    }

    async fn check_digest(
        &self,
        client: &UpstreamClient,
        digest: &Digest,
        local: &LocalManifest,
    ) -> CheckedManifest {
        let Some(stored) = &local.manifest else {
            return match self.fetch_or_fail(client, digest).await {
                Ok(checked) => checked,
                Err(error) => CheckedManifest::failed(error),
            };
        };
        let reference = Reference::Digest(digest.clone());
        match client.head_manifest(&self.upstream, &reference).await {
            Ok(_) => {
                self.shared.remembered.note_checked(self.name(), digest);
                CheckedManifest::found(UpstreamOutcome::Same, Arc::clone(stored))
            }
            Err(error) => CheckedManifest::failed(error),
        }
    }

    /// Gets a manifest that is there, and stores it.
    async fn fetch(&self, client: &UpstreamClient, digest: &Digest) -> CheckedManifest {
        match self.fetch_or_fail(client, digest).await {
            Ok(checked) => checked,
            Err(error) => CheckedManifest::failed_after_head(error),
        }
    }

    async fn fetch_or_fail(
        &self,
        client: &UpstreamClient,
        digest: &Digest,
    ) -> Result<CheckedManifest, UpstreamError> {
        let reference = Reference::Digest(digest.clone());
        let getting = client.get_manifest(&self.upstream, &reference);
        let (got, is_blocked) = join(getting, self.repository.is_blocked(digest)).await;
        let got = got?;
        match is_blocked {
            Ok(false) => {}
            Ok(true) => {
                let blocked = Some(digest.clone());
                let outcome = UpstreamOutcome::Other;
                return Ok(CheckedManifest { outcome, error: None, manifest: None, blocked });
            }
            Err(error) => {
                let why = error_chain(&error).into();
                let kind = UpstreamErrorKind::Unavailable { why };
                return Err(UpstreamError { host: "the store".into(), kind });
            }
        }
        let (media_type, bytes) = (got.media_type, got.bytes);
        // Before it is parsed: what cannot be is served, too.
        let allowed = self.shared.registry.check_manifest_type(&media_type);
        allowed.map_err(|error| self.refuse(digest, &error))?;
        let stored =
            self.repository.mirror_manifest(digest, Some(media_type.clone()), bytes.clone()).await;
        match stored {
            Ok(_) => {}
            Err(error) if error.is_unsafe_manifest() => return Err(self.refuse(digest, &error)),
            Err(error) => self.warn_unstored(digest, &error),
        }
        self.shared.remembered.note_sizes(self.name(), &bytes);
        self.shared.remembered.note_checked(self.name(), digest);
        let manifest = StoredManifest { digest: digest.clone(), media_type, bytes, subject: None };
        Ok(CheckedManifest::found(UpstreamOutcome::Other, Arc::new(manifest)))
    }

    /// The head of a manifest that may have its media type.
    fn check_type_of(
        &self,
        head: UpstreamManifestHead,
        reference: &Reference,
    ) -> Result<UpstreamManifestHead, UpstreamError> {
        let media_type = head.media_type.as_ref();
        let check = |media_type| self.shared.registry.check_manifest_type(media_type);
        match media_type.map_or(Ok(()), check) {
            Ok(()) => Ok(head),
            Err(error) => Err(self.refuse(reference, &error)),
        }
    }

    /// A manifest that a push would refuse because clients might take it for something else.
    fn refuse(&self, reference: &impl std::fmt::Display, error: &Error) -> UpstreamError {
        let (name, why) = (self.name(), error_chain(error));
        tracing::warn!(repository = %name, %reference, error = why, "the mirrored registry sent a manifest that is refused");
        UpstreamError { host: self.host(), kind: UpstreamErrorKind::Protocol { why: why.into() } }
    }

    fn warn_unstored(&self, digest: &Digest, error: &Error) {
        let name = self.name();
        tracing::warn!(repository = %name, %digest, error = error_chain(error), "content of a mirror could not be stored");
    }

    /// Forgets a tag, or a manifest (DELETE).
    ///
    /// # Errors
    ///
    /// [`MirrorError::ManifestUnknown`], [`MirrorError::Registry`].
    pub async fn evict(&self, reference: &Reference) -> Result<(), MirrorError> {
        match reference {
            Reference::Tag(tag) => {
                if self.repository.mirror_tag(tag).await?.tag.is_none() {
                    let (name, reference) = (self.name().clone(), reference.clone());
                    return Err(MirrorError::ManifestUnknown { name, reference });
                }
                Ok(self.repository.remove_mirror_tag(tag).await?)
            }
            Reference::Digest(digest) => Ok(self.repository.evict_manifest(digest).await?),
        }
    }
}
