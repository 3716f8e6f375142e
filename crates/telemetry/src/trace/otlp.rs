//! [`encode`]: finished requests as an ExportTraceServiceRequest of OTLP, in protobuf.
//!
//! docs/decisions/0016-otlp-by-own-code.md says why this is not the `opentelemetry` crates.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{FinishedTrace, TracedCall};
use crate::protobuf::Message;

/// Content type of the encoded request.
pub const CONTENT_TYPE: &str = "application/x-protobuf";

/// Kinds of spans (opentelemetry.proto.trace.v1.Span.SpanKind).
const INTERNAL: u64 = 1;
const SERVER: u64 = 2;
const CLIENT: u64 = 3;
/// STATUS_CODE_ERROR.
const ERROR: u64 = 2;

/// Appends a KeyValue whose value is a string, or a number if it must be one.
fn attribute(message: &mut Message, field: u64, key: &str, value: &str) {
    let (mut pair, mut any) = (Message::default(), Message::default());
    pair.bytes(1, key.as_bytes());
    match value.parse::<u64>() {
        Ok(number) if key == "http.response.status_code" => any.number(3, number),
        _ => any.bytes(1, value.as_bytes()),
    }
    pair.message(2, any);
    message.message(field, pair);
}

/// The spans of these requests. `instance` tells apart the processes of a registry.
pub fn encode(traces: &[FinishedTrace], instance: &str) -> Vec<u8> {
    let mut resource = Message::default();
    for (key, value) in [
        ("service.name", "jreg"),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.instance.id", instance),
    ] {
        attribute(&mut resource, 1, key, value);
    }
    let mut scope = Message::default();
    scope.bytes(1, b"jreg");
    let mut scope_spans = Message::default();
    scope_spans.message(1, scope);
    for trace in traces {
        scope_spans.message(2, request_span(trace));
        for call in trace.trace.calls().iter() {
            scope_spans.message(2, call_span(trace, call));
        }
    }
    let mut resource_spans = Message::default();
    resource_spans.message(1, resource);
    resource_spans.message(2, scope_spans);
    let mut request = Message::default();
    request.message(1, resource_spans);
    request.into_bytes()
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn times(span: &mut Message, began: SystemTime, duration: Duration) {
    span.fixed64(7, nanos(began));
    span.fixed64(8, nanos(began + duration));
}

fn request_span(finished: &FinishedTrace) -> Message {
    let context = &finished.trace.context;
    let mut span = Message::default();
    span.bytes(1, &context.trace_id);
    span.bytes(2, &context.span_id);
    if let Some(parent) = &context.parent_id {
        span.bytes(4, parent);
    }
    span.bytes(5, finished.name.as_bytes());
    span.number(6, SERVER);
    times(&mut span, finished.trace.began_at, finished.duration);
    for (key, value) in &finished.attributes {
        attribute(&mut span, 9, key, value);
    }
    attribute(&mut span, 9, "http.response.status_code", &finished.status.to_string());
    if finished.status >= 500 {
        let mut status = Message::default();
        status.number(3, ERROR);
        span.message(15, status);
    }
    span
}

fn call_span(finished: &FinishedTrace, call: &TracedCall) -> Message {
    let trace = &finished.trace;
    let is_store = !matches!(call.name, "authorize" | "upstream");
    let mut span = Message::default();
    span.bytes(1, &trace.context.trace_id);
    span.bytes(2, &rand::random::<[u8; 8]>());
    span.bytes(4, &trace.context.span_id);
    let name = if is_store { format!("store.{}", call.name) } else { call.name.to_owned() };
    span.bytes(5, name.as_bytes());
    span.number(6, if call.name == "authorize" { INTERNAL } else { CLIENT });
    times(&mut span, trace.began_at + call.began, call.duration);
    attribute(&mut span, 9, "jreg.outcome", call.outcome);
    if !matches!(call.outcome, "ok" | "not_found" | "already_exists" | "precondition") {
        let mut status = Message::default();
        status.number(3, ERROR);
        span.message(15, status);
    }
    span
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::super::{RequestTrace, TraceContext};
    use super::*;

    #[test]
    fn a_request_has_its_ids_and_a_span_for_each_call() {
        let header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0bc902b7-01";
        let trace = Arc::new(RequestTrace::new(TraceContext::of(Some(header), 0), true));
        trace.note("get", "ok", Duration::from_millis(1));
        let finished = FinishedTrace {
            name: "GET manifest_get".to_owned(),
            duration: Duration::from_millis(2),
            status: 200,
            attributes: vec![("url.path", "/v2/app/manifests/v1".to_owned())],
            trace: Arc::clone(&trace),
        };
        let bytes = encode(&[finished], "one");
        let has = |part: &[u8]| bytes.windows(part.len()).filter(|found| *found == part).count();
        assert_eq!(has(&trace.context.trace_id), 2);
        assert_eq!(has(&trace.context.span_id), 2, "its own, and as the parent");
        for part in ["GET manifest_get", "store.get", "/v2/app/manifests/v1", "service.name", "one"]
        {
            assert_eq!(has(part.as_bytes()), 1, "{part}");
        }
    }
}
