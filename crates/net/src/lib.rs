//! Connections: listeners, HTTP/1.1 and HTTP/2, TLS, ACME, and `sendfile`. Requests are served by a
//! [`server::RequestHandler`].

#![allow(missing_docs, reason = "a comment that repeats a name is noise")]

pub mod acme;
pub mod descriptors;
pub mod probe;
pub mod server;
pub mod tls;
pub mod trace_export;
