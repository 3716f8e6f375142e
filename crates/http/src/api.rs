//! Everything under `/v2/`: from the request line to the operation to the response.
//! What is no operation is refused here, too.
//!
//! An operation that changes something runs in a task of its own: a client that goes away in the
//! middle of a commit cannot leave it half done, and a shutdown waits for it. One that only reads
//! ends with its client; that may make one write, which keeps what was found from being collected.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use http::request::Parts;
use http::{HeaderMap, Method, header};
use jreg_access::limits::ByteAccount;
use jreg_access::{Authorized, RefusedRequest, RequestInfo};
use jreg_net::server::files::FileQueue;
use jreg_net::server::{ConnectionResources, Request, Response};
use jreg_oci::Endpoint;
use jreg_registry::Error;
use tracing::Instrument;

use super::body::ClientBody;
use super::error::ApiError;
use super::exchange::{self, ObservedRequest};
use super::record::PendingAuditRecord;
use super::{Context, base, blobs, catalog, manifests, memory, referrers, tags, uploads};

/// An operation that was let in, with what the client sent.
pub(super) struct ApiCall {
    pub(super) access: Authorized,
    pub(super) headers: HeaderMap,
    pub(super) peer: Option<SocketAddr>,
    /// What goes before the paths of `Location`: `public-url`, or by which address the client reached
    /// the registry. Empty where that is not certain.
    pub(super) base_url: String,
    /// Takes files for the connection, if it can send them.
    pub(super) files: Option<Arc<FileQueue>>,
    /// The budgets of the connection, if it has any.
    pub(super) resources: Option<Arc<ConnectionResources>>,
    pub(super) body: ClientBody,
    pub(super) context: Arc<Context>,
}

/// Responds to everything that is not a fixed path.
pub(super) async fn respond(
    context: &Arc<Context>,
    exchange: &Arc<ObservedRequest>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let body = ClientBody::new(body, &parts.headers, &context.options, Arc::clone(exchange));
    let result = perform(context, exchange, parts, body).await;
    result.unwrap_or_else(|error| error.render(context, exchange))
}

async fn perform(
    context: &Arc<Context>,
    exchange: &Arc<ObservedRequest>,
    parts: Parts,
    body: ClientBody,
) -> Result<Response, ApiError> {
    context.limits.count_address(exchange.network())?;
    let endpoint = Endpoint::parse(parts.method.as_str(), parts.uri.path(), parts.uri.query())
        .map_err(|error| ApiError::route(&error, &parts.method))?;
    exchange.is_about(&endpoint);
    let peer = exchange.client().address;
    let changes = changes(&endpoint);
    let record = PendingAuditRecord::of(context, exchange, &endpoint, &parts.headers, changes);
    let access = match context.gate.admit(request_info(&parts, exchange), &endpoint).await {
        Ok(access) => access,
        Err(refused) => return refuse(context, exchange, record, refused).await,
    };
    let resources = parts.extensions.get::<Arc<ConnectionResources>>().cloned();
    if let Some(resources) = &resources {
        resources.authorized.set();
    }
    let network = exchange.network();
    context.limits.count_identity(access.identity(), network)?;
    let upload = match sends(&endpoint) {
        true => context.limits.begin_upload(access.identity(), network)?,
        false => None,
    };
    let account = context.limits.account(access.identity(), network);
    let moving = account.as_ref().map(|account| account.begin(body.length())).transpose()?;
    let body = body.counted_by(moving.flatten());
    exchange.is_by(access.identity().to_string(), Some(access.reason().to_string()));
    let record = record.map(|record| (record.by(access.identity()), access.reason().to_string()));
    let files = parts.extensions.get::<Arc<FileQueue>>().cloned();
    let context = Arc::clone(context);
    let base_url = base_url(&context, exchange);
    let call =
        ApiCall { access, headers: parts.headers, peer, base_url, files, resources, body, context };
    if !changes {
        let is_in_memory = is_in_memory(&endpoint);
        let held_in = Arc::clone(&call.context);
        let _turn = match call.resources.as_ref().filter(|_| is_in_memory) {
            Some(resources) => resources.memory.turn().await,
            None => None,
        };
        let result = dispatch(call, endpoint).await;
        let account = account.filter(|_| parts.method != Method::HEAD);
        let result = result.and_then(|response| counted(exchange, account.as_ref(), response));
        let result = match is_in_memory {
            true => result.and_then(|response| memory::hold_response(&held_in, exchange, response)),
            false => result,
        };
        if let Some((record, rule)) = record {
            record.settle(Some(rule), &result).await;
        }
        return result;
    }
    let tasks = call.context.tasks.clone();
    let work = async move {
        let work = AssertUnwindSafe(dispatch(call, endpoint)).catch_unwind();
        let result = work.await.unwrap_or_else(|_| Err(ApiError::panicked()));
        if let Some((record, rule)) = record {
            record.settle_here(Some(rule), &result).await;
        }
        drop(upload);
        result
    };
    let task = tasks.spawn(Box::pin(work).in_current_span());
    task.await.unwrap_or_else(|_| Err(Error::Stopped.into()))
}

fn base_url(context: &Context, exchange: &ObservedRequest) -> String {
    match context.options.public_url.as_str() {
        "" => exchange.client().origin.clone().unwrap_or_default(),
        public_url => public_url.to_owned(),
    }
}

/// Counts the bytes of an answer until they are sent.
fn counted(
    exchange: &ObservedRequest,
    account: Option<&ByteAccount>,
    response: Response,
) -> Result<Response, ApiError> {
    if let Some(account) = account {
        // Every answer has a length.
        let length = exchange::length_of(&response).unwrap_or_default();
        exchange.answers_with(account.begin(Some(length))?);
    }
    Ok(response)
}

/// Whether the whole answer is in memory until its client has taken it.
fn is_in_memory(endpoint: &Endpoint) -> bool {
    matches!(
        endpoint,
        Endpoint::Catalog { .. }
            | Endpoint::ManifestGet { .. }
            | Endpoint::ManifestHead { .. }
            | Endpoint::TagList { .. }
            | Endpoint::Referrers { .. }
    )
}

/// Responds to a request that is not allowed.
async fn refuse(
    context: &Context,
    exchange: &ObservedRequest,
    record: Option<PendingAuditRecord>,
    RefusedRequest { error, auth }: RefusedRequest,
) -> Result<Response, ApiError> {
    let identity = auth.map(|auth| auth.principal.identity.clone());
    if let Some(identity) = &identity {
        exchange.is_by(identity.to_string(), None);
        context.limits.count_identity(identity, exchange.network())?;
    }
    let result = Err(error.into());
    if let Some(record) = record {
        let record = match &identity {
            Some(identity) => record.by(identity),
            None => record,
        };
        record.settle(None, &result).await;
    }
    result
}

/// Who asks, as the request shows it.
pub(super) fn request_info(parts: &Parts, exchange: &ObservedRequest) -> RequestInfo {
    let authority = parts.uri.authority().map(|authority| authority.as_str());
    let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let client = exchange.client();
    let forwarded = client.host.as_deref();
    RequestInfo {
        headers: parts.headers.clone(),
        host: forwarded.or(authority).or(host).map(str::to_owned),
        peer: client.address,
        secure: client.secure,
        certificate: client.certificate.clone(),
        tags: Vec::new(),
        connection: exchange.credentials().cloned(),
    }
}

/// Whether an operation changes what is stored.
fn changes(endpoint: &Endpoint) -> bool {
    match endpoint {
        Endpoint::Ping
        | Endpoint::Catalog { .. }
        | Endpoint::BlobGet { .. }
        | Endpoint::BlobHead { .. }
        | Endpoint::UploadStatus { .. }
        | Endpoint::ManifestGet { .. }
        | Endpoint::ManifestHead { .. }
        | Endpoint::TagList { .. }
        | Endpoint::Referrers { .. } => false,
        Endpoint::BlobDelete { .. }
        | Endpoint::UploadStart { .. }
        | Endpoint::UploadPatch { .. }
        | Endpoint::UploadPut { .. }
        | Endpoint::UploadCancel { .. }
        | Endpoint::ManifestPut { .. }
        | Endpoint::ManifestDelete { .. } => true,
    }
}

/// Whether an operation takes bytes of a blob.
fn sends(endpoint: &Endpoint) -> bool {
    match endpoint {
        Endpoint::UploadPatch { .. } | Endpoint::UploadPut { .. } => true,
        Endpoint::UploadStart { digest, .. } => digest.is_some(),
        Endpoint::Ping
        | Endpoint::Catalog { .. }
        | Endpoint::BlobGet { .. }
        | Endpoint::BlobHead { .. }
        | Endpoint::BlobDelete { .. }
        | Endpoint::UploadStatus { .. }
        | Endpoint::UploadCancel { .. }
        | Endpoint::ManifestGet { .. }
        | Endpoint::ManifestHead { .. }
        | Endpoint::ManifestPut { .. }
        | Endpoint::ManifestDelete { .. }
        | Endpoint::TagList { .. }
        | Endpoint::Referrers { .. } => false,
    }
}

/// Each operation has a place of its own in memory: together they would all be as large as an upload,
/// and a read would move that about.
async fn dispatch(call: ApiCall, endpoint: Endpoint) -> Result<Response, ApiError> {
    match endpoint {
        Endpoint::Ping => Ok(base::ping()),
        Endpoint::Catalog { page } => Box::pin(catalog::list(call, page)).await,
        Endpoint::BlobGet { name: _, digest } => Box::pin(blobs::get(call, &digest)).await,
        Endpoint::BlobHead { name: _, digest } => Box::pin(blobs::head(call, &digest)).await,
        Endpoint::BlobDelete { name: _, digest } => {
            deletes(&call)?;
            Box::pin(blobs::delete(call, &digest)).await
        }
        Endpoint::UploadStart { name, digest, algorithm, mount, from } => {
            Box::pin(uploads::start(call, uploads::Start { name, digest, algorithm, mount, from }))
                .await
        }
        Endpoint::UploadStatus { name, id } => Box::pin(uploads::status(call, &name, &id)).await,
        Endpoint::UploadPatch { name, id } => Box::pin(uploads::patch(call, &name, &id)).await,
        Endpoint::UploadPut { name, id, digest } => {
            Box::pin(uploads::put(call, &name, &id, &digest)).await
        }
        Endpoint::UploadCancel { name: _, id } => Box::pin(uploads::cancel(call, &id)).await,
        Endpoint::ManifestGet { name: _, reference } => {
            Box::pin(manifests::get(call, &reference)).await
        }
        Endpoint::ManifestHead { name: _, reference } => {
            Box::pin(manifests::head(call, &reference)).await
        }
        Endpoint::ManifestPut { name, reference, tags } => {
            Box::pin(manifests::put(call, &name, reference, tags)).await
        }
        Endpoint::ManifestDelete { name: _, reference } => {
            deletes(&call)?;
            Box::pin(manifests::delete(call, &reference)).await
        }
        Endpoint::TagList { name, page } => Box::pin(tags::list(call, &name, page)).await,
        Endpoint::Referrers { name, subject, artifact_type, page } => {
            let query = referrers::ReferrersQuery { name, subject, artifact_type, page };
            Box::pin(referrers::list(call, query)).await
        }
    }
}

fn deletes(call: &ApiCall) -> Result<(), ApiError> {
    if call.context.options.deletes { Ok(()) } else { Err(ApiError::deletes_are_off()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More than a call, an endpoint and where an operation is, and far less than an upload.
    const DISPATCH_BYTES_MAX: usize = 2048;

    fn future_bytes<F: Future>(_: fn(ApiCall, Endpoint) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_read_is_not_as_large_as_an_upload() {
        let bytes = future_bytes(dispatch);
        assert!(bytes <= DISPATCH_BYTES_MAX, "{bytes}");
    }
}
