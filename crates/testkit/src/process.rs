//! The real binary as a value: started on a port of its own, and killed when it is dropped.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::Client;
use crate::s3::S3Server;

/// What the log says at the start names the address.
const SERVE: [&str; 7] = [
    "serve",
    "--listen",
    "127.0.0.1:0",
    "--log",
    "error,jreg::app=info,jreg::slow=warn",
    "--log-format",
    "json",
];

/// A running `jreg serve`.
#[derive(Debug)]
pub struct Process {
    child: Child,
    client: Client,
}

/// A command with a limit of the system's.
fn with_limit(binary: &str, limit: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit {limit}; exec \"$0\" \"$@\""), binary]);
    shell
}

impl Process {
    /// Starts a binary on a folder, and waits until it says where it listens.
    pub fn start(binary: &str, folder: &Path) -> Self {
        Self::spawn_on(Command::new(binary), folder)
    }

    /// Starts a binary on a folder, with these flags besides.
    pub fn start_with(binary: &str, folder: &Path, flags: &[&str]) -> Self {
        let mut command = Command::new(binary);
        command.args(SERVE).args(flags).arg("--storage").arg(folder);
        Self::spawn(command)
    }

    /// Starts a binary on the bucket of an emulator, with these flags besides. Blocks the thread
    /// until it listens, so that the emulator must run on another.
    pub fn start_in_bucket(binary: &str, bucket: &S3Server, flags: &[&str]) -> Self {
        let mut command = Command::new(binary);
        command
            .args(SERVE)
            .args(flags)
            .args(["--storage", &bucket.storage_url()])
            .env("AWS_ACCESS_KEY_ID", bucket.access_key())
            .env("AWS_SECRET_ACCESS_KEY", bucket.secret_key());
        Self::spawn(command)
    }

    /// Starts a binary on a bucket, with nothing in its environment but this.
    pub fn start_with_environment(
        binary: &str,
        storage_url: &str,
        environment: &[(&str, &str)],
    ) -> Self {
        let mut command = Command::new(binary);
        command.args(SERVE).args(["--storage", storage_url]);
        command.env_clear().envs(environment.iter().copied());
        Self::spawn(command)
    }

    /// Starts a binary that may have so many files open at most.
    pub fn start_with_few_files(binary: &str, folder: &Path, files_max: u32) -> Self {
        Self::spawn_on(with_limit(binary, &format!("-n {files_max}")), folder)
    }

    /// Starts a binary whose files may have so many blocks at most, which are of 512 or of 1024 bytes.
    pub fn start_with_small_files(binary: &str, folder: &Path, blocks_max: u32) -> Self {
        Self::spawn_on(with_limit(binary, &format!("-f {blocks_max}")), folder)
    }

    fn spawn_on(mut command: Command, folder: &Path) -> Self {
        command.args(SERVE).arg("--storage").arg(folder);
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::inherit())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary can be started");
        let mut log = BufReader::new(child.stderr.take().expect("stderr is a pipe"));
        let address = logged_address(&mut log);
        // What follows is read to its end, so that the process never waits for us.
        std::thread::spawn(move || {
            let lines = log.lines().map_while(Result::ok);
            lines.filter(|line| !line.contains(INFO)).for_each(|line| eprintln!("{line}"));
        });
        Self { child, client: Client::new(address.parse().unwrap()) }
    }

    /// A client of it.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Kills it as the kernel does when memory is short: it cannot do anything about it.
    pub fn kill(mut self) {
        self.end();
    }

    /// Asks it to stop (SIGTERM) and waits for its end.
    pub fn terminate(mut self) -> ExitStatus {
        self.signal("-TERM");
        self.child.wait().unwrap()
    }

    /// Tells it that its files were rotated (SIGHUP).
    pub fn hang_up(&self) {
        self.signal("-HUP");
    }

    fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        let asked = Command::new("kill").args([signal, &id]).status().unwrap();
        assert!(asked.success(), "the process is gone already");
    }

    /// The most memory it ever had, in bytes.
    pub fn peak_memory_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    fn end(&mut self) {
        // Either it no longer exists already, or now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// The level of lines that are not passed on.
const INFO: &str = r#""level":"INFO""#;

fn logged_address(log: &mut impl BufRead) -> String {
    let mut seen = String::new();
    loop {
        let start = seen.len();
        if log.read_line(&mut seen).expect("the log is text") == 0 {
            panic!("the process ended before it said where it listens: {seen}");
        }
        let line: Option<serde_json::Value> =
            seen.get(start..).and_then(|line| serde_json::from_str(line).ok());
        let line = line.filter(|line| line["message"] == "listening");
        if let Some(address) = line.as_ref().and_then(|line| line["address"].as_str()) {
            return address.to_owned();
        }
    }
}
