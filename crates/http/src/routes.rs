//! The fixed paths: [`ROUTES`].

use http::Method;

/// One fixed path.
#[derive(Debug)]
pub struct Route {
    pub path: &'static str,
    /// Its name in logs and metrics.
    pub id: &'static str,
    pub(crate) document: Document,
}

/// What is served at a fixed path.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Document {
    Root,
    Live,
    Ready,
    Metrics,
    Token,
    OpenApi,
    Support,
    Profile,
    Memory,
}

const TOKEN: Route = Route { path: "/token", id: "token", document: Document::Token };

/// Every fixed path.
pub const ROUTES: &[Route] = &[
    Route { path: "/", id: "root", document: Document::Root },
    Route { path: "/livez", id: "livez", document: Document::Live },
    Route { path: "/readyz", id: "readyz", document: Document::Ready },
    Route { path: "/health", id: "health", document: Document::Live },
    Route { path: "/ready", id: "ready", document: Document::Ready },
    Route { path: "/metrics", id: "metrics", document: Document::Metrics },
    TOKEN,
    Route { path: "/openapi.yaml", id: "openapi", document: Document::OpenApi },
];

/// What only the admin listener serves. The path of the profile is that at which `go tool pprof` looks for one.
const ADMIN_ROUTES: &[Route] = &[
    Route { path: "/support", id: "support", document: Document::Support },
    Route { path: "/debug/pprof/profile", id: "profile", document: Document::Profile },
    Route { path: "/debug/memory", id: "memory", document: Document::Memory },
];

/// What is served at a path, if it is one of [`ROUTES`].
pub(crate) fn find(path: &str) -> Option<&'static Route> {
    ROUTES.iter().find(|route| route.path == path)
}

/// The route of the token service.
pub(crate) fn token() -> &'static Route {
    &TOKEN
}

/// What the admin listener serves at a path.
pub(crate) fn find_admin(path: &str) -> Option<&'static Route> {
    let is_admin = |route: &&Route| {
        matches!(route.document, Document::Live | Document::Ready | Document::Metrics)
    };
    let own = || ADMIN_ROUTES.iter().find(|route| route.path == path);
    find(path).filter(is_admin).or_else(own)
}

impl Route {
    /// Whether it serves metrics.
    pub(crate) fn is_metrics(&self) -> bool {
        matches!(self.document, Document::Metrics)
    }

    /// The allowed methods.
    pub(crate) fn methods(&self) -> &'static [Method] {
        match self.document {
            Document::Token => &[Method::GET, Method::HEAD, Method::POST],
            Document::Profile => &[Method::GET],
            Document::Root
            | Document::Live
            | Document::Ready
            | Document::Metrics
            | Document::Support
            | Document::Memory
            | Document::OpenApi => &[Method::GET, Method::HEAD],
        }
    }
}

/// The name of a path in logs and metrics, if it is one of [`ROUTES`].
pub(crate) fn endpoint_id(path: &str) -> Option<&'static str> {
    find(path).or_else(|| find_admin(path)).map(|route| route.id)
}

/// Whether machines ask for this path every few seconds.
pub(crate) fn is_probe(path: &str) -> bool {
    matches!(path, "/livez" | "/readyz" | "/health" | "/ready" | "/metrics")
}
