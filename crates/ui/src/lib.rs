//! The web UI as values: what a page shows goes in, HTML comes out. No I/O, no HTTP, no settings.
//!
//! Everything that was pushed is hostile: names in annotations, labels, commands, file names, media types. It
//! reaches a page through [`text`], which escapes what is not visible and limits lengths; the templates escape
//! the rest. Documents are parsed by [`document`], with limits.
//!
//! - `context.rs`: what all pages of a request share; `layout.rs`: the frame of a page
//! - `parts.rs`: what several pages show: digests, sizes, times, commands, tables of facts
//! - `artifact.rs`: what a manifest is, and the commands that pull it
//! - `findings.rs`: scan reports and VEX documents; `findings_card.rs`: their table; `sharing.rs`: what others need, too
//! - a file for each page

#![allow(missing_docs, reason = "a comment that repeats a name is noise")]

mod account;
mod activity;
mod admin;
pub mod artifact;
mod assets;
mod chart;
pub mod chart_archive;
mod context;
mod deleted;
pub mod document;
mod error_page;
pub mod findings;
mod findings_card;
mod format;
mod history;
mod image;
mod layout;
mod lifecycle;
pub mod link;
mod login;
mod manifests;
mod mirrors;
mod parts;
mod referrers;
mod repositories;
mod repository;
mod service;
mod sharing;
mod statement;
pub mod text;
mod usage;

pub use account::{AccountPage, account_page};
pub use activity::{
    ActivityPage, ActivityRow, ActivitySection, ActivityState, PushRow, ServiceActivity, UploadRow,
    activity_page,
};
pub use admin::{
    AccessTokenRow, AccessTokensPage, PolicyTestPage, access_tokens_page, admin_off_page,
    policy_test_page,
};
pub use artifact::ArtifactKind;
pub use assets::{ASSET_CACHE_CONTROL, Asset, find_asset};
pub use context::{Notice, NoticeKind, PageContext, Viewer};
pub use deleted::{
    DeleteQuestion, DeletedPage, DeletedRow, DeletedTagRow, delete_page, deleted_page,
};
pub use error_page::{ErrorPage, error_page};
pub use findings_card::FindingsView;
pub use format::{format_bytes, format_span, format_time};
pub use history::{ChangeRow, ContentDifference, HistoryPage, history_page};
pub use image::{ImagePage, ManifestFacts, SbomView, TagFacts, image_page};
pub use layout::{Crumb, Layout, Section};
pub use lifecycle::{LifecyclePage, VerdictKind, VerdictRow, lifecycle_page};
pub use login::{LoginPage, login_page};
pub use manifests::{ManifestRow, ManifestsPage, manifests_page};
pub use maud::{Markup, PreEscaped, html};
pub use mirrors::{MirrorFacts, MirrorsPage, StoredOfMirror, mirrors_page};
pub use parts::form_token_field;
pub use referrers::{KeptPage, KeptReason, ReferrerRow, ReferrersPage, kept_page, referrers_page};
pub use repositories::{
    RepositoriesPage, RepositoryRow, RepositorySummary, SearchPage, repositories_page, search_page,
};
pub use repository::{RepositoryHead, TagKind, TagOrder, TagRow, TagsPage, tags_page};
pub use service::{GcNote, QuotaRow, ServiceUsage};
pub use sharing::{SharingFacts, SharingView, sharing_path};
pub use usage::{RepositoryUsagePage, UsageFigures, UsagePage, repository_usage_page, usage_page};
