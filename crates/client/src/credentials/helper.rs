//! [`run`]: asks a credential helper, as docker does.
//!
//! It is a program that is started without a shell, with its name from a setting and the registry on its standard
//! input, for a limited time. It gets no variables but those that say where things are: no secrets of the server.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use jreg_auth::Secret;
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::{CredentialValue, LoadError};
use crate::{EnvironmentVariables, HelperName};

/// Maximum bytes of what a helper prints.
const OUTPUT_BYTES_MAX: u64 = 64 * 1024;
/// How much of the text of a helper that failed is shown.
const MESSAGE_CHARS_MAX: usize = 200;
/// What helpers print if they have no credentials for a registry.
const NOT_FOUND: &str = "credentials not found";
/// The user by which helpers say that the secret is a refresh token.
const TOKEN_USER: &str = "<token>";

/// The variables that a helper gets.
const VARIABLES: [&str; 22] = [
    "AWS_CONFIG_FILE",
    "AWS_DEFAULT_REGION",
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_ROLE_ARN",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "CLOUDSDK_CONFIG",
    "DBUS_SESSION_BUS_ADDRESS",
    "GNUPGHOME",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "HOME",
    "LANG",
    "PASSWORD_STORE_DIR",
    "PATH",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TMPDIR",
    "TZ",
    "USER",
    "XDG_CONFIG_HOME",
    "XDG_RUNTIME_DIR",
];

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperOutput {
    username: String,
    secret: String,
}

/// The credentials that a helper has for a registry; `None` if it says that it has none.
pub(super) async fn run(
    name: &HelperName,
    server: &str,
    environment: &EnvironmentVariables,
    time: Duration,
) -> Result<Option<CredentialValue>, LoadError> {
    let program = format!("docker-credential-{}", name.as_str());
    let path = find(&program, environment).ok_or_else(|| format!("{program} is not in PATH"))?;
    let variables = VARIABLES.iter().filter_map(|name| Some((*name, environment.get(name)?)));
    let child = Command::new(path)
        .arg("get")
        .env_clear()
        .envs(variables)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot start {program}: {error}"))?;
    // Dropping the child kills it.
    let (is_ok, output) = match timeout(time, talk(child, server)).await {
        Ok(talked) => talked.map_err(|error| format!("{program}: {error}"))?,
        Err(_) => return Err(format!("{program} did not end within {} s", time.as_secs())),
    };
    if !is_ok {
        let output = String::from_utf8_lossy(&output);
        if output.contains(NOT_FOUND) {
            return Ok(None);
        }
        let message: String =
            output.trim().chars().filter(|c| !c.is_control()).take(MESSAGE_CHARS_MAX).collect();
        return Err(format!("{program} failed: {message}"));
    }
    let output: HelperOutput = serde_json::from_slice(&output)
        .map_err(|_| format!("{program} printed something else than credentials"))?;
    Ok(Some(match output.username.as_str() {
        TOKEN_USER => CredentialValue::RefreshToken(Secret::new(output.secret)),
        user => CredentialValue::password(user, output.secret),
    }))
}

/// The program, in the folders of `PATH`.
fn find(program: &str, environment: &EnvironmentVariables) -> Option<PathBuf> {
    let folders = std::env::split_paths(environment.get("PATH")?);
    let mut programs =
        folders.filter(|folder| folder.is_absolute()).map(|folder| folder.join(program));
    programs.find(|path: &PathBuf| Path::is_file(path))
}

/// Whether the helper succeeded, and what it printed.
async fn talk(mut child: Child, server: &str) -> std::io::Result<(bool, Vec<u8>)> {
    if let Some(mut input) = child.stdin.take() {
        // A helper may end without reading.
        let _ = input.write_all(format!("{server}\n").as_bytes()).await;
    }
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(OUTPUT_BYTES_MAX).read_to_end(&mut output).await?;
    }
    Ok((child.wait().await?.success(), output))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A folder with a helper that is this script.
    struct Helper(tempfile::TempDir);

    impl Helper {
        fn new(script: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("docker-credential-test");
            // Another thread that forks may hold a file open that was just written: the shell reads this one.
            fs::write(folder.path().join("script"), script).unwrap();
            let script = folder.path().join("script");
            fs::write(&path, format!("#!/bin/sh\n. {}\n", script.display())).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            Self(folder)
        }

        async fn run(&self, time: Duration) -> Result<Option<CredentialValue>, LoadError> {
            let path = format!("relative:{}:/bin:/usr/bin", self.0.path().display());
            let variables =
                [("PATH", path.as_str()), ("HOME", "/home/me"), ("JREG_SECRET", "marked")];
            let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
            let environment = EnvironmentVariables::new(variables);
            run(&"test".parse().unwrap(), "registry.example.com", &environment, time).await
        }
    }

    const TIME: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_helper_reads_the_registry_and_prints_credentials() {
        let helper = Helper::new(
            r#"read server; printf '{"ServerURL":"%s","Username":"%s","Secret":"%s"}' "$server" "$1-$server" "$HOME$JREG_SECRET""#,
        );
        let value = CredentialValue::password("get-registry.example.com", "/home/me");
        assert_eq!(helper.run(TIME).await, Ok(Some(value)));
        let helper = Helper::new(r#"echo '{"Username":"<token>","Secret":"refresh"}'"#);
        let value = CredentialValue::RefreshToken(Secret::new("refresh"));
        assert_eq!(helper.run(TIME).await, Ok(Some(value)));
    }

    #[tokio::test]
    async fn a_helper_that_has_none_or_fails_is_told_apart() {
        let helper = Helper::new("echo 'credentials not found in native keychain'; exit 1");
        assert_eq!(helper.run(TIME).await, Ok(None));
        let helper = Helper::new("echo 'no such role'; exit 1");
        assert_eq!(
            helper.run(TIME).await,
            Err("docker-credential-test failed: no such role".to_owned())
        );
        let helper = Helper::new("echo 'secret'");
        let error = helper.run(TIME).await.unwrap_err();
        assert_eq!(error, "docker-credential-test printed something else than credentials");
    }

    #[tokio::test]
    async fn a_helper_that_hangs_is_killed() {
        let helper = Helper::new("exec sleep 60");
        let error = helper.run(Duration::from_millis(300)).await.unwrap_err();
        assert!(error.contains("did not end within"), "{error}");
    }

    #[tokio::test]
    async fn a_helper_is_searched_in_path_only() {
        let environment = EnvironmentVariables::default();
        let error = run(&"test".parse().unwrap(), "a", &environment, TIME).await.unwrap_err();
        assert_eq!(error, "docker-credential-test is not in PATH");
        for name in ["../sh", "a/b", "", "a b", "A", "a.b", "a\0"] {
            assert!(name.parse::<HelperName>().is_err(), "{name}");
        }
        assert_eq!(
            "docker-credential-ecr-login".parse::<HelperName>().unwrap().as_str(),
            "ecr-login"
        );
    }
}
