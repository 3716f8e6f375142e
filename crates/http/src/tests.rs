//! The OpenAPI document matches the endpoints.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use jreg_oci::Endpoint;

use super::*;

/// The paths of the document with their methods and operation ids.
fn documented() -> BTreeSet<(String, String, String)> {
    let document = include_str!("../../../docs/openapi.yaml");
    let (_, paths) = document.split_once("\npaths:\n").unwrap();
    let (paths, _) = paths.split_once("\ncomponents:\n").unwrap();
    let (mut path, mut method) = ("", "");
    let mut operations = BTreeSet::new();
    for line in paths.lines() {
        let indent = line.len() - line.trim_start().len();
        match (indent, line.trim().split_once(':').unwrap_or_default()) {
            (2, (name, _)) => path = name,
            (4, (name, _)) => method = name,
            (6, ("operationId", id)) => {
                let method = method.to_uppercase();
                operations.insert((path.to_owned(), method, id.trim().to_owned()));
            }
            _ => {}
        }
    }
    operations
}

/// The endpoints, in the same form. A HEAD beside a GET has its own operation id.
fn served() -> BTreeSet<(String, String, String)> {
    let mut operations = BTreeSet::new();
    for endpoint in Endpoint::ALL {
        for method in endpoint.methods {
            let both = endpoint.methods.len() > 1 && *method == "HEAD";
            let id = if both { format!("{}_head", endpoint.id) } else { endpoint.id.to_owned() };
            operations.insert((endpoint.template.to_owned(), (*method).to_owned(), id));
        }
    }
    for route in SERVICE_ROUTES {
        operations.insert((route.path.to_owned(), "GET".to_owned(), route.id.to_owned()));
    }
    operations.insert(("/token".to_owned(), "POST".to_owned(), "token_form".to_owned()));
    operations
}

#[test]
fn the_document_names_what_is_served_and_nothing_else() {
    assert_eq!(documented(), served());
}

/// Every API header that this crate uses is in the document.
#[test]
fn the_document_names_every_header() {
    let document = include_str!("../../../docs/openapi.yaml").to_lowercase();
    for header in [
        headers::DIGEST,
        headers::UPLOAD_ID,
        headers::API_VERSION,
        headers::CHUNK_MIN_LENGTH,
        headers::SUBJECT,
        headers::TAG,
        headers::FILTERS_APPLIED,
        request_id::HEADER,
    ] {
        assert!(document.contains(header.as_str()), "{header}");
    }
    for code in jreg_oci::ErrorCode::ALL {
        assert!(document.contains(&code.as_str().to_lowercase()), "{code}");
    }
}
