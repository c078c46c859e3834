//! The test that most tests are: checkpoint, kill, restore, and compare with an undisturbed run.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};

use crate::case::Case;
use crate::running::{Ending, Running};

/// The status by which a program says that this machine lacks what it tests.
const SKIP: i32 = 77;

/// A program and what is done to it.
pub struct Roundtrip {
    program: String,
    args: Vec<String>,
    wrapper: Vec<String>,
    checkpoint_flags: Vec<String>,
    restore_flags: Vec<String>,
    typed: Option<&'static [u8]>,
    complains: &'static str,
    asleep: bool,
    generations: usize,
    checkpoints_before: usize,
    mover: Option<PathBuf>,
}

impl Roundtrip {
    /// The given program of tests/programs, checkpointed with `--stop` and restored in the foreground.
    #[must_use]
    pub fn of(program: &str) -> Self {
        Self {
            program: program.to_owned(),
            args: Vec::new(),
            wrapper: Vec::new(),
            checkpoint_flags: vec!["--stop".to_owned()],
            restore_flags: Vec::new(),
            typed: None,
            complains: "",
            asleep: false,
            generations: 1,
            checkpoints_before: 0,
            mover: None,
        }
    }

    /// Arguments of the program.
    #[must_use]
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args = args.iter().map(ToString::to_string).collect();
        self
    }

    /// A command that becomes the program, such as `setarch -R`.
    #[must_use]
    pub fn under(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(ToString::to_string).collect();
        self
    }

    /// Flags of the checkpoint beside `--stop`.
    #[must_use]
    pub fn checkpoint_flags(mut self, flags: &[&str]) -> Self {
        self.checkpoint_flags.extend(flags.iter().map(ToString::to_string));
        self
    }

    /// Flags of the restore.
    #[must_use]
    pub fn restore_flags(mut self, flags: &[&str]) -> Self {
        self.restore_flags = flags.iter().map(ToString::to_string).collect();
        self
    }

    /// The program's input is a pipe, and this is written to it once the program goes on.
    #[must_use]
    pub fn typing(mut self, typed: &'static [u8]) -> Self {
        self.typed = Some(typed);
        self
    }

    /// The restored program prints this to its standard error.
    #[must_use]
    pub fn complaining(mut self, complains: &'static str) -> Self {
        self.complains = complains;
        self
    }

    /// The checkpoint waits until every thread of the program sleeps in the kernel.
    #[must_use]
    pub fn asleep(mut self) -> Self {
        self.asleep = true;
        self
    }

    /// Checkpoints the restored program again, so many times in all.
    #[must_use]
    pub fn generations(mut self, generations: usize) -> Self {
        self.generations = generations;
        self
    }

    /// Takes so many checkpoints before the one with `--stop`, after which the program runs on.
    #[must_use]
    pub fn checkpoints_before(mut self, checkpoints: usize) -> Self {
        self.checkpoints_before = checkpoints;
        self
    }

    /// Instead of a checkpoint and a restore `MOVER move PID` brings the program over: it kills it here and stays with the
    /// one that it has built.
    #[must_use]
    pub fn moved_by(mut self, mover: PathBuf) -> Self {
        self.mover = Some(mover);
        self
    }

    /// Does something to the program that it must not notice.
    ///
    /// # Errors
    /// A skip when the program says that it cannot work here; else what went wrong.
    pub fn undergo(&self, case: &Case, act: impl FnOnce(i32) -> Result<()>) -> Result<()> {
        let expected = self.undisturbed(case)?;
        case.reset()?;
        let mut running = self.start(case)?;
        act(running.pid())?;
        self.finish(case, &mut running)?;
        let ending = running.wait()?;
        let printed = running.stdout();
        ensure!(
            ending == Ending::Exited(0) && printed == expected,
            "afterwards: {ending:?}, {printed:?}, stderr {:?}; undisturbed: {expected:?}",
            running.stderr()
        );
        Ok(())
    }

    /// Does it.
    ///
    /// # Errors
    /// A skip when the program says that it cannot work here; else what went wrong.
    pub fn run(&self, case: &Case) -> Result<()> {
        let expected = self.undisturbed(case)?;
        case.reset()?;
        let mut running = self.start(case)?;
        let mut pid = running.pid();
        let mut printed = String::new();
        for generation in 1..=self.generations {
            let image = case.path(format!("image{generation}"));
            for _ in 0..self.checkpoints_before {
                case.checkpoint(pid, &image, &[])?;
                if self.asleep {
                    case.wait_asleep(pid)?;
                }
            }
            let next = self.leave(case, pid, &image)?;
            let ending = running.wait()?;
            // The first one is our own child; of a restored one `ckptctl restore` tells the end.
            let killed = [Ending::Signaled(9), Ending::Exited(128 + 9)];
            ensure!(killed.contains(&ending), "--stop left {ending:?}; {}", running.streams());
            printed += &running.stdout();
            running = next.map_or_else(|| self.restore(case, &image), Ok)?;
            if generation < self.generations {
                pid = case.restored_pid(&running)?;
                if self.asleep {
                    case.wait_asleep(pid)?;
                }
            }
        }
        self.finish(case, &mut running)?;
        let ending = running.wait()?;
        printed += &running.stdout();
        ensure!(
            ending == Ending::Exited(0) && printed == expected,
            "after the restore: {ending:?}, {printed:?}, stderr {:?}; undisturbed: {expected:?}",
            running.stderr()
        );
        let complains = running.stderr().contains(self.complains);
        ensure!(complains, "stderr {:?} without {:?}", running.stderr(), self.complains);
        Ok(())
    }

    /// Ends the program, saved into an image, or moved: then with what it lives on in.
    fn leave(&self, case: &Case, pid: i32, image: &Path) -> Result<Option<Running>> {
        let Some(mover) = &self.mover else {
            case.checkpoint(pid, image, &as_strs(&self.checkpoint_flags))?;
            return Ok(None);
        };
        let mut command = case.command(mover);
        command.args(["move", &pid.to_string()]);
        self.start_with_stdin(case, &mut command).map(Some)
    }

    fn undisturbed(&self, case: &Case) -> Result<String> {
        let mut running = self.start(case)?;
        self.finish(case, &mut running)?;
        let ending = running.wait()?;
        if ending == Ending::Exited(SKIP) {
            return skip_said(&running);
        }
        ensure!(ending == Ending::Exited(0), "undisturbed: {ending:?}, {}", running.streams());
        Ok(running.stdout())
    }

    /// Starts the program and waits until it is ready to be checkpointed.
    ///
    /// # Errors
    /// A skip when the program says that it cannot work here.
    pub fn start(&self, case: &Case) -> Result<Running> {
        let mut running = self.start_with_stdin(case, &mut self.command(case)?)?;
        if let Err(error) = running.wait_for_text("ready\n") {
            if !running.is_running()? && running.wait()? == Ending::Exited(SKIP) {
                return skip_said(&running);
            }
            return Err(error);
        }
        if self.asleep {
            case.wait_asleep(running.pid())?;
        }
        Ok(running)
    }

    fn command(&self, case: &Case) -> Result<Command> {
        let program = case.stage().program(&self.program)?;
        let mut command = match self.wrapper.split_first() {
            None => case.command(program),
            Some((wrapper, rest)) => {
                let mut command = case.command(wrapper);
                command.args(rest).arg(program);
                command
            }
        };
        command.args(&self.args);
        Ok(command)
    }

    fn restore(&self, case: &Case, image: &Path) -> Result<Running> {
        let mut command = case.ckptctl(["restore"]);
        command.arg(image).args(&self.restore_flags);
        self.start_with_stdin(case, &mut command)
    }

    fn start_with_stdin(&self, case: &Case, command: &mut Command) -> Result<Running> {
        match self.typed {
            Some(_) => case.start_with_stdin(command.stdin(Stdio::piped())),
            None => case.start(command),
        }
    }

    fn finish(&self, case: &Case, running: &mut Running) -> Result<()> {
        case.go()?;
        self.typed.map_or(Ok(()), |typed| running.write(typed))
    }
}

fn skip_said<T>(running: &Running) -> Result<T> {
    let said = running.stdout();
    let reason = said.lines().find_map(|l| l.strip_prefix("SKIP: "));
    crate::skip(reason.unwrap_or("the program did not say why"))
}

fn as_strs(strings: &[String]) -> Vec<&str> {
    strings.iter().map(String::as_str).collect()
}
