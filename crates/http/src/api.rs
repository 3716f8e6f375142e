//! Everything under `/v2/`: from the request line to the operation to the response. Unknown paths are
//! refused here, too.
//!
//! An operation that changes something runs in a task of its own: a client that disconnects during
//! a commit cannot interrupt it, and a shutdown waits for it. One that only reads ends with its
//! client; it may make one write, which touches what it found.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use http::Method;
use http::request::Parts;
use jreg_access::limits::{ByteAccount, CountedUpload};
use jreg_access::{AuthContext, Authorized, RefusedRequest};
use jreg_auth::Identity;
use jreg_net::server::files::FileQueue;
use jreg_net::server::{ConnectionResources, Request, Response};
use jreg_oci::{Endpoint, RoutedEndpoint};
use jreg_profile::{WorkName, work};
use jreg_registry::Error;
use jreg_telemetry::metrics::GaugeGuard;
use jreg_telemetry::trace;
use tracing::Instrument;

use crate::body::ClientBody;
use crate::call::ApiCall;
use crate::context::ApiContext;
use crate::error::ApiError;
use crate::manifests::ManifestBuffer;
use crate::observed::ObservedRequest;
use crate::options::HttpOptions;
use crate::outcome::{ChangeSource, log_changes};
use crate::record::{PendingAuditRecord, outcome_of};
use crate::referrers::ReferrersQuery;
use crate::uploads::UploadStart;
use crate::{
    base, blobs, catalog, deleted, extensions, headers, history, manifests, memory, oci_history,
    referrers, restores, tags, uploads, usage,
};

/// Responds to a request for any path that is not fixed.
pub(crate) async fn respond(
    context: &Arc<ApiContext>,
    observed: &Arc<ObservedRequest>,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let body = ClientBody::new(body, &parts.headers, &context.options, Arc::clone(observed));
    context.limits.count_address(observed.network())?;
    let (method, path, query) = (parts.method.as_str(), parts.uri.path(), parts.uri.query());
    let routed = Endpoint::parse_routed(method, path, query, &context.options.mirrors);
    let RoutedEndpoint { endpoint, route } =
        routed.map_err(|error| ApiError::route(&error, &parts.method))?;
    let route = route.map(Arc::new);
    observed.set_endpoint(&endpoint);
    observed.set_route(route.as_ref());
    let record = audit_record(context, observed, &endpoint, &parts);
    let began = trace::begin();
    let admitting = context.gate.admit(observed.request_info(&parts), &endpoint);
    let admitted = work(WorkName("authorize", ""), admitting).await;
    trace::note_since("authorize", if admitted.is_ok() { "ok" } else { "refused" }, began);
    let access = match admitted {
        Ok(access) => access,
        Err(refused) => return refuse(context, observed, record, refused).await,
    };
    if let Some(resources) = parts.extensions.get::<Arc<ConnectionResources>>() {
        resources.authorized.set();
    }
    context.limits.count_identity(access.identity(), observed.network())?;
    perform_admitted(context, observed, AdmittedRequest { parts, body, endpoint, access, record })
        .await
}

/// An operation of a page, as which the request was authenticated.
pub(crate) struct PageOperation {
    /// Of the request, with the headers of the operation.
    pub(crate) parts: Parts,
    pub(crate) body: ClientBody,
    pub(crate) endpoint: Endpoint,
    pub(crate) auth: AuthContext,
}

/// Performs an operation for a page, with its audit record.
pub(crate) async fn perform(
    context: &Arc<ApiContext>,
    observed: &Arc<ObservedRequest>,
    operation: PageOperation,
) -> Result<Response, ApiError> {
    let PageOperation { parts, body, endpoint, auth } = operation;
    let record = audit_record(context, observed, &endpoint, &parts);
    let access = match context.gate.admit_identified(&auth, &endpoint) {
        Ok(access) => access,
        Err(refused) => return refuse(context, observed, record, refused).await,
    };
    perform_admitted(context, observed, AdmittedRequest { parts, body, endpoint, access, record })
        .await
}

fn audit_record(
    context: &ApiContext,
    observed: &ObservedRequest,
    endpoint: &Endpoint,
    parts: &Parts,
) -> Option<PendingAuditRecord> {
    let (sink, changes) = (context.audit_sink(), changes(endpoint));
    PendingAuditRecord::of(sink, observed, endpoint, &parts.headers, changes)
}

/// A request that was admitted to an operation.
struct AdmittedRequest {
    parts: Parts,
    body: ClientBody,
    endpoint: Endpoint,
    access: Authorized,
    record: Option<PendingAuditRecord>,
}

async fn perform_admitted(
    context: &Arc<ApiContext>,
    observed: &Arc<ObservedRequest>,
    request: AdmittedRequest,
) -> Result<Response, ApiError> {
    let AdmittedRequest { parts, body, endpoint, access, record } = request;
    let resources = parts.extensions.get::<Arc<ConnectionResources>>().cloned();
    let (limits, network) = (&context.limits, observed.network());
    let upload = match has_blob_bytes(&endpoint) {
        true => Some(UploadInProgress {
            _limit: limits.begin_upload(access.identity(), network)?,
            _gauge: GaugeGuard::new(&context.metrics.uploads),
        }),
        false => None,
    };
    let account = limits.account(access.identity(), network);
    let in_flight = account.as_ref().map(|account| account.begin(body.length())).transpose()?;
    let body = body.counted_by(in_flight.flatten());
    observed.set_identity(access.identity().to_string(), Some(access.reason().to_string()));
    let record = record.map(|record| (record.by(access.identity()), access.reason().to_string()));
    let files = parts.extensions.get::<Arc<FileQueue>>().cloned();
    let base_url = base_url(&context.options, observed);
    let is_head = parts.method == Method::HEAD;
    let (headers, peer) = (parts.headers, observed.client().address);
    let route = observed.route().cloned();
    let call = ApiCall { access, headers, peer, route, base_url, files, resources, body };
    match changes(&endpoint) {
        true => write(context, observed, call, endpoint, (record, upload)).await,
        false => {
            let account = account.filter(|_| !is_head);
            read(context, observed, call, endpoint, record, account).await
        }
    }
}

/// An audit record, and what granted access.
type AllowedRecord = (PendingAuditRecord, String);

/// Counts an upload for as long as it lives.
struct UploadInProgress {
    _limit: Option<CountedUpload>,
    _gauge: GaugeGuard,
}

/// Performs an operation that only reads.
async fn read(
    context: &ApiContext,
    observed: &ObservedRequest,
    call: ApiCall,
    endpoint: Endpoint,
    record: Option<AllowedRecord>,
    account: Option<ByteAccount>,
) -> Result<Response, ApiError> {
    let is_in_memory = is_in_memory(&endpoint);
    let resources = call.resources.clone().filter(|_| is_in_memory);
    let _turn = match &resources {
        Some(resources) => resources.memory.turn().await,
        None => None,
    };
    let name = WorkName("request", observed.endpoint());
    let result = work(name, dispatch(context, call, endpoint)).await;
    let result = result.and_then(|response| counted(observed, account.as_ref(), response));
    let result = result.and_then(|response| match is_in_memory {
        true => {
            let (budget, network) = (&context.response_memory, observed.network());
            memory::hold_response(budget, network, &context.metrics, response)
        }
        false => Ok(response),
    });
    if let Some((record, rule)) = record {
        record.settle(Some(rule), &result).await;
    }
    result
}

/// Performs an operation that changes something, in a task of its own.
async fn write(
    context: &Arc<ApiContext>,
    observed: &ObservedRequest,
    call: ApiCall,
    endpoint: Endpoint,
    (record, upload): (Option<AllowedRecord>, Option<UploadInProgress>),
) -> Result<Response, ApiError> {
    let shared = Arc::clone(context);
    let source = endpoint.name().map(|name| ChangeSource {
        request_id: observed.request_id.to_string(),
        repository: name.clone(),
        identity: call.access.identity().to_string(),
    });
    let name = WorkName("request", observed.endpoint());
    let task = async move {
        let performing = AssertUnwindSafe(dispatch(&shared, call, endpoint)).catch_unwind();
        let result = performing.await.unwrap_or_else(|_| Err(ApiError::panicked()));
        if let Some(source) = &source {
            log_changes(outcome_of(&result), source);
        }
        if let Some((record, rule)) = record {
            record.settle_here(Some(rule), &result).await;
        }
        drop(upload);
        result
    };
    let task = trace::within(trace::current(), work(name, Box::pin(task)));
    let task = context.tasks.spawn(task.in_current_span());
    task.await.unwrap_or_else(|_| Err(Error::Stopped.into()))
}

fn base_url(options: &HttpOptions, observed: &ObservedRequest) -> String {
    match options.public_url.as_str() {
        "" => observed.client().origin.clone().unwrap_or_default(),
        public_url => public_url.to_owned(),
    }
}

/// Counts the bytes of a response until they are sent.
fn counted(
    observed: &ObservedRequest,
    account: Option<&ByteAccount>,
    response: Response,
) -> Result<Response, ApiError> {
    if let Some(account) = account {
        // Every response has a length.
        let length = headers::length_of(&response).unwrap_or_default();
        observed.set_bytes_in_flight(account.begin(Some(length))?);
    }
    Ok(response)
}

/// Whether the whole response is in memory until its client has taken it.
fn is_in_memory(endpoint: &Endpoint) -> bool {
    matches!(
        endpoint,
        Endpoint::Catalog { .. }
            | Endpoint::ManifestGet { .. }
            | Endpoint::ManifestHead { .. }
            | Endpoint::TagList { .. }
            | Endpoint::Referrers { .. }
            | Endpoint::OciTagHistory { .. }
            | Endpoint::TagHistory { .. }
            | Endpoint::DeletedManifests { .. }
            | Endpoint::Usage { .. }
    )
}

/// Records that a request was refused.
async fn refuse(
    context: &ApiContext,
    observed: &ObservedRequest,
    record: Option<PendingAuditRecord>,
    RefusedRequest { error, auth }: RefusedRequest,
) -> Result<Response, ApiError> {
    let identity = auth.map(|auth| auth.principal.identity.clone());
    if let Some(identity) = &identity {
        observed.set_identity(identity.to_string(), None);
        context.limits.count_identity(identity, observed.network())?;
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
        | Endpoint::Referrers { .. }
        | Endpoint::Extensions
        | Endpoint::RepositoryExtensions { .. }
        | Endpoint::OciTagHistory { .. }
        | Endpoint::TagHistory { .. }
        | Endpoint::DeletedManifests { .. }
        | Endpoint::Usage { .. } => false,
        Endpoint::BlobDelete { .. }
        | Endpoint::UploadStart { .. }
        | Endpoint::UploadPatch { .. }
        | Endpoint::UploadPut { .. }
        | Endpoint::UploadCancel { .. }
        | Endpoint::ManifestPut { .. }
        | Endpoint::ManifestDelete { .. }
        | Endpoint::TagRestore { .. }
        | Endpoint::ManifestRestore { .. } => true,
    }
}

/// Whether the body has bytes of a blob.
fn has_blob_bytes(endpoint: &Endpoint) -> bool {
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
        | Endpoint::Referrers { .. }
        | Endpoint::Extensions
        | Endpoint::RepositoryExtensions { .. }
        | Endpoint::OciTagHistory { .. }
        | Endpoint::TagHistory { .. }
        | Endpoint::TagRestore { .. }
        | Endpoint::Usage { .. }
        | Endpoint::DeletedManifests { .. }
        | Endpoint::ManifestRestore { .. } => false,
    }
}

/// Calls the handler of an operation. Each handler's future is boxed: unboxed, all would be as large as
/// an upload's, and each read would move that.
async fn dispatch(
    context: &ApiContext,
    call: ApiCall,
    endpoint: Endpoint,
) -> Result<Response, ApiError> {
    let (options, pages) = (&context.options, context.page_options());
    if options.read_only && changes(&endpoint) {
        return Err(ApiError::read_only());
    }
    match endpoint {
        Endpoint::Ping => Ok(base::ping()),
        Endpoint::Catalog { page } => Box::pin(catalog::list(call, pages, page)).await,
        Endpoint::BlobGet { name: _, digest } => {
            Box::pin(blobs::get(call, &options.redirects, &digest)).await
        }
        Endpoint::BlobHead { name: _, digest } => Box::pin(blobs::head(call, &digest)).await,
        Endpoint::BlobDelete { name: _, digest } => {
            check_deletes(options)?;
            Box::pin(blobs::delete(call, &digest)).await
        }
        Endpoint::UploadStart { name, digest, algorithm, mount, from } => {
            let start = UploadStart { name, digest, algorithm, mount, from };
            Box::pin(uploads::start(call, start)).await
        }
        Endpoint::UploadStatus { name, id } => Box::pin(uploads::status(call, &name, &id)).await,
        Endpoint::UploadPatch { name, id } => Box::pin(uploads::patch(call, &name, &id)).await,
        Endpoint::UploadPut { name, id, digest } => {
            Box::pin(uploads::put(call, &name, &id, &digest)).await
        }
        Endpoint::UploadCancel { name: _, id } => Box::pin(uploads::cancel(call, &id)).await,
        Endpoint::ManifestGet { name: _, reference } => {
            Box::pin(manifests::get(call, &options.pulls, &reference)).await
        }
        Endpoint::ManifestHead { name: _, reference } => {
            Box::pin(manifests::head(call, &options.pulls, &reference)).await
        }
        Endpoint::ManifestPut { name, reference, tags } => {
            let (bytes_max, budget) = (options.manifest_bytes_max, &context.manifest_room);
            let buffer = ManifestBuffer { bytes_max, budget };
            let (pushed, by) = ((reference.clone(), tags.clone()), pusher(&call));
            let response = Box::pin(manifests::put(call, buffer, &name, reference, tags)).await?;
            if options.ui {
                context.ui.note_push(&name, (&pushed.0, &pushed.1), by);
            }
            Ok(response)
        }
        Endpoint::ManifestDelete { name: _, reference } => {
            check_deletes(options)?;
            Box::pin(manifests::delete(call, &reference)).await
        }
        Endpoint::TagList { name, page } => Box::pin(tags::list(call, pages, &name, page)).await,
        Endpoint::Referrers { name, subject, artifact_type, page } => {
            let query = ReferrersQuery { name, subject, artifact_type, page };
            Box::pin(referrers::list(call, pages, query)).await
        }
        endpoint => Box::pin(dispatch_extension(context, call, endpoint)).await,
    }
}

/// Who pushes; `None`: an anonymous client.
fn pusher(call: &ApiCall) -> Option<String> {
    match call.access.identity() {
        Identity::Anonymous => None,
        named @ Identity::Named(_) => Some(named.to_string()),
    }
}

/// The same for operations that are not in the specification.
async fn dispatch_extension(
    context: &ApiContext,
    call: ApiCall,
    endpoint: Endpoint,
) -> Result<Response, ApiError> {
    let (pages, budget) = (context.page_options(), &context.manifest_room);
    match endpoint {
        Endpoint::Extensions => Ok(extensions::list(&call.base_url, None)),
        Endpoint::RepositoryExtensions { name } => {
            Ok(extensions::list(&call.base_url, Some(&name)))
        }
        Endpoint::OciTagHistory { name, tag, query } => {
            oci_history::list(call, pages, (&name, &tag), query).await
        }
        Endpoint::TagHistory { name, tag, page } => {
            history::list(call, pages, (&name, &tag), page).await
        }
        Endpoint::TagRestore { name: _, tag } => restores::tag(call, budget, &tag).await,
        Endpoint::Usage { page } => Box::pin(usage::list(call, pages, page)).await,
        Endpoint::DeletedManifests { name, page } => deleted::list(call, pages, &name, page).await,
        Endpoint::ManifestRestore { name: _, digest } => {
            restores::manifest(call, budget, &digest).await
        }
        Endpoint::Ping
        | Endpoint::Catalog { .. }
        | Endpoint::BlobGet { .. }
        | Endpoint::BlobHead { .. }
        | Endpoint::BlobDelete { .. }
        | Endpoint::UploadStart { .. }
        | Endpoint::UploadStatus { .. }
        | Endpoint::UploadPatch { .. }
        | Endpoint::UploadPut { .. }
        | Endpoint::UploadCancel { .. }
        | Endpoint::ManifestGet { .. }
        | Endpoint::ManifestHead { .. }
        | Endpoint::ManifestPut { .. }
        | Endpoint::ManifestDelete { .. }
        | Endpoint::TagList { .. }
        | Endpoint::Referrers { .. } => Err(ApiError::not_found()),
    }
}

fn check_deletes(options: &HttpOptions) -> Result<(), ApiError> {
    if options.deletes { Ok(()) } else { Err(ApiError::deletes_are_off()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// More than a call, an endpoint and where an operation is, and far less than an upload.
    const DISPATCH_BYTES_MAX: usize = 2048;

    fn future_bytes<'a, F: Future>(_: fn(&'a ApiContext, ApiCall, Endpoint) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_read_is_not_as_large_as_an_upload() {
        let bytes = future_bytes(dispatch);
        assert!(bytes <= DISPATCH_BYTES_MAX, "{bytes}");
    }
}
