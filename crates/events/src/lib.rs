//! Sends events to sinks: the options of a sink, the formats, the signature, and the delivery. What an
//! event is, and the log that is sent, is in `jreg-registry`; docs/events.md describes the whole.
//!
//! - `options.rs`: what an operator can set about a sink
//! - `cloud_event.rs`, `docker.rs`: the formats
//! - `signature.rs`: by which a receiver knows the sender
//! - `client.rs`: one request to a sink
//! - `delivery.rs`: the log, sent in order, with retries and dead letters

#![allow(missing_docs, reason = "a comment that repeats a field's name is noise")]

mod client;
mod cloud_event;
mod delivery;
mod docker;
mod options;
mod signature;

pub use client::{DeliveryError, SinkClient, SinkClientError};
pub use cloud_event::event_type;
pub use delivery::{
    ATTEMPTS_MAX, DeliveryObserver, DeliveryProgress, DeliveryStatus, SinkDelivery,
};
pub use options::{
    InvalidActions, SecretSource, SinkFilter, SinkFormat, SinkInterest, SinkOptions, parse_actions,
};
pub use signature::{SIGNATURE_HEADER, signature};
