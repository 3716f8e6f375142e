//! The control socket: how a command reaches the process that serves a folder.
//!
//! It is `.control` in the folder, for the user that serves it alone. It is made, and removed, only
//! by whoever holds the folder's lock. A client sends one line of JSON, a [`MaintenanceCommand`]; the answer
//! is one line for each [`MaintenanceEvent`], the last of which says how it ended. A client that goes away
//! stops the work.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jreg_telemetry::audit::command::Operator;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{EVENTS_MAX, MaintenanceCommand, MaintenanceContext, MaintenanceEvent};

/// The socket's name in the folder; no key can name it.
const NAME: &str = ".control";

/// The longest path that a socket can be reached by (`sun_path`).
const PATH_BYTES_MAX: usize = 107;

/// The longest command.
const COMMAND_BYTES_MAX: u64 = 64 * 1024;

/// How long a client may take to say what it wants.
const COMMAND_WAIT_MAX: Duration = Duration::from_secs(10);

/// How many commands may run at the same time.
const COMMANDS_MAX: usize = 4;

/// A socket that listens. Dropping it removes it.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Who made it, and may use it.
    user: u32,
}

/// A path by which a socket in a folder can be reached, however long the folder's is.
struct Reach {
    path: PathBuf,
    /// Open as long as the path is used.
    _folder: Option<fs::File>,
}

impl Reach {
    fn of(folder: &Path) -> io::Result<Self> {
        let path = folder.join(NAME);
        if path.as_os_str().len() <= PATH_BYTES_MAX {
            return Ok(Self { path, _folder: None });
        }
        let opened = fs::File::open(folder)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/{NAME}", opened.as_raw_fd()));
        Ok(Self { path, _folder: Some(opened) })
    }
}

impl ControlSocket {
    /// Listens in a folder whose lock this process holds.
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let path = folder.join(NAME);
        // Of a process that was killed: the lock is ours, so nobody listens there.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let reach = Reach::of(folder)?;
        let listener = UnixListener::bind(&reach.path)?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        let user = fs::symlink_metadata(&path)?.uid();
        Ok(Self { listener, path, user })
    }

    /// Does what comes until `stopping`.
    pub fn serve(
        self,
        workshop: MaintenanceContext,
        tasks: &TaskTracker,
        stopping: CancellationToken,
    ) {
        let running = tasks.clone();
        tasks.spawn(async move {
            let slots = Arc::new(Semaphore::new(COMMANDS_MAX));
            let until = stopping.clone();
            let accepting = async {
                loop {
                    let Some((stream, by)) = self.accept().await else { continue };
                    let (workshop, slots) = (workshop.clone(), Arc::clone(&slots));
                    let until = stopping.clone();
                    running.spawn(async move {
                        until.run_until_cancelled(answer(stream, by, workshop, slots)).await;
                    });
                }
            };
            until.run_until_cancelled(accepting).await;
        });
    }

    /// A connection of the user whose socket it is, or of root.
    async fn accept(&self) -> Option<(UnixStream, Operator)> {
        match self.listener.accept().await {
            Ok((stream, _)) => {
                let user = stream.peer_cred().ok()?.uid();
                // The mode says so, but only from a moment after the socket began to listen.
                let is_let_in = user == self.user || user == 0;
                is_let_in.then(|| (stream, Operator::with_uid(user)))
            }
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                None
            }
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // One that stays is replaced by the next process that gets the lock.
        let _ = fs::remove_file(&self.path);
    }
}

async fn answer(
    stream: UnixStream,
    by: Operator,
    workshop: MaintenanceContext,
    slots: Arc<Semaphore>,
) {
    let (reading, mut writing) = stream.into_split();
    let mut reading = BufReader::new(reading);
    let command = match timeout(COMMAND_WAIT_MAX, read_command(&mut reading)).await {
        Ok(Ok(command)) => command,
        Ok(Err(message)) => return send(&mut writing, &MaintenanceEvent::Failed { message }).await,
        Err(_) => return,
    };
    let Ok(_slot) = slots.try_acquire() else {
        let message = format!("{COMMANDS_MAX} commands are running; try again later");
        return send(&mut writing, &MaintenanceEvent::Failed { message }).await;
    };
    tracing::info!(command = %command, "command received through the control socket");
    let (sender, events) = mpsc::channel(EVENTS_MAX);
    // Nothing more is to come: what comes is the end of the client.
    let mut more = [0];
    tokio::select! {
        ((), ()) = async { tokio::join!(workshop.run(command, by, sender), pass_on(events, &mut writing)) } => {}
        _ = reading.read(&mut more) => tracing::info!("command stopped: its client disconnected"),
    }
}

async fn read_command(
    reading: &mut (impl AsyncBufReadExt + Unpin),
) -> Result<MaintenanceCommand, String> {
    let mut line = String::new();
    let read = reading.take(COMMAND_BYTES_MAX).read_line(&mut line).await;
    read.map_err(|error| error.to_string())?;
    serde_json::from_str(&line).map_err(|error| {
        format!("this version of jreg does not know the command ({error}): use the same version as the server")
    })
}

async fn pass_on(
    mut events: mpsc::Receiver<MaintenanceEvent>,
    writing: &mut (impl AsyncWriteExt + Unpin),
) {
    while let Some(event) = events.recv().await {
        send(writing, &event).await;
    }
}

async fn send(writing: &mut (impl AsyncWriteExt + Unpin), event: &MaintenanceEvent) {
    let mut line = serde_json::to_vec(event).expect("an event has only string keys");
    line.push(b'\n');
    // A client that is gone is noticed by the end of what it sends.
    writing.write_all(&line).await.ok();
}

/// Connects to whoever serves a folder; `None`: nobody does, or not with this socket.
///
/// # Errors
///
/// What the operating system says, such as that another user serves it.
pub async fn connect(folder: &Path) -> io::Result<Option<UnixStream>> {
    let reach = match Reach::of(folder) {
        Ok(reach) => reach,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match UnixStream::connect(&reach.path).await {
        Ok(stream) => Ok(Some(stream)),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Ok(None),
            _ => Err(error),
        },
    }
}

/// Asks whoever is at the other end, and passes on what it tells.
///
/// # Errors
///
/// What the operating system says; that the other end went away before it was done.
pub async fn ask(
    stream: UnixStream,
    command: &MaintenanceCommand,
    events: mpsc::Sender<MaintenanceEvent>,
) -> io::Result<()> {
    let (reading, mut writing) = stream.into_split();
    let mut line = serde_json::to_vec(command).map_err(io::Error::other)?;
    line.push(b'\n');
    writing.write_all(&line).await?;
    let mut lines = BufReader::new(reading).lines();
    while let Some(line) = lines.next_line().await? {
        let event: MaintenanceEvent = serde_json::from_str(&line).map_err(|error| {
            let what = format!("the jreg that serves the folder has another version: {error}");
            io::Error::new(io::ErrorKind::InvalidData, what)
        })?;
        let is_last = matches!(event, MaintenanceEvent::Done(_) | MaintenanceEvent::Failed { .. });
        // Whoever shows the events stops first only if it is told to.
        if events.send(event).await.is_err() || is_last {
            return Ok(());
        }
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the jreg that serves the folder has stopped"))
}
