//! The sinks of events: the tables `[[events.sink]]` of the file.

use std::path::PathBuf;
use std::time::Duration;

use jreg_auth::{Secret, checked_url};
use jreg_events::{SecretSource, SinkFilter, SinkFormat, SinkOptions, parse_actions};
use jreg_oci::RepositoryPattern;
use toml::{Table, Value as TomlValue};

use crate::value::Value;
use crate::{Assignment, ConfigError, Origin, nearest, place_in_file};

/// What a table of sinks is called among the assignments. No flag or variable is.
pub(crate) const SINKS: &str = "events.sink";

/// Maximum number of sinks.
const SINKS_MAX: usize = 32;
/// Maximum number of secrets of a sink: two while rotating.
const SECRETS_MAX: usize = 2;
/// Timeout of a request, unless it is set.
const TIMEOUT: Duration = Duration::from_secs(10);

const KEYS: [&str; 9] = [
    "name",
    "url",
    "format",
    "repositories",
    "actions",
    "secret",
    "secret-file",
    "timeout",
    "ca-file",
];

/// The assignment of `[[events.sink]]`.
pub(crate) fn assignment(
    path: &std::path::Path,
    events: &TomlValue,
) -> Result<Assignment, ConfigError> {
    let origin = Origin::File(path.to_owned());
    let wrong = || sink_error(path, "events", "it must have only [[events.sink]] tables");
    let events = events.as_table().ok_or_else(wrong)?;
    let [(name, sinks)] = &events.iter().collect::<Vec<_>>()[..] else { return Err(wrong()) };
    let tables = sinks.as_array().filter(|_| *name == "sink").ok_or_else(wrong)?;
    let texts = tables.iter().map(|sink| sink.as_table().map(ToString::to_string));
    let values = texts.collect::<Option<_>>().ok_or_else(wrong)?;
    Ok(Assignment { name: SINKS.to_owned(), values, origin })
}

/// The sinks of an assignment.
pub(crate) fn parse(assignment: &Assignment) -> Result<Vec<SinkOptions>, ConfigError> {
    let path = match &assignment.origin {
        Origin::File(path) => path.clone(),
        Origin::Flag | Origin::Variable => PathBuf::new(),
    };
    let mut sinks: Vec<SinkOptions> = Vec::new();
    for text in &assignment.values {
        let table: Table =
            text.parse().map_err(|_| sink_error(&path, SINKS, "it must be a table"))?;
        let sink = sink(&table).map_err(|(key, why)| {
            sink_error(
                &path,
                &format!("{SINKS}{}", key.map_or_else(String::new, |key| format!(": {key}"))),
                &why,
            )
        })?;
        if sinks.iter().any(|other| other.name == sink.name) {
            let why = format!("there are two sinks with the name {}", sink.name);
            return Err(sink_error(&path, SINKS, &why));
        }
        sinks.push(sink);
    }
    if sinks.len() > SINKS_MAX {
        return Err(sink_error(&path, SINKS, &format!("there may be {SINKS_MAX} sinks at most")));
    }
    Ok(sinks)
}

fn sink_error(path: &std::path::Path, key: &str, why: &str) -> ConfigError {
    ConfigError::Table { place: place_in_file(path, key), why: why.to_owned() }
}

/// A key, and what is wrong with its value, which is not repeated: it may be a secret.
pub(crate) type SinkFault = (Option<&'static str>, String);

fn sink(table: &Table) -> Result<SinkOptions, SinkFault> {
    if let Some(unknown) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
        let meant = nearest(unknown, KEYS.iter().map(|key| (*key).to_owned()));
        let meant = meant.map_or_else(String::new, |key| format!(", did you mean `{key}`?"));
        return Err((None, format!("unknown key `{unknown}`{meant}")));
    }
    let name = required(table, "name")?;
    let name = name.parse().map_err(|why: &str| (Some("name"), why.to_owned()))?;
    let url = checked_url(&required(table, "url")?);
    let url = url.map_err(|error| (Some("url"), format!("it {error}")))?;
    let format = match text(table, "format")?.as_deref() {
        None | Some("cloudevents") => SinkFormat::CloudEvents,
        Some("docker") => SinkFormat::Docker,
        Some(_) => return Err((Some("format"), "it must be cloudevents or docker".to_owned())),
    };
    let timeout = text(table, "timeout")?.map(|text| <Duration as Value>::parse(&text));
    let is_timeout = |timeout: &Duration| {
        (Duration::from_millis(100)..=Duration::from_secs(300)).contains(timeout)
    };
    let timeout = match timeout {
        None => TIMEOUT,
        Some(timeout) => timeout.filter(is_timeout).ok_or_else(|| {
            (Some("timeout"), "it must be a duration from 100ms to 5m".to_owned())
        })?,
    };
    let ca_file = text(table, "ca-file")?.map(PathBuf::from);
    let filter =
        SinkFilter { repositories: repositories(table)?, actions: actions(table, format)? };
    Ok(SinkOptions { name, url, format, filter, secrets: secrets(table)?, timeout, ca_file })
}

fn repositories(table: &Table) -> Result<Vec<RepositoryPattern>, SinkFault> {
    let key = "repositories";
    let patterns = texts(table, key)?.unwrap_or_default();
    let parse = |text: &String| text.parse::<RepositoryPattern>();
    let patterns: Result<_, _> = patterns.iter().map(parse).collect();
    patterns.map_err(|error| (Some(key), error.to_string()))
}

fn actions(
    table: &Table,
    format: SinkFormat,
) -> Result<Vec<jreg_registry::EventAction>, SinkFault> {
    let key = "actions";
    let Some(words) = texts(table, key)? else { return Ok(format.default_actions()) };
    let actions = parse_actions(words.iter().map(String::as_str));
    let actions = actions.map_err(|error| (Some(key), error.to_string()))?;
    let is_group = words.iter().any(|word| word.ends_with('*'));
    match actions.iter().find(|action| !format.can_express(**action)) {
        Some(action) if !is_group => {
            let why = format!("the format docker cannot express {}", action.name());
            Err((Some(key), why))
        }
        _ => Ok(actions.into_iter().filter(|action| format.can_express(*action)).collect()),
    }
}

fn secrets(table: &Table) -> Result<Vec<SecretSource>, SinkFault> {
    let values = texts(table, "secret")?.unwrap_or_default();
    let files = texts(table, "secret-file")?.unwrap_or_default();
    let values = values.into_iter().map(|secret| SecretSource::Value(Secret::new(secret)));
    let files = files.into_iter().map(|path| SecretSource::File(PathBuf::from(path)));
    let secrets: Vec<_> = values.chain(files).collect();
    match secrets.len() <= SECRETS_MAX {
        true => Ok(secrets),
        false => Err((Some("secret"), "there may be two secrets at most".to_owned())),
    }
}

pub(crate) fn required(table: &Table, key: &'static str) -> Result<String, SinkFault> {
    text(table, key)?.ok_or_else(|| (Some(key), "it is missing".to_owned()))
}

pub(crate) fn text(table: &Table, key: &'static str) -> Result<Option<String>, SinkFault> {
    match table.get(key) {
        None => Ok(None),
        Some(TomlValue::String(text)) if !text.is_empty() => Ok(Some(text.clone())),
        Some(_) => Err((Some(key), "it must be a text".to_owned())),
    }
}

/// One text, or a list of texts.
pub(crate) fn texts(table: &Table, key: &'static str) -> Result<Option<Vec<String>>, SinkFault> {
    let wrong = || (Some(key), "it must be a text or a list of texts".to_owned());
    match table.get(key) {
        None => Ok(None),
        Some(TomlValue::String(text)) => Ok(Some(vec![text.clone()])),
        Some(TomlValue::Array(items)) => {
            let texts = items.iter().map(|item| item.as_str().map(str::to_owned));
            texts.collect::<Option<_>>().map(Some).ok_or_else(wrong)
        }
        Some(_) => Err(wrong()),
    }
}
