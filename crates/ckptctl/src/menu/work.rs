//! What the model asks for, done: each on a thread of its own, so that nothing blocks the screen. What comes of it is sent
//! back as messages.

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use ckpt_transfer::hosts::Hosts;
use ckpt_transfer::protocol::{MoveOptions, Reply, Request, WindowSize};
use ckpt_transfer::wire;
use ratatui::crossterm::event;
use serde_json::Value;
use signal_hook::consts::{SIGHUP, SIGTERM};
use signal_hook::iterator::Signals;

use super::effect::{Effect, Reason};
use super::holds;
use super::model::{FileKind, FileRow, HostRow};
use super::update::Msg;
use crate::jobs::JobStore;
use crate::supervisor::Log;
use crate::{client, failure, jobs, text};

/// How often the list of jobs is read again.
const REFRESH: Duration = Duration::from_secs(1);
/// Lines of a file that are shown.
const PREVIEW: usize = 400;

/// Does what the model asks for.
pub struct Worker {
    sender: Sender<Msg>,
    /// The connection to the open job's supervisor.
    attached: Option<UnixStream>,
    /// The connection over which a move was asked for.
    moving: Option<UnixStream>,
    started: Instant,
}

impl Worker {
    /// One that sends to the menu's loop.
    pub fn new(sender: Sender<Msg>) -> Self {
        Self { sender, attached: None, moving: None, started: Instant::now() }
    }

    /// Starts what goes on all the time: keys, signals, the list of jobs.
    ///
    /// # Errors
    /// When no thread can be made.
    pub fn begin(&mut self) -> anyhow::Result<()> {
        let sender = self.sender.clone();
        spawn("keys", move || {
            while let Ok(event) = event::read() {
                if sender.send(Msg::Event(event)).is_err() {
                    return;
                }
            }
            // The terminal is gone.
            let _ = sender.send(Msg::Quit);
        })?;
        let mut signals = Signals::new([SIGTERM, SIGHUP]).context("the signal handlers cannot be installed")?;
        let sender = self.sender.clone();
        spawn("signals", move || {
            if signals.forever().next().is_some() {
                let _ = sender.send(Msg::Quit);
            }
        })?;
        let sender = self.sender.clone();
        spawn("jobs", move || {
            let mut last = None;
            loop {
                let listed = JobStore::open().and_then(|store| jobs::statuses(&store));
                let listed = listed.map_err(|error| failure::line(&error));
                let is_new = last.as_ref() != Some(&listed);
                if is_new {
                    last = Some(listed.clone());
                    let msg = listed.map_or_else(Msg::NoJobs, Msg::Jobs);
                    if sender.send(msg).is_err() {
                        return;
                    }
                }
                thread::sleep(REFRESH);
            }
        })
    }

    /// Does one thing.
    pub fn work(&mut self, effect: Effect) {
        let result = self.start(effect);
        if let Err(error) = result {
            self.send(Msg::NoJobs(failure::line(&error)));
        }
    }

    fn send(&self, msg: Msg) {
        // The loop has ended: there is nobody to tell any more.
        let _ = self.sender.send(msg);
    }

    fn start(&mut self, effect: Effect) -> anyhow::Result<()> {
        let sender = self.sender.clone();
        let tell = move |msg| {
            let _ = sender.send(msg);
        };
        match effect {
            Effect::Verb { reason, words, directory, environment } => spawn("verb", move || {
                let result = verb(&reason, &words, directory.as_deref(), environment);
                tell(Msg::Did { reason, result });
            }),
            Effect::Attach { job, size } => self.attach(&job, size),
            Effect::Detach => {
                hang_up(self.attached.take());
                Ok(())
            }
            Effect::Input(bytes) => self.say(&Request::Input, &bytes),
            Effect::Resize(size) => self.say(&Request::Resize { size }, &[]),
            Effect::Migrate { job, host } => self.migrate(job, host),
            Effect::Answer(answer) => say(self.moving.as_mut(), &Request::Answer { answer }, &[]),
            Effect::CancelMove => say(self.moving.as_mut(), &Request::Cancel, &[]),
            Effect::List(directory) => spawn("list", move || {
                let listed =
                    list(&directory).map_err(|error| format!("cannot read {}: {error}", text::path(&directory)));
                tell(Msg::Listed(directory, listed));
            }),
            Effect::Preview(path) => spawn("preview", move || {
                let lines = preview(&path).unwrap_or_else(|error| vec![error.to_string()]);
                tell(Msg::Previewed(path, lines));
            }),
            Effect::Holds { job, pid } => spawn("holds", move || {
                let held = holds::of(pid).map_err(|error| failure::line(&error));
                tell(Msg::Held(job, held));
            }),
            Effect::Hosts => spawn("hosts", move || {
                tell(Msg::Hosts(hosts().map_err(|error| failure::line(&error))));
            }),
            // The loop's own.
            Effect::Quit => Ok(()),
        }
    }

    fn say(&mut self, request: &Request, body: &[u8]) -> anyhow::Result<()> {
        say(self.attached.as_mut(), request, body)
    }

    fn attach(&mut self, job: &str, size: WindowSize) -> anyhow::Result<()> {
        hang_up(self.attached.take());
        let sender = self.sender.clone();
        let Ok(mut stream) = connect(job) else {
            // What it printed is in its log all the same.
            self.send(Msg::Output(printed(job)?));
            return Ok(());
        };
        wire::send(&mut stream, &Request::Attach { from: None, follow: true, size: Some(size) }, &[])?;
        let mut reading = stream.try_clone().context("the connection to the job cannot be shared")?;
        self.attached = Some(stream);
        spawn("attach", move || {
            let tell = |msg| sender.send(msg).is_ok();
            while let Ok(Some((reply, body))) = wire::receive::<Reply>(&mut reading) {
                let goes_on = match reply {
                    Reply::Attached { .. } => tell(Msg::Attached(true)),
                    Reply::Output { .. } => tell(Msg::Output(body)),
                    Reply::Ended(ending) => tell(Msg::Ended(ending)),
                    _ => true,
                };
                if !goes_on {
                    return;
                }
            }
            tell(Msg::Attached(false));
        })
    }

    fn migrate(&mut self, job: String, host: String) -> anyhow::Result<()> {
        let sender = self.sender.clone();
        let mut stream = match connect(&job) {
            Ok(stream) => stream,
            Err(error) => {
                self.send(Msg::Moved(Err(failure::line(&error))));
                return Ok(());
            }
        };
        wire::send(&mut stream, &Request::Migrate { host, options: MoveOptions::default() }, &[])?;
        let mut reading = stream.try_clone().context("the connection to the job cannot be shared")?;
        self.moving = Some(stream);
        let started = self.started;
        spawn("move", move || {
            let tell = |msg| sender.send(msg).is_ok();
            loop {
                let goes_on = match wire::receive::<Reply>(&mut reading) {
                    Ok(Some((Reply::Check { what, found, ok }, _))) => tell(Msg::Check(what, found, ok)),
                    Ok(Some((Reply::Progress { phase, done, total }, _))) => {
                        let at = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                        tell(Msg::Progress(phase, done, total, at))
                    }
                    Ok(Some((Reply::Ask { question, echo }, _))) => tell(Msg::Ask(question, echo)),
                    Ok(Some((Reply::MovedTo(report), _))) => {
                        tell(Msg::Moved(Ok(report)));
                        false
                    }
                    Ok(Some((Reply::Failed { message, .. }, _))) => {
                        tell(Msg::Moved(Err(message)));
                        false
                    }
                    Ok(Some(_)) => true,
                    Ok(None) | Err(_) => {
                        let lost =
                            format!("the job's supervisor was lost during the move; `ckptctl ps` tells where {job} is");
                        tell(Msg::Moved(Err(lost)));
                        false
                    }
                };
                if !goes_on {
                    return;
                }
            }
        })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        hang_up(self.attached.take());
    }
}

fn connect(job: &str) -> anyhow::Result<UnixStream> {
    let store = JobStore::open()?;
    client::connect(&store, &store.living(job)?)
}

/// The last of what an ended job printed.
fn printed(job: &str) -> anyhow::Result<Vec<u8>> {
    const MOST: u64 = 64 << 10;
    let log = Log::view(&JobStore::open()?.directory(job)).context("the log cannot be read")?;
    log.bytes(log.end().saturating_sub(MOST).max(log.start()), log.end()).context("the log cannot be read")
}

/// Where jobs can move to: home, and the hosts of the user's files.
fn hosts() -> anyhow::Result<Vec<HostRow>> {
    let row = |name: &str, address: String| HostRow { name: name.to_owned(), address, tried: None, is_trying: false };
    let hosts = Hosts::load()?;
    let others = hosts.all().map(|host| row(&host.name, format!("{}@{}:{}", host.user, host.address, host.port)));
    Ok(std::iter::once(row("local", "this machine".to_owned())).chain(others).collect())
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .context("no thread can be started; see the limits of this user")?;
    Ok(())
}

/// Says something over a connection, if there is one: what is typed when it was just lost has nobody to go to.
fn say(stream: Option<&mut UnixStream>, request: &Request, body: &[u8]) -> anyhow::Result<()> {
    let Some(stream) = stream else { return Ok(()) };
    match wire::send(stream, request, body) {
        Ok(()) | Err(wire::WireError::Io(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn hang_up(stream: Option<UnixStream>) {
    if let Some(stream) = stream {
        // It may have been closed by the other side.
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }
}

/// Gives a verb to this very program, and reads its answer.
fn verb(
    reason: &Reason,
    words: &[String],
    directory: Option<&Path>,
    environment: Vec<(String, String)>,
) -> Result<Value, String> {
    let this = std::env::current_exe().map_err(|error| format!("this program cannot find its own file: {error}"))?;
    let mut command = Command::new(this);
    command.args(words).envs(environment).stdin(Stdio::null());
    if let Some(directory) = directory {
        command.current_dir(directory);
    }
    let output = command.output().map_err(|error| format!("this program cannot start itself: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() && !matches!(reason, Reason::Test { .. }) {
        let said = said.trim();
        return Err(said.strip_prefix("ckptctl: ").unwrap_or(said).to_owned());
    }
    let answer = String::from_utf8_lossy(&output.stdout);
    match serde_json::from_str::<Value>(answer.trim()) {
        Ok(value) => match value.get("error").and_then(Value::as_str) {
            Some(error) => Err(error.to_owned()),
            None => Ok(value),
        },
        // `build` has no answer.
        Err(_) if output.status.success() => Ok(Value::Null),
        Err(_) => Err(said.trim().to_owned()),
    }
}

fn list(directory: &Path) -> io::Result<Vec<FileRow>> {
    const SOURCES: [&str; 6] = ["c", "cc", "cpp", "cxx", "c++", "C"];
    let mut rows = Vec::new();
    if directory.parent().is_some() {
        rows.push(FileRow { name: "..".to_owned(), kind: FileKind::Parent, size: 0 });
    }
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        // One that vanished meanwhile, or leads nowhere, is no choice.
        let Ok(stat) = fs::metadata(entry.path()) else { continue };
        let extension = Path::new(&name).extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        let kind = match () {
            () if stat.is_dir() => FileKind::Directory,
            () if SOURCES.contains(&extension) => FileKind::Source,
            () if stat.is_file() && stat.permissions().mode() & 0o111 != 0 => FileKind::Program,
            () => FileKind::Other,
        };
        rows.push(FileRow { name, kind, size: stat.len() });
    }
    Ok(rows)
}

/// The first lines of a text; of anything else, what it is.
fn preview(path: &PathBuf) -> io::Result<Vec<String>> {
    const MOST: u64 = 64 << 10;
    let file = fs::File::open(path)?;
    let size = file.metadata()?.len();
    let mut bytes = Vec::new();
    BufReader::new(file).take(MOST).read_to_end(&mut bytes)?;
    if bytes.starts_with(b"\x7fELF") {
        return Ok(vec![
            format!("an executable of {}", text::size(size)),
            String::new(),
            "Enter chooses it, r runs it.".to_owned(),
        ]);
    }
    if bytes.contains(&0) {
        return Ok(vec![format!("binary data, {}", text::size(size))]);
    }
    Ok(bytes.lines().map_while(Result::ok).take(PREVIEW).collect())
}
