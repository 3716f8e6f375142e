//! OpenID providers for logins in a browser: the tables `[[login.client]]` of the file.

use std::path::PathBuf;

use jreg_auth::{ClientSecret, LOGIN_CLIENTS_MAX, LoginClient, Secret};
use toml::{Table, Value as TomlValue};

use crate::sinks::{SinkFault, required, text, texts};
use crate::{Assignment, ConfigError, Origin, nearest, place_in_file};

/// What a table of providers is called among the assignments. No flag or variable is.
pub(crate) const CLIENTS: &str = "login.client";

const KEYS: [&str; 6] = ["issuer", "client-id", "secret", "secret-file", "label", "scopes"];

/// The assignment of `[[login.client]]`.
pub(crate) fn assignment(
    path: &std::path::Path,
    login: &TomlValue,
) -> Result<Assignment, ConfigError> {
    let origin = Origin::File(path.to_owned());
    let wrong = || client_error(path, "login", "it must have only [[login.client]] tables");
    let login = login.as_table().ok_or_else(wrong)?;
    let [(name, clients)] = &login.iter().collect::<Vec<_>>()[..] else { return Err(wrong()) };
    let tables = clients.as_array().filter(|_| *name == "client").ok_or_else(wrong)?;
    let texts = tables.iter().map(|client| client.as_table().map(ToString::to_string));
    let values = texts.collect::<Option<_>>().ok_or_else(wrong)?;
    Ok(Assignment { name: CLIENTS.to_owned(), values, origin })
}

/// The providers of an assignment.
pub(crate) fn parse(assignment: &Assignment) -> Result<Vec<LoginClient>, ConfigError> {
    let path = match &assignment.origin {
        Origin::File(path) => path.clone(),
        Origin::Flag | Origin::Variable => PathBuf::new(),
    };
    let mut clients: Vec<LoginClient> = Vec::new();
    for text in &assignment.values {
        let table: Table =
            text.parse().map_err(|_| client_error(&path, CLIENTS, "it must be a table"))?;
        let client = client(&table).map_err(|(key, why)| {
            let key = key.map_or_else(String::new, |key| format!(": {key}"));
            client_error(&path, &format!("{CLIENTS}{key}"), &why)
        })?;
        if clients.iter().any(|other| other.issuer == client.issuer) {
            let why = format!("there are two clients of the issuer {}", client.issuer);
            return Err(client_error(&path, CLIENTS, &why));
        }
        clients.push(client);
    }
    if clients.len() > LOGIN_CLIENTS_MAX {
        let why = format!("there may be {LOGIN_CLIENTS_MAX} clients at most");
        return Err(client_error(&path, CLIENTS, &why));
    }
    Ok(clients)
}

fn client_error(path: &std::path::Path, key: &str, why: &str) -> ConfigError {
    ConfigError::LoginClient { place: place_in_file(path, key), why: why.to_owned() }
}

fn client(table: &Table) -> Result<LoginClient, SinkFault> {
    if let Some(unknown) = table.keys().find(|key| !KEYS.contains(&key.as_str())) {
        let meant = nearest(unknown, KEYS.iter().map(|key| (*key).to_owned()));
        let meant = meant.map_or_else(String::new, |key| format!(", did you mean `{key}`?"));
        return Err((None, format!("unknown key `{unknown}`{meant}")));
    }
    let issuer = required(table, "issuer")?;
    let secret = match (text(table, "secret")?, text(table, "secret-file")?) {
        (Some(_), Some(_)) => {
            return Err((Some("secret-file"), "set the secret itself or its file".to_owned()));
        }
        (Some(secret), None) => Some(ClientSecret::Value(Secret::new(secret))),
        (None, Some(path)) => Some(ClientSecret::File(PathBuf::from(path))),
        (None, None) => None,
    };
    let client = LoginClient {
        client_id: required(table, "client-id")?,
        secret,
        label: text(table, "label")?.unwrap_or_else(|| issuer.clone()),
        scopes: texts(table, "scopes")?.unwrap_or_default(),
        issuer,
    };
    client.check().map_err(|(key, why)| (Some(key), why))?;
    Ok(client)
}
