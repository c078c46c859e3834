//! One test: a directory, an identity, a log, a deadline, and everything that it started.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::pty::Terminal;
use crate::running::{Ending, Running};
use crate::stage::{Stage, Who};

/// Names the file whose appearance tells a program to go on; its path also marks every process of a case.
const GO: &str = "CKPT_TEST_GO";

/// A command that has ended, and what it said.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub ending: Ending,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Finished {
    /// The JSON that it printed.
    ///
    /// # Errors
    /// When that is no JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("not JSON: {self:?}"))
    }

    /// Requires the exit status.
    ///
    /// # Errors
    /// When it ended in another way.
    pub fn expect(self, status: i32) -> Result<Self> {
        ensure!(self.ending == Ending::Exited(status), "expected status {status}: {self:?}");
        Ok(self)
    }

    /// Requires one of the exit statuses of a failure and its message: one line on stderr, naming
    /// all of `names` (each may be several alternatives between bars).
    ///
    /// # Errors
    /// When the status, the form or a name is not there.
    pub fn expect_refusal(self, statuses: &[i32], names: &[&str]) -> Result<Self> {
        let finished = self;
        let known = statuses.iter().any(|s| finished.ending == Ending::Exited(*s));
        ensure!(known, "expected one of the statuses {statuses:?}: {finished:?}");
        let said = &finished.stderr;
        ensure!(said.lines().count() == 1, "not one line: {finished:?}");
        ensure!(said.starts_with("ckptctl: "), "no `ckptctl: ` in front: {finished:?}");
        ensure!(!said.contains("panicked"), "a panic: {finished:?}");
        let lower = said.to_lowercase();
        for name in names {
            let said_so = name.split('|').any(|one| lower.contains(&one.to_lowercase()));
            ensure!(said_so, "does not name {name:?}: {finished:?}");
        }
        Ok(finished)
    }
}

/// A program that was restored in the background.
pub struct Detached {
    /// Its process id, as `ckptctl` told it.
    pub pid: i32,
    output: File,
}

impl Detached {
    /// What `ckptctl` and the program have printed so far.
    #[must_use]
    pub fn output(&self) -> String {
        contents(&self.output).unwrap_or_default()
    }
}

/// One test in progress. Dropped, it ends every process that carries its mark.
pub struct Case {
    /// Who runs the program and `ckptctl`.
    pub who: Who,
    stage: Arc<Stage>,
    dir: TempDir,
    log: Mutex<File>,
    deadline: Instant,
}

impl Case {
    pub(crate) fn new(stage: Arc<Stage>, who: Who, log: File, limit: Duration) -> Result<Self> {
        let dir = stage.directory(who)?;
        let case = Self { who, stage, dir, log: Mutex::new(log), deadline: Instant::now() + limit };
        case.make_dir("work")?;
        let runtime = case.make_dir("run")?;
        fs::set_permissions(runtime, fs::Permissions::from_mode(0o700))?;
        Ok(case)
    }

    /// The case's directory, which its user owns.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The directory that programs are started in.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.path("work")
    }

    /// A path in the case's directory.
    #[must_use]
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What all cases share.
    #[must_use]
    pub fn stage(&self) -> &Stage {
        &self.stage
    }

    /// Makes a directory that the case's user owns.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn make_dir(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        fs::create_dir_all(&path)?;
        self.give(&path)?;
        Ok(path)
    }

    /// Gives a file to the case's user.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn give(&self, path: &Path) -> Result<()> {
        if let Some((uid, gid)) = self.stage.identity(self.who) {
            chown(path, Some(uid), Some(gid))?;
        }
        Ok(())
    }

    /// Writes a file that the case's user owns.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, bytes)?;
        self.give(&path)?;
        Ok(path)
    }

    /// Tells the program to go on.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn go(&self) -> Result<()> {
        self.write("go", "").map(drop)
    }

    /// Forgets [`Case::go`] and what programs left in their directory.
    ///
    /// # Errors
    /// When that cannot be removed.
    pub fn reset(&self) -> Result<()> {
        let _ = fs::remove_file(self.path("go"));
        fs::remove_dir_all(self.work())?;
        self.make_dir("work").map(drop)
    }

    /// A command that runs as the case's user in [`Case::work`].
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.command_as(self.who, program)
    }

    /// A command that runs as somebody else.
    pub fn command_as(&self, who: Who, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin");
        command.env("HOME", self.dir()).env("TERM", "xterm").env("LC_ALL", "C.UTF-8");
        command.env(GO, self.path("go")).env("XDG_RUNTIME_DIR", self.path("run"));
        command.current_dir(self.work());
        if let Some((uid, gid)) = self.stage.identity(who) {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// A program of tests/programs.
    ///
    /// # Errors
    /// A skip when this machine cannot build it.
    pub fn program(&self, name: &str) -> Result<Command> {
        Ok(self.command(self.stage.program(name)?))
    }

    /// The `ckptctl` under test.
    #[must_use]
    pub fn ckptctl<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.command(self.stage.ckptctl());
        command.args(args);
        command
    }

    /// Starts a command with its output captured and its input from /dev/null unless `command` says otherwise.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, command: &mut Command) -> Result<Running> {
        command.stdin(Stdio::null());
        self.start_with_stdin(command)
    }

    /// Starts a command with its output captured; the caller has set its input.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_with_stdin(&self, command: &mut Command) -> Result<Running> {
        self.note(&format!("start {command:?}"));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        Ok(Running::new(child, None, self.deadline))
    }

    /// Starts a command on a terminal of its own, in a session of its own.
    ///
    /// # Errors
    /// When there is no terminal to be had.
    pub fn start_on(&self, terminal: &mut Terminal, command: &Command) -> Result<Running> {
        let mut setsid = self.command("setsid");
        if let Some(dir) = command.get_current_dir() {
            setsid.current_dir(dir);
        }
        self.start_session(terminal, setsid, command)
    }

    /// The same where the case's directory is `/home/ada` and the machine is called `laptop`: what people are to see should not
    /// have the names of tests in it. The command finds itself in `/home/ada/work`.
    ///
    /// # Errors
    /// A skip where it takes root.
    pub fn start_at_home_on(&self, terminal: &mut Terminal, command: &Command) -> Result<Running> {
        const SCRIPT: &str = "hostname laptop && mount -t tmpfs -o mode=755 home /home && mkdir /home/ada &&
            mount --bind \"$1\" /home/ada && cd /home/ada/work && export HOME=/home/ada && shift && exec \"$@\"";
        if !rustix::process::geteuid().is_root() {
            return crate::skip("another home directory is made by root only");
        }
        let mut unshare = self.command_as(Who::Root, "unshare");
        unshare.args(["--mount", "--uts", "sh", "-c", SCRIPT, "sh"]).arg(self.dir());
        if let Some((uid, gid)) = self.stage.identity(self.who) {
            unshare.args(["setpriv", "--clear-groups", &format!("--reuid={uid}"), &format!("--regid={gid}")]);
        }
        unshare.arg("setsid");
        self.start_session(terminal, unshare, command)
    }

    /// `wrapped` ends with `setsid`, which makes the terminal the controlling one and then becomes the program: same pid.
    fn start_session(&self, terminal: &mut Terminal, mut wrapped: Command, command: &Command) -> Result<Running> {
        wrapped.arg("--ctty").arg(command.get_program()).args(command.get_args());
        wrapped.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        self.note(&format!("start on a terminal {wrapped:?}"));
        let (stdin, stdout, stderr) = terminal.program_ends()?;
        wrapped.stdin(stdin).stdout(stdout).stderr(stderr);
        let child = wrapped.spawn().context("cannot run setsid (package util-linux)")?;
        Ok(Running::new(child, Some(terminal.screen()), self.deadline))
    }

    /// Runs a command to its end. Its output goes to files, so that a program that it leaves
    /// running in the background may hold them open.
    ///
    /// # Errors
    /// When it cannot be started or does not end in time.
    pub fn run(&self, command: &mut Command) -> Result<Finished> {
        Ok(self.run_keeping_output(command)?.0)
    }

    fn run_keeping_output(&self, command: &mut Command) -> Result<(Finished, File)> {
        let (out, err) = (tempfile::tempfile()?, tempfile::tempfile()?);
        self.note(&format!("run {command:?}"));
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(err.try_clone()?);
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let ending = Running::new(child, None, self.deadline).wait();
        let (stdout, stderr) = (contents(&out)?, contents(&err)?);
        let ending = ending.with_context(|| format!("stdout {stdout:?}, stderr {stderr:?}"))?;
        let finished = Finished { ending, stdout, stderr };
        self.note(&format!("-> {finished:?}"));
        Ok((finished, out))
    }

    /// `ckptctl checkpoint --pid PID -o IMAGE FLAGS`, which must succeed.
    ///
    /// # Errors
    /// When it fails, or says anything on stderr.
    pub fn checkpoint(&self, pid: i32, image: &Path, flags: &[&str]) -> Result<Finished> {
        self.run(&mut self.checkpoint_command(pid, image, flags))?.expect(0)
    }

    /// The command line of a checkpoint.
    #[must_use]
    pub fn checkpoint_command(&self, pid: i32, image: &Path, flags: &[&str]) -> Command {
        let mut command = self.ckptctl(["checkpoint", "--pid", &pid.to_string(), "-o"]);
        command.arg(image).args(flags);
        command
    }

    /// `ckptctl restore IMAGE FLAGS` in the foreground.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restore(&self, image: &Path, flags: &[&str]) -> Result<Running> {
        self.start(self.ckptctl(["restore"]).arg(image).args(flags))
    }

    /// `ckptctl restore --detach --json IMAGE`.
    ///
    /// # Errors
    /// When it fails or its JSON has no `pid`.
    pub fn restore_detached(&self, image: &Path, flags: &[&str]) -> Result<Detached> {
        let mut command = self.ckptctl(["restore", "--detach", "--json"]);
        let (finished, output) = self.run_keeping_output(command.arg(image).args(flags))?;
        let finished = finished.expect(0)?;
        // The program may already have printed something behind the JSON.
        let json = serde_json::Deserializer::from_str(&finished.stdout).into_iter::<Value>().next();
        let json = json.with_context(|| format!("no JSON: {finished:?}"))??;
        let pid = json["pid"].as_i64().with_context(|| format!("no pid: {finished:?}"))?;
        Ok(Detached { pid: i32::try_from(pid)?, output })
    }

    /// The process below a foreground restore that is the program: the last one of the only line of descent.
    ///
    /// # Errors
    /// When it does not come to life.
    pub fn restored_pid(&self, restore: &Running) -> Result<i32> {
        let mut found = None;
        self.wait_until("the restored program runs", || {
            found = descendant_that_moves(restore.pid());
            found.is_some()
        })?;
        found.context("no restored program")
    }

    /// Waits for a condition.
    ///
    /// # Errors
    /// When it does not come true before the case's deadline.
    pub fn wait_until(&self, what: &str, is_so: impl FnMut() -> bool) -> Result<()> {
        self.wait_within(Duration::from_secs(30), what, is_so)
    }

    /// Waits for a condition for at most as long.
    ///
    /// # Errors
    /// When it does not come true before that, or before the case's deadline.
    pub fn wait_within(&self, limit: Duration, what: &str, mut is_so: impl FnMut() -> bool) -> Result<()> {
        let limit = self.deadline.min(Instant::now() + limit);
        while !is_so() {
            if Instant::now() > limit {
                bail!("waited in vain until {what}");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Waits until every thread of a process sleeps in the kernel.
    ///
    /// # Errors
    /// When one of them goes on running.
    pub fn wait_asleep(&self, pid: i32) -> Result<()> {
        self.wait_until(&format!("all threads of {pid} sleep"), || {
            thread_states(pid).is_ok_and(|states| states.iter().all(|s| matches!(s, 'S' | 'D')))
        })
    }

    /// The state letter of a process from /proc: `R`, `S`, `T`, `t`, `Z` ...
    #[must_use]
    pub fn state(pid: i32) -> Option<char> {
        state_in(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// Requires that the directory holds nothing but these names, hidden files included.
    ///
    /// # Errors
    /// When there is something else.
    pub fn expect_only(dir: &Path, names: &[&str]) -> Result<()> {
        for entry in fs::read_dir(dir)? {
            let name = entry?.file_name();
            let expected = names.iter().any(|n| name == *n);
            ensure!(expected, "{} was left in {}", name.display(), dir.display());
        }
        Ok(())
    }

    /// Writes a line to the test's log.
    pub fn note(&self, text: &str) {
        if let Ok(mut log) = self.log.lock() {
            // A log that cannot be written must not fail the test.
            let _ = writeln!(log, "{text}");
        }
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        end_marked(self.dir());
    }
}

/// Ends every process that was started by a case in this directory.
pub(crate) fn end_marked(directory: &Path) {
    let mark = format!("{GO}={}/", directory.display());
    // Twice: what was killed may have just started another one.
    for _ in 0..2 {
        for pid in marked(&mark) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// The processes whose environment holds a case's unique path: all of them started by it.
fn marked(mark: &str) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok());
    let own = i32::try_from(std::process::id()).ok();
    pids.filter(|pid| Some(*pid) != own)
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/environ"))
                .is_ok_and(|environ| environ.split(|b| *b == 0).any(|v| v.starts_with(mark.as_bytes())))
        })
        .filter_map(Pid::from_raw)
        .collect()
}

fn descendant_that_moves(pid: i32) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    let child = children.split_whitespace().next()?.parse().ok()?;
    descendant_that_moves(child).or_else(|| {
        // In this order: what is built is first the engine's executable, then traced, then let go.
        let executable = fs::read_link(format!("/proc/{child}/exe")).ok()?;
        let is_engine = executable.file_name()? == "ckptctl";
        (!is_engine && is_let_go(child)?).then_some(child)
    })
}

fn is_let_go(pid: i32) -> Option<bool> {
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let status = fs::read_to_string(task.ok()?.path().join("status")).ok()?;
        if !status.contains("TracerPid:\t0\n") {
            return Some(false);
        }
    }
    Some(true)
}

fn thread_states(pid: i32) -> Result<Vec<char>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))?;
    tasks
        .map(|task| {
            let stat = fs::read_to_string(task?.path().join("stat"))?;
            state_in(&stat).context("no state")
        })
        .collect()
}

/// The letter behind the name, which may itself hold parentheses and blanks.
fn state_in(stat: &str) -> Option<char> {
    stat.rsplit_once(") ")?.1.chars().next()
}

/// The whole file; read at its start, so that the position that a writer shares stays where it is.
fn contents(file: &File) -> Result<String> {
    let mut bytes = vec![0; usize::try_from(file.metadata()?.len())?];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::state_in;

    #[test]
    fn the_state_stands_behind_the_last_parenthesis() {
        assert_eq!(state_in("12 (a) T (b) S 1 2"), Some('S'));
        assert_eq!(state_in("12"), None);
    }
}
