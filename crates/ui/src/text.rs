//! Text that clients pushed, made safe to look at: what is invisible or reorders its surroundings is
//! shown by its code point, and lengths are limited.

use maud::{Markup, PreEscaped};

/// Maximum characters of a line: a name, a value of a label, a file name.
pub const LINE_CHARS_MAX: usize = 300;
/// Maximum characters of a longer text: a command of the history, a description.
pub const BLOCK_CHARS_MAX: usize = 4000;
/// Combining marks in a row that are drawn; more of them would cover other lines.
const MARKS_MAX: usize = 3;

/// One line of hostile text.
pub fn line(text: &str) -> Markup {
    shown(text, LINE_CHARS_MAX, false)
}

/// One line of hostile text that may be broken after its dots and slashes: a name, a media type.
pub fn breakable(text: &str) -> Markup {
    // Neither references of characters nor our elements contain a dot, and only our end tags a slash.
    let html = line(text).into_string().replace('.', ".<wbr>");
    PreEscaped(html.replace("/", "/<wbr>").replace("</<wbr>", "</"))
}

/// Hostile text with its line breaks, for an element that keeps them.
pub fn block(text: &str) -> Markup {
    shown(text, BLOCK_CHARS_MAX, true)
}

/// The same of any length.
pub fn block_up_to(text: &str, chars_max: usize) -> Markup {
    shown(text, chars_max, true)
}

/// One line of hostile text for a place that takes no elements: a title, an attribute.
pub fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut marks = 0;
    for (index, c) in text.chars().enumerate() {
        if index == LINE_CHARS_MAX {
            plain.push('…');
            break;
        }
        match is_hidden(c, &mut marks) {
            true => plain.push_str(&format!("[{}]", code_point(c))),
            false => plain.push(c),
        }
    }
    plain
}

fn shown(text: &str, chars_max: usize, is_block: bool) -> Markup {
    let mut html = String::with_capacity(text.len().min(chars_max) + 16);
    html.push_str("<bdi>");
    let mut marks = 0;
    for (index, c) in text.chars().enumerate() {
        if index == chars_max {
            let left = text.chars().count() - chars_max;
            html.push_str(&format!("<span class=\"cut\">… {left} more characters</span>"));
            break;
        }
        if is_block && matches!(c, '\n' | '\t') {
            html.push(c);
        } else if is_hidden(c, &mut marks) {
            html.push_str(&format!("<span class=\"esc\">{}</span>", code_point(c)));
        } else {
            push_escaped(&mut html, c);
        }
    }
    html.push_str("</bdi>");
    PreEscaped(html)
}

fn push_escaped(html: &mut String, c: char) {
    match c {
        '&' => html.push_str("&amp;"),
        '<' => html.push_str("&lt;"),
        '>' => html.push_str("&gt;"),
        '"' => html.push_str("&quot;"),
        '\'' => html.push_str("&#39;"),
        other => html.push(other),
    }
}

fn code_point(c: char) -> String {
    match c {
        '\n' => "\\n".to_owned(),
        '\r' => "\\r".to_owned(),
        '\t' => "\\t".to_owned(),
        other => format!("U+{:04X}", u32::from(other)),
    }
}

/// Whether a character is not seen as itself: controls, what has no width, what changes the direction of text,
/// and the fourth combining mark in a row. `marks` counts those before it.
fn is_hidden(c: char, marks: &mut usize) -> bool {
    let is_mark = matches!(c,
        '\u{300}'..='\u{36f}' | '\u{483}'..='\u{489}' | '\u{591}'..='\u{5bd}'
        | '\u{610}'..='\u{61a}' | '\u{64b}'..='\u{65f}' | '\u{6d6}'..='\u{6ed}'
        | '\u{730}'..='\u{74a}' | '\u{93a}'..='\u{94d}' | '\u{e31}' | '\u{e34}'..='\u{e3a}'
        | '\u{e47}'..='\u{e4e}' | '\u{eb1}' | '\u{eb4}'..='\u{ebc}' | '\u{ec8}'..='\u{ece}' | '\u{f71}'..='\u{f84}'
        | '\u{1ab0}'..='\u{1aff}' | '\u{302a}'..='\u{302d}'
        | '\u{1dc0}'..='\u{1dff}' | '\u{20d0}'..='\u{20ff}' | '\u{fe20}'..='\u{fe2f}');
    *marks = if is_mark { *marks + 1 } else { 0 };
    *marks > MARKS_MAX || is_invisible(c)
}

/// Whether a character is never drawn, or changes how others are.
pub fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0e}'
            | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_is_escaped() {
        let html = line("<script>alert('1')</script>&\"").into_string();
        assert_eq!(html, "<bdi>&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&amp;&quot;</bdi>");
    }

    #[test]
    fn what_is_not_seen_is_shown_by_its_code_point() {
        for hidden in ['\u{202e}', '\u{200b}', '\u{feff}', '\u{0}', '\u{85}', '\u{e0041}', '\u{7f}']
        {
            let html = line(&format!("a{hidden}b")).into_string();
            let code = format!("U+{:04X}", u32::from(hidden));
            assert_eq!(html, format!("<bdi>a<span class=\"esc\">{code}</span>b</bdi>"));
            assert_eq!(plain(&format!("a{hidden}b")), format!("a[{code}]b"));
        }
        assert_eq!(plain("a\nb"), "a[\\n]b");
        assert_eq!(block("a\nb").into_string(), "<bdi>a\nb</bdi>");
        assert_eq!(
            line("Ünïcode ✓ 日本 עברית 👍🏽").into_string(),
            "<bdi>Ünïcode ✓ 日本 עברית 👍🏽</bdi>"
        );
    }

    #[test]
    fn names_break_after_dots_and_slashes() {
        let html = breakable("a.b/c</bdi>\u{202e}").into_string();
        let expected =
            "<bdi>a.<wbr>b/<wbr>c&lt;/<wbr>bdi&gt;<span class=\"esc\">U+202E</span></bdi>";
        assert_eq!(html, expected);
    }

    #[test]
    fn towers_of_marks_are_cut_down() {
        let html = line(&format!("a{}", "\u{301}".repeat(50))).into_string();
        assert_eq!(html.matches('\u{301}').count(), MARKS_MAX);
        assert!(plain(&"e\u{301}".repeat(10)).matches('\u{301}').count() == 10);
    }

    #[test]
    fn lengths_are_limited() {
        let html = line(&"x".repeat(1000)).into_string();
        assert!(html.ends_with("… 700 more characters</span></bdi>"), "{html}");
        assert_eq!(plain(&"x".repeat(1000)).chars().count(), LINE_CHARS_MAX + 1);
    }
}
