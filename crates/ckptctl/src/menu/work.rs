//! What the model asks for, done: each on a thread of its own, so that nothing blocks the screen. What comes of it is sent
//! back as messages.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::Context;
use ckpt_transfer::protocol::{MoveOptions, Reply, Request, WindowSize};
use ckpt_transfer::wire;
use ratatui::crossterm::event::{self, Event};
use ratatui::crossterm::terminal;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH};
use signal_hook::iterator::Signals;

use super::effect::{Asker, Effect, Reason};
use super::model::{FileKind, FileRow};
use super::update::{Msg, SCROLLBACK, Shown};
use super::{complaint, listing, trials};
use crate::jobs::JobStore;
use crate::supervisor::Log;
use crate::{checkpoint, client, failure, holds, text};

/// Lines of a file that are shown.
const PREVIEW: usize = 400;

const UNREADABLE: &str = "the log cannot be read";

/// Does what the model asks for.
pub struct Worker {
    sender: SyncSender<Msg>,
    /// The connection to the open job's supervisor.
    attached: Option<UnixStream>,
    /// The connections over which moves were asked for, by their jobs.
    moving: HashMap<String, UnixStream>,
    /// What is under way, and how to give it up.
    acts: Arc<Mutex<Vec<(Reason, Handle)>>>,
    /// Trials that wait for an answer, by their hosts.
    asking: Arc<Mutex<HashMap<String, mpsc::Sender<Option<String>>>>>,
    started: Instant,
}

/// How to give up an act.
enum Handle {
    /// A verb in a process group of its own, which is not collected yet.
    Verb(Pid),
    /// What a supervisor does for us.
    Supervisor(UnixStream),
}

impl Worker {
    /// One that sends to the menu's loop, which never sends itself: it waits when that has much to do.
    pub fn new(sender: SyncSender<Msg>) -> Self {
        let (attached, moving, acts, asking) = (None, HashMap::new(), Arc::default(), Arc::default());
        Self { sender, attached, moving, acts, asking, started: Instant::now() }
    }

    /// Starts what goes on all the time: keys, signals, the list of jobs.
    ///
    /// # Errors
    /// When no thread can be made.
    pub fn begin(&mut self) -> anyhow::Result<()> {
        let sender = self.sender.clone();
        spawn("keys", move || {
            while let Ok(event) = event::read() {
                // A size that changes in the moment of a key is lost here: the signal tells it.
                if matches!(event, Event::Resize(..)) {
                    continue;
                }
                if sender.send(Msg::Event(event)).is_err() {
                    return;
                }
            }
            // The terminal is gone.
            let _ = sender.send(Msg::Quit);
        })?;
        let mut signals = Signals::new([SIGTERM, SIGHUP, SIGINT, SIGQUIT, SIGWINCH, SIGCONT])
            .context("the signal handlers cannot be installed")?;
        let sender = self.sender.clone();
        spawn("signals", move || {
            for signal in signals.forever() {
                let msg = match (signal, terminal::size()) {
                    (SIGWINCH, Ok((columns, rows))) => Msg::Event(Event::Resize(columns, rows)),
                    (SIGWINCH, Err(_)) => continue,
                    (SIGCONT, _) => Msg::Continued,
                    _ => Msg::Quit,
                };
                if sender.send(msg).is_err() {
                    return;
                }
            }
        })?;
        listing::start(self.sender.clone())
    }

    /// Does one thing; what cannot even be begun is told at once.
    pub fn work(&mut self, effect: Effect) -> Option<Msg> {
        self.start(effect).err().map(|error| Msg::Wrong(failure::line(&error)))
    }

    fn start(&mut self, effect: Effect) -> anyhow::Result<()> {
        let sender = self.sender.clone();
        // The loop may have ended: then there is nobody to tell any more.
        let tell = move |msg| drop(sender.send(msg));
        match effect {
            Effect::Verb { reason, words, directory, environment } => {
                let acts = Arc::clone(&self.acts);
                spawn("verb", move || {
                    let result = verb(&acts, &reason, &words, directory.as_deref(), environment);
                    tell(Msg::Did { reason, result });
                })
            }
            Effect::Build { words, directory, source, program, unless_newer } => {
                let acts = Arc::clone(&self.acts);
                spawn("build", move || {
                    if unless_newer && is_newer(&program, &source) {
                        return tell(Msg::Built(program, Ok(())));
                    }
                    let result = verb(&acts, &Reason::Build, &words, Some(&directory), Vec::new());
                    tell(Msg::Built(program, result.map(drop).map_err(|said| complaint::of(&said, &directory))));
                })
            }
            Effect::Save { job } => {
                let acts = Arc::clone(&self.acts);
                spawn("save", move || {
                    let reason = Reason::Save { job: job.clone() };
                    let doing = |what, done, total| tell(Msg::Doing(reason.clone(), what, done, total));
                    let result = save(&acts, &reason, &job, doing).map_err(|error| failure::line(&error));
                    tell(Msg::Did { reason, result });
                })
            }
            Effect::Cancel(reason) => {
                for (_, handle) in lock(&self.acts).iter_mut().filter(|(act, _)| *act == reason) {
                    handle.give_up();
                }
                Ok(())
            }
            Effect::Attach { job, size, number } => self.attach(job, size, number),
            Effect::Detach => {
                hang_up(self.attached.take());
                Ok(())
            }
            Effect::Input(bytes) => self.say(&Request::Input, &bytes),
            Effect::Resize(size) => self.say(&Request::Resize { size }, &[]),
            Effect::Migrate { job, host } => self.migrate(job, host),
            Effect::Answer { asker: Asker::Move(job), answer } => {
                say(self.moving.get_mut(&job), &Request::Answer { answer }, &[])
            }
            Effect::Answer { asker: Asker::Trial(host), answer } => {
                if let Some(waiting) = lock(&self.asking).remove(&host) {
                    // It waits for this alone.
                    let _ = waiting.send(answer);
                }
                Ok(())
            }
            Effect::CancelMove { job } => say(self.moving.get_mut(&job), &Request::Cancel, &[]),
            Effect::Schedule { job } => spawn("schedule", move || {
                let read = JobStore::open().and_then(|store| store.job(&job));
                tell(match read {
                    Ok(found) => Msg::Schedule(job, found.schedule),
                    Err(error) => Msg::Wrong(failure::line(&error)),
                });
            }),
            Effect::List(directory) => spawn("list", move || {
                let listed =
                    list(&directory).map_err(|error| format!("cannot read {}: {error}", text::path(&directory)));
                tell(Msg::Listed(directory, listed));
            }),
            Effect::Preview(path) => spawn("preview", move || {
                let lines = preview(&path).unwrap_or_else(|error| vec![format!("cannot be read: {error}")]);
                tell(Msg::Previewed(path, lines));
            }),
            Effect::Holds { job } => spawn("holds", move || {
                let held = holds::of_job(&job).map_err(|error| failure::line(&error));
                tell(Msg::Held(job, held));
            }),
            Effect::Hosts => spawn("hosts", move || {
                tell(Msg::Hosts(trials::rows().map_err(|error| failure::line(&error))));
            }),
            Effect::Try(names) => trials::start(names, &self.sender, &self.asking),
            // The loop's own.
            Effect::Redraw | Effect::Quit => Ok(()),
        }
    }

    fn say(&mut self, request: &Request, body: &[u8]) -> anyhow::Result<()> {
        say(self.attached.as_mut(), request, body)
    }

    fn attach(&mut self, job: String, size: Option<WindowSize>, number: u64) -> anyhow::Result<()> {
        hang_up(self.attached.take());
        let sender = self.sender.clone();
        let tell = move |shown| sender.send(Msg::Terminal(number, shown)).is_ok();
        let Ok(mut stream) = connect(&job) else {
            // What it printed is in its log all the same.
            return spawn("log", move || {
                tell(Shown::Output(printed(&job).unwrap_or_else(|error| failure::line(&error).into_bytes())));
            });
        };
        // Where it cannot be read, the supervisor chooses.
        let from = log_of(&job).and_then(|log| filling(&log)).ok();
        wire::send(&mut stream, &Request::Attach { from, follow: true, size }, &[])?;
        let mut reading = stream.try_clone().context("the connection to the job cannot be shared")?;
        self.attached = Some(stream);
        spawn("attach", move || {
            while let Ok(Some((reply, body))) = wire::receive::<Reply>(&mut reading) {
                let goes_on = match reply {
                    // What is shown of it may not go back to where it has chosen its screen and its keys.
                    Reply::Attached { .. } => tell(Shown::Output(set_up(&job))) && tell(Shown::Attached(true)),
                    Reply::Output { .. } => tell(Shown::Output(body)),
                    Reply::Ended(ending) => tell(Shown::Ended(ending)),
                    _ => true,
                };
                if !goes_on {
                    return;
                }
            }
            tell(Shown::Attached(false));
        })
    }

    fn migrate(&mut self, job: String, host: String) -> anyhow::Result<()> {
        let sender = self.sender.clone();
        let mut stream = match connect(&job) {
            Ok(stream) => stream,
            Err(error) => {
                let ended = Msg::Moved(job, Err(failure::line(&error)));
                return spawn("move", move || drop(sender.send(ended)));
            }
        };
        wire::send(&mut stream, &Request::Migrate { host, options: MoveOptions::default() }, &[])?;
        let mut reading = stream.try_clone().context("the connection to the job cannot be shared")?;
        self.moving.insert(job.clone(), stream);
        let started = self.started;
        spawn("move", move || {
            let result = loop {
                let msg = match wire::receive::<Reply>(&mut reading) {
                    Ok(Some((Reply::Check { what, found, ok }, _))) => Msg::Check(job.clone(), (what, found, ok)),
                    Ok(Some((Reply::Progress { phase, done, total }, _))) => {
                        let at = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
                        Msg::Progress(job.clone(), (phase, done, total), at)
                    }
                    Ok(Some((Reply::Ask { question, echo }, _))) => Msg::Ask(Asker::Move(job.clone()), question, echo),
                    Ok(Some((Reply::MovedTo(report), _))) => break Ok(report),
                    Ok(Some((Reply::Failed { message, .. }, _))) => break Err(message),
                    Ok(Some(_)) => continue,
                    Ok(None) | Err(_) => {
                        break Err(format!(
                            "the job's supervisor was lost during the move; `ckptctl ps` tells where {job} is"
                        ));
                    }
                };
                if sender.send(msg).is_err() {
                    return;
                }
            };
            // The menu may have ended.
            let _ = sender.send(Msg::Moved(job, result));
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

fn log_of(job: &str) -> anyhow::Result<Log> {
    Log::view(&JobStore::open()?.directory(job)).context(UNREADABLE)
}

/// What makes a terminal as the job's is.
fn set_up(job: &str) -> Vec<u8> {
    let modes = log_of(job).and_then(|log| log.modes().context(UNREADABLE));
    modes.map(|modes| modes.set_up().into_bytes()).unwrap_or_default()
}

/// From where on a job's output fills the pane and what is kept above it.
fn filling(log: &Log) -> anyhow::Result<u64> {
    const MOST: u64 = 256 << 10;
    log.lines_back(SCROLLBACK, MOST).context(UNREADABLE)
}

/// The last of what an ended job printed.
fn printed(job: &str) -> anyhow::Result<Vec<u8>> {
    let log = log_of(job)?;
    log.bytes(filling(&log)?, log.end()).context(UNREADABLE)
}

pub fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
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

/// What is shared; whoever held it last may have panicked.
pub fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Handle {
    fn give_up(&mut self) {
        // What is over this moment needs no giving up.
        let _ = match self {
            Self::Verb(group) => kill_process_group(*group, Signal::INT).map_err(anyhow::Error::from),
            Self::Supervisor(stream) => wire::send(stream, &Request::Cancel, &[]).map_err(anyhow::Error::from),
        };
    }
}

/// Has a job's supervisor save it into its history.
fn save(
    acts: &Mutex<Vec<(Reason, Handle)>>,
    reason: &Reason,
    job: &str,
    doing: impl Fn(String, u64, u64),
) -> anyhow::Result<Value> {
    let stream = connect(job)?;
    lock(acts).push((reason.clone(), Handle::Supervisor(stream.try_clone()?)));
    let result = client::follow(&stream, &checkpoint::into_history(), &mut |reply| {
        if let Reply::Progress { phase, done, total } = reply {
            doing(phase.clone(), *done, *total);
        }
    });
    lock(acts).retain(|(act, _)| act != reason);
    match result? {
        Reply::Saved { report } => Ok(report),
        _ => anyhow::bail!("the job's supervisor answers something else than was asked; update ckptctl and try again"),
    }
}

/// Gives a verb to this very program, and reads its answer. It has no terminal to ask on.
fn verb(
    acts: &Mutex<Vec<(Reason, Handle)>>,
    reason: &Reason,
    words: &[String],
    directory: Option<&Path>,
    environment: Vec<(String, String)>,
) -> Result<Value, String> {
    let this = std::env::current_exe().map_err(|error| format!("this program cannot find its own file: {error}"))?;
    let mut command = Command::new(this);
    command.args(words).envs(environment).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.process_group(0);
    if let Some(directory) = directory {
        command.current_dir(directory);
    }
    if let Some(directory) = directory.filter(|directory| !directory.is_dir()) {
        return Err(format!(
            "{} is no directory to start the program in; d chooses another one",
            text::path(directory)
        ));
    }
    let cannot = |error: io::Error| format!("this program cannot start itself: {error}");
    let mut child = command.spawn().map_err(cannot)?;
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        lock(acts).push((reason.clone(), Handle::Verb(pid)));
    }
    let (answer, said) = (child.stdout.take(), child.stderr.take());
    let (answer, said) = thread::scope(|scope| {
        let said = scope.spawn(|| all_of(said));
        (all_of(answer), said.join().unwrap_or_default())
    });
    // Collected, its number may be another's.
    lock(acts).retain(|(act, _)| act != reason);
    let status = child.wait().map_err(cannot)?;
    if !status.success() {
        return Err(told(&said));
    }
    // `build` and `hosts` answer nothing that could be read.
    Ok(serde_json::from_str::<Value>(answer.trim()).unwrap_or(Value::Null))
}

/// What a verb said that failed, without what is only for the command line: its name, the usage.
fn told(said: &str) -> String {
    let said = said.trim();
    match said.strip_prefix("error: ") {
        Some(usage) => usage.split("\n\n").next().unwrap_or(usage).lines().map(str::trim).collect::<Vec<_>>().join(" "),
        None => said.strip_prefix("ckptctl: ").unwrap_or(said).to_owned(),
    }
}

/// Everything that comes from a verb; what was said before it broke off counts.
fn all_of(stream: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        let _ = stream.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether a program was made after its source was changed last.
fn is_newer(program: &Path, source: &Path) -> bool {
    let changed = |path: &Path| fs::metadata(path).and_then(|stat| stat.modified()).ok();
    changed(program).zip(changed(source)).is_some_and(|(program, source)| program > source)
}

fn list(directory: &Path) -> io::Result<Vec<FileRow>> {
    const SOURCES: [&str; 6] = ["c", "cc", "cpp", "cxx", "c++", "C"];
    let mut rows = Vec::new();
    if let Some(above) = directory.parent() {
        rows.push(FileRow { name: "..".to_owned(), path: above.to_path_buf(), kind: FileKind::Parent, size: 0 });
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
        rows.push(FileRow { name, path: entry.path(), kind, size: stat.len() });
    }
    Ok(rows)
}

/// The first lines of a text; of anything else, what it is.
fn preview(path: &Path) -> io::Result<Vec<String>> {
    const MOST: u64 = 64 << 10;
    let stat = fs::metadata(path)?;
    if stat.is_dir() {
        let count = fs::read_dir(path)?.count();
        return Ok(vec![format!("a directory, {}", text::count(count, "entry", "entries"))]);
    }
    if !stat.is_file() {
        // Opening a pipe waits for somebody who writes.
        return Ok(vec!["neither a file nor a directory".to_owned()]);
    }
    let (file, size) = (fs::File::open(path)?, stat.len());
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes)?;
    if bytes.starts_with(b"\x7fELF") {
        return Ok(vec![
            format!("an executable of {}", text::size(size)),
            String::new(),
            "Enter chooses it, r runs it.".to_owned(),
        ]);
    }
    if bytes.is_empty() {
        return Ok(vec!["empty".to_owned()]);
    }
    if bytes.contains(&0) {
        return Ok(vec![format!("binary data, {}", text::size(size))]);
    }
    // A text in another encoding is shown as far as it can be.
    Ok(String::from_utf8_lossy(&bytes).lines().take(PREVIEW).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics says where")]

    use super::*;

    #[test]
    fn every_file_has_something_to_show() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| fs::write(directory.path().join(name), bytes).unwrap();
        write("text", b"one\ntwo\n");
        write("latin", b"caf\xe9\n");
        write("data", b"a\0b");
        write("program", b"\x7fELF...");
        write("empty", b"");
        let shown = |name: &str| preview(&directory.path().join(name)).unwrap();
        assert_eq!(shown("text"), ["one", "two"]);
        assert_eq!(shown("latin"), ["caf\u{fffd}"]);
        assert_eq!(shown("data"), ["binary data, 3 B"]);
        assert!(shown("program")[0].contains("an executable"));
        assert_eq!(shown("empty"), ["empty"]);
        assert_eq!(shown(""), ["a directory, 5 entries"]);
        assert!(preview(&directory.path().join("none")).is_err());
    }
}
