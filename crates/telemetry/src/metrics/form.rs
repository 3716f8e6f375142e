//! [`MetricsForm`]: the two text formats of metrics.

use std::collections::HashSet;

/// A text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricsForm {
    /// Prometheus' text format, version 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl MetricsForm {
    /// Content type of the text.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// The text of OpenMetrics in this format.
    pub(super) fn of(self, text: String) -> String {
        match self {
            Self::OpenMetrics => text,
            Self::Text => prometheus_text(&text),
        }
    }
}

/// Prometheus' own format has no units, no exemplars and no end, and the family of a counter is named as its samples are:
/// with `_total`.
fn prometheus_text(text: &str) -> String {
    let counters: HashSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut converted = String::with_capacity(text.len() + 1024);
    for line in text.lines() {
        let family = ["# HELP ", "# TYPE "].iter().find_map(|start| {
            let (name, rest) = line.strip_prefix(start)?.split_once(' ')?;
            Some((start, name, rest))
        });
        match family {
            Some((start, name, rest)) if counters.contains(name) => {
                converted.extend([start, name, "_total ", rest, "\n"]);
            }
            None if line.starts_with("# UNIT ") || line == "# EOF" => {}
            _ => converted.extend([without_exemplar(line), "\n"]),
        }
    }
    converted
}

/// A sample without the exemplar behind it. Only buckets have one.
fn without_exemplar(line: &str) -> &str {
    match line.rsplit_once(" # {") {
        Some((sample, _)) if sample.contains("_bucket{") => sample,
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_have_the_help_of_their_samples() {
        let text = "# HELP a_bytes Bytes.\n# TYPE a_bytes counter\n# UNIT a_bytes bytes\na_bytes_total 1\n\
                    # HELP b Two words.\n# TYPE b gauge\nb 2\n\
                    c_bucket{le=\"1.0\"} 1 # {trace_id=\"4b\"} 0.5\n# EOF\n";
        let expected = "# HELP a_bytes_total Bytes.\n# TYPE a_bytes_total counter\na_bytes_total 1\n\
                        # HELP b Two words.\n# TYPE b gauge\nb 2\nc_bucket{le=\"1.0\"} 1\n";
        assert_eq!(MetricsForm::Text.of(text.to_owned()), expected);
        assert_eq!(MetricsForm::OpenMetrics.of(text.to_owned()), text);
    }
}
