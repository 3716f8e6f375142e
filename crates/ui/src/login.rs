//! The page to log in.

use maud::{Markup, html};

use crate::context::PageContext;
use crate::layout::{Layout, Section};
use crate::{link, parts, text};

/// How a person can log in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoginPage {
    /// Providers, with the text and the address of their links.
    pub providers: Vec<(String, String)>,
    /// Whether there are users with passwords.
    pub has_passwords: bool,
    /// The path to return to.
    pub next: String,
    /// The name that a refused form had.
    pub user: String,
    /// Why a form was refused.
    pub error: Option<String>,
    /// Why logins are off here.
    pub unavailable: Option<String>,
}

pub fn login_page(context: &PageContext, page: &LoginPage) -> String {
    let main = html! {
        div class="narrow stack" {
            div class="head" {
                h1 { "Log in" }
                p class="lead" { "To " (context.host) }
            }
            @if let Some(error) = &page.error {
                p class="notice failed" role="alert" { (text::block(error)) }
            }
            @if let Some(why) = &page.unavailable {
                p class="notice warn" role="status" { (text::block(why)) }
            } @else {
                (ways(context, page))
            }
            @if context.viewer.identity.is_some() {
                p class="faint" { "You are logged in already. Another login replaces this one in this browser." }
            }
        }
    };
    Layout::new(context, Section::Account, "Log in").render(&main)
}

fn ways(context: &PageContext, page: &LoginPage) -> Markup {
    html! {
        @if !page.providers.is_empty() {
            div class="card" {
                // Links, not forms: the policy of the page forbids that a form leads elsewhere.
                @for (label, url) in &page.providers {
                    p {
                        a class="button" href=(link::with_query(url, &[("next", &page.next)])) {
                            "Log in with " (text::line(label))
                        }
                    }
                }
            }
        }
        @if page.has_passwords { (password_form(context, page)) }
    }
}

fn password_form(context: &PageContext, page: &LoginPage) -> Markup {
    html! {
        form class="card form" method="post" action=(context.paths.service("login")) {
            (parts::form_token_field(context))
            input type="hidden" name="next" value=(page.next);
            label class="field" for="user" {
                "User name"
                input id="user" type="text" name="user" value=(page.user) required maxlength="255"
                    autocomplete="username" autocapitalize="none" spellcheck="false";
            }
            label class="field" for="password" {
                "Password"
                input id="password" type="password" name="password" required maxlength="1024"
                    autocomplete="current-password";
            }
            div class="actions" { button type="submit" { "Log in" } }
        }
    }
}
