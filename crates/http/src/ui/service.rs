//! Pages that belong to no repository: usage of all, activity.

use std::time::{Duration, SystemTime};

use jreg_access::{Right, USAGE_REPOSITORIES_MAX};
use jreg_oci::{Endpoint, PageParams};
use jreg_registry::{ListedUpload, ListedUploadState, PageRequest};
use jreg_ui::{
    ActivityPage, MirrorsPage, PushRow, UploadRow, UsagePage, activity_page, mirrors_page,
    usage_page,
};

use super::PageResponse;
use super::images::may_see_tag;
use super::lists::figures;
use super::query::UiQuery;
use super::request::{AdminOperation, PageResult, UiRequest};
use crate::ui_state::RecentPush;

/// Pushes that are shown.
const PUSHES_MAX: usize = 25;
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
        for of in &found.items {
            let figures = figures(of);
            request.context.ui.note_size(of.repository.clone(), figures.bytes);
            view.rows.push((of.repository.clone(), figures));
        }
        view.next = found.next;
    }
    if request.page.viewer.is_admin {
        view.service = Some(request.context.ui.activity.usage(is_counted).await);
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
    let view = ActivityPage { uploads, pushes: pushes(request), service };
    Ok(PageResponse::Html(activity_page(&request.page, &view)))
}

/// The mirrored registries, for administrators.
pub(crate) async fn mirrors(request: &UiRequest<'_>, query: &UiQuery) -> PageResult {
    if request.context.guard.is_some() {
        request.admit_to(Right::Admin, AdminOperation::page("ui_mirrors")).await?;
    }
    let is_counted = query.nonempty("count").is_some();
    let _turn = match is_counted {
        true => Some(request.context.ui.document_turn().await?),
        false => None,
    };
    let mirrors = request.context.ui.activity.mirrors(is_counted).await;
    Ok(PageResponse::Html(mirrors_page(&request.page, &MirrorsPage { mirrors, is_counted })))
}

/// Recent pushes of tags that the viewer may pull.
fn pushes(request: &UiRequest<'_>) -> Vec<PushRow> {
    let pushes = request.context.ui.pushes().into_iter();
    let seen = pushes.filter(|push| may_see_tag(request, &push.name, &push.tag)).take(PUSHES_MAX);
    let row = |push: RecentPush| {
        let RecentPush { name, tag, at, by } = push;
        PushRow { repository: name, tag, at, by }
    };
    seen.map(row).collect()
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
