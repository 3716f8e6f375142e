//! The page of a person who is logged in, where tokens for `docker login` are made.

use std::time::SystemTime;

use maud::{Markup, html};

use crate::context::PageContext;
use crate::format::format_time;
use crate::layout::{Layout, Section};
use crate::{parts, text};

/// The user name of commands that log in with a token, which may be any.
const TOKEN_USER: &str = "login";
/// Lifetimes of tokens, in hours.
const LIFETIMES_H: [(u64, &str); 3] = [(1, "1 hour"), (8, "8 hours"), (24, "24 hours")];

/// Who is logged in.
#[derive(Clone, Debug)]
pub struct AccountPage {
    pub identity: String,
    /// Groups that the provider names and the policy uses.
    pub groups: Vec<String>,
    /// When the login took place; `None`: a client certificate identifies the person.
    pub logged_in: Option<SystemTime>,
    /// A new token, and when it ends.
    pub token: Option<(String, SystemTime)>,
}

pub fn account_page(context: &PageContext, page: &AccountPage) -> String {
    let mut facts = vec![("Identity", text::line(&page.identity))];
    if !page.groups.is_empty() {
        facts.push((
            "Groups",
            html! {
                ul class="plain" { @for group in &page.groups { li { (text::line(group)) } } }
            },
        ));
    }
    if let Some(at) = page.logged_in {
        facts.push(("Logged in", parts::time(at, context)));
    }
    let main = html! {
        div class="head" { h1 { "Account" } }
        div class="card" { (parts::facts(&facts)) }
        @if let Some((token, ends)) = &page.token { (new_token(context, token, *ends)) }
        @if page.logged_in.is_some() { (token_form(context)) }
    };
    Layout::new(context, Section::Account, "Account").render(&main)
}

fn new_token(context: &PageContext, token: &str, ends: SystemTime) -> Markup {
    let host = &context.host;
    html! {
        div class="card" {
            h2 { "Your token" }
            p class="notice warn" role="status" { "It is shown once. Copy it now." }
            (parts::command(token))
            p { "It ends at " (format_time(ends)) ", or when you log out." }
            p { "Enter it as the password:" }
            (parts::command(&format!("docker login {host} -u {TOKEN_USER}")))
        }
    }
}

fn token_form(context: &PageContext) -> Markup {
    html! {
        form class="card form" method="post" action=(context.paths.service("account")) {
            (parts::form_token_field(context))
            h2 { "Token for docker login" }
            p {
                "A password for docker and other clients that acts as you, with your permissions at the time of \
                 each request. Logging out ends all of your tokens. For automation, ask for an access token."
            }
            label class="field" for="hours" {
                "Valid for"
                select id="hours" name="hours" {
                    @for (hours, label) in LIFETIMES_H { option value=(hours) { (label) } }
                }
            }
            div class="actions" { button type="submit" { "Make a token" } }
        }
    }
}
