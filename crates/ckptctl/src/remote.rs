//! The other end on another machine: this very program as `ckptctl agent`, started over SSH.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use ckpt_core::Class;
use ckpt_transfer::hosts::{Host, Hosts, LOCAL};
use ckpt_transfer::protocol::{Reply, Request, SILENCE};
use ckpt_transfer::ssh::{Fate, Nobody, Prompter, Secrets, Session, own_hash};
use ckpt_transfer::wire;

use crate::failure::Failure;

/// A machine that can be asked things.
#[derive(Debug)]
pub struct Machine {
    /// None for this machine.
    reached: Option<Reached>,
}

#[derive(Debug)]
struct Reached {
    host: Host,
    hosts: Hosts,
    secrets: Secrets,
    /// Where this program is there, once it is.
    program: Option<String>,
}

/// A connection to an agent.
#[derive(Debug)]
pub struct Agent {
    /// What it says and hears.
    pub stream: UnixStream,
    /// Why it ended, of one on another machine.
    pub fate: Option<Fate>,
}

/// Hears how many bytes have gone or come, and of how many.
pub type Progressing<'a> = &'a mut dyn FnMut(u64, u64);

impl Machine {
    /// The machine of a name: a host, or `local`.
    pub fn of(name: &str) -> anyhow::Result<Self> {
        let reached = if name == LOCAL {
            None
        } else {
            let hosts = Hosts::load()?;
            let host = hosts.find(name)?;
            Some(Reached { host, hosts, secrets: Secrets::new(), program: None })
        };
        Ok(Self { reached })
    }

    /// Its entry among the hosts; none for this machine.
    pub fn host(&self) -> Option<&Host> {
        self.reached.as_ref().map(|reached| &reached.host)
    }

    /// Starts an agent there, with further words, and connects to it.
    pub fn agent(
        &mut self,
        words: &[&str],
        prompter: &mut dyn Prompter,
        uploading: Progressing<'_>,
    ) -> anyhow::Result<Agent> {
        let Some(Reached { host, hosts, secrets, program }) = &mut self.reached else { return local_agent(words) };
        let session = Session::connect(host, hosts, prompter, secrets)?;
        let path = match program {
            Some(path) => path.clone(),
            None => program.insert(session.install(uploading)?.path).clone(),
        };
        let mut command = Vec::new();
        let directory = host.directory.as_ref().map(|path| path.to_string_lossy().into_owned());
        let places = directory.map(|path| ["XDG_STATE_HOME", "XDG_CACHE_HOME"].map(|name| format!("{name}={path}")));
        if let Some(places) = &places {
            command.push("env");
            command.extend(places.iter().map(String::as_str));
        }
        command.extend([path.as_str(), "agent"]);
        command.extend(words);
        let (stream, fate) = session.exec(&command)?.pump()?;
        Ok(Agent { stream, fate: Some(fate) })
    }
}

impl Machine {
    /// Connects to an agent of this very version if it is there already; nothing is sent there, and nobody is asked.
    pub fn agent_that_is_there(&mut self) -> anyhow::Result<Agent> {
        const FIND: &str = r#"exec "${1:-${XDG_CACHE_HOME:-$HOME/.cache}}/ckptctl/bin/$2/ckptctl" agent"#;
        const PLACED: &str = "XDG_STATE_HOME=$1 XDG_CACHE_HOME=$1; export XDG_STATE_HOME XDG_CACHE_HOME; ";
        let Some(Reached { host, hosts, secrets, .. }) = &mut self.reached else { return local_agent(&[]) };
        let (hash, _) = own_hash().context("this program's own hash cannot be had")?;
        let directory = host.directory.as_ref().map(|path| path.to_string_lossy().into_owned());
        let script = if directory.is_some() { format!("{PLACED}{FIND}") } else { FIND.to_owned() };
        let session = Session::connect(host, hosts, &mut Nobody, secrets)?;
        let words = ["sh", "-c", &script, "sh", directory.as_deref().unwrap_or_default(), &hash];
        let (stream, fate) = session.exec(&words)?.pump()?;
        Ok(Agent { stream, fate: Some(fate) })
    }
}

fn local_agent(words: &[&str]) -> anyhow::Result<Agent> {
    let (ours, theirs) = UnixStream::pair().context("no socket could be made")?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("ckptctl").arg("agent").args(words).stdin(Stdio::from(OwnedFd::from(theirs.try_clone()?)));
    command.stdout(Stdio::from(OwnedFd::from(theirs))).stderr(Stdio::null());
    let mut child = command.spawn().context("no agent could be started")?;
    drop(command);
    std::thread::spawn(move || child.wait());
    Ok(Agent { stream: ours, fate: None })
}

impl Agent {
    /// Asks a question that has one answer.
    pub fn ask(&self, request: &Request) -> anyhow::Result<Reply> {
        self.stream.set_read_timeout(Some(SILENCE))?;
        let answered = wire::send(&mut &self.stream, request, &[]).and_then(|()| {
            loop {
                match wire::receive::<Reply>(&mut &self.stream)? {
                    Some((Reply::Heartbeat, _)) => {}
                    other => return Ok(other.map(|(reply, _)| reply)),
                }
            }
        });
        let reply = match answered {
            Ok(Some(Reply::Failed { message, exit })) => return Err(Failure::of_exit(exit, message).into()),
            Ok(Some(reply)) => reply,
            Ok(None) => return Err(self.lost("it closed the connection")),
            Err(error) => return Err(self.lost(&error.to_string())),
        };
        self.stream.set_read_timeout(None)?;
        Ok(reply)
    }

    /// The connection was lost: why, as far as that can be known.
    pub fn lost(&self, what: &str) -> anyhow::Error {
        const MOMENT: Duration = Duration::from_secs(1);
        let why = self.fate.as_ref().and_then(|fate| fate.wait(MOMENT)).unwrap_or_else(|| what.to_owned());
        Failure::new(Class::Remote, format!("the agent does not answer: {why}; try again")).into()
    }
}
