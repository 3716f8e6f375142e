//! [`check`]: all errors of a configuration at once, and the value of every setting with its source.

use std::path::Path;

use crate::{
    Assignment, ConfigError, KEYS, Origin, Settings, combination, login, read_keys, sinks,
};

/// The value of a setting and its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectiveSetting {
    /// The key.
    pub name: String,
    /// In the syntax of the file; a secret is redacted.
    pub values: Vec<String>,
    /// Where it was given; `None`: the default.
    pub origin: Option<Origin>,
}

/// A configuration with all its errors.
#[derive(Debug)]
pub struct CheckedSettings {
    /// Those without an error are set; the others are at their defaults.
    pub settings: Settings,
    pub errors: Vec<ConfigError>,
    /// Every setting, in the order of [`KEYS`].
    pub effective: Vec<EffectiveSetting>,
}

/// Checks the text of a configuration file and the assignments that override it.
pub fn check(file: Option<(&Path, &str)>, overrides: Vec<Assignment>) -> CheckedSettings {
    let (mut settings, mut errors) = (Settings::default(), Vec::new());
    let mut given: Vec<Assignment> = Vec::new();
    let keys = file.map_or(Ok(Vec::new()), |(path, text)| read_keys(path, text));
    let keys = keys.unwrap_or_else(|error| vec![Err(error)]);
    for assignment in keys.into_iter().chain(overrides.into_iter().map(Ok)) {
        let assigned = assignment.and_then(|assignment| {
            settings.assign(&assignment)?;
            Ok(assignment)
        });
        match assigned {
            Ok(assignment) => given.push(assignment),
            Err(error) => errors.push(error),
        }
    }
    errors.extend(combination::errors(&settings));
    let effective = effective(&settings, &given);
    CheckedSettings { settings, errors, effective }
}

fn effective(settings: &Settings, given: &[Assignment]) -> Vec<EffectiveSetting> {
    let origin = |name: &str| {
        given.iter().rev().find(|given| given.name == name).map(|given| given.origin.clone())
    };
    let key = |key: &crate::SettingKey| {
        let (name, values) = (key.name(), key.show(settings));
        EffectiveSetting { origin: origin(&name), name, values }
    };
    let mut effective: Vec<_> = KEYS.iter().map(key).collect();
    // Only the names: sinks and clients have secrets.
    let sinks: Vec<_> = settings.event_sinks.iter().map(|sink| sink.name.to_string()).collect();
    let clients: Vec<_> = settings.login_clients.iter().map(|c| c.issuer.clone()).collect();
    for (name, values) in [(sinks::SINKS, sinks), (login::CLIENTS, clients)] {
        if !values.is_empty() {
            let name = name.to_owned();
            effective.push(EffectiveSetting { origin: origin(&name), name, values });
        }
    }
    effective
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn all_errors_are_found_and_the_rest_is_in_effect() {
        let text = "lisen = 'x'\nuploads-max = 0\ntls-cert = 'a.pem'\ndeletes = 'off'\n\
                    s3-secret-access-key = 'HUSH'";
        let variable = Assignment {
            name: "log".to_owned(),
            values: vec!["debug".to_owned()],
            origin: Origin::Variable,
        };
        let checked = check(Some((Path::new("jreg.toml"), text)), vec![variable]);
        let errors: Vec<_> = checked.errors.iter().map(ToString::to_string).collect();
        assert_eq!(errors.len(), 3, "{errors:?}");
        for part in ["did you mean `listen`", "`uploads-max` cannot be", "`tls-cert` requires"] {
            assert!(errors.iter().any(|error| error.contains(part)), "{part}: {errors:?}");
        }
        let of = |name: &str| {
            let found = checked.effective.iter().find(|setting| setting.name == name).unwrap();
            (found.values.join(","), found.origin.clone())
        };
        let file = Some(Origin::File("jreg.toml".into()));
        assert_eq!(of("deletes"), ("off".to_owned(), file.clone()));
        assert_eq!(of("s3-secret-access-key"), ("[redacted]".to_owned(), file));
        assert_eq!(of("log"), ("debug".to_owned(), Some(Origin::Variable)));
        assert_eq!(of("uploads-max"), ("512".to_owned(), None));
        let broken = check(Some((Path::new("jreg.toml"), "a =")), Vec::new());
        assert!(matches!(broken.errors[..], [ConfigError::Syntax { .. }]), "{broken:?}");
    }
}
