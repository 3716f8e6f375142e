//! Everything under `/v2/`: from the request line to the operation to the answer.
//!
//! An operation that changes something runs in a task of its own: a client that goes away in the
//! middle of a commit cannot leave it half done, and a shutdown waits for it. One that only reads
//! ends with its client; that may make one write, which keeps what was found from being collected.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use http::request::Parts;
use http::{HeaderMap, header};
use jreg_oci::Endpoint;
use jreg_registry::Error;
use tracing::Instrument;

use super::body::ClientBody;
use super::error::ApiError;
use super::exchange::Exchange;
use super::files::Files;
use super::{Context, base, blobs, catalog, manifests, referrers, tags, uploads};
use crate::auth::{Asker, Authorized};

/// An operation that was let in, with what the client sent.
pub(super) struct Call {
    pub(super) access: Authorized,
    pub(super) headers: HeaderMap,
    pub(super) peer: Option<SocketAddr>,
    /// Takes files for the connection, if it can send them.
    pub(super) files: Option<Arc<Files>>,
    pub(super) body: ClientBody,
    pub(super) context: Arc<Context>,
}

/// Answers everything that is not an ordinary route.
pub(super) async fn answer(State(context): State<Arc<Context>>, request: Request) -> Response {
    let exchange = request.extensions().get::<Arc<Exchange>>().cloned();
    let exchange = exchange.expect("the outermost layer observes every request");
    answer_observed(&context, &exchange, request).await
}

/// The same, without a way through the router.
pub(super) async fn answer_observed(
    context: &Arc<Context>,
    exchange: &Arc<Exchange>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let body = ClientBody::new(body, &parts.headers, &context.options, Arc::clone(exchange));
    let result = perform(context, exchange, parts, body).await;
    result.unwrap_or_else(|error| error.render(context, exchange))
}

async fn perform(
    context: &Arc<Context>,
    exchange: &Arc<Exchange>,
    parts: Parts,
    body: ClientBody,
) -> Result<Response, ApiError> {
    let endpoint = Endpoint::parse(parts.method.as_str(), parts.uri.path(), parts.uri.query())
        .map_err(|error| ApiError::route(&error, &parts.method))?;
    exchange.is_about(&endpoint);
    let peer = exchange.client().address;
    let access = context.gate.admit(asker(&parts, exchange), &endpoint).await?;
    exchange.is_by(access.identity().to_string(), Some(access.reason().to_string()));
    let files = parts.extensions.get::<Arc<Files>>().cloned();
    let context = Arc::clone(context);
    let call = Call { access, headers: parts.headers, peer, files, body, context };
    if !changes(&endpoint) {
        return dispatch(call, endpoint).await;
    }
    let task = call.context.tasks.clone().spawn(dispatch(call, endpoint).in_current_span());
    match task.await {
        Ok(result) => result,
        Err(error) if error.is_panic() => Err(ApiError::panicked()),
        Err(_) => Err(Error::Stopped.into()),
    }
}

/// Who asks, as the request shows it.
pub(super) fn asker(parts: &Parts, exchange: &Exchange) -> Asker {
    let authority = parts.uri.authority().map(|authority| authority.as_str());
    let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let client = exchange.client();
    let forwarded = client.host.as_deref();
    Asker {
        headers: parts.headers.clone(),
        host: forwarded.or(authority).or(host).map(str::to_owned),
        peer: client.address,
        secure: client.secure,
        certificate: client.certificate.clone(),
        tags: Vec::new(),
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

async fn dispatch(call: Call, endpoint: Endpoint) -> Result<Response, ApiError> {
    match endpoint {
        Endpoint::Ping => Ok(base::ping()),
        Endpoint::Catalog { page } => catalog::list(call, page).await,
        Endpoint::BlobGet { name: _, digest } => blobs::get(call, &digest).await,
        Endpoint::BlobHead { name: _, digest } => blobs::head(call, &digest).await,
        Endpoint::BlobDelete { name: _, digest } => {
            deletes(&call)?;
            blobs::delete(call, &digest).await
        }
        Endpoint::UploadStart { name, digest, algorithm, mount, from } => {
            uploads::start(call, uploads::Start { name, digest, algorithm, mount, from }).await
        }
        Endpoint::UploadStatus { name, id } => uploads::status(call, &name, &id).await,
        Endpoint::UploadPatch { name, id } => uploads::patch(call, &name, &id).await,
        Endpoint::UploadPut { name, id, digest } => uploads::put(call, &name, &id, &digest).await,
        Endpoint::UploadCancel { name: _, id } => uploads::cancel(call, &id).await,
        Endpoint::ManifestGet { name: _, reference } => manifests::get(call, &reference).await,
        Endpoint::ManifestHead { name: _, reference } => manifests::head(call, &reference).await,
        Endpoint::ManifestPut { name, reference, tags } => {
            manifests::put(call, &name, reference, tags).await
        }
        Endpoint::ManifestDelete { name: _, reference } => {
            deletes(&call)?;
            manifests::delete(call, &reference).await
        }
        Endpoint::TagList { name, page } => tags::list(call, &name, page).await,
        Endpoint::Referrers { name, subject, artifact_type, page } => {
            let query = referrers::Query { name, subject, artifact_type, page };
            referrers::list(call, query).await
        }
    }
}

fn deletes(call: &Call) -> Result<(), ApiError> {
    if call.context.options.deletes { Ok(()) } else { Err(ApiError::deletes_are_off()) }
}
