//! Connections: listeners, HTTP/1.1 and HTTP/2, TLS, certificates by ACME, bodies out of files. What
//! is served over them is a [`server::RequestHandler`].

pub mod acme;
pub mod descriptors;
pub mod server;
pub mod tls;
