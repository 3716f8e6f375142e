//! Pages for administrators: access tokens, and the test of the policy.

use std::time::SystemTime;

use maud::{Markup, html};

use crate::context::PageContext;
use crate::format::format_time;
use crate::layout::{Layout, Section};
use crate::{link, parts, text};

/// Choices of a lifetime, in days; 0: no expiry.
const LIFETIMES_D: [(u64, &str); 4] =
    [(30, "30 days"), (90, "90 days"), (365, "365 days"), (0, "Until it is revoked")];
const ACTIONS: [&str; 6] = ["pull", "push", "delete", "list", "mount", "admin"];

/// A page of the access tokens.
#[derive(Clone, Debug, Default)]
pub struct AccessTokensPage {
    pub rows: Vec<AccessTokenRow>,
    pub is_first: bool,
    /// The id that the next page begins after.
    pub next: Option<String>,
    /// The name and the text of a token that was just created.
    pub created: Option<(String, String)>,
    /// Why a form was refused, and its fields.
    pub error: Option<String>,
    pub name: String,
    pub allow: String,
}

#[derive(Clone, Debug)]
pub struct AccessTokenRow {
    pub id: String,
    pub name: String,
    /// `pull,push:team/**`, separated by spaces.
    pub allow: String,
    pub created: Option<SystemTime>,
    pub expires: Option<SystemTime>,
    pub is_revoked: bool,
    pub is_expired: bool,
}

/// A made-up request, and what the policy decides about it.
#[derive(Clone, Debug, Default)]
pub struct PolicyTestPage {
    pub identity: String,
    pub groups: String,
    pub claims: String,
    pub action: String,
    pub repository: String,
    pub tag: String,
    pub address: String,
    /// Why the form cannot be answered.
    pub error: Option<String>,
    /// The action, whether it is allowed, and by what.
    pub decisions: Vec<(String, bool, String)>,
}

/// The page that an installation without authentication has instead.
pub fn admin_off_page(context: &PageContext) -> String {
    let main = html! {
        div class="head" { h1 { "Administration" } }
        p class="notice info" {
            "Authentication is off: every client may do everything, so there are no access tokens and no policy."
        }
    };
    Layout::new(context, Section::Admin, "Administration").render(&main)
}

fn render(context: &PageContext, title: &str, path: &str, content: &Markup) -> String {
    let tab = |name, page: &str| parts::Tab {
        name,
        path: context.paths.service(page),
        is_current: page == path,
    };
    let tabs = [tab("Access tokens", "admin"), tab("Policy test", "admin/policy")];
    let main = html! {
        div class="head" { h1 { (title) } }
        (parts::tabs("Administration", &tabs))
        (content)
    };
    Layout::new(context, Section::Admin, title).render(&main)
}

pub fn access_tokens_page(context: &PageContext, page: &AccessTokensPage) -> String {
    let here = context.paths.service("admin");
    let next = page.next.as_ref().map(|after| link::with_query(&here, &[("after", after)]));
    let first = (!page.is_first).then_some(here.as_str());
    let content = html! {
        @if let Some(error) = &page.error {
            p class="notice failed" role="alert" { (text::block(error)) }
        }
        @if let Some((name, token)) = &page.created {
            div class="card" {
                h2 { "Access token " (text::line(name)) }
                p class="notice warn" role="status" { "It is shown once. Copy it now." }
                (parts::command(token))
                p { "Use it as the password, with any user name:" }
                (parts::command(&format!("docker login {} -u {name}", context.host)))
            }
        }
        div class="card flush" {
            @if page.rows.is_empty() {
                div class="empty" { h2 { "No access tokens" } }
            } @else {
                (token_table(context, &page.rows))
            }
        }
        (parts::pager(first, next.as_deref()))
        (create_form(context, page))
    };
    render(context, "Access tokens", "admin", &content)
}

fn token_table(context: &PageContext, rows: &[AccessTokenRow]) -> Markup {
    html! {
        div class="scroll" tabindex="0" role="region" aria-label="Access tokens" {
            table class="rows" {
                thead {
                    tr {
                        th scope="col" { "Name" }
                        th scope="col" { "Allows" }
                        th scope="col" { "Created" }
                        th scope="col" { "Ends" }
                        th scope="col" { span class="away" { "Revoke" } }
                    }
                }
                tbody { @for row in rows { (token_row(context, row)) } }
            }
        }
    }
}

fn token_row(context: &PageContext, row: &AccessTokenRow) -> Markup {
    html! {
        tr {
            th class="name" scope="row" { (text::line(&row.name)) " " code class="faint" { (row.id) } }
            td { code { (text::line(&row.allow)) } }
            td { (parts::time_or_dash(row.created, context)) }
            td {
                @if row.is_revoked {
                    (parts::badge("bad", "revoked", "No instance accepts it any more"))
                } @else if row.is_expired {
                    (parts::badge("warn", "expired", "It has ended"))
                } @else {
                    @match row.expires {
                        Some(at) => (format_time(at)),
                        None => span class="faint" { "never" },
                    }
                }
            }
            td {
                @if !row.is_revoked && !row.is_expired {
                    details {
                        summary { "Revoke" }
                        form method="post" action=(context.paths.service("admin/revoke")) {
                            (parts::form_token_field(context))
                            input type="hidden" name="id" value=(row.id);
                            button class="danger" type="submit" { "Revoke " (text::line(&row.name)) " now" }
                        }
                    }
                }
            }
        }
    }
}

fn create_form(context: &PageContext, page: &AccessTokensPage) -> Markup {
    html! {
        form class="card form" method="post" action=(context.paths.service("admin")) {
            (parts::form_token_field(context))
            h2 { "Create an access token" }
            label class="field" for="name" {
                "Name"
                input id="name" type="text" name="name" value=(page.name) required maxlength="64"
                    pattern="[A-Za-z0-9._\\-]+" autocomplete="off" spellcheck="false";
            }
            label class="field" for="allow" {
                "Actions and repositories, each as in pull,push:team/**"
                textarea id="allow" name="allow" rows="3" required maxlength="8192" spellcheck="false" {
                    (page.allow)
                }
            }
            label class="field" for="days" {
                "Valid for"
                select id="days" name="days" {
                    @for (days, label) in LIFETIMES_D { option value=(days) { (label) } }
                }
            }
            div class="actions" { button type="submit" { "Create" } }
        }
    }
}

pub fn policy_test_page(context: &PageContext, page: &PolicyTestPage) -> String {
    let content = html! {
        @if let Some(error) = &page.error {
            p class="notice failed" role="alert" { (text::block(error)) }
        }
        div class="beside" {
            (question_form(context, page))
            div class="stack" {
                @if !page.decisions.is_empty() { (decisions(page)) }
                p class="faint small" {
                    "Rules of the policy alone are tested: an access token has permissions of its own besides."
                }
            }
        }
    };
    render(context, "Policy test", "admin/policy", &content)
}

fn decisions(page: &PolicyTestPage) -> Markup {
    html! {
        div class="card flush" {
            table class="rows" {
                caption class="away" { "Decisions" }
                thead {
                    tr {
                        th scope="col" { "Action" }
                        th scope="col" { "Decision" }
                        th scope="col" { "By" }
                    }
                }
                tbody {
                    @for (action, is_allowed, reason) in &page.decisions {
                        tr {
                            th scope="row" { (action) }
                            td {
                                @if *is_allowed {
                                    (parts::badge("good", "allowed", "A rule allows it"))
                                } @else {
                                    (parts::badge("bad", "denied", "A rule denies it, or none allows it"))
                                }
                            }
                            td { (text::line(reason)) }
                        }
                    }
                }
            }
        }
    }
}

fn question_form(context: &PageContext, page: &PolicyTestPage) -> Markup {
    let field = |id: &str, label: &str, value: &str| {
        html! {
            label class="field" for=(id) {
                (label)
                input id=(id) type="text" name=(id) value=(value) maxlength="512" autocomplete="off"
                    autocapitalize="none" spellcheck="false";
            }
        }
    };
    html! {
        form class="card form" method="get" action=(context.paths.service("admin/policy")) {
            (field("identity", "Identity: alice, access-token:ci, company:alice; empty is anonymous", &page.identity))
            label class="field" for="action" {
                "Action"
                select id="action" name="action" {
                    option value="" { "Every action" }
                    @for action in ACTIONS {
                        option value=(action) selected[page.action == action] { (action) }
                    }
                }
            }
            (field("repository", "Repository", &page.repository))
            (field("tag", "Tag", &page.tag))
            details open[!page.groups.is_empty() || !page.claims.is_empty() || !page.address.is_empty()] {
                summary { "Groups, claims and address" }
                div class="stack" {
                    (field("groups", "Groups of an issuer, separated by spaces", &page.groups))
                    (field("claims", "Claims, as in ref=refs/heads/main, separated by spaces", &page.claims))
                    (field("address", "Address of the client", &page.address))
                }
            }
            div class="actions" { button type="submit" name="test" value="1" { "Test" } }
        }
    }
}
