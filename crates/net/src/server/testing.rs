//! A request handler for tests of connections.

use std::fmt;
use std::sync::Arc;

use super::{Request, RequestHandler, Response, ResponseFuture};

/// Responds by calling a function.
pub(super) struct HandlerFn<F>(F);

impl<F> fmt::Debug for HandlerFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HandlerFn").finish_non_exhaustive()
    }
}

/// A handler that calls a function for each request.
pub(super) fn handler<F, A>(function: F) -> Arc<dyn RequestHandler>
where
    F: Fn(Request) -> A + Send + Sync + 'static,
    A: Future<Output = Response> + Send + 'static,
{
    Arc::new(HandlerFn(function))
}

impl<F, A> RequestHandler for HandlerFn<F>
where
    F: Fn(Request) -> A + Send + Sync + 'static,
    A: Future<Output = Response> + Send + 'static,
{
    fn handle(&self, request: Request) -> ResponseFuture {
        Box::pin(self.0(request))
    }
}
