//! Where a program is: all its processes on all machines, and which of them counts.
//!
//! The processes of every host are in process id namespaces below this machine's, so that all of them are seen from here. A program
//! that counts writes its number into its name (`comm`), where it is seen from outside as well.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};

/// What this machine is called in the tests.
const HOME: &str = "local";

/// A process of the program, on whichever machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Its id as this machine sees it.
    pub pid: i32,
    /// When it was made, in ticks since this machine came up: a number may be given again.
    pub started: u64,
    /// The name of its host.
    pub host: String,
    /// Its name, by which it counts.
    pub name: String,
    /// The letter of its state.
    pub state: char,
    /// Whether it is held by a tracer.
    pub is_traced: bool,
}

impl Copy {
    /// Whether it is the same process.
    fn is(&self, other: &Self) -> bool {
        (self.pid, self.started) == (other.pid, other.started)
    }

    /// How far it has counted.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        self.name.strip_prefix('n')?.parse().ok()
    }

    /// Neither stopped, nor held, nor dead.
    #[must_use]
    pub fn runs(&self) -> bool {
        !self.is_traced && !matches!(self.state, 'T' | 't' | 'Z' | 'X')
    }
}

/// The processes of a program at one moment.
#[derive(Clone, Debug)]
pub struct Copies(pub Vec<Copy>);

impl Copies {
    /// Finds the processes that have `word` among their arguments and are no part of `ckptctl`; `hosts` are the first processes of
    /// the hosts by name.
    pub(super) fn of(word: &str, hosts: &[(String, i32)]) -> Self {
        let names: BTreeMap<_, _> =
            hosts.iter().filter_map(|(name, pid)| Some((pid_namespace(*pid)?, name.clone()))).collect();
        let entries = fs::read_dir("/proc").into_iter().flatten();
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        Self(pids.filter(|pid| has_word(*pid, word)).filter_map(|pid| look_at(pid, &names)).collect())
    }

    /// The names of the hosts where it runs.
    #[must_use]
    pub fn running_on(&self) -> Vec<&str> {
        self.0.iter().filter(|copy| copy.runs()).map(|copy| copy.host.as_str()).collect()
    }
}

fn has_word(pid: i32, word: &str) -> bool {
    let Ok(arguments) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let mut arguments = arguments.split(|byte| *byte == 0);
    let of_ckptctl = arguments.next().is_some_and(|first| first.ends_with(b"ckptctl"));
    // A supervisor may be told the program's arguments as well.
    !of_ckptctl && arguments.any(|argument| argument == word.as_bytes())
}

fn look_at(pid: i32, hosts: &BTreeMap<String, String>) -> Option<Copy> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let value = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.map(|value| value.trim().to_owned())
    };
    let is_ckptctl = fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with("ckptctl"));
    if is_ckptctl {
        return None;
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(Copy {
        pid,
        started: stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()?,
        host: host_of(pid, hosts)?,
        name: value("Name")?,
        state: value("State")?.chars().next()?,
        is_traced: value("TracerPid")? != "0",
    })
}

/// The host whose namespace, or a nest in it, a process is in: that of its nearest ancestor that is a host's first process.
fn host_of(pid: i32, hosts: &BTreeMap<String, String>) -> Option<String> {
    let mut next = pid;
    while next > 1 {
        if let Some(host) = hosts.get(&pid_namespace(next)?) {
            return Some(host.clone());
        }
        let stat = fs::read_to_string(format!("/proc/{next}/stat")).ok()?;
        next = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
    }
    Some(HOME.to_owned())
}

fn pid_namespace(pid: i32) -> Option<String> {
    Some(fs::read_link(format!("/proc/{pid}/ns/pid")).ok()?.to_string_lossy().into_owned())
}

/// Looks again and again, and remembers in which order the copies counted.
pub struct Watch {
    leave: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Copy>>>,
}

impl Watch {
    pub(super) fn begin(word: &str, hosts: Vec<(String, i32)>) -> Self {
        let leave = Arc::new(AtomicBool::new(false));
        let (told, word) = (Arc::clone(&leave), word.to_owned());
        let thread = thread::spawn(move || {
            let mut counted: Vec<Copy> = Vec::new();
            let mut last = BTreeMap::new();
            while !told.load(Ordering::Relaxed) {
                for copy in Copies::of(&word, &hosts).0 {
                    // One that is being built is given the name that it had.
                    let Some(number) = copy.number() else { continue };
                    let before = last.insert((copy.pid, copy.started), number);
                    let has_counted = before.is_some_and(|before| before != number);
                    if has_counted && counted.last().is_none_or(|last| !last.is(&copy)) {
                        counted.push(copy);
                    }
                }
                thread::sleep(Duration::from_millis(5));
            }
            counted
        });
        Self { leave, thread: Some(thread) }
    }

    /// The copies in the order in which they counted, each once.
    ///
    /// # Errors
    /// When one of them went on after another had begun: then two of them lived at the same time.
    pub fn finish(mut self) -> Result<Vec<Copy>> {
        self.leave.store(true, Ordering::Relaxed);
        let thread = self.thread.take().map(JoinHandle::join);
        let counted = thread.and_then(Result::ok).ok_or_else(|| anyhow!("the watch fell over"))?;
        for (index, copy) in counted.iter().enumerate() {
            let again = counted[..index].iter().any(|earlier| earlier.is(copy));
            ensure!(!again, "two copies lived at the same time: {counted:?}");
        }
        Ok(counted)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.leave.store(true, Ordering::Relaxed);
    }
}
