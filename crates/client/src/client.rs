//! [`UpstreamClient`]: the operations.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jreg_oci::{
    Algorithm, Descriptor, Digest, MediaType, Reference, RepositoryName, Tag, media_type,
};
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, ETAG, LINK};
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};

use crate::blob::UpstreamBlob;
use crate::breaker::{BreakerStatus, CountedFailures};
use crate::endpoint::{Counters, Endpoint, MismatchedUrls, Reply, RequestLimits, UpstreamRequest};
use crate::link::next_link;
use crate::response_range::ResponseRange;
use crate::transport::UpstreamSetupError;
use crate::{
    BlobRequest, PageQuery, RateLimit, UpstreamError, UpstreamErrorKind, UpstreamLimits,
    UpstreamManifest, UpstreamManifestHead, UpstreamOptions, UpstreamPage, UpstreamReferrers,
    UpstreamRequestKind, UpstreamStatistics, UpstreamTimeouts,
};

/// Every media type that jreg stores: what an upstream returns must not depend on the client that asked jreg.
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.oci.artifact.manifest.v1+json, */*;q=0.1";
const DIGEST_HEADER: &str = "docker-content-digest";
/// The first pause before all URLs are tried again; doubled each time.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Maximum characters of the hash in a fallback tag (distribution-spec "Referrers Tag Schema").
const FALLBACK_HASH_CHARS_MAX: usize = 64;
/// Maximum retries of a manifest or list whose body broke off.
const BODY_ATTEMPTS_MAX: u32 = 3;

/// A client of one upstream. A clone shares connections, tokens and limits.
#[derive(Clone, Debug)]
pub struct UpstreamClient {
    upstream: Arc<Upstream>,
    patience: Duration,
    response_max: Duration,
}

#[derive(Debug)]
struct Upstream {
    endpoints: Vec<Arc<Endpoint>>,
    slots: Arc<Semaphore>,
    counters: Arc<Counters>,
    limits: UpstreamLimits,
    timeouts: UpstreamTimeouts,
    host: Arc<str>,
}

impl UpstreamClient {
    /// Sends no request yet.
    ///
    /// # Errors
    ///
    /// [`UpstreamSetupError`].
    pub fn new(options: UpstreamOptions) -> Result<Self, UpstreamSetupError> {
        let host = match options.endpoints.first() {
            Some(endpoint) => endpoint.url.shared_host(),
            None => return Err(UpstreamSetupError::NoUrl),
        };
        let counters = Arc::<Counters>::default();
        let endpoint =
            |endpoint| Endpoint::new(&options, endpoint, Arc::clone(&counters)).map(Arc::new);
        let endpoints = options.endpoints.iter().map(endpoint).collect::<Result<_, _>>()?;
        let slots = Arc::new(Semaphore::new(options.limits.connections_max));
        let UpstreamOptions { limits, timeouts, .. } = options;
        let patience = timeouts.patience;
        let upstream = Upstream { endpoints, slots, counters, limits, timeouts, host };
        Ok(Self { upstream: Arc::new(upstream), patience, response_max: Duration::MAX })
    }

    /// The same client with another patience.
    #[must_use]
    pub fn with_patience(&self, patience: Duration) -> Self {
        Self { patience, ..self.clone() }
    }

    /// The same client that waits so long in all, and no longer for the head of a response, and then for its
    /// body if that is no blob: for where something cached can be served instead.
    #[must_use]
    pub fn in_a_hurry(&self, most: Duration) -> Self {
        Self { patience: most, response_max: most, ..self.clone() }
    }

    /// Whether the registry is reachable and accepts the credentials.
    ///
    /// # Errors
    ///
    /// [`UpstreamError`].
    pub async fn ping(&self) -> Result<(), UpstreamError> {
        let reply = self.send(&get(UpstreamRequestKind::Ping, None, "/v2/".to_owned())).await?;
        if reply.status().is_success() { Ok(()) } else { Err(reply.unexpected()) }
    }

    /// The digest of a manifest, by HEAD. The response for a digest must be for that digest.
    ///
    /// # Errors
    ///
    /// [`UpstreamError`].
    pub async fn head_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<UpstreamManifestHead, UpstreamError> {
        let mut request =
            manifest_request(UpstreamRequestKind::ManifestHead, repository, reference);
        request.method = Method::HEAD;
        let reply = self.send(&request).await?;
        let is_supported = match reply.status().as_u16() {
            200..300 => true,
            405 | 501 => false,
            _ => return Err(reply.unexpected()),
        };
        let named = digest_header(&reply)?;
        if let (Some(expected), Some(actual)) = (reference.digest(), &named) {
            check_digest(&reply, expected, actual)?;
        }
        match named.or_else(|| reference.digest().cloned()).filter(|_| is_supported) {
            Some(digest) => Ok(UpstreamManifestHead {
                digest,
                media_type: media_type_header(&reply),
                size: reply.response.content_length(),
                etag: reply.response.header(ETAG).map(str::to_owned),
            }),
            None => {
                drop(reply);
                let manifest = self.get_manifest(repository, reference).await?;
                let size = Some(manifest.bytes.len() as u64);
                let UpstreamManifest { digest, media_type, etag, .. } = manifest;
                Ok(UpstreamManifestHead { digest, media_type: Some(media_type), size, etag })
            }
        }
    }

    /// A manifest, verified against the digest that is requested, or that the response has.
    ///
    /// # Errors
    ///
    /// [`UpstreamError`].
    pub async fn get_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
    ) -> Result<UpstreamManifest, UpstreamError> {
        let request = manifest_request(UpstreamRequestKind::ManifestGet, repository, reference);
        let (mut attempt, mut until) = (0, None);
        loop {
            attempt += 1;
            let mut reply = self.send(&request).await?;
            let until = *until.get_or_insert_with(|| reply.response.body_deadline());
            let error = match self.manifest(&mut reply, reference, until).await {
                Ok(manifest) => return Ok(manifest),
                Err(error) => error,
            };
            let is_wrong = matches!(error.kind, UpstreamErrorKind::WrongDigest { .. });
            if is_wrong {
                reply.endpoint.skip(&request, &error.kind);
            }
            let may_help = error.kind.is_temporary() || (is_wrong && self.has_other(&request));
            let is_over = Instant::now() >= until || self.patience.is_zero();
            if !may_help || attempt >= BODY_ATTEMPTS_MAX || is_over {
                return Err(error);
            }
        }
    }

    async fn manifest(
        &self,
        reply: &mut Reply,
        reference: &Reference,
        until: Instant,
    ) -> Result<UpstreamManifest, UpstreamError> {
        if !reply.status().is_success() {
            return Err(reply.unexpected());
        }
        let expected = match reference.digest() {
            Some(digest) => Some(digest.clone()),
            None => digest_header(reply)?,
        };
        let media_type = media_type_header(reply);
        let etag = reply.response.header(ETAG).map(str::to_owned);
        let bytes = reply.body(self.upstream.limits.manifest_bytes_max, until).await?;
        let algorithm = expected.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let digest = Digest::of(algorithm, &bytes);
        if let Some(expected) = &expected {
            check_digest(reply, expected, &digest)?;
        }
        let media_type = match media_type.filter(is_specific).or_else(|| media_type_of(&bytes)) {
            Some(media_type) => media_type,
            None => {
                return Err(
                    reply.error(UpstreamErrorKind::protocol("a manifest without a media type"))
                );
            }
        };
        Ok(UpstreamManifest { bytes, media_type, digest, etag })
    }

    /// The size of a blob, in bytes, by HEAD; if that does not say it, by a GET of its first byte.
    ///
    /// # Errors
    ///
    /// [`UpstreamError`].
    pub async fn head_blob(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Result<u64, UpstreamError> {
        let mut request = blob_request(repository, digest);
        (request.kind, request.method) = (UpstreamRequestKind::BlobHead, Method::HEAD);
        match self.send(&request).await {
            Ok(reply) if reply.status().is_success() => {
                if let Some(actual) =
                    digest_header(&reply)?.filter(|it| it.algorithm() == digest.algorithm())
                {
                    check_digest(&reply, digest, &actual)?;
                }
                if let Some(size) = reply.response.content_length() {
                    return Ok(size);
                }
            }
            Ok(reply) if !matches!(reply.status().as_u16(), 400 | 405 | 501) => {
                return Err(reply.unexpected());
            }
            Ok(_) => {}
            Err(error) if is_signed_for_get(&error) => {}
            Err(error) => return Err(error),
        }
        request = blob_request(repository, digest);
        request.range = Some("bytes=0-0".to_owned());
        let reply = self.send(&request).await?;
        match reply.status().as_u16() {
            // An empty blob has no first byte.
            416 => Ok(0),
            206 => {
                match reply.response.header("content-range").and_then(ResponseRange::parse) {
                    Some(ResponseRange { start: 0, total: Some(total), .. }) => Ok(total),
                    _ => Err(reply
                        .error(UpstreamErrorKind::protocol("a 206 without a valid Content-Range"))),
                }
            }
            200 => match reply.response.content_length() {
                Some(size) => Ok(size),
                None => {
                    Err(reply.error(UpstreamErrorKind::protocol("a blob without a Content-Length")))
                }
            },
            _ => Err(reply.unexpected()),
        }
    }

    /// A blob or a part of it, as a stream that is resumed where it breaks off, and verified at its end.
    ///
    /// # Errors
    ///
    /// [`UpstreamError`].
    pub async fn open_blob(
        &self,
        repository: &RepositoryName,
        request: &BlobRequest,
    ) -> Result<UpstreamBlob, UpstreamError> {
        UpstreamBlob::open(self.clone(), repository.clone(), request.clone()).await
    }

    /// All referrers of a subject, those of one artifact type if it is given: by the referrers API, or by the
    /// fallback tag if the upstream has none.
    ///
    /// # Errors
    ///
    /// [`UpstreamError`]. A list that is not complete is an error.
    pub async fn referrers(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<UpstreamReferrers, UpstreamError> {
        let mut referrers = match self.referrers_by_api(repository, subject, artifact_type).await? {
            Some(descriptors) => UpstreamReferrers { descriptors, is_fallback: false },
            None => {
                let descriptors = self.referrers_by_tag(repository, subject).await?;
                UpstreamReferrers { descriptors, is_fallback: true }
            }
        };
        // A registry may ignore the filter.
        if let Some(wanted) = artifact_type {
            referrers.descriptors.retain(|found| found.artifact_type.as_deref() == Some(wanted));
        }
        let mut seen = std::collections::HashSet::new();
        referrers.descriptors.retain(|found| seen.insert(found.digest.clone()));
        Ok(referrers)
    }

    /// `None` if the upstream has no referrers API.
    async fn referrers_by_api(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Option<Vec<Descriptor>>, UpstreamError> {
        let path = format!("/v2/{repository}/referrers/{subject}");
        let mut request = get(UpstreamRequestKind::Referrers, Some(repository), path);
        request.accept = Some(media_type::OCI_IMAGE_INDEX);
        request.query = artifact_type.map(|wanted| {
            form_urlencoded::Serializer::new(String::new())
                .append_pair("artifactType", wanted)
                .finish()
        });
        let mut descriptors = Vec::new();
        for page in 0..self.upstream.limits.referrer_pages_max {
            let (reply, body) = match self.list(&request).await {
                Ok(found) => found,
                Err(error) if page == 0 && error.kind == UpstreamErrorKind::NotFound => {
                    return Ok(None);
                }
                Err(error) if error.kind == UpstreamErrorKind::NotFound => {
                    let why = UpstreamErrorKind::protocol("the list of referrers ends with a 404");
                    return Err(UpstreamError { host: error.host, kind: why });
                }
                Err(error) => return Err(error),
            };
            let is_index = media_type_header(&reply)
                .is_some_and(|found| found.is(media_type::OCI_IMAGE_INDEX));
            // Registries without the API respond with one of these, or with a page for people.
            let is_refused = matches!(reply.status().as_u16(), 400 | 405 | 406 | 501);
            if page == 0 && (is_refused || (reply.status().is_success() && !is_index)) {
                return Ok(None);
            }
            descriptors.append(&mut index(&reply, &body)?);
            match next_page(&reply, &request)? {
                None => return Ok(Some(descriptors)),
                Some(next) => request.query = Some(next.as_str().to_owned()),
            }
        }
        Err(UpstreamErrorKind::protocol("the list of referrers has too many pages")
            .of(&self.upstream.host))
    }

    async fn referrers_by_tag(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
    ) -> Result<Vec<Descriptor>, UpstreamError> {
        let reference = Reference::Tag(fallback_tag(subject));
        match self.get_manifest(repository, &reference).await {
            Ok(manifest) => {
                descriptors(&manifest.bytes).map_err(|kind| kind.of(&self.upstream.host))
            }
            Err(error) if error.kind == UpstreamErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// A page of the tags of a repository.
    ///
    /// # Errors
    ///
    /// [`UpstreamError`].
    pub async fn tags(
        &self,
        repository: &RepositoryName,
        page: &PageQuery,
    ) -> Result<UpstreamPage<Tag>, UpstreamError> {
        #[derive(Deserialize)]
        struct TagList {
            // Registries have listed nulls.
            #[serde(default)]
            tags: Option<Vec<Option<String>>>,
        }
        let path = format!("/v2/{repository}/tags/list");
        let request = paged(get(UpstreamRequestKind::Tags, Some(repository), path), page);
        let (reply, body) = self.list(&request).await?;
        let list: TagList = json(&reply, &body)?;
        let names = list.tags.unwrap_or_default();
        let items = names.iter().flatten().filter_map(|name| name.parse().ok()).collect();
        Ok(UpstreamPage { items, next: next_page(&reply, &request)? })
    }

    /// A page of the repositories of the registry.
    ///
    /// # Errors
    ///
    /// [`UpstreamError`]. Many registries refuse it.
    pub async fn catalog(
        &self,
        page: &PageQuery,
    ) -> Result<UpstreamPage<RepositoryName>, UpstreamError> {
        #[derive(Deserialize)]
        struct Catalog {
            #[serde(default)]
            repositories: Option<Vec<Option<String>>>,
        }
        let request =
            paged(get(UpstreamRequestKind::Catalog, None, "/v2/_catalog".to_owned()), page);
        let (reply, body) = self.list(&request).await?;
        let list: Catalog = json(&reply, &body)?;
        let names = list.repositories.unwrap_or_default();
        let items = names.iter().flatten().filter_map(|name| name.parse().ok()).collect();
        Ok(UpstreamPage { items, next: next_page(&reply, &request)? })
    }

    /// The rate limit as the last response of the first URL that has one said it.
    pub fn rate_limit(&self) -> Option<RateLimit> {
        self.upstream.endpoints.iter().find_map(|endpoint| endpoint.rate_limit())
    }

    /// Each URL, and whether requests are sent to it.
    pub fn breakers(&self) -> Vec<(crate::UpstreamUrl, BreakerStatus)> {
        let endpoints = self.upstream.endpoints.iter();
        endpoints.map(|endpoint| (endpoint.url().clone(), endpoint.breaker_status())).collect()
    }

    /// What was sent and received since the client was made.
    pub fn statistics(&self) -> UpstreamStatistics {
        self.upstream.counters.statistics()
    }

    /// A response with its whole body; retried if that breaks off.
    async fn list(&self, request: &UpstreamRequest) -> Result<(Reply, Bytes), UpstreamError> {
        let (mut attempt, mut until) = (0, None);
        loop {
            attempt += 1;
            let mut reply = self.send(request).await?;
            let until = *until.get_or_insert_with(|| reply.response.body_deadline());
            let error = match reply.body(self.upstream.limits.list_bytes_max, until).await {
                Ok(body) => return Ok((reply, body)),
                Err(error) => error,
            };
            let is_over = attempt >= BODY_ATTEMPTS_MAX || Instant::now() >= until;
            if is_over || !error.kind.is_temporary() {
                return Err(error);
            }
        }
    }

    /// Whether there is a URL that was not found to have something else than is requested.
    pub(crate) fn has_other(&self, request: &UpstreamRequest) -> bool {
        self.upstream.endpoints.iter().any(|endpoint| !endpoint.is_skipped(request))
    }

    pub(crate) fn limits(&self) -> &UpstreamLimits {
        &self.upstream.limits
    }

    pub(crate) fn timeouts(&self) -> &UpstreamTimeouts {
        &self.upstream.timeouts
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.upstream.counters
    }

    /// Sends a request to one URL after the other, and again while that may help and there is patience left.
    pub(crate) async fn send(&self, request: &UpstreamRequest) -> Result<Reply, UpstreamError> {
        let limits =
            RequestLimits { deadline: Instant::now() + self.patience, response: self.response_max };
        let mut pause = PAUSE_FIRST;
        loop {
            let error = match self.send_to_each(request, limits).await {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            let asked = match error.kind {
                UpstreamErrorKind::TooManyRequests { retry_after } => retry_after,
                UpstreamErrorKind::Unavailable { .. } | UpstreamErrorKind::Timeout { .. } => None,
                _ => return Err(error),
            };
            // The pause after wrong bytes is longer than the patience.
            if !self.has_other(request) {
                return Err(error);
            }
            let wait = match asked {
                // Those that wait for the same moment do not all come back at it.
                Some(asked) => asked.saturating_add(jitter(PAUSE_FIRST.max(asked / 4))),
                None => {
                    pause = (pause * 2).min(PAUSE_MAX);
                    jitter(pause / 2)
                }
            };
            if Instant::now() + wait >= limits.deadline {
                return Err(error);
            }
            sleep(wait).await;
        }
    }

    /// The first response that is of use; else the error that says most: a failure before a refusal, and only if
    /// all said so that it is not there.
    async fn send_to_each(
        &self,
        request: &UpstreamRequest,
        limits: RequestLimits,
    ) -> Result<Reply, UpstreamError> {
        let mut worst: Option<UpstreamError> = None;
        for endpoint in &self.upstream.endpoints {
            if endpoint.is_skipped(request) {
                continue;
            }
            let slot = self.slot(limits.deadline).await?;
            let error = match endpoint.request(request, limits, slot).await {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            let is_worse = worst.as_ref().is_none_or(|worst| rank(&error.kind) > rank(&worst.kind));
            if is_worse {
                worst = Some(error);
            }
        }
        let skipped = || {
            UpstreamErrorKind::unavailable("it served other bytes for this digest a short time ago")
        };
        Err(worst.unwrap_or_else(|| skipped().of(&self.upstream.host)))
    }

    async fn slot(
        &self,
        deadline: Instant,
    ) -> Result<tokio::sync::OwnedSemaphorePermit, UpstreamError> {
        let slots = Arc::clone(&self.upstream.slots);
        match timeout_at(deadline, slots.acquire_owned()).await {
            Ok(Ok(slot)) => Ok(slot),
            _ => {
                Err(UpstreamErrorKind::TooManyRequests { retry_after: None }
                    .of(&self.upstream.host))
            }
        }
    }
}

/// Which of several errors is returned.
fn rank(kind: &UpstreamErrorKind) -> u8 {
    match kind {
        UpstreamErrorKind::NotFound => 0,
        UpstreamErrorKind::RepositoryRefused { .. } => 1,
        UpstreamErrorKind::RangeNotSatisfiable | UpstreamErrorKind::TooLarge { .. } => 2,
        UpstreamErrorKind::CredentialsRefused { .. } => 3,
        UpstreamErrorKind::WrongDigest { .. }
        | UpstreamErrorKind::WrongSize { .. }
        | UpstreamErrorKind::AddressRefused { .. }
        | UpstreamErrorKind::Protocol { .. } => 4,
        UpstreamErrorKind::CredentialsUnavailable { .. }
        | UpstreamErrorKind::Unavailable { .. }
        | UpstreamErrorKind::Timeout { .. }
        | UpstreamErrorKind::TooManyRequests { .. } => 5,
    }
}

/// Half of a duration to the whole of it.
pub(crate) fn jitter(most: Duration) -> Duration {
    let random = jreg_auth::random_bytes::<1>().map_or(255, |[byte]| byte);
    most / 2 + most / 2 * u32::from(random) / 255
}

fn get(
    kind: UpstreamRequestKind,
    repository: Option<&RepositoryName>,
    path: String,
) -> UpstreamRequest {
    UpstreamRequest {
        kind,
        method: Method::GET,
        repository: repository.cloned(),
        path,
        query: None,
        accept: None,
        range: None,
        digest: None,
        counted: CountedFailures::default(),
        mismatched: MismatchedUrls::default(),
    }
}

fn manifest_request(
    kind: UpstreamRequestKind,
    repository: &RepositoryName,
    reference: &Reference,
) -> UpstreamRequest {
    let request = get(kind, Some(repository), format!("/v2/{repository}/manifests/{reference}"));
    UpstreamRequest { accept: Some(ACCEPT), digest: reference.digest().cloned(), ..request }
}

pub(crate) fn blob_request(repository: &RepositoryName, digest: &Digest) -> UpstreamRequest {
    let path = format!("/v2/{repository}/blobs/{digest}");
    let request = get(UpstreamRequestKind::BlobGet, Some(repository), path);
    UpstreamRequest { digest: Some(digest.clone()), ..request }
}

fn paged(request: UpstreamRequest, page: &PageQuery) -> UpstreamRequest {
    let query = (!page.as_str().is_empty()).then(|| page.as_str().to_owned());
    UpstreamRequest { query, ..request }
}

/// Whether a HEAD failed behind a redirect: its URL may be signed for GET only.
fn is_signed_for_get(error: &UpstreamError) -> bool {
    matches!(&error.kind, UpstreamErrorKind::Unavailable { why } if why.ends_with("after a redirect"))
}

/// The digest that the response names, if it is one that can be computed.
pub(crate) fn digest_header(reply: &Reply) -> Result<Option<Digest>, UpstreamError> {
    let Some(text) = reply.response.header(DIGEST_HEADER) else {
        return Ok(None);
    };
    match text.parse() {
        Ok(digest) => Ok(Some(digest)),
        Err(jreg_oci::InvalidDigest::UnsupportedAlgorithm { .. }) => Ok(None),
        Err(_) => Err(reply.error(UpstreamErrorKind::protocol("an invalid Docker-Content-Digest"))),
    }
}

/// Digests of other algorithms cannot be compared.
pub(crate) fn check_digest(
    reply: &Reply,
    expected: &Digest,
    actual: &Digest,
) -> Result<(), UpstreamError> {
    if expected == actual || expected.algorithm() != actual.algorithm() {
        return Ok(());
    }
    Err(reply.error(UpstreamErrorKind::WrongDigest {
        expected: expected.clone(),
        actual: actual.clone(),
    }))
}

fn media_type_header(reply: &Reply) -> Option<MediaType> {
    MediaType::from_content_type(reply.response.header(CONTENT_TYPE)?).ok()
}

/// Whether a media type says more than that the content is text or bytes.
fn is_specific(media_type: &MediaType) -> bool {
    !["application/json", "application/octet-stream", "text/plain"]
        .iter()
        .any(|general| media_type.is(general))
}

/// The `mediaType` of a manifest; of one without, what its fields are of.
fn media_type_of(bytes: &[u8]) -> Option<MediaType> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Fields {
        media_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
        config: Option<serde::de::IgnoredAny>,
    }
    let fields: Fields = serde_json::from_slice(bytes).ok()?;
    match (fields.media_type, fields.manifests, fields.config) {
        (Some(media_type), ..) => media_type.parse().ok(),
        (None, Some(_), None) => Some(MediaType::OCI_IMAGE_INDEX),
        (None, None, Some(_)) => Some(MediaType::OCI_IMAGE_MANIFEST),
        _ => None,
    }
}

/// The tag that lists the referrers of a subject in registries without the API. A sha512 is truncated, as tags
/// are shorter.
fn fallback_tag(subject: &Digest) -> Tag {
    let hex = subject.hex();
    let hash: String = hex.chars().take(FALLBACK_HASH_CHARS_MAX).collect();
    format!("{}-{hash}", subject.algorithm()).parse().expect("it is of letters, digits and a dash")
}

fn index(reply: &Reply, body: &[u8]) -> Result<Vec<Descriptor>, UpstreamError> {
    if !reply.status().is_success() {
        return Err(reply.unexpected());
    }
    descriptors(body).map_err(|kind| reply.error(kind))
}

fn descriptors(body: &[u8]) -> Result<Vec<Descriptor>, UpstreamErrorKind> {
    #[derive(Deserialize)]
    struct Index {
        #[serde(default)]
        manifests: Option<Vec<Descriptor>>,
    }
    let index: Index = serde_json::from_slice(body)
        .map_err(|_| UpstreamErrorKind::protocol("the list of referrers is no image index"))?;
    Ok(index.manifests.unwrap_or_default())
}

fn json<T: for<'de> Deserialize<'de>>(reply: &Reply, body: &[u8]) -> Result<T, UpstreamError> {
    if !reply.status().is_success() {
        return Err(reply.unexpected());
    }
    serde_json::from_slice(body)
        .map_err(|_| reply.error(UpstreamErrorKind::protocol("the list is not valid JSON")))
}

/// The query of the next page. Only the query: the list is on the same host, at the same path.
fn next_page(reply: &Reply, request: &UpstreamRequest) -> Result<Option<PageQuery>, UpstreamError> {
    let Some(target) = reply.response.header(LINK).and_then(next_link) else { return Ok(None) };
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let query = query.split('#').next().unwrap_or_default();
    match PageQuery::from_link(query) {
        Some(next) if request.query.as_deref() == Some(next.as_str()) => {
            Err(reply.error(UpstreamErrorKind::protocol("a page links to itself")))
        }
        Some(page) => Ok(Some(page)),
        None => {
            Err(reply.error(UpstreamErrorKind::protocol("a Link to the next page without a query")))
        }
    }
}
