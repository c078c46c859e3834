//! Reaching a job's supervisor; where it was killed, a new one is started that takes the job over.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use ckpt_core::Class;
use ckpt_transfer::protocol::Reply;

use crate::failure::Failure;
use crate::jobs::{Job, JobStore};
use crate::local::{self, Receiver};
use crate::supervisor::{self, Launch, LaunchKind};
use crate::{door, text};

/// How long to wait for a supervisor that is just coming or going.
const PATIENCE: Duration = Duration::from_secs(5);

/// A supervisor that was just started.
#[derive(Debug)]
pub struct Launched {
    /// The connection to it, and what it says.
    pub receiver: Receiver,
    /// The program, as this machine sees it; none for a supervisor that has none yet.
    pub pid: Option<i32>,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// Connects to the supervisor of a job that has not ended.
pub fn connect(store: &JobStore, job: &Job) -> anyhow::Result<UnixStream> {
    let name = supervisor::door_name(&job.name);
    let until = Instant::now() + PATIENCE;
    loop {
        if let Ok(stream) = door::knock(&store.doors_of(job), &name) {
            return Ok(stream);
        }
        let now = store.job(&job.name)?;
        if now.is_over() {
            return Err(Failure::new(Class::Failed, format!("the job {} has ended", job.name)).into());
        }
        if now.keeper.is_none() && now.host.is_none() {
            let message = format!(
                "the job {} was started by an older ckptctl and has no supervisor; `ckptctl checkpoint --pid {}` saves it",
                job.name, job.pid
            );
            return Err(Failure::new(Class::Failed, message).into());
        }
        let adopted = launch(&Launch { name: job.name.clone(), kind: LaunchKind::Adopt }, &[], None);
        match adopted {
            Ok(launched) => return Ok(launched.receiver.stream().try_clone()?),
            // Somebody else may have been faster, or it has ended this moment.
            Err(error) if Instant::now() > until => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Starts a supervisor, which outlives us, in a directory, with descriptors for its program. Answered when that runs.
pub fn launch(launch: &Launch, given: &[BorrowedFd<'_>], directory: Option<&Path>) -> anyhow::Result<Launched> {
    let mut receiver = Receiver::new(begin(launch, given, directory)?);
    let mut notes = Vec::new();
    loop {
        match receiver.receive::<Reply>()? {
            Some((Reply::Ready { notes: told }, _)) => notes = told,
            Some((Reply::Running { pid }, _)) => return Ok(Launched { receiver, pid: Some(pid), notes }),
            Some((Reply::Done, _)) => return Ok(Launched { receiver, pid: None, notes }),
            Some((Reply::Failed { message, exit }, _)) => return Err(Failure::of_exit(exit, message).into()),
            Some(_) => {}
            None => return Err(Failure::new(Class::Failed, "the supervisor was killed as it began").into()),
        }
    }
}

/// Starts a supervisor without waiting for what it says, on the connection that is to stay open until it has.
pub fn begin(launch: &Launch, given: &[BorrowedFd<'_>], directory: Option<&Path>) -> anyhow::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair().context("no socket could be made")?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("ckptctl").arg("supervisor").stdin(Stdio::from(OwnedFd::from(theirs)));
    command.stdout(Stdio::null()).stderr(Stdio::null());
    if let Some(directory) = directory {
        command.current_dir(directory);
    }
    let mut child = command.spawn().with_context(|| match directory {
        Some(directory) => format!("no supervisor could be started in {}", text::path(directory)),
        None => "no supervisor could be started".to_owned(),
    })?;
    drop(command);
    // Where the caller lives on (a menu), it is collected when it ends.
    std::thread::spawn(move || child.wait());
    local::send(&ours, launch, given).context("the supervisor has gone")?;
    Ok(ours)
}
