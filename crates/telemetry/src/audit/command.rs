//! Audit records of operator commands that change content or access. The process that does the work
//! writes them.

use std::io;

use chrono::{SecondsFormat, Utc};
use serde::Serialize;
use serde_json::Value;

use super::output::AuditOutput;
use super::{AuditError, AuditLog, AuditTarget, TagChangeAudit};

/// The user database of the system.
const ACCOUNTS: &str = "/etc/passwd";

/// The operating system user who runs a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operator {
    uid: u32,
}

impl Operator {
    /// The user of this process.
    pub fn here() -> Self {
        Self { uid: rustix::process::getuid().as_raw() }
    }

    /// The user with this id.
    pub fn with_uid(uid: u32) -> Self {
        Self { uid }
    }

    /// The account name, or the id if it has none.
    fn identity(self) -> String {
        let accounts = std::fs::read_to_string(ACCOUNTS).unwrap_or_default();
        let name = account_name(&accounts, self.uid);
        format!("machine:{}", name.map_or_else(|| self.uid.to_string(), str::to_owned))
    }
}

/// The name of a user in the text of passwd(5).
fn account_name(accounts: &str, uid: u32) -> Option<&str> {
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CommandOutcome {
    Done,
    Failed,
    Stopped,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CommandAuditRecord {
    time: String,
    event: &'static str,
    identity: String,
    source: &'static str,
    uid: u32,
    operation: &'static str,
    asked: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    credential: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tag_changes: Vec<TagChangeAudit>,
    outcome: CommandOutcome,
}

impl CommandAuditRecord {
    /// `operation` is the command's name, `asked` its arguments without secrets, `credential` the
    /// id of the created or revoked access token.
    /// secrets, `credential` the id of the access token that was made or revoked.
    pub fn new(
        operator: Operator,
        operation: &'static str,
        asked: Value,
        credential: Option<String>,
        outcome: CommandOutcome,
    ) -> Self {
        Self {
            time: Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true),
            event: "command",
            identity: operator.identity(),
            source: "machine",
            uid: operator.uid,
            operation,
            asked,
            credential,
            tag_changes: Vec::new(),
            outcome,
        }
    }
}

/// A command in progress. Dropping it without an outcome records that it was stopped.
#[derive(Debug)]
pub struct AuditedCommand {
    log: AuditLog,
    operator: Operator,
    /// Name and arguments, until they are written.
    command: Option<(&'static str, Value)>,
}

impl AuditedCommand {
    /// Starts the record of a command.
    pub fn new(log: &AuditLog, operator: Operator, operation: &'static str, asked: Value) -> Self {
        Self { log: log.clone(), operator, command: Some((operation, asked)) }
    }

    /// Writes the outcome.
    pub async fn end(
        mut self,
        outcome: CommandOutcome,
        credential: Option<String>,
        tag_changes: Vec<TagChangeAudit>,
    ) {
        if let Some((operation, asked)) = self.command.take() {
            let operator = self.operator;
            let entry = CommandAuditRecord::new(operator, operation, asked, credential, outcome);
            self.log.record(&CommandAuditRecord { tag_changes, ..entry }).await;
        }
    }
}

impl Drop for AuditedCommand {
    fn drop(&mut self) {
        if let Some((operation, asked)) = self.command.take() {
            let stopped = CommandOutcome::Stopped;
            let entry = CommandAuditRecord::new(self.operator, operation, asked, None, stopped);
            self.log.record_later(&entry);
        }
    }
}

/// The audit log of a command that works without a server.
#[derive(Debug)]
pub struct CommandJournal(AuditOutput);

impl CommandJournal {
    /// Opens the audit log file; `None`: there is none. Standard streams are left to the server.
    ///
    /// # Errors
    ///
    /// [`AuditError::Open`].
    pub fn open(target: &AuditTarget) -> Result<Option<Self>, AuditError> {
        let target = of_commands(target);
        let opened = AuditOutput::open(target);
        let opened =
            opened.map_err(|source| AuditError::Open { target: target.to_string(), source })?;
        Ok(opened.map(Self))
    }

    /// Writes a line.
    ///
    /// # Errors
    ///
    /// I/O errors.
    pub fn write(&mut self, entry: &CommandAuditRecord) -> io::Result<()> {
        self.0.write(&[super::line(entry)], false).1
    }
}

/// The audit log of commands: standard streams are excluded, because they carry the command's own
/// output.
pub(super) fn of_commands(target: &AuditTarget) -> &AuditTarget {
    match target {
        AuditTarget::File(_) => target,
        AuditTarget::Off | AuditTarget::Stdout | AuditTarget::Stderr => &AuditTarget::Off,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_found_by_number() {
        let accounts =
            "root:x:0:0:root:/root:/bin/sh\n\n# x\n:x:7:7::/:\nnobody\njreg:x:998:998::/:\n";
        assert_eq!(account_name(accounts, 0), Some("root"));
        assert_eq!(account_name(accounts, 998), Some("jreg"));
        assert_eq!(account_name(accounts, 7), None);
        assert_eq!(account_name("", 0), None);
        assert_eq!(Operator::with_uid(u32::MAX - 7).identity(), "machine:4294967288");
    }
}
