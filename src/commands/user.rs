//! `jreg user`: changes and lists an htpasswd file.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use jreg_auth::{
    Htpasswd, InvalidUser, Secret, hash_password, random_hex, removed_user, with_user,
};
use jreg_reload::read_bounded;
use jreg_telemetry::audit::command::{
    CommandAuditRecord, CommandJournal, CommandOutcome, Operator,
};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde_json::{Value, json};

use super::{fail, print};
use crate::cli::UserAction;

/// Maximum length of a password, in bytes.
const PASSWORD_BYTES_MAX: usize = 1024;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum UserFileError {
    /// No file is given.
    #[error("no htpasswd file: use --file, or set htpasswd in the configuration")]
    NoFile,
    #[error("cannot {what} {}", path.display())]
    File {
        /// The operation.
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// The path is not a regular file: another user may have created it.
    #[error(
        "{} is {what}: the htpasswd file must be a regular file, not a symbolic link; name the file itself",
        path.display()
    )]
    NoFileOfUsers {
        path: PathBuf,
        /// The type of the object there.
        what: &'static str,
    },
    /// The content is invalid.
    #[error("{}: {why}", path.display())]
    Wrong { path: PathBuf, why: String },
    /// The name is not allowed.
    #[error(transparent)]
    Name(#[from] InvalidUser),
    /// There is one of this name.
    #[error("there is a user {0:?} already: set a new password with --force")]
    Exists(String),
    /// There is no such user.
    #[error("there is no user {0:?}")]
    NoUser(String),
    /// The password is not allowed.
    #[error("the password must be one line of 1 to {PASSWORD_BYTES_MAX} bytes of UTF-8 text")]
    Password,
    #[error("the operating system provides no random numbers")]
    Random,
    #[error("cannot use the terminal")]
    Terminal(#[from] io::Error),
}

/// Changes or lists an htpasswd file.
pub fn run(action: UserAction) -> ExitCode {
    let (file, command) = match action {
        UserAction::Add { name, password_stdin, force, file } => {
            let password = password_stdin.then(|| password_from(std::io::stdin()));
            match password.transpose() {
                Ok(password) => (file, UserCommand::Add { name, password, force }),
                Err(error) => return fail(1, &error),
            }
        }
        UserAction::Remove { name, file } => (file, UserCommand::Remove { name }),
        UserAction::List { file } => (file, UserCommand::List),
    };
    let is_json = file.is_json();
    let said = command.clone();
    let (path, settings) = match file.resolve(std::env::vars_os()) {
        Ok((Some(path), settings)) => (path, settings),
        Ok((None, _)) => return fail(2, &UserFileError::NoFile),
        Err(error) => return fail(2, &error),
    };
    let done = match command.audited() {
        None => user(&path, command),
        Some(operation) => match CommandJournal::open(&settings.audit_log) {
            Ok(journal) => audited(journal, operation, &path, command),
            Err(error) => return fail(1, &error),
        },
    };
    match done {
        Ok(text) if is_json => print(&said.json(&path, &text), ExitCode::SUCCESS),
        Ok(text) => {
            // Beside the output, which scripts read. Standard error may be closed.
            let _ = io::stderr().write_all(said.note(&path, &text).as_bytes());
            print(&text, ExitCode::SUCCESS)
        }
        Err(error) => fail(1, &error),
    }
}

/// Changes an htpasswd file, and writes the audit record.
fn audited(
    journal: Option<CommandJournal>,
    operation: &'static str,
    path: &Path,
    command: UserCommand,
) -> Result<String, UserFileError> {
    let asked = command.asked(path);
    let done = user(path, command);
    if let Some(mut journal) = journal {
        let outcome = if done.is_ok() { CommandOutcome::Done } else { CommandOutcome::Failed };
        let entry = CommandAuditRecord::new(Operator::here(), operation, asked, None, outcome);
        if let Err(error) = journal.write(&entry) {
            // A failure of the audit log does not change the result.
            let _ = writeln!(std::io::stderr(), "jreg: the audit log cannot be written: {error}");
        }
    }
    done
}

/// An operation on an htpasswd file.
#[derive(Clone, Debug)]
pub enum UserCommand {
    /// Add a user, or replace the password.
    Add {
        name: String,
        /// The password; `None`: generate one and print it.
        password: Option<Secret>,
        /// Whether the password of a user that exists is replaced.
        force: bool,
    },
    Remove {
        name: String,
    },
    List,
}

impl UserCommand {
    /// The name in the audit log, if the operation changes access.
    pub fn audited(&self) -> Option<&'static str> {
        match self {
            Self::Add { .. } => Some("user_add"),
            Self::Remove { .. } => Some("user_remove"),
            Self::List => None,
        }
    }

    /// What was done, for people, beside the output of [`user`].
    fn note(&self, path: &Path, output: &str) -> String {
        let path = path.display();
        match self {
            Self::Add { name, .. } if output.is_empty() => format!("user {name} is in {path}\n"),
            Self::Add { name, .. } => {
                format!("user {name} is in {path}; the password, which cannot be shown again:\n")
            }
            Self::Remove { name } => format!("user {name} is no longer in {path}\n"),
            Self::List => String::new(),
        }
    }

    /// The output of [`user`] as JSON.
    fn json(&self, path: &Path, output: &str) -> String {
        let file = path.display().to_string();
        let line = |value: Value| format!("{value}\n");
        match self {
            Self::List => output.lines().map(|name| line(json!({ "user": name }))).collect(),
            Self::Add { name, .. } if !output.is_empty() => {
                line(json!({ "user": name, "file": file, "password": output.trim_end() }))
            }
            Self::Add { name, .. } | Self::Remove { name } => {
                line(json!({ "user": name, "file": file }))
            }
        }
    }

    /// The arguments for the audit log, without the password.
    pub fn asked(&self, path: &Path) -> Value {
        let (action, name) = match self {
            Self::Add { name, .. } => ("add", Some(name)),
            Self::Remove { name } => ("remove", Some(name)),
            Self::List => ("list", None),
        };
        json!({ "command": "user", "do": action, "name": name, "file": path.display().to_string() })
    }
}

/// Performs the operation; returns the text to print.
///
/// # Errors
///
/// [`UserFileError`].
pub fn user(path: &Path, command: UserCommand) -> Result<String, UserFileError> {
    match command {
        UserCommand::List => {
            let text = read(path)?;
            let users = Htpasswd::parse(&text).map_err(|error| wrong(path, error.to_string()))?;
            Ok(users.names().fold(String::new(), |text, name| text + name + "\n"))
        }
        UserCommand::Add { name, password, force } => {
            let made = match &password {
                None => Some(random_hex::<16>().ok_or(UserFileError::Random)?),
                Some(_) => None,
            };
            let password = password.or_else(|| made.as_deref().map(Secret::new));
            let password = password.ok_or(UserFileError::Password)?;
            let hash = hash_password(&password).ok_or(UserFileError::Random)?;
            let _lock = lock(path)?;
            let old = open_own(path)?;
            let text = old.as_ref().map_or(Ok(String::new()), |old| read_open(old, path))?;
            let is_new = !Htpasswd::parse(&text).is_ok_and(|users| users.get(&name).is_some());
            if !is_new && !force {
                return Err(UserFileError::Exists(name));
            }
            replace(path, old.as_ref(), &with_user(&text, &name, &hash)?)?;
            Ok(made.map_or_else(String::new, |password| format!("{password}\n")))
        }
        UserCommand::Remove { name } => {
            let _lock = lock(path)?;
            let Some(old) = open_own(path)? else { return Err(UserFileError::NoUser(name)) };
            let text = read_open(&old, path)?;
            let text = removed_user(&text, &name).ok_or(UserFileError::NoUser(name))?;
            replace(path, Some(&old), &text)?;
            Ok(String::new())
        }
    }
}

/// One line of standard input.
///
/// # Errors
///
/// [`UserFileError::Password`], [`UserFileError::Terminal`].
pub fn password_from(input: impl Read) -> Result<Secret, UserFileError> {
    let mut text = Vec::new();
    input.take(PASSWORD_BYTES_MAX as u64 + 3).read_to_end(&mut text)?;
    let text = String::from_utf8(text).map_err(|_| UserFileError::Password)?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    let is_fit = (1..=PASSWORD_BYTES_MAX).contains(&line.len()) && !line.contains(char::is_control);
    is_fit.then(|| Secret::new(line)).ok_or(UserFileError::Password)
}

pub(super) fn read(path: &Path) -> Result<String, UserFileError> {
    let what = "read";
    read_bounded(path, jreg_auth::FILE_BYTES_MAX).map_err(|source| UserFileError::File {
        what,
        path: path.to_owned(),
        source,
    })
}

pub(super) fn wrong(path: &Path, why: String) -> UserFileError {
    UserFileError::Wrong { path: path.to_owned(), why }
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Serializes concurrent commands: locks the folder until the process ends.
fn lock(path: &Path) -> Result<File, UserFileError> {
    let folder = folder(path);
    let file = |source| UserFileError::File { what: "lock", path: folder.to_owned(), source };
    let handle = File::open(folder).map_err(file)?;
    handle.lock().map_err(file)?;
    Ok(handle)
}

/// Opens the file that will be replaced; `None`: it does not exist. A symbolic link is refused:
/// otherwise users who can create names in the folder choose which file is read and replaced.
fn open_own(path: &Path) -> Result<Option<File>, UserFileError> {
    let failed = |source| UserFileError::File { what: "read", path: path.to_owned(), source };
    let refused = |what| UserFileError::NoFileOfUsers { path: path.to_owned(), what };
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | flags, Mode::empty());
    match opened {
        Ok(opened) => {
            let file = File::from(opened);
            match file.metadata().map_err(failed)?.is_file() {
                true => Ok(Some(file)),
                false => Err(refused("a folder or a device")),
            }
        }
        Err(Errno::NOENT) => Ok(None),
        Err(Errno::LOOP) => Err(refused("a symbolic link")),
        Err(error) => Err(failed(error.into())),
    }
}

fn read_open(file: &File, path: &Path) -> Result<String, UserFileError> {
    let mut text = String::new();
    let failed = |source| UserFileError::File { what: "read", path: path.to_owned(), source };
    let mut file = file;
    file.read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// Writes a file atomically: a new file with an unpredictable name is renamed to the path. It keeps
/// mode and owner of the old file. A first file is readable by its owner only.
fn replace(path: &Path, old: Option<&File>, text: &str) -> Result<(), UserFileError> {
    let random = random_hex::<8>().ok_or(UserFileError::Random)?;
    let new = folder(path).join(format!(".jreg-user-{random}"));
    let write = || -> io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&new)?;
        if let Some(old) = old {
            let old = old.metadata()?;
            // Only root can change the owner.
            let _ = std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()));
            file.set_permissions(old.permissions())?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        File::open(folder(path))?.sync_all()
    };
    write().map_err(|source| {
        // Removes the incomplete file.
        let _ = std::fs::remove_file(&new);
        UserFileError::File { what: "write", path: path.to_owned(), source }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn users_are_added_changed_listed_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        let add = |name: &str, password: Option<&str>| {
            let password = password.map(Secret::new);
            user(&path, UserCommand::Add { name: name.to_owned(), password, force: false })
        };
        assert_eq!(add("bob", Some("one")).unwrap(), "");
        let before = std::fs::read_to_string(&path).unwrap();
        let exists = add("bob", Some("two")).unwrap_err().to_string();
        assert!(exists.contains("\"bob\" already") && exists.contains("--force"), "{exists}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), before);
        let password = Some(Secret::new("two"));
        let forced = UserCommand::Add { name: "bob".to_owned(), password, force: true };
        user(&path, forced).unwrap();
        assert_ne!(std::fs::read_to_string(&path).unwrap(), before);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let made = add("alice", None).unwrap();
        assert_eq!(made.trim().len(), 32);
        assert_eq!(user(&path, UserCommand::List).unwrap(), "alice\nbob\n");
        let users = Htpasswd::parse(&std::fs::read_to_string(&path).unwrap()).unwrap();
        assert!(
            users.get("alice").unwrap().verify(&Secret::new(made.trim()), &mut Default::default())
        );
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        user(&path, UserCommand::Remove { name: "bob".to_owned() }).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(user(&path, UserCommand::List).unwrap(), "alice\n");
        let absent = user(&path, UserCommand::Remove { name: "bob".to_owned() });
        assert_eq!(absent.unwrap_err().to_string(), "there is no user \"bob\"");
        assert!(add("a:b", Some("x")).is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
    }

    /// Users who can create names in the folder cannot redirect root to another file.
    #[test]
    fn links_and_foreseen_names_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("users"), folder.path().join("other"));
        let hash = hash_password(&Secret::new("x")).unwrap();
        std::fs::write(&other, format!("root:{hash}\n")).unwrap();
        let before = std::fs::read_to_string(&other).unwrap();
        let add = |path: &Path| {
            let password = Some(Secret::new("x"));
            user(path, UserCommand::Add { name: "bob".to_owned(), password, force: true })
        };
        let remove = |path: &Path| user(path, UserCommand::Remove { name: "root".to_owned() });
        for target in [other.clone(), folder.path().join("absent")] {
            std::os::unix::fs::symlink(&target, &path).unwrap();
            for done in [add(&path), remove(&path)] {
                let refused = done.unwrap_err().to_string();
                assert!(refused.contains("is a symbolic link"), "{refused}");
                assert!(refused.contains("must be a regular file"), "{refused}");
            }
            assert_eq!(std::fs::read_link(&path).unwrap(), target);
            std::fs::remove_file(&path).unwrap();
        }
        assert!(add(folder.path()).unwrap_err().to_string().contains("is a folder"));
        // The fixed name that an earlier version used.
        let foreseen = folder.path().join(format!(".jreg-user-{}", std::process::id()));
        std::os::unix::fs::symlink(&other, &foreseen).unwrap();
        add(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&other).unwrap(), before);
        assert_eq!(std::fs::read_link(&foreseen).unwrap(), other);
        assert!(!folder.path().join("absent").exists());
    }

    #[test]
    fn a_password_is_one_line() {
        let read = |text: &str| password_from(text.as_bytes());
        for text in ["pass word", "pass word\n", "pass word\r\n"] {
            assert_eq!(read(text).unwrap().reveal(), "pass word");
        }
        let long = "x".repeat(PASSWORD_BYTES_MAX + 1);
        for text in ["", "\n", "a\nb\n", "a\tb", &long] {
            assert!(read(text).is_err(), "{text:?}");
        }
        assert!(password_from(&b"\xff"[..]).is_err());
    }
}
