//! An S3 server in the test's own process: one bucket in memory, linearizable, with signatures,
//! conditions and multipart rules as on AWS. It records what it is asked, goes wrong where a test
//! tells it to, and can be a server that lies about conditions.
//!
//! ```
//! use jreg_testkit::s3::{FaultRule, S3Fault, S3Gate, S3Operation, S3Server, S3Spec};
//!
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let server = S3Server::start(S3Spec::default()).await;
//! let client = server.client();
//! let put = |bytes: &'static str| client.send(client.request("PUT", "k", &[]).body(bytes));
//!
//! // The first write arrives, and takes effect when the second is long done.
//! let gate = S3Gate::closed();
//! server.inject(FaultRule::new(S3Fault::Hold(gate.clone())).on(S3Operation::PutObject).nth(1));
//! let (late, ()) = tokio::join!(put("late"), async {
//!     gate.arrived(1).await;
//!     put("newer").await.unwrap();
//!     gate.open();
//! });
//! assert_eq!(late.unwrap().status, 200);
//! assert_eq!(&*server.object("k").unwrap().bytes, b"late");
//! assert_eq!(server.requests().len(), 2);
//! # });
//! ```
//!
//! The program `s3-emulator` is the same for those who want it in a process of its own.

mod body;
mod bucket;
mod checksum;
mod client;
mod clock;
mod condition;
mod emulated_body;
mod front;
mod gate;
mod guard;
mod home;
mod journal;
mod listing;
mod multipart;
mod object;
mod operation;
mod pace;
mod pieces;
mod reading;
mod rule;
mod server;
mod service;
mod state;

pub use client::S3Client;
pub use clock::S3Clock;
pub use condition::IfMatchForm;
pub use gate::S3Gate;
pub use journal::RecordedRequest;
pub use listing::Listings;
pub use multipart::S3PartRules;
pub use object::StoredObject;
pub use operation::S3Operation;
pub use rule::{FaultRule, InjectedRule, S3Fault, S3Refusal};
pub use server::{S3OpenUpload, S3Server, S3Spec};
pub use state::{ConditionalDelete, Conditions, Replacement, SwapOfNothing};
