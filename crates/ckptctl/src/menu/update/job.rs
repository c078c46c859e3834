//! The open job: its terminal, its checkpoints, what it holds.

use ckpt_transfer::protocol::{JobState, JobStatus, WindowSize};

use super::commands::{begin, current, is_over, words};
use super::{Shown, ending_words};
use crate::emulator::Emulator;
use crate::menu::effect::{Effect, Reason};
use crate::menu::model::{List, Model, OpenJob, Screen, Tab, state_word};
use crate::menu::view::layout;

/// Lines of scrollback that a job's pane keeps.
pub const SCROLLBACK: usize = 1000;

pub fn open_job(model: &mut Model, name: &str) -> Vec<Effect> {
    let mut effects = leave_job(model);
    model.screen = Screen::Job;
    // Back in the list, keys are meant for it.
    model.jobs.choose(name.to_owned());
    model.job = Some(OpenJob {
        screen: Emulator::new(24, 80, SCROLLBACK),
        attachment: 0,
        name: name.to_owned(),
        is_attached: false,
        is_typing: false,
        tab: Tab::Terminal,
        checkpoints: List::default(),
        damaged: 0,
        schedule: None,
        holds: None,
        scroll: 0,
    });
    effects.push(attach(model));
    effects.push(history(name));
    effects
}

/// Shows the open job's terminal from here on; what was there comes again, from the log.
pub fn attach(model: &mut Model) -> Effect {
    let size = pane_size(model);
    model.attachments += 1;
    let number = model.attachments;
    let job = model.job.as_mut().map(|job| {
        job.screen = Emulator::new(size.rows, size.columns, SCROLLBACK);
        job.attachment = number;
        job.name.clone()
    });
    Effect::Attach { job: job.unwrap_or_default(), size: (!model.read_only).then_some(size), number }
}

/// Something came from the open job's terminal.
pub fn on_shown(model: &mut Model, shown: Shown) -> Vec<Effect> {
    let Some(job) = &mut model.job else { return Vec::new() };
    match shown {
        Shown::Output(bytes) => job.screen.process(&bytes),
        Shown::Attached(true) => job.is_attached = true,
        Shown::Attached(false) => {
            let was_attached = std::mem::take(&mut job.is_attached);
            // Its supervisor was killed: connecting starts another one, and keys go on to the program.
            if was_attached && model.current_job().is_some_and(|row| row.state == JobState::Running) {
                return vec![attach(model)];
            }
            model.job.iter_mut().for_each(|job| job.is_typing = false);
        }
        Shown::Ended(ending) => {
            (job.is_attached, job.is_typing) = (false, false);
            let name = job.name.clone();
            correct(model, &name, |row| {
                (row.state, row.ending, row.pid) = (JobState::Ended, Some(ending), None);
            });
            model.tell(format!("{name} {}", ending_words(ending)), false);
            // As long as somebody is connected, what supervised it stays, and it cannot be restored.
            return vec![Effect::Detach];
        }
    }
    Vec::new()
}

/// Corrects what the list says of a job, ahead of its next reading.
pub fn correct(model: &mut Model, name: &str, change: impl FnOnce(&mut JobStatus)) {
    model.jobs.rows.iter_mut().flatten().find(|row| row.name == name).map(change);
}

pub fn leave_job(model: &mut Model) -> Vec<Effect> {
    if model.job.take().is_some() { vec![Effect::Detach] } else { Vec::new() }
}

pub fn history(job: &str) -> Effect {
    Effect::Verb {
        words: words(&["history", job, "--json"]),
        reason: Reason::History { job: job.to_owned() },
        directory: None,
        environment: Vec::new(),
    }
}

/// The size of the pane, which becomes the program's terminal size.
fn pane_size(model: &mut Model) -> WindowSize {
    let pane = layout::pane(model);
    let size = WindowSize { columns: pane.width.max(1), rows: pane.height.max(1) };
    if let Some(job) = &mut model.job {
        make_room(&mut job.screen, size.rows);
        job.screen.screen_mut().set_size(size.rows, size.columns);
    }
    size
}

/// Before a screen gets fewer rows: what is above the cursor moves up into the scrollback, as in any terminal, so that nothing
/// is cut off below.
fn make_room(emulator: &mut Emulator, rows: u16) {
    let screen = emulator.screen();
    let ((row, column), (last, _)) = (screen.cursor_position(), screen.size());
    let excess = (row + 1).saturating_sub(rows);
    // A full-screen program draws anew.
    if excess > 0 && !screen.alternate_screen() {
        let lines = "\n".repeat(usize::from(excess));
        let back = (row + 1 - excess, column + 1);
        emulator.process(format!("\x1b[{last};1H{lines}\x1b[{};{}H", back.0, back.1).as_bytes());
    }
}

pub fn resized(model: &mut Model) -> Vec<Effect> {
    if model.screen != Screen::Job || model.job.is_none() {
        return Vec::new();
    }
    let size = pane_size(model);
    if model.read_only { Vec::new() } else { vec![Effect::Resize(size)] }
}

pub fn type_into(model: &mut Model) -> Vec<Effect> {
    let Some(job) = &mut model.job else { return Vec::new() };
    if job.tab != Tab::Terminal {
        return Vec::new();
    }
    if model.read_only {
        model.tell("this menu is read-only: nothing can be typed into a program", false);
    } else if job.is_attached {
        job.is_typing = true;
        job.screen.screen_mut().set_scrollback(0);
    } else {
        let name = job.name.clone();
        model.tell(format!("{name} takes no keys now: it has ended or cannot be reached"), false);
    }
    Vec::new()
}

/// Shows the next view of the job.
pub fn next_tab(model: &mut Model) -> Vec<Effect> {
    let next = model.job.as_ref().map(|job| job.tab.next());
    next.map_or_else(Vec::new, |tab| show(model, tab))
}

/// Shows a view of the job.
pub fn show(model: &mut Model, tab: Tab) -> Vec<Effect> {
    let Some(job) = &mut model.job else { return Vec::new() };
    (job.tab, job.scroll) = (tab, 0);
    let name = job.name.clone();
    match tab {
        Tab::Holds => {
            job.holds = None;
            vec![Effect::Holds { job: name }]
        }
        Tab::Checkpoints => vec![history(&name)],
        Tab::Terminal => resized(model),
    }
}

pub fn restore(model: &mut Model, verb: &str) -> Vec<Effect> {
    let is_branch = verb == "branch";
    let allowed = |job: &JobStatus| match job.state {
        JobState::Ended | JobState::Saved if job.checkpoints == 0 => Err(is_over(job)),
        _ if job.checkpoints == 0 => Err(format!("{} has no checkpoint yet; c makes one", job.name)),
        JobState::Ended | JobState::Saved => Ok(()),
        _ if is_branch => Ok(()),
        _ => {
            Err(format!("{} is {}: stop it first, or b starts a second run beside it", job.name, state_word(job.state)))
        }
    };
    let name = match current(model, allowed) {
        Ok(name) => name,
        Err(why) => {
            model.tell(why, false);
            return Vec::new();
        }
    };
    let number = model.job.as_ref().and_then(|job| job.checkpoints.chosen()).map(|checkpoint| checkpoint.number);
    let target = number.map_or_else(|| name.clone(), |number| format!("{name}@{number}"));
    let reason = if is_branch { Reason::Branch { job: name } } else { Reason::Restore { job: name } };
    let words = words(&[verb, &target, "--detach", "--json"]);
    begin(model, Effect::Verb { words, reason, directory: None, environment: Vec::new() })
}
