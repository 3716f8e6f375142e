//! [`ProfileFiles`]: the files in which the AWS tools keep profiles, `~/.aws/credentials` and `~/.aws/config`.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use jreg_reload::read_bounded;

/// Maximum length of a file, in bytes.
pub(super) const FILE_BYTES_MAX: usize = 4 << 20;
/// The profile without a name.
const DEFAULT: &str = "default";

/// Keys and values of a section, the keys in lower case.
pub(super) type ProfileKeys = HashMap<String, String>;

/// Where the files are, and which profile is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ProfilePlace {
    credentials: PathBuf,
    config: PathBuf,
    /// Tokens that `aws sso login` has obtained.
    pub(super) sso_cache: PathBuf,
    pub(super) profile: String,
    /// Whether the environment names the profile.
    pub(super) is_named: bool,
}

impl ProfilePlace {
    /// By the environment: `AWS_PROFILE`, `AWS_SHARED_CREDENTIALS_FILE`, `AWS_CONFIG_FILE` and `HOME`.
    pub(super) fn of(variable: impl Fn(&str) -> Option<OsString>) -> Option<Self> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let folder = variable("HOME").map(|home| PathBuf::from(home).join(".aws"));
        let file = |name: &str, usual: &str| {
            variable(name).map(PathBuf::from).or_else(|| Some(folder.as_ref()?.join(usual)))
        };
        let named = variable("AWS_PROFILE").map(|name| name.to_string_lossy().into_owned());
        Some(Self {
            credentials: file("AWS_SHARED_CREDENTIALS_FILE", "credentials")?,
            config: file("AWS_CONFIG_FILE", "config")?,
            sso_cache: folder.unwrap_or_default().join("sso/cache"),
            is_named: named.is_some(),
            profile: named.unwrap_or_else(|| DEFAULT.to_owned()),
        })
    }

    /// What is said of it if there are no credentials.
    pub(super) fn shown(&self) -> String {
        let files = [&self.credentials, &self.config].map(|path| {
            let state = if path.exists() { "" } else { ": absent" };
            format!("{}{state}", path.display())
        });
        format!("profile {} ({})", self.profile, files.join(", "))
    }

    /// Reads the files; an absent one is empty.
    ///
    /// # Errors
    ///
    /// One cannot be read.
    pub(super) fn read(&self) -> Result<ProfileFiles, UnreadableProfiles> {
        let mut files = ProfileFiles::default();
        for (path, is_config) in [(&self.config, true), (&self.credentials, false)] {
            let failed = |source| UnreadableProfiles { path: path.clone(), source };
            files.add(&read(path).map_err(failed)?, is_config);
        }
        Ok(files)
    }
}

/// A file of profiles that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}", path.display())]
pub(super) struct UnreadableProfiles {
    path: PathBuf,
    source: io::Error,
}

fn read(path: &Path) -> io::Result<String> {
    // Also /dev/null, which says that there are none.
    match read_bounded(path, FILE_BYTES_MAX) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read,
    }
}

/// The profiles and SSO sessions of both files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ProfileFiles {
    profiles: HashMap<String, ProfileKeys>,
    sso_sessions: HashMap<String, ProfileKeys>,
}

impl ProfileFiles {
    pub(super) fn profile(&self, name: &str) -> Option<&ProfileKeys> {
        self.profiles.get(name)
    }

    pub(super) fn sso_session(&self, name: &str) -> Option<&ProfileKeys> {
        self.sso_sessions.get(name)
    }

    /// Adds a file; its keys win over those of earlier ones. In the config file all profiles but the default
    /// one have a prefix.
    fn add(&mut self, text: &str, is_config: bool) {
        let mut section: Option<&mut ProfileKeys> = None;
        for line in text.lines() {
            let is_nested = line.starts_with([' ', '\t']);
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
                section = self.section(name.trim(), is_config);
            } else if let (Some(keys), Some((key, value)), false) =
                (&mut section, line.split_once('='), is_nested)
            {
                keys.insert(key.trim().to_lowercase(), without_comment(value).to_owned());
            }
        }
    }

    fn section(&mut self, name: &str, is_config: bool) -> Option<&mut ProfileKeys> {
        let (kind, rest) = name.split_once([' ', '\t']).unwrap_or((name, ""));
        let (profiles, sessions) = (&mut self.profiles, &mut self.sso_sessions);
        match (is_config, kind, rest.trim()) {
            (true, "profile", name) if !name.is_empty() => {
                Some(profiles.entry(name.to_owned()).or_default())
            }
            (true, "sso-session", name) if !name.is_empty() => {
                Some(sessions.entry(name.to_owned()).or_default())
            }
            (true, DEFAULT, "") => Some(profiles.entry(DEFAULT.to_owned()).or_default()),
            (true, ..) => None,
            (false, ..) => Some(profiles.entry(name.to_owned()).or_default()),
        }
    }
}

/// A value up to a comment, which a space precedes.
fn without_comment(value: &str) -> &str {
    let value = value.trim();
    let end = [" #", " ;"].iter().filter_map(|start| value.find(start)).min();
    end.and_then(|end| value.get(..end)).unwrap_or(value).trim_end()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn profiles_of_both_files_are_one_and_keys_win_over_the_config() {
        let mut files = ProfileFiles::default();
        files.add(
            "[default]\nregion = eu-central-1 # here\n[profile dev]\nSSO_Session=corp\ns3 =\n  \
             region = us-east-1\n[sso-session corp]\nsso_region = eu-west-1\n[other]\na=b\n",
            true,
        );
        files.add(
            "; keys\n[default]\naws_access_key_id=AK=#A\n[dev]\nregion=x\n[ new ]\na=b",
            false,
        );
        let default = files.profile("default").unwrap();
        assert_eq!(default["region"], "eu-central-1");
        assert_eq!(default["aws_access_key_id"], "AK=#A");
        let dev = files.profile("dev").unwrap();
        assert_eq!((&*dev["sso_session"], &*dev["region"]), ("corp", "x"));
        assert_eq!(files.sso_session("corp").unwrap()["sso_region"], "eu-west-1");
        assert!(files.profile("other").is_none() && files.profile("new").is_some());
    }

    #[test]
    fn the_environment_says_where_the_files_are() {
        let place = |variables: &[(&str, &str)]| {
            ProfilePlace::of(|name| {
                let found = variables.iter().find(|(variable, _)| *variable == name);
                found.map(|(_, value)| value.into())
            })
        };
        assert_eq!(place(&[]), None);
        let usual = place(&[("HOME", "/home/a"), ("AWS_PROFILE", "")]).unwrap();
        assert_eq!(usual.credentials, Path::new("/home/a/.aws/credentials"));
        assert_eq!((usual.profile.as_str(), usual.is_named), ("default", false));
        let all = [
            ("AWS_PROFILE", "dev"),
            ("AWS_SHARED_CREDENTIALS_FILE", "/k"),
            ("AWS_CONFIG_FILE", "/nowhere/c"),
        ];
        let named = place(&all).unwrap();
        assert_eq!((named.profile.as_str(), named.is_named), ("dev", true));
        assert_eq!(named.shown(), "profile dev (/k: absent, /nowhere/c: absent)");
        assert_eq!(named.read().unwrap(), ProfileFiles::default());
    }
}
