//! The history of a tag in the form that was drafted for the specification:
//! `_oci/tag-history/<tag>` (distribution-spec, pull request 606).
//!
//! Its responses are never 404: that would say that the registry has no histories at all. Pages begin
//! after a time: the changes of one tag differ in their milliseconds.

use std::time::{Duration, SystemTime};

use chrono::DateTime;
use http::{HeaderValue, header};
use jreg_access::{AccessError, Authorized};
use jreg_net::server::Response;
use jreg_oci::{Digest, ErrorCode, RepositoryName, Tag, TagHistoryQuery, media_type};
use jreg_registry::{ChangeId, Error, PageRequest, ResultPage, TagHistoryEntry};
use serde_json::{Value, json};

use crate::call::ApiCall;
use crate::error::ApiError;
use crate::headers;
use crate::page::PageOptions;

const TIMESTAMP: &str = "org.opencontainers.distribution.tag.timestamp";
const EVENT: &str = "org.opencontainers.distribution.tag.event";

/// Added to a time that is between two milliseconds, it is in the second.
const ALMOST_A_MILLISECOND: Duration = Duration::from_nanos(999_999);

pub(crate) async fn list(
    call: ApiCall,
    pages: PageOptions<'_>,
    (name, tag): (&RepositoryName, &Tag),
    query: TagHistoryQuery,
) -> Result<Response, ApiError> {
    let wanted = WantedEvents::new(pages, &query)?;
    let page = match wanted.limit {
        0 => FoundEvents::default(),
        _ => wanted.find(&call.access, tag).await?,
    };
    let mut response = index(&page.descriptors);
    if let Some(last) = page.next {
        let path = format!("/v2/{name}/_oci/tag-history/{tag}");
        let before = headers::rfc3339(last.time());
        let digest = query.digest.as_ref().map(ToString::to_string);
        let more = [("before", Some(before)), ("since", query.since.clone()), ("digest", digest)];
        let link = pages.link_to(&path, wanted.limit, &more);
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}

fn index(descriptors: &[Value]) -> Response {
    let content_type = HeaderValue::from_static(media_type::OCI_IMAGE_INDEX);
    let index = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_IMAGE_INDEX,
        "manifests": descriptors,
    });
    headers::json(content_type, &index)
}

/// The events that a page may have.
struct WantedEvents<'a> {
    limit: usize,
    /// How many entries of the history one page looks at, about.
    examined_max: usize,
    before: Option<ChangeId>,
    since: Option<SystemTime>,
    digest: Option<&'a Digest>,
}

#[derive(Default)]
struct FoundEvents {
    descriptors: Vec<Value>,
    /// The change that the next page begins after.
    next: Option<ChangeId>,
}

impl<'a> WantedEvents<'a> {
    fn new(pages: PageOptions<'_>, query: &'a TagHistoryQuery) -> Result<Self, ApiError> {
        let since = query.since.as_deref().map(|text| time("since", text)).transpose()?;
        let before = query.before.as_deref().map(|text| time("before", text)).transpose()?;
        let before = before.map(|before| ChangeId::earliest(before + ALMOST_A_MILLISECOND));
        let examined_max = pages.items_max;
        let limit = query.n.unwrap_or(examined_max).min(examined_max);
        Ok(Self { limit, examined_max, before, since, digest: query.digest.as_ref() })
    }

    async fn find(&self, access: &Authorized, tag: &Tag) -> Result<FoundEvents, ApiError> {
        let (mut found, mut last, mut examined) = (FoundEvents::default(), self.before, 0);
        // It is not known how many entries are of one digest.
        let limit = if self.digest.is_some() { self.examined_max } else { self.limit };
        loop {
            let page = history(access, tag, last, limit).await?;
            let previous = previous_of(access, tag, &page).await?;
            examined += page.items.len().max(1);
            for (index, entry) in page.items.iter().enumerate() {
                if self.since.is_some_and(|since| entry.change.time() <= since) {
                    return Ok(found);
                }
                if found.descriptors.len() == self.limit {
                    return Ok(FoundEvents { next: last, ..found });
                }
                last = Some(entry.change);
                let previous = page.items.get(index + 1).or(previous.as_ref());
                found.descriptors.extend(self.descriptor(entry, previous));
            }
            let Some(next) = page.next.and_then(|next| next.parse().ok()) else {
                return Ok(found);
            };
            last = Some(next);
            if found.descriptors.len() == self.limit || examined >= self.examined_max {
                return Ok(FoundEvents { next: last, ..found });
            }
        }
    }

    /// What an event is about, if it is wanted: the manifest that the tag was set to, or for a deletion the one
    /// that it pointed to before. If that is not known any more, neither is the event.
    fn descriptor(
        &self,
        entry: &TagHistoryEntry,
        previous: Option<&TagHistoryEntry>,
    ) -> Option<Value> {
        let (of, event) = match &entry.digest {
            Some(_) => (entry, "created"),
            None => (previous?, "deleted"),
        };
        let (digest, media_type, size) = (of.digest.as_ref()?, of.media_type.as_ref()?, of.size?);
        self.digest.is_none_or(|wanted| wanted == digest).then(|| {
            json!({
                "mediaType": media_type,
                "digest": digest,
                "size": size,
                "annotations": { TIMESTAMP: headers::rfc3339(entry.change.time()), EVENT: event },
            })
        })
    }
}

/// A page of the history; that of a tag of which nothing is known is empty.
async fn history(
    access: &Authorized,
    tag: &Tag,
    last: Option<ChangeId>,
    limit: usize,
) -> Result<ResultPage<TagHistoryEntry>, ApiError> {
    let request = PageRequest { limit, last: last.map(|last| last.to_string()) };
    match access.tag_history(tag, &request).await {
        Err(AccessError::Registry(error)) if matches!(*error, Error::ManifestUnknown { .. }) => {
            Ok(ResultPage { items: Vec::new(), next: None })
        }
        page => Ok(page?),
    }
}

/// The entry before the last one of a page, if that is a deletion.
async fn previous_of(
    access: &Authorized,
    tag: &Tag,
    page: &ResultPage<TagHistoryEntry>,
) -> Result<Option<TagHistoryEntry>, ApiError> {
    match page.items.last() {
        Some(last) if last.digest.is_none() && page.next.is_some() => {
            let previous = history(access, tag, Some(last.change), 1).await?;
            Ok(previous.items.into_iter().next())
        }
        _ => Ok(None),
    }
}

/// The time in a parameter.
fn time(parameter: &str, text: &str) -> Result<SystemTime, ApiError> {
    let time = DateTime::parse_from_rfc3339(text).map_err(|_| {
        let message = format!(
            "invalid query parameter {parameter}: must be a time in the form of RFC 3339, for \
             example 2026-04-03T02:01:00Z"
        );
        ApiError::bad_request(ErrorCode::Unsupported, message)
    })?;
    Ok(time.into())
}
