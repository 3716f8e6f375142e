//! The operations as requests: how a blob and an image are pushed and pulled.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::try_join_all;
use sha2::{Digest, Sha256};

use crate::auth::Access;
use crate::client::{Client, Request, Server, Traffic};
use crate::content::{
    Content, Descriptor, Source, Template, config, digest_of, manifest, media, written,
};
use crate::failure::Failure;
use crate::rng::Rng;
use crate::url::Url;
use crate::wire::{Answer, Body, Sink};
use crate::workload::Style;

/// How many layers of one image are fetched at a time: containerd's default.
const PULLS_AT_A_TIME: usize = 3;
/// How many layers of one image are sent at a time: docker's default.
const PUSHES_AT_A_TIME: usize = 5;

/// Somebody who does one operation after the other.
#[derive(Debug)]
pub(crate) struct Worker {
    /// Does everything but the layers of an image that are moved beside each other.
    pub(crate) client: Client,
    helpers: Vec<Client>,
    server: Arc<Server>,
    pub(crate) source: Arc<Source>,
    pub(crate) rng: Rng,
    /// Whether what is read is hashed and compared.
    pub(crate) verifies: bool,
}

impl Worker {
    pub(crate) fn new(server: &Arc<Server>, source: &Arc<Source>, number: u64) -> Self {
        Self {
            client: Client::new(Arc::clone(server)),
            helpers: Vec::new(),
            server: Arc::clone(server),
            source: Arc::clone(source),
            rng: Rng::new(source.seed(), u64::MAX - number),
            verifies: false,
        }
    }

    /// So many clients, of which there is one at least.
    fn clients(&mut self, count: usize) -> impl Iterator<Item = &mut Client> {
        let helpers = count.saturating_sub(1);
        while self.helpers.len() < helpers {
            self.helpers.push(Client::new(Arc::clone(&self.server)));
        }
        std::iter::once(&mut self.client).chain(self.helpers.iter_mut().take(helpers))
    }

    /// What it did since it was asked last.
    pub(crate) fn take_traffic(&mut self) -> Traffic {
        let mut sum = std::mem::take(&mut self.client.traffic);
        for helper in &mut self.helpers {
            sum.add(std::mem::take(&mut helper.traffic));
        }
        sum
    }
}

/// What is to be read, and what must come.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    /// Path and query.
    pub(crate) target: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
}

/// An image that was pushed.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) tag: String,
    pub(crate) manifest: Stored,
    pub(crate) config: Stored,
    pub(crate) layers: Vec<Stored>,
}

impl Stored {
    pub(crate) fn blob(repository: &str, descriptor: &Descriptor) -> Self {
        Self::at(format!("/v2/{repository}/blobs/{}", descriptor.digest), descriptor)
    }

    pub(crate) fn manifest(repository: &str, reference: &str, descriptor: &Descriptor) -> Self {
        Self::at(format!("/v2/{repository}/manifests/{reference}"), descriptor)
    }

    fn at(target: String, Descriptor { digest, size }: &Descriptor) -> Self {
        let size = u64::try_from(*size).unwrap_or(u64::MAX);
        Self { target, digest: digest.clone(), size }
    }
}

/// Takes an answer with this status only.
fn expect(answer: Answer, status: u16) -> Result<Answer, Failure> {
    match answer.status == status {
        true => Ok(answer),
        false => Err(Failure::Status(answer.status)),
    }
}

fn expect_length(received: Option<u64>, expected: u64) -> Result<(), Failure> {
    // A server need not say how long what it would send is.
    match received {
        Some(received) if received != expected => Err(Failure::Length { received, expected }),
        _ => Ok(()),
    }
}

const ACCEPT: &[(&str, &str)] = &[("Accept", media::ACCEPTED)];

/// GET of a manifest or a blob.
pub(crate) async fn fetch(
    client: &mut Client,
    repository: &str,
    stored: &Stored,
    verifies: bool,
) -> Result<(), Failure> {
    let request = Request::new("GET", &stored.target, Access::Pull(repository)).headers(ACCEPT);
    let mut sink = if verifies { Sink::Hash(Sha256::new()) } else { Sink::Count };
    let answer = expect(client.send(request, &mut sink).await?, 200)?;
    expect_length(Some(answer.received), stored.size)?;
    match sink {
        Sink::Hash(hash) if written(hash.clone()) != stored.digest => Err(Failure::Digest),
        _ => Ok(()),
    }
}

/// HEAD of a manifest or a blob.
pub(crate) async fn look(
    client: &mut Client,
    repository: &str,
    stored: &Stored,
) -> Result<(), Failure> {
    let request = Request::new("HEAD", &stored.target, Access::Pull(repository)).headers(ACCEPT);
    let answer = expect(client.send(request, &mut Sink::Count).await?, 200)?;
    expect_length(answer.length, stored.size)
}

/// HEAD of a blob that must not be there.
pub(crate) async fn miss(
    client: &mut Client,
    access: Access<'_>,
    repository: &str,
    digest: &str,
) -> Result<(), Failure> {
    let target = format!("/v2/{repository}/blobs/{digest}");
    let request = Request::new("HEAD", &target, access);
    expect(client.send(request, &mut Sink::Count).await?, 404).map(drop)
}

/// GET of a part of a blob.
pub(crate) async fn fetch_range(
    client: &mut Client,
    repository: &str,
    stored: &Stored,
    range: std::ops::Range<u64>,
) -> Result<(), Failure> {
    let value = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
    let headers = [("Range", value.as_str())];
    let request = Request::new("GET", &stored.target, Access::Pull(repository)).headers(&headers);
    let answer = expect(client.send(request, &mut Sink::Count).await?, 206)?;
    expect_length(Some(answer.received), range.end - range.start)
}

/// GET of a list, as it is.
pub(crate) async fn list(
    client: &mut Client,
    access: Access<'_>,
    target: &str,
) -> Result<Vec<u8>, Failure> {
    let mut sink = Sink::Keep(Vec::new());
    expect(client.send(Request::new("GET", target, access), &mut sink).await?, 200)?;
    match sink {
        Sink::Keep(body) => Ok(body),
        _ => Ok(Vec::new()),
    }
}

const OCTETS: (&str, &str) = ("Content-Type", "application/octet-stream");
const NOTHING: Body<'static> = Body::Sized(b"", b"");

/// Pushes a blob.
pub(crate) async fn push(
    client: &mut Client,
    repository: &str,
    content: &Content<'_>,
    style: Style,
) -> Result<(), Failure> {
    let access = Access::Push(repository);
    let begin = format!("/v2/{repository}/blobs/uploads/");
    let begun =
        client.send(Request::new("POST", &begin, access).body(NOTHING), &mut Sink::Count).await?;
    let mut upload = upload(&expect(begun, 202)?)?;
    let bytes = (content.shared, content.trailer.as_slice());
    let last = match style {
        Style::Known => Body::Sized(bytes.0, bytes.1),
        Style::Docker => {
            let request = Request::new("PATCH", &upload, access).headers(&[OCTETS]);
            let body = Body::Chunked(bytes.0, bytes.1);
            let sent = client.send(request.body(body), &mut Sink::Count).await?;
            upload = self::upload(&expect(sent, 202)?)?;
            NOTHING
        }
    };
    let joint = if upload.contains('?') { '&' } else { '?' };
    let end = format!("{upload}{joint}digest={}", content.digest);
    let request = Request::new("PUT", &end, access).headers(&[OCTETS]).body(last);
    expect(client.send(request, &mut Sink::Count).await?, 201).map(drop)
}

/// Where an upload goes on: only the path counts, as what stands before it is this registry by
/// whatever name it knows itself.
fn upload(answer: &Answer) -> Result<String, Failure> {
    let location = answer.location.as_deref().ok_or(Failure::Protocol("no Location"))?;
    if location.starts_with('/') {
        return Ok(location.to_owned());
    }
    let url: Result<Url, _> = location.parse();
    url.map(|url| url.target).map_err(|_| Failure::Protocol("a Location that is no URL"))
}

/// PUT of a manifest.
pub(crate) async fn put_manifest(
    client: &mut Client,
    repository: &str,
    reference: &str,
    bytes: &[u8],
) -> Result<(), Failure> {
    let target = format!("/v2/{repository}/manifests/{reference}");
    let headers = [("Content-Type", media::MANIFEST)];
    let request = Request::new("PUT", &target, Access::Push(repository)).headers(&headers);
    expect(client.send(request.body(Body::Sized(bytes, b"")), &mut Sink::Count).await?, 201)
        .map(drop)
}

/// Pushes a new image as docker does: each layer is asked for and then sent, a few beside each
/// other, then the configuration, then the manifest by tag.
pub(crate) async fn push_image(
    worker: &mut Worker,
    repository: &str,
    layers: usize,
    template: &Template,
) -> Result<Image, Failure> {
    let source = Arc::clone(&worker.source);
    let layers: Vec<_> = (0..layers).map(|_| template.make(&source)).collect();
    let next = AtomicUsize::new(0);
    let clients = worker.clients(PUSHES_AT_A_TIME.min(layers.len()));
    try_join_all(clients.map(|client| async {
        while let Some(layer) = layers.get(next.fetch_add(1, Ordering::Relaxed)) {
            push_if_missing(client, repository, layer).await?;
        }
        Ok(())
    }))
    .await?;
    let layers: Vec<_> = layers.iter().map(Content::descriptor).collect();
    let config = config(&source, &layers);
    let config = Content { shared: &config, trailer: Vec::new(), digest: digest_of(&config) };
    push_if_missing(&mut worker.client, repository, &config).await?;
    let config = config.descriptor();
    let manifest = manifest(&source, &config, &layers, None);
    let tag = format!("i{}", source.number());
    put_manifest(&mut worker.client, repository, &tag, &manifest).await?;
    let descriptor = Descriptor { digest: digest_of(&manifest), size: manifest.len() };
    Ok(Image {
        manifest: Stored::manifest(repository, &descriptor.digest, &descriptor),
        config: Stored::blob(repository, &config),
        layers: layers.iter().map(|layer| Stored::blob(repository, layer)).collect(),
        tag,
    })
}

async fn push_if_missing(
    client: &mut Client,
    repository: &str,
    content: &Content<'_>,
) -> Result<(), Failure> {
    miss(client, Access::Push(repository), repository, &content.digest).await?;
    push(client, repository, content, Style::Docker).await
}

/// Pulls an image as containerd does: the tag is asked for its digest, then the manifest by
/// digest, the configuration, and the layers, a few beside each other.
pub(crate) async fn pull_image(
    worker: &mut Worker,
    repository: &str,
    image: &Image,
) -> Result<(), Failure> {
    let verifies = worker.verifies;
    let by_tag = Stored {
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
