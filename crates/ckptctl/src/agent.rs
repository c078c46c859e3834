//! `ckptctl agent`: what other machines start here over SSH. It answers on standard input and output what is asked of a
//! machine, and becomes a bridge to a job's supervisor. It ends when its input does.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use ckpt_core::Class;
use ckpt_core::resource::bytes::Bytes;
use ckpt_core::resource::machine::Machine;
use ckpt_transfer::files::{self, Hashes};
use ckpt_transfer::protocol::{FileEntry, FileRole, MachineReport, Reply, Request, VERSION};
use ckpt_transfer::serve::serve;
use ckpt_transfer::store::Store;
use ckpt_transfer::wire;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::cli::AgentArgs;
use crate::failure::{self, Failure};
use crate::jobs::{self, JobStore};
use crate::supervisor::{FILES, Launch, LaunchKind, door_name};
use crate::this_machine::{available_memory, clock, free_space, load};
use crate::{client, doctor, door, fate, holds, local};

/// Who says nothing for so long, before it has said what it wants, is gone.
const PATIENCE: Timespec = Timespec { tv_sec: 120, tv_nsec: 0 };
const PIECE: usize = 256 << 10;

/// Serves another machine.
pub fn agent(args: &AgentArgs) -> anyhow::Result<i32> {
    // Nothing of ours may go where the answers go.
    let mut stream = Duplex {
        input: rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?.into(),
        output: rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?.into(),
    };
    let null = fs::File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    if let Some(words) = &args.data {
        return data(words, &stream);
    }
    loop {
        let mut fds = [PollFd::new(&stream.input, PollFlags::IN)];
        if rustix::io::retry_on_intr(|| poll(&mut fds, Some(&PATIENCE)))? == 0 {
            return Ok(0);
        }
        let Some((request, _)) = wire::receive::<Request>(&mut stream)? else { return Ok(0) };
        let is_put = matches!(request, Request::Put { .. });
        match answer(&request, &mut stream) {
            Ok(None) => {}
            Ok(Some(joined)) => {
                bridge(stream, &joined);
                return Ok(0);
            }
            Err(error) => {
                let failed = Reply::Failed { message: failure::line(&error), exit: failure::class(&error) as i32 };
                wire::send(&mut stream, &failed, &[])?;
                if is_put {
                    // What comes now is not understood any more.
                    return Ok(1);
                }
            }
        }
    }
}

/// Answers; gives the supervisor that all the rest is for.
fn answer(request: &Request, stream: &mut Duplex) -> anyhow::Result<Option<UnixStream>> {
    let reply = match request {
        Request::Probe => Reply::Machine(Box::new(report()?)),
        Request::Jobs => Reply::Jobs { jobs: jobs::statuses(&JobStore::open()?)? },
        Request::Holds { job } => Reply::Holds { groups: holds::of(JobStore::open()?.living(job)?.pid)? },
        Request::Outcome { txn } => fate::outcome(&JobStore::open()?, txn)?,
        Request::Written { job } => written(job)?,
        Request::Forget { job } => {
            forget(job)?;
            Reply::Done
        }
        Request::Heartbeat => Reply::Heartbeat,
        Request::Join { job, create } => {
            let (supervisor, job) = join(job, *create)?;
            wire::send(stream, &Reply::Joined { job, version: VERSION }, &[])?;
            return Ok(Some(supervisor));
        }
        request if serve(request, stream, &Store::open()?)? => return Ok(None),
        _ => return Err(Failure::new(Class::Usage, "an agent does not do this").into()),
    };
    wire::send(stream, &reply, &[])?;
    Ok(None)
}

/// What this machine is.
fn report() -> anyhow::Result<MachineReport> {
    let store = JobStore::open()?;
    let place = store.moves();
    let there = place.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let disk = free_space(there)?;
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let abilities = ckpt_core::abilities();
    Ok(MachineReport {
        machine: Machine::this(),
        nest: abilities.nest.clone().map(drop),
        doctor: doctor::report_of(abilities)?,
        memory: available_memory(&read("/proc/meminfo")),
        disk,
        load: load(&read("/proc/loadavg")),
        clock: clock(),
        user: rustix::process::geteuid().as_raw(),
        home: Bytes(std::env::var_os("HOME").map(OsStringExt::into_vec).unwrap_or_default()),
    })
}

/// Connects to a job's supervisor; with `create` to a new one that has no program yet.
fn join(name: &str, create: bool) -> anyhow::Result<(UnixStream, String)> {
    let store = JobStore::open()?;
    if !create {
        let stream = match store.known(name)? {
            // What is left of it can be asked for.
            Some(job) if job.is_over() => launch(name, LaunchKind::Adopt)?,
            Some(job) => client::connect(&store, &job)?,
            // One that has no program yet has nothing written down.
            None => door::knock(&store.doors(), &door_name(name))
                .map_err(|_| Failure::new(Class::Failed, format!("there is no job {name} on this machine")))?,
        };
        return Ok((stream, name.to_owned()));
    }
    let claim = store.claim_unknown(name)?;
    claim.prepare()?;
    let name = claim.name().to_owned();
    Ok((launch(&name, LaunchKind::Await)?, name))
}

fn launch(name: &str, kind: LaunchKind) -> anyhow::Result<UnixStream> {
    let launched = client::launch(&Launch { name: name.to_owned(), kind }, &[], None)?;
    Ok(launched.receiver.stream().try_clone()?)
}

/// What the program of a job has of files that may be written to: all that went along lies below the job's directory.
fn written(name: &str) -> anyhow::Result<Reply> {
    let store = JobStore::open()?;
    let job = store.job(name)?;
    let root = store.directory(&job.name).join(FILES);
    let files = files_below(&root)?;
    Ok(Reply::Written { root: Bytes(root.into_os_string().into_vec()), files })
}

/// Everything below a directory, under the paths that the program knows.
fn files_below(root: &Path) -> anyhow::Result<Vec<FileEntry>> {
    let mut hashes = Hashes::load(&Store::open()?);
    let (mut waiting, mut found) = (vec![root.to_path_buf()], Vec::new());
    while let Some(directory) = waiting.pop() {
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries.with_context(|| format!("{} cannot be read", directory.display()))?,
        };
        for entry in entries {
            let path = entry?.path();
            // What is removed this moment is not there.
            let Ok(stat) = fs::symlink_metadata(&path) else { continue };
            let known = Path::new("/").join(path.strip_prefix(root)?);
            let hash = stat.is_file().then(|| hashes.of(&path)).transpose();
            let link = stat.is_symlink().then(|| fs::read_link(&path)).transpose();
            let (Ok(hash), Ok(link)) = (hash, link) else { continue };
            if stat.is_dir() {
                waiting.push(path);
            }
            if stat.is_dir() || hash.is_some() || link.is_some() {
                found.push(FileEntry {
                    path: known,
                    role: FileRole::Output,
                    mode: stat.mode(),
                    size: if stat.is_file() { stat.len() } else { 0 },
                    modified: files::modified(&stat),
                    hash,
                    build_id: None,
                    link: link.map(|link| Bytes(link.into_os_string().into_vec())),
                });
            }
        }
    }
    hashes.save();
    Ok(found)
}

/// Removes what is known of a guest that has ended.
fn forget(name: &str) -> anyhow::Result<()> {
    let store = JobStore::open()?;
    let Some(job) = store.known(name)? else { return Ok(()) };
    if !job.visiting || !job.is_over() {
        let message = format!("the job {name} is not one that came from elsewhere and has ended");
        return Err(Failure::new(Class::Failed, message).into());
    }
    let directory = store.directory(name);
    fs::remove_dir_all(&directory).with_context(|| format!("cannot remove {}", directory.display()))
}

/// Gives our input and output to a job's supervisor, as a data channel of a move, and stays until it lets go of them.
fn data(words: &[String], stream: &Duplex) -> anyhow::Result<i32> {
    let [job, txn, index] = words else { anyhow::bail!("--data takes a job, a move and a number") };
    let (supervisor, _) = join(job, false)?;
    let index = index.parse().context("the number of a data channel is none")?;
    let request = Request::Data { txn: txn.clone(), index };
    local::send(&supervisor, &request, &[stream.input.as_fd(), stream.output.as_fd()])?;
    loop {
        // Of our input only the end is looked for: what comes is not for us.
        let mut fds = [PollFd::new(&supervisor, PollFlags::IN), PollFd::new(&stream.input, PollFlags::empty())];
        rustix::io::retry_on_intr(|| poll(&mut fds, None))?;
        let has_gone = !fds[1].revents().is_empty();
        if !fds[0].revents().is_empty() || has_gone {
            return Ok(0);
        }
    }
}

/// Copies both ways until either end closes.
fn bridge(stream: Duplex, supervisor: &UnixStream) {
    let Duplex { mut input, mut output } = stream;
    let Ok(mut to) = supervisor.try_clone() else { return };
    std::thread::spawn(move || {
        // A connection that breaks has ended.
        let _ = copy(&mut input, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Both);
        // The other direction may wait for a reader that is gone.
        std::thread::sleep(Duration::from_secs(1));
        std::process::exit(0);
    });
    let _ = copy(&mut &*supervisor, &mut output);
}

fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => to.write_all(&buffer[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// An input and an output as one stream.
struct Duplex {
    input: fs::File,
    output: fs::File,
}

impl Read for Duplex {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.input.read(buffer)
    }
}

impl Write for Duplex {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}
