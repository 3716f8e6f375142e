//! Tests of the settings.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use jreg_auth::ClientSecret;
use jreg_events::{SecretSource, SinkFormat};

use super::*;

fn assignment(name: &str, value: &str, origin: Origin) -> Assignment {
    Assignment { name: name.to_owned(), values: vec![value.to_owned()], origin }
}

fn from_file(text: &str) -> Result<Settings, ConfigError> {
    Settings::resolve(read_file(Path::new("jreg.toml"), text)?)
}

#[test]
fn every_default_is_an_allowed_value_and_reads_back() {
    for key in KEYS {
        let texts = key.show(&Settings::default());
        let mut settings = Settings::default();
        assert!((key.set)(&mut settings, &texts), "{}: {texts:?}", key.name());
        assert_eq!(settings, Settings::default(), "{}", key.name());
    }
}

#[test]
fn later_assignments_win() {
    let settings = Settings::resolve([
        assignment("uploads-max", "1", Origin::File("f".into())),
        assignment("uploads-max", "2", Origin::Variable),
        assignment("uploads-max", "3", Origin::Flag),
    ]);
    assert_eq!(settings.unwrap().uploads_max, 3);
}

#[test]
fn a_file_takes_texts_numbers_flags_and_lists() {
    let settings = from_file(
        r#"
        listen = "0.0.0.0:80"
        storage = "file:/srv/registry"
        deletes = false
        uploads-max = 7
        manifest-bytes-max = 5242880
        upload-age-max = "90m"
        warning = ["moving soon", "read only on Friday"]
        "#,
    )
    .unwrap();
    assert_eq!(settings.listen.to_string(), "0.0.0.0:80");
    assert_eq!(settings.storage, StorageLocation::Folder("/srv/registry".into()));
    assert!(!settings.deletes);
    assert_eq!(settings.uploads_max, 7);
    assert_eq!(settings.manifest_bytes_max, 5 * MIB);
    assert_eq!(settings.upload_age_max, Duration::from_secs(5400));
    assert_eq!(settings.warning, ["moving soon", "read only on Friday"]);
}

#[test]
fn a_bucket_is_a_storage_location_and_its_secret_is_not_printed() {
    let settings = from_file(
        r#"
        storage = "s3://bucket/jreg?endpoint=http://127.0.0.1:9000"
        s3-access-key-id = "id"
        s3-secret-access-key = "hush"
        s3-header = ["X-One: 1", "X-Two: 2"]
        "#,
    )
    .unwrap();
    assert!(matches!(&settings.storage, StorageLocation::Bucket(url) if url.prefix == "jreg"));
    assert_eq!(settings.s3_access_key_id.as_deref(), Some("id"));
    assert_eq!(settings.s3_secret_access_key.as_ref().map(SecretValue::reveal), Some("hush"));
    assert_eq!(settings.s3_header.len(), 2);
    assert!(!format!("{settings:?}").contains("hush"));
    let shown: Vec<_> = KEYS.iter().flat_map(|key| key.show(&settings)).collect();
    assert!(!shown.concat().contains("hush"));
}

#[test]
fn an_unknown_key_is_named_with_the_nearest_known_one() {
    let message = |text| from_file(text).unwrap_err().to_string();
    assert_eq!(
        message("log_format = 'json'"),
        "jreg.toml: unknown key `log_format`, did you mean `log-format`?"
    );
    assert_eq!(
        message("lisen = '127.0.0.1:1'"),
        "jreg.toml: unknown key `lisen`, did you mean `listen`?"
    );
    assert_eq!(message("[tables]\nx = 1"), "jreg.toml: unknown key `tables`");
}

#[test]
fn a_wrong_value_is_named_with_its_line_and_what_is_allowed() {
    let message = |name: &str, value: &str, origin| {
        Settings::resolve([assignment(name, value, origin)]).unwrap_err().to_string()
    };
    assert_eq!(
        message("durability", "lax", Origin::Flag),
        r#"--durability cannot be "lax": it must be strict or relaxed"#
    );
    assert_eq!(
        message("log-format", "xml", Origin::Variable),
        r#"JREG_LOG_FORMAT cannot be "xml": it must be auto, json or pretty"#
    );
    assert_eq!(
        message("uploads-max", "0", Origin::File("f.toml".into())),
        r#"f.toml: `uploads-max` cannot be "0": it must be a number from 1 to 100000"#
    );
    assert_eq!(
        message("storage", "s3://bucket?endpiont=http://h", Origin::Flag),
        r#"--storage cannot be "s3://bucket?endpiont=http://h": unknown key `endpiont`, did you mean `endpoint`?"#
    );
}

#[test]
fn a_value_of_the_wrong_kind_is_refused_by_its_key() {
    let message = from_file("uploads-max = 1.5").unwrap_err().to_string();
    assert_eq!(
        message,
        r#"jreg.toml: `uploads-max` cannot be "1.5": it must be a number from 1 to 100000"#
    );
}

#[test]
fn invalid_toml_is_refused_with_line_and_column() {
    let error = from_file("listen = \n").unwrap_err();
    assert!(matches!(error, ConfigError::Syntax { .. }));
    assert!(error.to_string().contains("line 1"), "{error}");
}

/// Otherwise a table would be parsed as text.
#[test]
fn fixed_a_table_is_no_text() {
    for text in ["htpasswd = { a = 1 }", "[log]\nx = 1", "warning = [[1]]"] {
        assert!(matches!(from_file(text), Err(ConfigError::NotAllowed { .. })), "{text}");
    }
}

#[test]
fn what_is_wrong_is_repeated_without_passwords() {
    let message = |text: &str| from_file(text).unwrap_err().to_string();
    for (text, due) in [
        (
            "s3-session-token = ['HUSH', 'x']",
            "jreg.toml: `s3-session-token` cannot be \"[redacted]\": it must be none, or a token",
        ),
        ("s3-session-token = 'HUSH", "jreg.toml is not a TOML file: line 1, column 25: "),
        (
            "public-url = 'https://u:HUSH@[::1]/a@b'",
            "jreg.toml: `public-url` cannot be \"https://[redacted]@[::1]/a@b\": ",
        ),
        ("listen = 'a://b@c'", "jreg.toml: `listen` cannot be \"a://[redacted]@c\": "),
        ("listen = 'a://b/@c'", "jreg.toml: `listen` cannot be \"a://b/@c\": "),
    ] {
        let message = message(text);
        assert!(message.starts_with(due) && !message.contains("HUSH"), "{message}");
    }
}

#[test]
fn the_operators_listener_has_an_address_of_its_own() {
    for (listen, admin, is_allowed) in [
        ("127.0.0.1:5000", "127.0.0.1:5001", true),
        ("127.0.0.1:5000", "127.0.0.1:5000", false),
        ("0.0.0.0:5000", "127.0.0.1:5000", false),
        ("127.0.0.1:5000", "0.0.0.0:5000", false),
        ("[::]:5000", "[::1]:5000", false),
        ("10.0.0.1:5000", "127.0.0.1:5000", true),
        ("127.0.0.1:0", "127.0.0.1:0", true),
    ] {
        let text = format!("listen = '{listen}'\nadmin-listen = '{admin}'");
        match from_file(&text) {
            Ok(_) => assert!(is_allowed, "{text}"),
            Err(error) => {
                let expected = "`admin-listen` cannot be given with `listen`: each needs";
                assert!(!is_allowed && error.to_string().starts_with(expected), "{text}: {error}");
            }
        }
    }
}

#[test]
fn settings_that_are_likely_not_meant_have_a_remark() {
    for (text, expected) in [
        ("redirect = true", Some("`redirect` has no effect: only downloads from a bucket")),
        ("redirect = true\nstorage = 's3://bucket'", None),
        ("redirect = false", None),
        (
            "trusted-proxies = ['10.0.0.0/8', '0.0.0.0/0']",
            Some("`trusted-proxies` holds 0.0.0.0/0:"),
        ),
        ("trusted-proxies = ['::/0']", Some("`trusted-proxies` holds ::/0:")),
        ("trusted-proxies = ['10.0.0.0/8', 'fd00::/8']", None),
    ] {
        let remarks = from_file(text).unwrap().remarks();
        match (&remarks[..], expected) {
            ([], None) => {}
            ([remark], Some(expected)) => assert!(remark.starts_with(expected), "{remark}"),
            _ => panic!("{text}: {remarks:?}"),
        }
    }
}

#[test]
fn warnings_are_printable_and_short() {
    let set = |values: &[&str]| {
        let values = values.iter().map(|&value| value.to_owned()).collect();
        Settings::resolve([Assignment { name: "warning".into(), values, origin: Origin::Flag }])
    };
    assert!(set(&["fine", "fine too"]).is_ok());
    assert!(set(&["two\nlines"]).is_err());
    assert!(set(&["a \"quote\""]).is_err());
    assert!(set(&[&"x".repeat(2048), &"x".repeat(2048)]).is_ok());
    assert!(set(&[&"x".repeat(2048), &"x".repeat(2049)]).is_err());
}

#[test]
fn log_filters_are_levels() {
    for filter in ["info", "WARN", "off", "info,jreg=debug,jreg::request=off"] {
        assert!(is_log_filter(filter), "{filter}");
    }
    for filter in ["", "loud", "info,", "jreg=loud", "=info", "jreg"] {
        assert!(!is_log_filter(filter), "{filter}");
    }
}

#[test]
fn sizes_and_durations_are_read_and_written_in_units() {
    for (text, value) in [("0", 0), ("17", 17), ("4MiB", 4 * MIB), ("1 GiB", KIB * MIB)] {
        assert_eq!(<u64 as Value>::parse(text), Some(value), "{text}");
    }
    for text in ["", "MiB", "4MB", "-1", "4.5MiB", "99999999TiB"] {
        assert_eq!(<u64 as Value>::parse(text), None, "{text}");
    }
    assert_eq!((4 * MIB).show(), "4MiB");
    for (text, seconds) in [("30s", 30), ("6d", 518_400), ("90m", 5400), ("1h", 3600)] {
        assert_eq!(<Duration as Value>::parse(text), Some(Duration::from_secs(seconds)), "{text}");
    }
    for text in ["30", "s", "1w", "-1s"] {
        assert_eq!(<Duration as Value>::parse(text), None, "{text}");
    }
    assert_eq!((6 * DAY).show(), "6d");
    assert_eq!(Duration::from_millis(250).show(), "250ms");
}

#[test]
fn storage_locations_are_paths_or_known_kinds() {
    let folder = |path: &str| Some(StorageLocation::Folder(path.into()));
    for (text, location) in [
        ("memory:", Some(StorageLocation::Memory)),
        ("/srv/jreg", folder("/srv/jreg")),
        ("file:data", folder("data")),
        ("file:///srv/jreg", folder("/srv/jreg")),
        ("./s3:odd", folder("./s3:odd")),
        (
            "s3://bucket/prefix",
            Some(StorageLocation::Bucket("s3://bucket/prefix".parse().unwrap())),
        ),
        ("s3://", None),
        ("memory:x", None),
        ("gs://bucket", None),
        ("file:", None),
        ("", None),
    ] {
        assert_eq!(StorageLocation::parse(text), location, "{text}");
    }
}

#[test]
fn public_urls_are_plain_addresses() {
    for text in ["https://registry.example.com", "http://[::1]:5000", "https://example.com/base"] {
        assert_eq!(PublicUrl::parse(text).unwrap().as_str(), text);
    }
    assert_eq!(PublicUrl::parse("https://a.example/").unwrap().as_str(), "https://a.example");
    for text in ["registry.example.com", "ftp://a", "https://u:p@a", "https://a?x", "https://a#b"] {
        assert_eq!(PublicUrl::parse(text), None, "{text}");
    }
}

#[test]
fn settings_of_tls_are_given_together_or_not_at_all() {
    for (text, given, missing) in [
        ("tls-cert = 'c'", "tls-cert", "tls-key"),
        ("tls-key = 'k'", "tls-key", "tls-cert"),
        ("tls-client-ca = 'a'", "tls-client-ca", "tls-cert"),
        (
            "tls-cert = 'c'\ntls-key = 'k'\ntls-client-cert-required = true",
            "tls-client-cert-required",
            "tls-client-ca",
        ),
    ] {
        let message = from_file(text).unwrap_err().to_string();
        let expected = format!("`{given}` requires `{missing}`: set both or neither");
        assert_eq!(message, expected);
    }
    let whole = "tls-cert = 'c'\ntls-key = 'k'\ntls-client-ca = 'a'\ntls-min-version = 1.3";
    assert_eq!(from_file(whole).unwrap().tls_min_version, TlsVersion::Tls13);
    assert!(from_file("tls-min-version = 1.1").is_err());
}

#[test]
fn history_is_kept_for_the_grace_or_longer_or_not_at_all() {
    for (text, kept) in [
        ("", true),
        ("history-keep = '0s'", true),
        ("history-keep = '1d'", true),
        ("history-keep = '3h'", false),
        ("history-keep = '3h'\ngc-grace = '3h'", true),
        ("gc-grace = '31d'", false),
        ("gc-grace = '31d'\nhistory-keep = '31d'", true),
        ("gc-grace = '31d'\nhistory-keep = '0s'", true),
        ("history-keep = '1h'\ngc-grace = '2h'", false),
        ("history-keep = '3651d'", false),
    ] {
        assert_eq!(from_file(text).is_ok(), kept, "{text}");
    }
    let message = from_file("gc-grace = '31d'").unwrap_err().to_string();
    let expected = "history-keep cannot be \"30d\": it must be 0s (nothing is kept), or gc-grace (31d) \
                    or more";
    assert_eq!(message, expected);
}

#[test]
fn a_certificate_is_from_a_file_or_a_ca() {
    for (text, message) in [
        (
            "acme-domains = ['a.example']\ntls-cert = 'c'\ntls-key = 'k'",
            "`acme-domains` cannot be given with `tls-cert`: the certificate comes either from a file or from an ACME CA",
        ),
        ("acme-contact = 'a@b'", "`acme-contact` requires `acme-domains`"),
        ("acme-ca-file = 'f'", "`acme-ca-file` requires `acme-domains`"),
        ("acme-directory = 'https://ca'", "`acme-directory` requires `acme-domains`"),
    ] {
        let said = from_file(text).unwrap_err().to_string();
        assert!(said.starts_with(message), "{said}");
    }
    let whole = "acme-domains = ['a.example', 'b']\nacme-directory = 'https://ca:1/acme?x'\n\
                 acme-contact = 'a@b.example'\nacme-ca-file = 'f'\ntls-client-ca = 'c'\n\
                 tls-client-cert-required = true\ntls-min-version = 1.3";
    assert!(from_file(whole).unwrap().has_tls());
    let long = "a".repeat(64);
    for name in ["", "*.a.example", "A.example", "a.example.", "a b", "1.2.3.4", "::1", "-a", &long]
    {
        let error = from_file(&format!("acme-domains = ['{name}']")).unwrap_err().to_string();
        assert!(
            error.contains("`acme-domains` cannot be") && error.contains("wildcards"),
            "{error}"
        );
    }
    assert!(from_file("acme-domains = ['a.example', 'a.example']").is_err(), "twice");
    let names = |count: usize| {
        let all: Vec<_> = (0..count).map(|number| format!("'n{number}.example'")).collect();
        from_file(&format!("acme-domains = [{}]", all.join(", ")))
    };
    assert!(names(100).is_ok() && names(101).is_err());
    for wrong in [
        "acme-directory = 'http://ca'",
        "acme-directory = 'https://u:p@ca'",
        "acme-directory = 'https://'",
        "acme-contact = 'nobody'",
        "acme-contact = 'a@b, c@d'",
        "acme-contact = 'a@b?cc=c@d'",
    ] {
        assert!(from_file(&format!("acme-domains = ['a.example']\n{wrong}")).is_err(), "{wrong}");
    }
}

/// The sample file has each key once, commented out, with its default, below its help text.
#[test]
fn the_sample_file_is_the_defaults() {
    let sample = include_str!("../../../docs/jreg.toml");
    let uncommented: Vec<&str> = sample
        .lines()
        .filter_map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')))
        .collect();
    let assignments = read_file(Path::new("docs/jreg.toml"), &uncommented.join("\n")).unwrap();
    let mut names: Vec<String> = assignments.iter().map(|a| a.name.clone()).collect();
    let mut known: Vec<String> = KEYS.iter().map(SettingKey::name).collect();
    names.sort();
    known.sort();
    assert_eq!(names, known);
    let prose: Vec<&str> = sample.lines().map(|line| line.trim_start_matches("# ")).collect();
    let prose = prose.join(" ");
    for key in KEYS {
        let line = uncommented.iter().find(|line| line.starts_with(&format!("{} =", key.name())));
        let settings = from_file(line.unwrap()).unwrap();
        assert_eq!(key.show(&settings), key.show(&Settings::default()), "{}", key.name());
        let help = format!("{} Allowed: {}. #{} =", key.doc.trim(), key.allowed, key.name());
        assert!(prose.contains(&help), "no help text before {}: {help}", key.name());
    }
    assert!(from_file(sample).unwrap() == Settings::default());
}

/// The configuration page has a row for each key, with its help text.
#[test]
fn the_page_on_configuration_describes_every_key() {
    let page = include_str!("../../../docs/configuration.md");
    for key in KEYS {
        let default = format!("`{}`", key.show(&Settings::default()).join(""));
        let default = if default == "``" { String::new() } else { format!("{default} ") };
        let (allowed, doc) = (key.allowed, key.doc.trim());
        let row = format!("| `{}` | {default}| {allowed} | {doc} |\n", key.name());
        assert!(page.contains(&row), "there is no row {row}");
    }
}

const SINK: &str = "[[events.sink]]\nname = 'a'\nurl = 'https://a.example/hook'\n";

#[test]
fn a_sink_has_defaults_and_all_its_keys() {
    let sinks = from_file(SINK).unwrap().event_sinks;
    let [sink] = &sinks[..] else { panic!("{sinks:?}") };
    assert_eq!((sink.name.as_str(), sink.url.as_str()), ("a", "https://a.example/hook"));
    assert_eq!(sink.format, SinkFormat::CloudEvents);
    assert_eq!(sink.timeout, Duration::from_secs(10));
    assert_eq!(sink.filter.actions, SinkFormat::CloudEvents.default_actions());
    let text = format!(
        "uploads-max = 3\n{SINK}format = 'docker'\nrepositories = ['team/**']\n\
         actions = ['tag.*', 'manifest.push']\nsecret = ['one of two secrets', 'two of two secrets']\n\
         timeout = '2s'\nca-file = '/ca.pem'\n\
         [[events.sink]]\nname = 'b'\nurl = 'http://127.0.0.1:1/'\nsecret-file = '/secret'\n"
    );
    let settings = from_file(&text).unwrap();
    assert_eq!(settings.uploads_max, 3);
    let [a, b] = &settings.event_sinks[..] else { panic!("{settings:?}") };
    assert_eq!((a.format, a.timeout), (SinkFormat::Docker, Duration::from_secs(2)));
    assert_eq!((a.filter.actions.len(), a.filter.repositories.len(), a.secrets.len()), (6, 1, 2));
    assert_eq!(b.secrets, [SecretSource::File("/secret".into())]);
    assert!(!format!("{settings:?}").contains("of two secrets"));
}

#[test]
fn a_wrong_sink_is_an_error_that_names_the_key_and_no_value() {
    for (more, expected) in [
        ("names = 'x'", "`events.sink`: unknown key `names`, did you mean `name`?"),
        ("format = 'HUSH'", "`events.sink: format`: it must be cloudevents or docker"),
        ("timeout = 'HUSH'", "`events.sink: timeout`: it must be a duration from 100ms to 5m"),
        ("secret = 1", "`events.sink: secret`: it must be a text or a list of texts"),
        ("secret = ['HUSH', 'HUSH', 'HUSH']", "`events.sink: secret`: there may be two"),
        ("actions = ['push']", "`events.sink: actions`: \"push\" is no action: it must be one of"),
        (
            "format = 'docker'\nactions = ['gc.report']",
            "the format docker cannot express gc.report",
        ),
        ("repositories = ['A']", "`events.sink: repositories`: invalid repository pattern \"A\""),
    ] {
        let error = from_file(&format!("{SINK}{more}")).unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains("HUSH"), "{more}: {error}");
    }
    for (text, expected) in [
        ("[[events.sink]]\nurl = 'https://a/'", "`events.sink: name`: it is missing"),
        (
            "[[events.sink]]\nname = 'a'\nurl = 'http://a/'",
            "`events.sink: url`: it must be https://",
        ),
        ("[[events.sink]]\nname = 'A'\nurl = 'https://a/'", "a sink's name must be 1 to 64"),
        (&format!("{SINK}{SINK}"), "there are two sinks with the name a"),
        ("events = 1", "`events`: it must have only [[events.sink]] tables"),
        ("[events]\nx = 1", "`events`: it must have only [[events.sink]] tables"),
    ] {
        let error = from_file(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

const CLIENT: &str = "[[login.client]]\nissuer = 'company'\nclient-id = 'jreg'\n";

/// What a provider needs besides its table.
const LOGIN: &str = "public-url = 'https://r.example'\npolicy = 'policy.toml'\n";

#[test]
fn a_provider_has_defaults_and_all_its_keys() {
    let clients = from_file(&format!("{LOGIN}{CLIENT}")).unwrap().login_clients;
    let [client] = &clients[..] else { panic!("{clients:?}") };
    assert_eq!((client.label.as_str(), client.scope().as_str()), ("company", "openid"));
    assert_eq!(client.secret, None);
    let text = format!(
        "{LOGIN}{CLIENT}secret = 'not to be told'\nlabel = 'Company'\n\
         scopes = ['openid', 'groups']\n[[login.client]]\nissuer = 'b'\nclient-id = 'jreg'\n\
         secret-file = '/secret'\n"
    );
    let settings = from_file(&text).unwrap();
    let [a, b] = &settings.login_clients[..] else { panic!("{settings:?}") };
    assert_eq!((a.label.as_str(), a.scope().as_str()), ("Company", "openid groups"));
    assert_eq!(b.secret, Some(ClientSecret::File("/secret".into())));
    assert!(!format!("{settings:?}").contains("to be told"));
}

#[test]
fn a_wrong_provider_is_an_error_that_names_the_key_and_no_value() {
    for (more, expected) in [
        ("secrets = 'HUSH'", "`login.client`: unknown key `secrets`, did you mean `secret`?"),
        ("secret = 1", "`login.client: secret`: it must be a text"),
        ("secret = 'HUSH'\nsecret-file = '/x'", "`login.client: secret-file`: set the secret"),
        ("scopes = ['HUSH HUSH']", "`login.client: scopes`: it must be at most 16 texts"),
        ("label = \"HU\\tSH\"", "`login.client: label`: it must be 1 to 255 characters"),
    ] {
        let error = from_file(&format!("{LOGIN}{CLIENT}{more}")).unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains("HUSH"), "{more}: {error}");
    }
    for (text, expected) in [
        ("[[login.client]]\nissuer = 'a'", "`login.client: client-id`: it is missing"),
        (&*format!("{CLIENT}{CLIENT}"), "there are two clients of the issuer company"),
        ("login = 1", "`login`: it must have only [[login.client]] tables"),
        ("[login]\nx = 1", "`login`: it must have only [[login.client]] tables"),
        (CLIENT, "`login.client` requires `public-url`"),
        (
            &format!("public-url = 'https://r.example'\n{CLIENT}"),
            "`login.client` requires `policy`",
        ),
    ] {
        let error = from_file(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}
