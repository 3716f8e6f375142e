//! A store and the server below it.

use std::time::Duration;

use jreg_storage::{
    ErrorKind, Key, PART_BYTES_MIN, Result, S3Credentials, S3Options, S3Store, S3Url,
};
use jreg_testkit::s3::{FaultRule, S3Fault, S3Gate, S3Operation, S3Server, S3Spec};

/// A server as AWS is.
pub(crate) async fn server() -> S3Server {
    S3Server::start(S3Spec::default()).await
}

/// How a test reaches a server.
pub(crate) fn options(server: &S3Server) -> S3Options {
    let text = format!("s3://{}/data?endpoint={}", server.bucket(), server.endpoint());
    let url: S3Url = text.parse().unwrap();
    let (key_id, secret) = (server.access_key().to_owned(), server.secret_key().to_owned());
    let credentials = S3Credentials::Static { key_id, secret, token: None };
    S3Options { credentials, part_bytes: PART_BYTES_MIN, ..S3Options::new(url) }
}

pub(crate) fn store(server: &S3Server) -> S3Store {
    S3Store::open(options(server)).unwrap()
}

/// A store that soon gives up waiting, and tries again.
pub(crate) fn impatient(server: &S3Server) -> S3Store {
    waiting(server, 10)
}

/// A store that soon gives up.
pub(crate) fn hasty(server: &S3Server) -> S3Store {
    waiting(server, 1)
}

fn waiting(server: &S3Server, attempts: u32) -> S3Store {
    let brief = Duration::from_millis(300);
    let options = S3Options {
        request_timeout: brief,
        idle_timeout: brief,
        request_budget: attempts * brief,
        transfer_budget: attempts * brief,
        ..options(server)
    };
    S3Store::open(options).unwrap()
}

pub(crate) fn key(key: &str) -> Key {
    key.parse().unwrap()
}

pub(crate) fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

/// The operations that were asked of the server since the last call.
pub(crate) fn asked(server: &S3Server) -> Vec<String> {
    server.take_requests().iter().map(|request| format!("{:?}", request.operation)).collect()
}

/// Holds the N-th PUT from now back. It takes effect when the first gate is opened, and has
/// when it arrives at the second.
pub(crate) fn hold_put(server: &S3Server, nth: u64) -> (S3Gate, S3Gate) {
    let (gate, applied) = (S3Gate::closed(), S3Gate::closed());
    for fault in [S3Fault::Hold(gate.clone()), S3Fault::HoldResponse(applied.clone())] {
        server.inject(FaultRule::new(fault).on(S3Operation::PutObject).nth(nth));
    }
    (gate, applied)
}
