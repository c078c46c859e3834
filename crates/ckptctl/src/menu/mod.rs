//! The menu: what `ckptctl` without a verb shows.
//!
//! One place where anything changes ([`update()`]), a pure [`view`], and [`work`] that does what the model asks for on threads
//! of its own and sends back what came of it. Acts are the verbs of the command line: nothing can be done here that cannot be
//! done there.

mod complaint;
mod effect;
mod keys;
mod listing;
mod model;
mod theme;
mod trials;
mod typing;
mod update;
mod view;
mod work;

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::Context;
use ratatui::crossterm::event::{DisableBracketedPaste, DisableMouseCapture, EnableBracketedPaste, EnableMouseCapture};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, disable_raw_mode, enable_raw_mode};
use ratatui::layout::{Position, Rect};

use effect::Effect;
#[cfg(test)]
pub use keys::COMMANDS;
pub use keys::Keymap;
use model::Model;
pub use theme::Choice as ThemeChoice;
use theme::Theme;
use update::{Msg, update};

use crate::config::Config;

/// The time between two drawings, at least.
const FRAME: Duration = Duration::from_millis(16);

const UNDRAWABLE: &str = "the terminal cannot be drawn on";

/// How much may wait to be taken in; who has more waits himself.
const WAITING: usize = 64;

/// Whether there is a terminal to show the menu on.
///
/// # Errors
/// What is wrong with the one that there is.
pub fn has_terminal() -> Result<bool, String> {
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        return Ok(false);
    }
    let is = match std::env::var("TERM").unwrap_or_default().as_str() {
        "" => "not set",
        "dumb" => "dumb",
        _ => return Ok(true),
    };
    Err(format!("the menu needs a terminal that can move its cursor (TERM is {is})"))
}

/// Shows the menu until the user leaves it. Jobs run on.
///
/// # Errors
/// When the terminal cannot be used.
pub fn menu(config: &Config, read_only: bool) -> anyhow::Result<i32> {
    let directory = std::env::current_dir().context("the current directory is gone; start the menu in another one")?;
    let theme = Theme::choose(config.theme, |name| std::env::var(name).ok());
    // Checked when the file was read.
    let keymap = config.keymap().unwrap_or_default();
    let mut model = Model::new(theme, keymap, read_only, directory);
    model.detach_key = config.detach_key;
    model.home = std::env::home_dir();

    // The terminal is given back on every way out: at the end, by a signal, and by a panic, before ratatui's hook does its part.
    let mut terminal = ratatui::try_init().context("the terminal cannot be used")?;
    let next = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        switch_off();
        next(panic);
    }));
    let result = switch_on(false).and_then(|()| show(&mut terminal, &mut model));
    switch_off();
    ratatui::restore();
    result.map(|()| 0)
}

/// The terminal sends the mouse and pastes; `again` when somebody else may have used it meanwhile.
fn switch_on(again: bool) -> anyhow::Result<()> {
    const FAILED: &str = "the terminal cannot be used";
    if again {
        // Once it is enabled, enabling it does nothing.
        disable_raw_mode().and_then(|()| enable_raw_mode()).context(FAILED)?;
        execute!(std::io::stdout(), EnterAlternateScreen).context(FAILED)?;
    }
    execute!(std::io::stdout(), EnableMouseCapture, EnableBracketedPaste).context(FAILED)
}

/// The terminal sends keys alone again. One that is gone needs nothing.
fn switch_off() {
    let _ = execute!(std::io::stdout(), DisableMouseCapture, DisableBracketedPaste);
}

/// Has all of the screen drawn anew. What ratatui calls so asks the terminal where its cursor is, and the thread that reads keys
/// would get the answer.
fn clear(terminal: &mut ratatui::DefaultTerminal) -> anyhow::Result<()> {
    let area = Rect::from((Position::ORIGIN, terminal.size().context(UNDRAWABLE)?));
    terminal.resize(area).context(UNDRAWABLE)
}

fn show(terminal: &mut ratatui::DefaultTerminal, model: &mut Model) -> anyhow::Result<()> {
    let (sender, messages) = mpsc::sync_channel(WAITING);
    let mut worker = work::Worker::new(sender);
    worker.begin()?;
    let size = terminal.size().context("the terminal's size is not known")?;
    model.size = (size.width, size.height);
    // Whoever started the menu may have used the same screen.
    clear(terminal)?;
    let mut drawn: Option<Instant> = None;
    let mut is_changed = true;
    loop {
        // Nothing is drawn when nothing changed, and at most sixty times a second when much does.
        let next = drawn.map_or(Duration::ZERO, |drawn| FRAME.saturating_sub(drawn.elapsed()));
        if is_changed && next.is_zero() {
            terminal.draw(|frame| view::draw(model, frame)).context(UNDRAWABLE)?;
            (drawn, is_changed) = (Some(Instant::now()), false);
        }
        let received = if is_changed {
            match messages.recv_timeout(next) {
                Err(RecvTimeoutError::Timeout) => continue,
                received => received.ok(),
            }
        } else {
            messages.recv().ok()
        };
        let Some(first) = received else { return Ok(()) };
        let mut came: VecDeque<Msg> = std::iter::once(first).chain(messages.try_iter().take(WAITING)).collect();
        while let Some(msg) = came.pop_front() {
            is_changed = true;
            for effect in update(model, msg) {
                match effect {
                    Effect::Quit => return Ok(()),
                    Effect::Redraw => {
                        switch_on(true)?;
                        clear(terminal)?;
                    }
                    effect => came.extend(worker.work(effect)),
                }
            }
        }
    }
}
