//! The control socket, over which commands run in the process that serves a folder.
//!
//! It is `.control` in the folder, accessible only to the serving user. Only the holder of the
//! folder's lock creates and removes it. A client sends one line of JSON, a [`MaintenanceCommand`];
//! the response is one line per [`MaintenanceEvent`], the last of which has the result. A client
//! that disconnects stops the work.
//!
//! A client that sends `HTTP_REQUEST` instead speaks HTTP on the connection, once it has read
//! `HTTP_RESPONSE`: the API, as an operator. So a command that moves images reads and writes files in its own
//! process, and this one opens no path that a command names.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jreg_profile::{WorkName, work};
use jreg_telemetry::audit::command::Operator;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jreg_net::server::{Body, RequestHandler};

use super::{EVENTS_MAX, MaintenanceCommand, MaintenanceContext, MaintenanceEvent};

/// The socket's name in the folder; no store key can have it.
const NAME: &str = ".control";

/// Maximum length of a socket path (`sun_path`).
const PATH_BYTES_MAX: usize = 107;

/// Maximum length of a command, which may have a plan or a lifecycle file in it.
const COMMAND_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// Timeout for receiving a command.
const COMMAND_WAIT_MAX: Duration = Duration::from_secs(10);

/// Maximum number of concurrent commands.
const COMMANDS_MAX: usize = 4;

/// Maximum number of connections that speak HTTP. Further ones wait as long as a command may.
pub const HTTP_CONNECTIONS_MAX: usize = 64;

/// The line of a client that is going to speak HTTP.
const HTTP_REQUEST: &str = "{\"command\":\"http\"}\n";
/// The line after which it may.
const HTTP_RESPONSE: &str = "{\"event\":\"http\"}\n";
/// Maximum length of a line in its place.
const HTTP_RESPONSE_BYTES_MAX: usize = 4096;

/// A listening socket. Dropping it removes it.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    /// The user that may use it.
    user: u32,
}

/// A short path to a socket in a folder with a path of any length.
struct Reach {
    path: PathBuf,
    /// Keeps the path valid.
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
    /// I/O errors.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let path = folder.join(NAME);
        // A socket of a killed process: this process has the lock, so no other listens there.
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

    /// Serves commands, and requests to `api`, until `stopping`.
    pub fn serve(
        self,
        workshop: MaintenanceContext,
        api: Arc<dyn RequestHandler>,
        tasks: &TaskTracker,
        stopping: CancellationToken,
    ) {
        let running = tasks.clone();
        tasks.spawn(async move {
            let served = Arc::new(Served {
                workshop,
                api,
                commands: Semaphore::new(COMMANDS_MAX),
                http: Semaphore::new(HTTP_CONNECTIONS_MAX),
            });
            let until = stopping.clone();
            let accepting = async {
                loop {
                    let Some((stream, by)) = self.accept().await else { continue };
                    let (served, until) = (Arc::clone(&served), stopping.clone());
                    running.spawn(async move {
                        let serving =
                            work(WorkName("control socket", ""), served.respond(stream, by));
                        until.run_until_cancelled(serving).await;
                    });
                }
            };
            until.run_until_cancelled(accepting).await;
        });
    }

    /// Accepts a connection of the serving user or of root.
    async fn accept(&self) -> Option<(UnixStream, Operator)> {
        match self.listener.accept().await {
            Ok((stream, _)) => {
                let user = stream.peer_cred().ok()?.uid();
                // The file mode is set only after the socket began to listen.
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
        // The next process that gets the lock replaces a remaining socket.
        let _ = fs::remove_file(&self.path);
    }
}

/// What connections are served with.
struct Served {
    workshop: MaintenanceContext,
    api: Arc<dyn RequestHandler>,
    /// A permit for each command.
    commands: Semaphore,
    /// A permit for each connection that speaks HTTP.
    http: Semaphore,
}

/// What a client wants.
enum SocketRequest {
    Command(Box<MaintenanceCommand>),
    Http,
}

impl Served {
    async fn respond(&self, stream: UnixStream, by: Operator) {
        let (reading, mut writing) = stream.into_split();
        let mut reading = BufReader::new(reading);
        let fail = |message| MaintenanceEvent::Failed { message };
        let command = match timeout(COMMAND_WAIT_MAX, read_command(&mut reading)).await {
            Ok(Ok(SocketRequest::Command(command))) => *command,
            Ok(Ok(SocketRequest::Http)) => {
                let Ok(stream) = reading.into_inner().reunite(writing) else { return };
                return self.speak_http(stream).await;
            }
            Ok(Err(message)) => return send(&mut writing, &fail(message)).await,
            Err(_) => return,
        };
        let Ok(_slot) = self.commands.try_acquire() else {
            let message = format!("{COMMANDS_MAX} commands are running; try again later");
            return send(&mut writing, &fail(message)).await;
        };
        tracing::info!(command = %command, "command received through the control socket");
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let work = self.workshop.run(command, by, sender);
        // Clients send nothing more: this waits for a disconnect.
        let mut more = [0];
        tokio::select! {
            ((), ()) = async { tokio::join!(work, pass_on(events, &mut writing)) } => {}
            _ = reading.read(&mut more) => tracing::info!("command stopped: its client disconnected"),
        }
    }

    /// Serves the API on a connection.
    async fn speak_http(&self, mut stream: UnixStream) {
        let Ok(Ok(_slot)) = timeout(COMMAND_WAIT_MAX, self.http.acquire()).await else {
            let message = format!("{HTTP_CONNECTIONS_MAX} connections of commands are open");
            return send(&mut stream, &MaintenanceEvent::Failed { message }).await;
        };
        if stream.write_all(HTTP_RESPONSE.as_bytes()).await.is_err() {
            return;
        }
        let api = self.api.for_connection().unwrap_or_else(|| Arc::clone(&self.api));
        let service = service_fn(move |request: http::Request<Incoming>| {
            let response = api.handle(request.map(Body::of_client));
            async move { Ok::<_, std::convert::Infallible>(response.await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service);
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection of the control socket ended early");
        }
    }
}

async fn read_command(
    reading: &mut (impl AsyncBufReadExt + Unpin),
) -> Result<SocketRequest, String> {
    let mut line = String::new();
    let read = reading.take(COMMAND_BYTES_MAX).read_line(&mut line).await;
    read.map_err(|error| error.to_string())?;
    if line == HTTP_REQUEST {
        return Ok(SocketRequest::Http);
    }
    let command = serde_json::from_str(&line).map_err(|error| {
        format!("this version of jreg does not know the command ({error}): use the same version as the server")
    });
    command.map(|command| SocketRequest::Command(Box::new(command)))
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
    // A disconnect is detected by the read side.
    writing.write_all(&line).await.ok();
}

/// Connects to the process that serves a folder; `None`: there is none, or it has no socket.
///
/// # Errors
///
/// I/O errors, for example because another user serves it.
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

/// Connects to the process that serves a folder, to speak HTTP; `None`: there is none.
///
/// # Errors
///
/// I/O errors; the process refuses.
pub async fn connect_http(folder: &Path) -> io::Result<Option<UnixStream>> {
    let Some(mut stream) = connect(folder).await? else { return Ok(None) };
    stream.write_all(HTTP_REQUEST.as_bytes()).await?;
    let mut line = Vec::new();
    // Byte by byte: what follows the line is not ours.
    while line.last() != Some(&b'\n') && line.len() < HTTP_RESPONSE_BYTES_MAX {
        line.push(stream.read_u8().await?);
    }
    if line == HTTP_RESPONSE.as_bytes() {
        return Ok(Some(stream));
    }
    let why = match serde_json::from_slice(&line) {
        Ok(MaintenanceEvent::Failed { message }) => message,
        _ => "it has another version".to_owned(),
    };
    Err(io::Error::other(format!("the jreg that serves the folder refuses: {why}")))
}

/// Sends a command, and forwards the events of the response.
///
/// # Errors
///
/// I/O errors; the process closed the connection before the command ended.
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
        // The receiver ends first if it is interrupted.
        if events.send(event).await.is_err() || is_last {
            return Ok(());
        }
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the jreg that serves the folder has stopped"))
}
