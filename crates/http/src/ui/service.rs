//! Pages that belong to no repository: usage of all, activity.

use std::time::{Duration, SystemTime};

use jreg_access::USAGE_REPOSITORIES_MAX;
use jreg_oci::{Endpoint, PageParams};
use jreg_registry::{ListedUpload, ListedUploadState, PageRequest};
use jreg_ui::{ActivityPage, UploadRow, UsagePage, activity_page, usage_page};

use super::PageResponse;
use super::lists::figures;
use super::query::UiQuery;
use super::request::{PageResult, UiRequest};

/// Repositories on a page of usage.
const REPOSITORIES_MAX: usize = 50;

pub(crate) async fn usage(request: &UiRequest<'_>, query: &UiQuery) -> PageResult {
    let limit = REPOSITORIES_MAX.min(USAGE_REPOSITORIES_MAX);
    let last = query.nonempty("after").map(str::to_owned);
    let page = PageParams { n: Some(limit), last: last.clone() };
    let access = request.admit(&Endpoint::Usage { page }).await?;
    let is_counted = query.nonempty("count").is_some();
    let mut view = UsagePage { is_counted, is_first: last.is_none(), ..UsagePage::default() };
    if is_counted {
        let found = access.usage(&PageRequest { limit, last }).await?;
        view.rows = found.items.iter().map(|of| (of.repository.clone(), figures(of))).collect();
        view.next = found.next;
    }
    Ok(PageResponse::Html(usage_page(&request.page, &view)))
}

pub(crate) async fn activity(request: &UiRequest<'_>) -> PageResult {
    let page = PageParams { n: None, last: None };
    let access = request.admit(&Endpoint::Catalog { page }).await?;
    let uploads = access.uploads().await?.into_iter().filter_map(upload_row).collect();
    let service = match request.page.viewer.is_admin {
        true => Some(request.context.ui.activity.activity().await),
        false => None,
    };
    let view = ActivityPage { uploads, service };
    Ok(PageResponse::Html(activity_page(&request.page, &view)))
}

fn upload_row(upload: ListedUpload) -> Option<UploadRow> {
    let time = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    Some(UploadRow {
        repository: upload.repository?,
        state: match upload.state {
            ListedUploadState::Open => "open",
            ListedUploadState::Cancelled => "cancelled, freeing its bytes",
            ListedUploadState::Sending => "receiving",
            ListedUploadState::Orphan => "left by a crash",
            ListedUploadState::Unreadable => "unreadable",
        },
        started: upload.started.map(time),
        last_byte: time(upload.last_byte),
        bytes: upload.bytes,
    })
}
