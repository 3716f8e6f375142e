//! Profiles of processor time and memory, which only the admin listener serves.

use std::time::Duration;

use http::{HeaderValue, StatusCode, header};
use jreg_net::server::Response;
use jreg_oci::ErrorCode;
use jreg_profile::{Recording, RecordingError};
use jreg_telemetry::memory::MemoryReport;
use jreg_telemetry::profile::{to_pprof, to_text};
use tokio_util::sync::CancellationToken;

use crate::error::ApiError;
use crate::headers;

/// How long a profile is recorded, unless the request says otherwise, and at the most.
const RECORDED_TIME: Duration = Duration::from_secs(10);
const RECORDED_TIME_MAX: Duration = Duration::from_secs(60);

/// What a request for a profile asks for, by the parameters that Go's servers and `go tool pprof` use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ProfileQuery {
    recorded_time: Duration,
    is_text: bool,
}

impl ProfileQuery {
    fn parse(query: &str) -> Result<Self, ApiError> {
        let mut parsed = Self { recorded_time: RECORDED_TIME, is_text: false };
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let invalid = || {
                let max = RECORDED_TIME_MAX.as_secs();
                let message = format!("parameters are seconds=1 to {max}, and debug=1 for text");
                ApiError::bad_request(ErrorCode::Unsupported, message)
            };
            match parameter.split_once('=') {
                Some(("seconds", seconds)) => {
                    let seconds = seconds.parse().map_err(|_| invalid())?;
                    parsed.recorded_time = Duration::from_secs(seconds);
                }
                Some(("debug", debug)) => parsed.is_text = debug != "0",
                _ => return Err(invalid()),
            }
            if parsed.recorded_time.is_zero() || parsed.recorded_time > RECORDED_TIME_MAX {
                return Err(invalid());
            }
        }
        Ok(parsed)
    }
}

/// Records a profile, and ends early when the server stops. One at a time.
pub(crate) async fn record(
    query: Option<&str>,
    stopping: &CancellationToken,
) -> Result<Response, ApiError> {
    let query = ProfileQuery::parse(query.unwrap_or_default())?;
    let recording = Recording::begin().map_err(|busy: RecordingError| {
        let (status, code) = (StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooManyRequests);
        ApiError::new(status, code, busy.to_string())
    })?;
    stopping.run_until_cancelled(tokio::time::sleep(query.recorded_time)).await;
    let profile = recording.finish();
    let (content_type, body) = match query.is_text {
        true => (HeaderValue::from_static("text/plain; charset=utf-8"), to_text(&profile).into()),
        false => (headers::OCTET_STREAM, to_pprof(&profile).into()),
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    Ok(response)
}

/// What the memory of this process consists of.
pub(crate) fn memory() -> Result<Response, ApiError> {
    let report = MemoryReport::read().ok_or_else(ApiError::not_found)?;
    Ok(headers::json(headers::JSON, &report))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn profiles_are_bounded_in_time() {
        let parse = |query| {
            ProfileQuery::parse(query)
                .ok()
                .map(|query| (query.recorded_time.as_secs(), query.is_text))
        };
        for (query, expected) in [
            ("", Some((10, false))),
            ("seconds=1", Some((1, false))),
            ("seconds=60&debug=1", Some((60, true))),
            ("debug=0", Some((10, false))),
            ("seconds=61", None),
            ("seconds=0", None),
            ("seconds=-1", None),
            ("seconds=18446744073709551616", None),
            ("seconds=1&second=2", None),
            ("seconds", None),
        ] {
            assert_eq!(parse(query), expected, "{query}");
        }
    }

    #[tokio::test]
    async fn a_stopping_server_ends_a_profile_and_one_runs_at_a_time() {
        let stopping = CancellationToken::new();
        let first = tokio::spawn({
            let stopping = stopping.clone();
            async move { record(Some("seconds=60&debug=1"), &stopping).await }
        });
        tokio::task::yield_now().await;
        let second = record(Some("seconds=1"), &stopping).await.unwrap_err();
        assert_eq!(second.status(), StatusCode::TOO_MANY_REQUESTS);
        stopping.cancel();
        let first = first.await.unwrap().unwrap();
        assert_eq!(first.headers()["content-type"], "text/plain; charset=utf-8");
    }
}
