//! [`AdminApi`]: health, metrics, profiles and the support bundle on a listener of their own, for operators.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use http::Method;
use jreg_net::server::{Request, RequestHandler, Response, ResponseFuture};

use crate::context::ApiContext;
use crate::error::ApiError;
use crate::headers;
use crate::observed::ObservedRequest;
use crate::routes::{self, Document};
use crate::{exchange, profiles, service};

/// Where support bundles come from.
#[async_trait]
pub trait SupportSource: fmt::Debug + Send + Sync + 'static {
    /// What a support engineer needs to know of this process, without secrets.
    async fn bundle(&self) -> serde_json::Value;
}

/// What the admin listener serves.
#[derive(Clone, Debug)]
pub struct AdminApi {
    context: Arc<ApiContext>,
    support: Arc<dyn SupportSource>,
}

impl AdminApi {
    /// What is served with these parts.
    pub fn new(context: Arc<ApiContext>, support: Arc<dyn SupportSource>) -> Self {
        Self { context, support }
    }

    async fn respond(&self, request: Request) -> Response {
        let is_head = request.method() == Method::HEAD;
        let handle = |observed: Arc<ObservedRequest>, request| async move {
            self.route(&observed, request).await
        };
        let response = exchange::observe(&self.context, None, request, handle).await;
        exchange::finish(response, is_head)
    }

    async fn route(
        &self,
        observed: &ObservedRequest,
        request: Request,
    ) -> Result<Response, ApiError> {
        let route = routes::find_admin(request.uri().path()).ok_or_else(ApiError::not_found)?;
        match route.document {
            Document::Support => {
                service::check_method(route, request.method())?;
                Ok(headers::json(headers::JSON, &self.support.bundle().await))
            }
            Document::Profile => {
                service::check_method(route, request.method())?;
                profiles::record(request.uri().query(), &self.context.stopping).await
            }
            Document::Memory => {
                service::check_method(route, request.method())?;
                profiles::memory()
            }
            _ => Box::pin(service::respond(route, &self.context, observed, request)).await,
        }
    }
}

impl RequestHandler for AdminApi {
    fn handle(&self, request: Request) -> ResponseFuture {
        let api = self.clone();
        Box::pin(async move { api.respond(request).await })
    }
}
