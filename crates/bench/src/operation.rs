//! The operations as requests: how a blob and an image are pushed and pulled.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::try_join_all;
use sha2::{Digest, Sha256};

use crate::auth::RequestedAccess;
use crate::client::{BenchClient, BenchRequest, BenchTarget, ByteCounter};
use crate::content::{
    ContentDescriptor, ContentSource, ContentSpec, ContentTemplate, config, digest_of, manifest,
    media, written,
};
use crate::failure::OperationError;
use crate::rng::BenchRng;
use crate::url::Url;
use crate::wire::{BodySink, HttpResponse, RequestBody};
use crate::workload::PushStyle;

/// How many layers of one image are fetched at a time: containerd's default.
const PULLS_AT_A_TIME: usize = 3;
/// How many layers of one image are sent at a time: docker's default.
const PUSHES_AT_A_TIME: usize = 5;

/// A worker that does one operation after the other.
#[derive(Debug)]
pub(crate) struct LoadWorker {
    /// Does everything but the layers of an image that are moved beside each other.
    pub(crate) client: BenchClient,
    helpers: Vec<BenchClient>,
    server: Arc<BenchTarget>,
    pub(crate) source: Arc<ContentSource>,
    pub(crate) rng: BenchRng,
    /// Whether what is read is hashed and compared.
    pub(crate) verifies: bool,
}

impl LoadWorker {
    pub(crate) fn new(server: &Arc<BenchTarget>, source: &Arc<ContentSource>, number: u64) -> Self {
        Self {
            client: BenchClient::new(Arc::clone(server)),
            helpers: Vec::new(),
            server: Arc::clone(server),
            source: Arc::clone(source),
            rng: BenchRng::new(source.seed(), u64::MAX - number),
            verifies: false,
        }
    }

    /// So many clients, of which there is one at least.
    fn clients(&mut self, count: usize) -> impl Iterator<Item = &mut BenchClient> {
        let helpers = count.saturating_sub(1);
        while self.helpers.len() < helpers {
            self.helpers.push(BenchClient::new(Arc::clone(&self.server)));
        }
        std::iter::once(&mut self.client).chain(self.helpers.iter_mut().take(helpers))
    }

    /// What it did since it was asked last.
    pub(crate) fn take_traffic(&mut self) -> ByteCounter {
        let mut sum = std::mem::take(&mut self.client.traffic);
        for helper in &mut self.helpers {
            sum.add(std::mem::take(&mut helper.traffic));
        }
        sum
    }
}

/// What is to be read, and what must come.
#[derive(Clone, Debug)]
pub(crate) struct StoredContent {
    /// Path and query.
    pub(crate) target: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
}

/// An image that was pushed.
#[derive(Clone, Debug)]
pub(crate) struct StoredImage {
    pub(crate) tag: String,
    pub(crate) manifest: StoredContent,
    pub(crate) config: StoredContent,
    pub(crate) layers: Vec<StoredContent>,
}

impl StoredContent {
    pub(crate) fn blob(repository: &str, descriptor: &ContentDescriptor) -> Self {
        Self::at(format!("/v2/{repository}/blobs/{}", descriptor.digest), descriptor)
    }

    pub(crate) fn manifest(
        repository: &str,
        reference: &str,
        descriptor: &ContentDescriptor,
    ) -> Self {
        Self::at(format!("/v2/{repository}/manifests/{reference}"), descriptor)
    }

    fn at(target: String, ContentDescriptor { digest, size }: &ContentDescriptor) -> Self {
        let size = u64::try_from(*size).unwrap_or(u64::MAX);
        Self { target, digest: digest.clone(), size }
    }
}

/// Takes a response with this status only.
fn expect(response: HttpResponse, status: u16) -> Result<HttpResponse, OperationError> {
    match response.status == status {
        true => Ok(response),
        false => Err(OperationError::Status(response.status)),
    }
}

fn expect_length(received: Option<u64>, expected: u64) -> Result<(), OperationError> {
    // A server need not say how long what it would send is.
    match received {
        Some(received) if received != expected => {
            Err(OperationError::Length { received, expected })
        }
        _ => Ok(()),
    }
}

const ACCEPT: &[(&str, &str)] = &[("Accept", media::ACCEPTED)];

/// GET of a manifest or a blob.
pub(crate) async fn fetch(
    client: &mut BenchClient,
    repository: &str,
    stored: &StoredContent,
    verifies: bool,
) -> Result<(), OperationError> {
    let request =
        BenchRequest::new("GET", &stored.target, RequestedAccess::Pull(repository)).headers(ACCEPT);
    let mut sink = if verifies { BodySink::Hash(Sha256::new()) } else { BodySink::Count };
    let response = expect(client.send(request, &mut sink).await?, 200)?;
    expect_length(Some(response.received), stored.size)?;
    match sink {
        BodySink::Hash(hash) if written(hash.clone()) != stored.digest => {
            Err(OperationError::Digest)
        }
        _ => Ok(()),
    }
}

/// HEAD of a manifest or a blob.
pub(crate) async fn look(
    client: &mut BenchClient,
    repository: &str,
    stored: &StoredContent,
) -> Result<(), OperationError> {
    let request = BenchRequest::new("HEAD", &stored.target, RequestedAccess::Pull(repository))
        .headers(ACCEPT);
    let response = expect(client.send(request, &mut BodySink::Count).await?, 200)?;
    expect_length(response.length, stored.size)
}

/// HEAD of a blob that must not be there.
pub(crate) async fn miss(
    client: &mut BenchClient,
    access: RequestedAccess<'_>,
    repository: &str,
    digest: &str,
) -> Result<(), OperationError> {
    let target = format!("/v2/{repository}/blobs/{digest}");
    let request = BenchRequest::new("HEAD", &target, access);
    expect(client.send(request, &mut BodySink::Count).await?, 404).map(drop)
}

/// GET of a part of a blob.
pub(crate) async fn fetch_range(
    client: &mut BenchClient,
    repository: &str,
    stored: &StoredContent,
    range: std::ops::Range<u64>,
) -> Result<(), OperationError> {
    let value = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
    let headers = [("Range", value.as_str())];
    let request = BenchRequest::new("GET", &stored.target, RequestedAccess::Pull(repository))
        .headers(&headers);
    let response = expect(client.send(request, &mut BodySink::Count).await?, 206)?;
    expect_length(Some(response.received), range.end - range.start)
}

/// GET of a list, as it is.
pub(crate) async fn list(
    client: &mut BenchClient,
    access: RequestedAccess<'_>,
    target: &str,
) -> Result<Vec<u8>, OperationError> {
    let mut sink = BodySink::Keep(Vec::new());
    expect(client.send(BenchRequest::new("GET", target, access), &mut sink).await?, 200)?;
    match sink {
        BodySink::Keep(body) => Ok(body),
        _ => Ok(Vec::new()),
    }
}

const OCTETS: (&str, &str) = ("Content-Type", "application/octet-stream");
const NOTHING: RequestBody<'static> = RequestBody::Sized(b"", b"");

/// Pushes a blob.
pub(crate) async fn push(
    client: &mut BenchClient,
    repository: &str,
    content: &ContentSpec<'_>,
    style: PushStyle,
) -> Result<(), OperationError> {
    let access = RequestedAccess::Push(repository);
    let begin = format!("/v2/{repository}/blobs/uploads/");
    let begun = client
        .send(BenchRequest::new("POST", &begin, access).body(NOTHING), &mut BodySink::Count)
        .await?;
    let mut upload = upload(&expect(begun, 202)?)?;
    let bytes = (content.shared, content.trailer.as_slice());
    let last = match style {
        PushStyle::Known => RequestBody::Sized(bytes.0, bytes.1),
        PushStyle::Docker => {
            let request = BenchRequest::new("PATCH", &upload, access).headers(&[OCTETS]);
            let body = RequestBody::Chunked(bytes.0, bytes.1);
            let sent = client.send(request.body(body), &mut BodySink::Count).await?;
            upload = self::upload(&expect(sent, 202)?)?;
            NOTHING
        }
    };
    let joint = if upload.contains('?') { '&' } else { '?' };
    let end = format!("{upload}{joint}digest={}", content.digest);
    let request = BenchRequest::new("PUT", &end, access).headers(&[OCTETS]).body(last);
    expect(client.send(request, &mut BodySink::Count).await?, 201).map(drop)
}

/// Where an upload continues: only the path counts, as what stands before it is this registry by
/// whatever name it knows itself.
fn upload(response: &HttpResponse) -> Result<String, OperationError> {
    let location = response.location.as_deref().ok_or(OperationError::Protocol("no Location"))?;
    if location.starts_with('/') {
        return Ok(location.to_owned());
    }
    let url: Result<Url, _> = location.parse();
    url.map(|url| url.target).map_err(|_| OperationError::Protocol("a Location that is no URL"))
}

pub(crate) async fn put_manifest(
    client: &mut BenchClient,
    repository: &str,
    reference: &str,
    bytes: &[u8],
) -> Result<(), OperationError> {
    let target = format!("/v2/{repository}/manifests/{reference}");
    let headers = [("Content-Type", media::MANIFEST)];
    let request =
        BenchRequest::new("PUT", &target, RequestedAccess::Push(repository)).headers(&headers);
    expect(
        client.send(request.body(RequestBody::Sized(bytes, b"")), &mut BodySink::Count).await?,
        201,
    )
    .map(drop)
}

/// Pushes a new image as docker does: each layer is asked for and then sent, a few beside each
/// other, then the configuration, then the manifest by tag.
pub(crate) async fn push_image(
    worker: &mut LoadWorker,
    repository: &str,
    layers: &[ContentTemplate],
) -> Result<StoredImage, OperationError> {
    let source = Arc::clone(&worker.source);
    let layers: Vec<_> = layers.iter().map(|template| template.make(&source)).collect();
    let next = AtomicUsize::new(0);
    let clients = worker.clients(PUSHES_AT_A_TIME.min(layers.len()));
    try_join_all(clients.map(|client| async {
        while let Some(layer) = layers.get(next.fetch_add(1, Ordering::Relaxed)) {
            push_if_missing(client, repository, layer).await?;
        }
        Ok(())
    }))
    .await?;
    let layers: Vec<_> = layers.iter().map(ContentSpec::descriptor).collect();
    let config = config(&source, &layers);
    let config = ContentSpec { shared: &config, trailer: Vec::new(), digest: digest_of(&config) };
    push_if_missing(&mut worker.client, repository, &config).await?;
    let config = config.descriptor();
    let manifest = manifest(&source, &config, &layers, None);
    let tag = format!("i{}", source.number());
    put_manifest(&mut worker.client, repository, &tag, &manifest).await?;
    let descriptor = ContentDescriptor { digest: digest_of(&manifest), size: manifest.len() };
    Ok(StoredImage {
        manifest: StoredContent::manifest(repository, &descriptor.digest, &descriptor),
        config: StoredContent::blob(repository, &config),
        layers: layers.iter().map(|layer| StoredContent::blob(repository, layer)).collect(),
        tag,
    })
}

async fn push_if_missing(
    client: &mut BenchClient,
    repository: &str,
    content: &ContentSpec<'_>,
) -> Result<(), OperationError> {
    miss(client, RequestedAccess::Push(repository), repository, &content.digest).await?;
    push(client, repository, content, PushStyle::Docker).await
}

/// Pulls an image as containerd does: the tag is asked for its digest, then the manifest by
/// digest, the configuration, and the layers, a few beside each other.
pub(crate) async fn pull_image(
    worker: &mut LoadWorker,
    repository: &str,
    image: &StoredImage,
) -> Result<(), OperationError> {
    let verifies = worker.verifies;
    let by_tag = StoredContent {
        target: format!("/v2/{repository}/manifests/{}", image.tag),
        ..image.manifest.clone()
    };
    look(&mut worker.client, repository, &by_tag).await?;
    fetch(&mut worker.client, repository, &image.manifest, verifies).await?;
    fetch(&mut worker.client, repository, &image.config, verifies).await?;
    let next = AtomicUsize::new(0);
    let clients = worker.clients(PULLS_AT_A_TIME.min(image.layers.len()));
    let fetched = clients.map(|client| async {
        while let Some(layer) = image.layers.get(next.fetch_add(1, Ordering::Relaxed)) {
            fetch(client, repository, layer, verifies).await?;
        }
        Ok(())
    });
    try_join_all(fetched).await.map(drop)
}
