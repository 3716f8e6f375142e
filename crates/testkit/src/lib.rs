//! What jreg's tests share: content made to order from a seed, a client that checks on every
//! response what must always hold, scenarios written as rows of data, the whole server as a value
//! that stops when it is dropped, an S3 server that keeps a journal, fails where it is told to, and
//! can lie, an authority that issues certificates, and a registry to pull from that misbehaves by script.
//!
//! Nothing here uses jreg's own parsers or hashes: what the tests expect is computed apart from the
//! code under test. A check that fails panics with the request and the response in full.

#![allow(clippy::unwrap_used)]
#![allow(missing_docs, reason = "a comment that repeats a name is noise")]

pub mod acme;
mod check;
mod client;
mod content;
pub mod credentials;
mod digest;
mod message;
mod process;
mod rng;
pub mod s3;
mod scenario;
mod server;
mod small_pages;
mod tls;
pub mod upstream;
mod wire;

pub use check::violations;
pub use client::Client;
pub use content::{Blob, Image, ImageSpec, Manifest, index_of, media};
pub use digest::{sha256, sha512};
pub use message::{Body, Request, Response};
pub use process::Process;
pub use rng::Rng;
pub use scenario::{
    Scenario, Step, delete, get, head, patch, post, push_blob, push_blob_to, push_image,
    push_manifest, put,
};
pub use server::{ServerSpec, StoreKind, TestServer};
pub use small_pages::SmallPagesStore;
pub use tls::{CertificateAndKey, TestCa, TlsClient, TlsProxy, TlsStream};
pub use wire::Wire;
