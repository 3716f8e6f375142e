//! HTTP: [`Api`] is the one entry point for everything that is served.
//!
//! Health, metrics and documents are fixed paths (`routes`, `service`); every other path becomes
//! an [`Endpoint`](jreg_oci::Endpoint), which `api` dispatches to the file of its noun (`blobs`,
//! `uploads`, `manifests`, `tags`, `referrers`, `catalog`, `history`, `oci_history`, `deleted`,
//! `restores`, `extensions`, `base`); below `/ui/` are the pages of `ui`. A handler gets its
//! `ApiCall` and the options that it needs, and returns a response or an
//! `ApiError`. `exchange` observes all requests, and is the one place where an error becomes a
//! response. `tests/architecture.rs` lists which module may use which.

#![allow(missing_docs, reason = "a comment that repeats a name is noise")]

mod admin;
mod api;
mod base;
mod blobs;
mod body;
mod byteranges;
mod call;
mod catalog;
mod conditional;
mod context;
mod cookies;
mod deleted;
mod error;
mod exchange;
mod extensions;
mod framing;
mod headers;
mod history;
mod manifests;
mod memory;
mod observed;
mod oci_history;
mod options;
mod outcome;
mod page;
mod profiles;
mod proxies;
mod pulls;
mod readiness;
mod reading;
mod record;
mod redirect;
mod referrers;
mod request_id;
mod restores;
mod routes;
mod service;
mod tags;
mod token;
mod ui;
mod ui_state;
mod uploads;
mod usage;

use std::sync::Arc;

use http::Method;
use jreg_access::ConnectionCredentials;
use jreg_net::server::{Request, RequestHandler, Response, ResponseFuture};
use jreg_profile::WorkName;

use error::ApiError;
use observed::ObservedRequest;

pub use admin::{AdminApi, SupportSource};
pub use context::ApiContext;
pub use jreg_ui::{
    ActivityRow, ActivitySection, ActivityState, GcNote, MirrorFacts, QuotaRow, ServiceActivity,
    ServiceUsage, StoredOfMirror, format_bytes, format_span,
};
pub use memory::responses_budget;
pub use options::{CHUNK_BYTES_MIN, HttpOptions};
pub use proxies::Proxies;
pub use pulls::PullExceptions;
pub use redirect::Redirects;
pub use request_id::{REQUEST_ID_BYTES_MAX, RequestId};
pub use routes::ROUTES as SERVICE_ROUTES;
pub use ui::{UI_ROUTES, UiRouteInfo};
pub use ui_state::{ActivitySource, NoActivity, UiState};

/// Everything that is served, from a request to its response: the server and every test use this.
#[derive(Clone, Debug)]
pub struct Api {
    context: Arc<ApiContext>,
    /// Of the connection that this serves, if it serves one.
    credentials: Option<Arc<ConnectionCredentials>>,
}

impl Api {
    /// What is served with these parts.
    pub fn new(context: Arc<ApiContext>) -> Self {
        Self { context, credentials: None }
    }

    /// Responds to a request.
    pub async fn respond(&self, request: Request) -> Response {
        let Self { context, credentials } = self;
        let is_head = request.method() == Method::HEAD;
        let handle = |observed, request| async move { route(context, &observed, request).await };
        let response = exchange::observe(context, credentials.clone(), request, handle).await;
        exchange::finish(response, is_head)
    }
}

impl RequestHandler for Api {
    fn handle(&self, request: Request) -> ResponseFuture {
        let api = self.clone();
        Box::pin(async move { api.respond(request).await })
    }

    fn for_connection(&self) -> Option<Arc<dyn RequestHandler>> {
        Some(Arc::new(Self {
            context: Arc::clone(&self.context),
            credentials: Some(Arc::default()),
        }))
    }
}

async fn route(
    context: &Arc<ApiContext>,
    observed: &Arc<ObservedRequest>,
    request: Request,
) -> Result<Response, ApiError> {
    let path = request.uri().path();
    let route = routes::find(path);
    if let Some(route) = route.filter(|route| context.options.serves_metrics || !route.is_metrics())
    {
        let responding = Box::pin(service::respond(route, context, observed, request));
        return jreg_profile::work(WorkName("request", route.id), responding).await;
    }
    let mirror = context.options.mirrors.split_path(path).filter(|(_, rest)| *rest == "/token");
    match mirror {
        Some((mirror, _)) => {
            Box::pin(service::respond_to_mirror_token(context, mirror, observed, request)).await
        }
        None if ui::is_ui(context, path) => {
            let page = Box::pin(ui::respond(context, observed, request));
            jreg_profile::work(WorkName("page", ""), page).await
        }
        None => api::respond(context, observed, request).await,
    }
}

#[cfg(test)]
mod tests;
