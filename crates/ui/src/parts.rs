//! What several pages show.

use std::time::SystemTime;

use jreg_oci::Digest;
use maud::{Markup, PreEscaped, html};

use crate::context::PageContext;
use crate::format::{format_bytes, format_count, format_relative, format_rfc3339, format_time};
use crate::text;

/// Characters of a digest's hexadecimal part in its short form.
const SHORT_DIGEST_CHARS: usize = 12;

/// The token that a form carries.
pub fn form_token_field(context: &PageContext) -> Markup {
    html! { input type="hidden" name="token" value=(context.viewer.form_token); }
}

/// The short form of a digest.
pub(crate) fn short(digest: &Digest) -> String {
    digest.hex().chars().take(SHORT_DIGEST_CHARS).collect()
}

/// A digest in its short form, with a button that copies it. `path` leads to its page.
pub(crate) fn digest_link(digest: &Digest, path: Option<&str>) -> Markup {
    let full = digest.to_string();
    html! {
        span class="digest" {
            @match path {
                Some(path) => a href=(path) title=(full) { code { (short(digest)) } },
                None => code title=(full) { (short(digest)) },
            }
            (copy_button(&full, "Copy digest"))
        }
    }
}

/// A button that copies text. The script shows it; without the script it would do nothing.
pub(crate) fn copy_button(value: &str, label: &str) -> Markup {
    html! {
        button class="copy" type="button" hidden data-copy=(value) aria-label=(label) title=(label) {
            (COPY_ICON)
        }
    }
}

const COPY_ICON: PreEscaped<&str> = PreEscaped(
    "<svg viewBox=\"0 0 16 16\" width=\"14\" height=\"14\" aria-hidden=\"true\" focusable=\"false\">\
     <path d=\"M5 1h8a1 1 0 0 1 1 1v9h-2V3H5zM3 4h6a1 1 0 0 1 1 1v9a1 1 0 0 1-1 1H3a1 1 0 0 1-1-1V5a1 1 0 0 1 1-1z\" fill=\"currentColor\"/></svg>",
);

/// A command with a button that copies it.
pub(crate) fn command(command: &str) -> Markup {
    html! {
        div class="command" {
            code tabindex="0" { (command) }
            (copy_button(command, "Copy command"))
        }
    }
}

pub(crate) fn size(bytes: u64) -> Markup {
    html! { span title={ (format_count(bytes)) " bytes" } { (format_bytes(bytes)) } }
}

/// A size, or a dash if it is not known.
pub(crate) fn size_or_dash(bytes: Option<u64>) -> Markup {
    match bytes {
        Some(bytes) => size(bytes),
        None => dash(),
    }
}

/// A size that was counted some time ago.
pub(crate) fn counted_size(counted: Option<(u64, SystemTime)>, context: &PageContext) -> Markup {
    match counted {
        Some((bytes, at)) => html! {
            span title={ "counted " (format_relative(at, context.now)) } { (format_bytes(bytes)) }
        },
        None => dash(),
    }
}

/// That a repository is one of another registry.
pub(crate) fn mirror_badge(origin: &str) -> Markup {
    html! {
        span class="badges" {
            span class="badge" title="Content comes from there when it is pulled" { "mirror of " (text::line(origin)) }
        }
    }
}

pub(crate) fn dash() -> Markup {
    html! { span class="faint" title="not known" { "–" } }
}

/// A time relative to now; its title is exact.
pub(crate) fn time(time: SystemTime, context: &PageContext) -> Markup {
    html! {
        time datetime=(format_rfc3339(time)) title=(format_time(time)) {
            (format_relative(time, context.now))
        }
    }
}

pub(crate) fn time_or_dash(at: Option<SystemTime>, context: &PageContext) -> Markup {
    match at {
        Some(at) => time(at, context),
        None => dash(),
    }
}

/// A short mark beside a name.
pub(crate) fn badge(class: &str, name: &str, title: &str) -> Markup {
    html! { span class={ "badge " (class) } title=(title) { (name) } }
}

/// Rows of a name and a value.
pub(crate) fn facts(rows: &[(&str, Markup)]) -> Markup {
    html! {
        dl class="facts" {
            @for (name, value) in rows {
                div { dt { (name) } dd { (value) } }
            }
        }
    }
}

/// A table of names and values that a client pushed.
pub(crate) fn pairs(caption: &str, rows: &[(String, String)], more: usize) -> Markup {
    html! {
        div class="scroll" tabindex="0" role="group" aria-label=(caption) {
            table class="pairs" {
                caption class="away" { (caption) }
                thead class="away" { tr { th scope="col" { "Name" } th scope="col" { "Value" } } }
                tbody {
                    @for (name, value) in rows {
                        tr {
                            th scope="row" { (text::breakable(name)) }
                            td { (crate::link::external(value)) }
                        }
                    }
                }
            }
        }
        @if more > 0 { p class="faint" { "and " (more) " more" } }
    }
}

/// A bar that shows a part of a whole.
pub(crate) fn bar(part: u64, whole: u64) -> Markup {
    let tenths = part.saturating_mul(1000).checked_div(whole).unwrap_or(0).min(1000);
    let width = format!("{}.{}", tenths / 10, tenths % 10);
    html! {
        svg class="bar" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true" {
            rect class="whole" width="100" height="6" {}
            rect class="part" width=(width) height="6" {}
        }
    }
}

/// The tabs of a repository or an image.
pub(crate) fn tabs(label: &str, tabs: &[Tab<'_>]) -> Markup {
    html! {
        nav class="tabs" aria-label=(label) {
            @for tab in tabs {
                a href=(tab.path) aria-current=[tab.is_current.then_some("page")] { (tab.name) }
            }
        }
    }
}

pub(crate) struct Tab<'a> {
    pub(crate) name: &'a str,
    pub(crate) path: String,
    pub(crate) is_current: bool,
}

/// Links to the first and the next page.
pub(crate) fn pager(first: Option<&str>, next: Option<&str>) -> Markup {
    html! {
        @if first.is_some() || next.is_some() {
            nav class="pager" aria-label="Pages" {
                @if let Some(first) = first { a href=(first) rel="first" { "First page" } }
                @if let Some(next) = next { a href=(next) rel="next" { "Next page" } }
            }
        }
    }
}
