//! The page of an error.

use maud::html;

use crate::context::PageContext;
use crate::layout::{Layout, Section};
use crate::{link, text};

/// What a page says about an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorPage {
    pub status: u16,
    /// What is wrong, for the person who looks.
    pub message: String,
    /// Whether a login may help.
    pub offers_login: bool,
    /// By which the log has the details.
    pub request_id: String,
    /// Seconds after which a retry may succeed.
    pub retry_after_s: Option<u64>,
}

/// The page of an error.
pub fn error_page(context: &PageContext, error: &ErrorPage) -> String {
    let is_login_offered = error.offers_login && context.viewer.can_log_in;
    let heading = match error.status {
        403 if is_login_offered => "Log in to continue",
        status => heading(status),
    };
    let paths = &context.paths;
    let main = html! {
        div class="error" {
            p class="code" { (error.status) }
            h1 { (heading) }
            p class="message" { (text::block(&error.message)) }
            @if let Some(after) = error.retry_after_s {
                p { "Try again in " (after) " s." }
            }
            p class="actions" {
                @if is_login_offered {
                    a class="button" href=(link::with_query(
                        &paths.service("login"), &[("next", &context.viewer.here)]
                    )) { "Log in" }
                }
                a href=(paths.home()) { "All repositories" }
            }
            p class="faint" { "Request " code { (error.request_id) } }
        }
    };
    Layout::new(context, Section::None, heading).render(&main)
}

fn heading(status: u16) -> &'static str {
    match status {
        400 | 414 | 415 => "This request cannot be understood",
        403 => "Not allowed",
        404 => "Not found",
        405 => "Not possible here",
        409 | 412 => "It has changed meanwhile",
        413 => "Too large",
        429 => "Too many requests",
        503 => "Not available now",
        507 => "The storage is full",
        _ => "Something failed",
    }
}
