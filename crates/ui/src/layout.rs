//! [`Layout`]: the frame of every page.

use maud::{DOCTYPE, Markup, html};

use crate::assets::{ICON, SCRIPT, STYLE};
use crate::context::{NoticeKind, PageContext, Viewer};
use crate::{link, text};

/// The frame of a page: title, navigation, breadcrumb, identity.
#[derive(Clone, Debug)]
pub struct Layout<'a> {
    pub context: &'a PageContext,
    /// What the browser's tab says before ` · jreg`.
    pub title: &'a str,
    pub section: Section,
    pub crumbs: Vec<Crumb>,
    /// The text in the search field.
    pub search: &'a str,
}

/// One step of the breadcrumb. The last has no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crumb {
    pub text: String,
    pub path: Option<String>,
}

/// The part of the UI that the navigation marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    Repositories,
    Usage,
    Activity,
    Account,
    Admin,
    None,
}

impl Crumb {
    pub fn new(text: impl Into<String>, path: impl Into<String>) -> Self {
        Self { text: text.into(), path: Some(path.into()) }
    }

    pub fn last(text: impl Into<String>) -> Self {
        Self { text: text.into(), path: None }
    }
}

impl<'a> Layout<'a> {
    /// The frame of a page without a breadcrumb.
    pub fn new(context: &'a PageContext, section: Section, title: &'a str) -> Self {
        Self { context, title, section, crumbs: Vec::new(), search: "" }
    }

    #[must_use]
    pub fn crumbs(self, crumbs: Vec<Crumb>) -> Self {
        Self { crumbs, ..self }
    }

    #[must_use]
    pub fn search(self, search: &'a str) -> Self {
        Self { search, ..self }
    }

    /// The whole page around its content.
    pub fn render(&self, main: &Markup) -> String {
        let Self { context, title, .. } = self;
        let paths = &context.paths;
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (text::plain(title)) " · jreg" }
                    link rel="stylesheet" href=(paths.asset(STYLE.name()));
                    link rel="icon" type="image/svg+xml" href=(paths.asset(ICON.name()));
                    script src=(paths.asset(SCRIPT.name())) defer {}
                }
                body {
                    a class="skip" href="#main" { "Skip to content" }
                    (self.header())
                    main id="main" tabindex="-1" {
                        (self.breadcrumb())
                        (self.notice())
                        (main)
                    }
                    footer {
                        p { "jreg " (env!("CARGO_PKG_VERSION")) " · " span { (context.host) } }
                    }
                }
            }
        };
        page.into_string()
    }

    fn header(&self) -> Markup {
        let Self { context, search, .. } = self;
        let paths = &context.paths;
        html! {
            header class="top" {
                a class="brand" href=(paths.home()) {
                    img src=(paths.asset(ICON.name())) width="24" height="24" alt="";
                    "jreg"
                }
                form class="search" role="search" action=(paths.service("search")) method="get" {
                    label class="away" for="q" { "Search repositories and tags" }
                    input id="q" name="q" type="search" value=(search) autocomplete="off"
                        placeholder="Search, e.g. nginx or nginx:1.27" maxlength="300";
                    button class="away" type="submit" { "Search" }
                }
                nav aria-label="Main" {
                    (self.tab(Section::Repositories, "Repositories", &paths.home()))
                    (self.tab(Section::Usage, "Usage", &paths.service("usage")))
                    (self.tab(Section::Activity, "Activity", &paths.service("activity")))
                    @if context.viewer.is_admin {
                        (self.tab(Section::Admin, "Admin", &paths.service("admin")))
                    }
                }
                (self.identity(&context.viewer))
            }
        }
    }

    fn tab(&self, section: Section, name: &str, path: &str) -> Markup {
        let current = (self.section == section).then_some("page");
        html! { a href=(path) aria-current=[current] { (name) } }
    }

    fn identity(&self, viewer: &Viewer) -> Markup {
        let paths = &self.context.paths;
        html! {
            div class="identity" {
                @match &viewer.identity {
                    Some(identity) if viewer.can_log_in => {
                        a href=(paths.service("account")) { (text::line(identity)) }
                        form method="post" action=(paths.service("logout")) {
                            (crate::parts::form_token_field(self.context))
                            button class="quiet" type="submit" { "Log out" }
                        }
                    }
                    Some(identity) => span { (text::line(identity)) },
                    None if viewer.can_log_in => {
                        a href=(link::with_query(&paths.service("login"), &[("next", &viewer.here)])) {
                            "Log in"
                        }
                    }
                    None => span class="faint" { "anonymous" },
                }
            }
        }
    }

    fn breadcrumb(&self) -> Markup {
        html! {
            @if !self.crumbs.is_empty() {
                nav class="crumbs" aria-label="Breadcrumb" {
                    ol {
                        @for crumb in &self.crumbs {
                            @match &crumb.path {
                                Some(path) => li { a href=(path) { (text::line(&crumb.text)) } },
                                None => li { span aria-current="page" { (text::line(&crumb.text)) } },
                            }
                        }
                    }
                }
            }
        }
    }

    fn notice(&self) -> Markup {
        html! {
            @if let Some(notice) = &self.context.notice {
                @let (class, role) = match notice.kind {
                    NoticeKind::Done => ("notice done", "status"),
                    NoticeKind::Failed => ("notice failed", "alert"),
                };
                p class=(class) role=(role) { (text::line(&notice.text)) }
            }
        }
    }
}
