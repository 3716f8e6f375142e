//! [`PageContext`]: what all pages of a request share.

use std::time::SystemTime;

use crate::link::Paths;

/// What all pages of a request share.
#[derive(Clone, Debug)]
pub struct PageContext {
    pub paths: Paths,
    /// The host and port in references of images: `registry.example.com`.
    pub host: String,
    pub now: SystemTime,
    pub viewer: Viewer,
    /// Whether content may be deleted through the registry at all.
    pub deletes: bool,
    /// What the last form did.
    pub notice: Option<Notice>,
}

/// Who looks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Viewer {
    /// The identity; `None`: anonymous.
    pub identity: Option<String>,
    /// Whether there is a page to log in with.
    pub can_log_in: bool,
    /// Whether pages for administrators are shown.
    pub is_admin: bool,
    /// The token that forms carry; empty: there is none, and forms are refused.
    pub form_token: String,
    /// Where to return after a login: the path and query of this page.
    pub here: String,
}

/// One sentence about the last form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub kind: NoticeKind,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoticeKind {
    Done,
    Failed,
}
