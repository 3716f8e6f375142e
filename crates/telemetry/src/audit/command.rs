//! What an operator does on the machine, as lines of the audit log: commands that change content or
//! access. The process that does the work writes the line.

use std::io;

use chrono::{SecondsFormat, Utc};
use serde::Serialize;
use serde_json::Value;

use super::output::AuditOutput;
use super::{AuditError, AuditLog, AuditTarget};

/// Where the system keeps the names of its users.
const ACCOUNTS: &str = "/etc/passwd";

/// Who gives a command: a user of the operating system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operator {
    uid: u32,
}

impl Operator {
    /// Whoever this process belongs to.
    pub fn here() -> Self {
        Self { uid: rustix::process::getuid().as_raw() }
    }

    /// The user with this number.
    pub fn with_uid(uid: u32) -> Self {
        Self { uid }
    }

    /// The name of the account, otherwise its number.
    fn identity(self) -> String {
        let accounts = std::fs::read_to_string(ACCOUNTS).unwrap_or_default();
        let name = account_name(&accounts, self.uid);
        format!("machine:{}", name.map_or_else(|| self.uid.to_string(), str::to_owned))
    }
}

/// The name of a user in the text of the file of accounts (passwd(5)).
fn account_name(accounts: &str, uid: u32) -> Option<&str> {
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    })
}

/// What came of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CommandOutcome {
    /// It came to its end.
    Done,
    /// It could not.
    Failed,
    /// It was told to stop.
    Stopped,
}

/// A command, as it stands in a line.
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
    outcome: CommandOutcome,
}

impl CommandAuditRecord {
    /// A command that somebody gave: `operation` is its name, `asked` what it was told, which has no
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
            outcome,
        }
    }
}

/// A command that is under way. If nobody says what came of it, it was stopped.
#[derive(Debug)]
pub struct AuditedCommand {
    log: AuditLog,
    operator: Operator,
    /// The name and what was asked, until they are written.
    command: Option<(&'static str, Value)>,
}

impl AuditedCommand {
    /// A command has begun.
    pub fn new(log: &AuditLog, operator: Operator, operation: &'static str, asked: Value) -> Self {
        Self { log: log.clone(), operator, command: Some((operation, asked)) }
    }

    /// Writes what came of it.
    pub async fn end(mut self, outcome: CommandOutcome, credential: Option<String>) {
        if let Some((operation, asked)) = self.command.take() {
            let operator = self.operator;
            let entry = CommandAuditRecord::new(operator, operation, asked, credential, outcome);
            self.log.record(&entry).await;
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

/// The audit log of a command that does its work without a server.
#[derive(Debug)]
pub struct CommandJournal(AuditOutput);

impl CommandJournal {
    /// The file of an audit log; `None`: it has none. Standard streams are the server's.
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
    /// What the operating system says.
    pub fn write(&mut self, entry: &CommandAuditRecord) -> io::Result<()> {
        self.0.write(&[super::line(entry)], false).1
    }
}

/// Where commands write: what they print on a standard stream is for whoever typed them.
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
