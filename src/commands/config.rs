//! `jreg config check`: all errors of the configuration, and the value of every setting with its source.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use jreg_auth::{Htpasswd, Policy};
use jreg_config::{CheckedSettings, EffectiveSetting, Origin, Settings, TlsVersion};
use jreg_lifecycle::LifecycleRules;
use jreg_net::tls::{CertificateSource, Tls, TlsOptions};
use jreg_storage::error_chain;
use serde_json::{Value, json};

use super::print;
use super::user::read;
use crate::app;
use crate::cli::{ConfigAction, ConfigCheckArgs};

pub fn run(action: ConfigAction) -> ExitCode {
    let ConfigAction::Check(args) = action;
    let (checked, mut warnings) = args.check(std::env::vars_os());
    warnings.extend(checked.settings.remarks());
    let mut errors: Vec<String> = checked.errors.iter().map(|error| error_chain(error)).collect();
    errors.extend(wrong_files(&checked.settings));
    errors.extend(app::check_exposure(&checked.settings).err().map(|error| error.to_string()));
    let text = match args.json {
        true => format!("{}\n", as_json(&checked, &errors, &warnings)),
        false => as_text(&args, &checked, &errors, &warnings),
    };
    print(&text, if errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Parses the text of a file, and says what is wrong in it.
type FileCheck = fn(&str) -> Result<(), String>;

/// What is wrong in the files that the settings name.
fn wrong_files(settings: &Settings) -> Vec<String> {
    let checks: [(&Option<String>, FileCheck); 3] = [
        (&settings.htpasswd, |text| Htpasswd::parse(text).map(drop).map_err(|e| e.to_string())),
        (&settings.policy, |text| Policy::parse(text).map(drop).map_err(|e| e.to_string())),
        (&settings.lifecycle, |text| {
            LifecycleRules::parse(text).map(drop).map_err(|e| e.to_string())
        }),
    ];
    let check = |(path, parse): (&Option<String>, FileCheck)| {
        let path = Path::new(path.as_ref()?);
        match read(path) {
            Ok(text) => parse(&text).err().map(|why| format!("{}: {why}", path.display())),
            Err(error) => Some(error_chain(&error)),
        }
    };
    let mut wrong: Vec<_> = checks.into_iter().filter_map(check).collect();
    wrong.extend(wrong_tls(settings));
    wrong
}

fn wrong_tls(settings: &Settings) -> Option<String> {
    let (Some(cert), Some(key)) = (&settings.tls_cert, &settings.tls_key) else { return None };
    let options = TlsOptions {
        client_ca: settings.tls_client_ca.as_ref().map(PathBuf::from),
        client_cert_required: settings.tls_client_cert_required,
        allows_tls12: settings.tls_min_version == TlsVersion::Tls12,
    };
    let source = CertificateSource::Files { cert: cert.into(), key: key.into() };
    Tls::open(options, source, Arc::default()).err().map(|error| error_chain(&error))
}

fn source(setting: &EffectiveSetting) -> String {
    match &setting.origin {
        None => "default".to_owned(),
        Some(Origin::Flag) => "command line".to_owned(),
        Some(Origin::Variable) => {
            format!("JREG_{}", setting.name.replace('-', "_").to_uppercase())
        }
        Some(Origin::File(path)) => path.display().to_string(),
    }
}

fn as_json(checked: &CheckedSettings, errors: &[String], warnings: &[String]) -> Value {
    let settings = checked.effective.iter().map(|setting| {
        let value = json!({ "values": setting.values, "source": source(setting) });
        (setting.name.clone(), value)
    });
    let settings: serde_json::Map<_, _> = settings.collect();
    json!({
        "valid": errors.is_empty(), "errors": errors, "warnings": warnings, "settings": settings,
    })
}

fn as_text(
    args: &ConfigCheckArgs,
    checked: &CheckedSettings,
    errors: &[String],
    warnings: &[String],
) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    for setting in &checked.effective {
        if setting.origin.is_some() || args.all {
            let value = setting.values.join(", ");
            let _ = writeln!(text, "{} = {value}  ({})", setting.name, source(setting));
        }
    }
    let defaults = checked.effective.iter().filter(|setting| setting.origin.is_none()).count();
    if !args.all && defaults > 0 {
        let _ = writeln!(text, "{defaults} settings have their default: see --all");
    }
    for warning in warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    for error in errors {
        let _ = writeln!(text, "error: {error}");
    }
    let _ = match errors.len() {
        0 => writeln!(text, "the configuration is valid"),
        1 => writeln!(text, "the configuration has 1 error"),
        count => writeln!(text, "the configuration has {count} errors"),
    };
    text
}
