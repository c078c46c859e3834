//! Keys, pastes, the mouse.

use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, MouseEvent, MouseEventKind};
use tui_input::Input;
use tui_input::backend::crossterm::EventHandler;

use super::commands::{act, ask_again, begin};
use super::{job, moves, new};
use crate::menu::effect::Effect;
use crate::menu::keys::{Action, COMMANDS, Command, Key, Place};
use crate::menu::model::{Field, Layer, List, Model, Screen, Tab, matching};
use crate::menu::typing;
use crate::menu::view::layout;

/// Where nothing can be seen, nothing is meant for what is there: the menu can be left, and that is all.
pub fn on_unseen(model: &Model, event: &Event) -> Vec<Effect> {
    let Event::Key(key) = event else { return Vec::new() };
    match Key::of(*key).and_then(|key| model.keymap.action(key, Place::Jobs)) {
        Some(Action::Quit) if key.kind != KeyEventKind::Release => vec![Effect::Quit],
        _ => Vec::new(),
    }
}

pub fn on_key(model: &mut Model, key: KeyEvent) -> Vec<Effect> {
    if model.layers.is_empty()
        && model.screen == Screen::Job
        && let Some(job) = model.job.as_mut().filter(|job| job.is_typing)
    {
        let bytes = typing::bytes(key, job.screen.screen().application_cursor());
        if bytes.as_deref() == Some(&[model.detach_key.byte()]) {
            job.is_typing = false;
            return Vec::new();
        }
        return bytes.map(Effect::Input).into_iter().collect();
    }
    model.notice = None;
    match model.layers.last_mut() {
        Some(Layer::Help { .. }) => on_help_key(model, key),
        Some(Layer::Palette { .. }) => on_palette_key(model, key),
        Some(Layer::Confirm { .. }) => on_confirm_key(model, key),
        Some(Layer::Line { .. }) => on_line_key(model, key),
        Some(Layer::Move { .. }) => moves::on_move_key(model, key),
        Some(Layer::Choose { .. }) | None => on_list_key(model, key),
    }
}

/// The list of the present screen: its filter, whether that is being typed, and the choice.
pub fn filtered(model: &mut Model) -> Option<(&mut Input, &mut bool, &mut usize)> {
    fn parts<T>(list: &mut List<T>) -> (&mut Input, &mut bool, &mut usize) {
        (&mut list.filter, &mut list.is_filtering, &mut list.selected)
    }
    if let Some(Layer::Choose { .. }) = model.layers.last() {
        return Some(parts(&mut model.hosts));
    }
    match model.screen {
        Screen::Jobs => Some(parts(&mut model.jobs)),
        Screen::Hosts => Some(parts(&mut model.hosts)),
        Screen::New => Some(parts(&mut model.new.files)),
        Screen::Job => model.job.as_mut().map(|job| parts(&mut job.checkpoints)),
    }
}

fn on_list_key(model: &mut Model, key: KeyEvent) -> Vec<Effect> {
    if let Some((filter, is_filtering, selected)) = filtered(model)
        && *is_filtering
    {
        match key.code {
            KeyCode::Esc => {
                *filter = Input::default();
                *is_filtering = false;
            }
            KeyCode::Enter => *is_filtering = false,
            KeyCode::Up | KeyCode::Down => return step(model, if key.code == KeyCode::Up { -1 } else { 1 }),
            _ => {
                filter.handle_event(&Event::Key(key));
                *selected = 0;
            }
        }
        return if model.screen == Screen::New { new::preview(model) } else { Vec::new() };
    }
    let place = model.place();
    match Key::of(key).and_then(|key| model.keymap.action(key, place)) {
        Some(action) => act(model, action),
        None => Vec::new(),
    }
}

fn on_help_key(model: &mut Model, key: KeyEvent) -> Vec<Effect> {
    if let Some(Layer::Help { scroll }) = model.layers.last_mut() {
        match key.code {
            KeyCode::Down => *scroll = scroll.saturating_add(1),
            KeyCode::PageDown => *scroll = scroll.saturating_add(10),
            KeyCode::Up => *scroll = scroll.saturating_sub(1),
            KeyCode::PageUp => *scroll = scroll.saturating_sub(10),
            KeyCode::Esc | KeyCode::Enter | KeyCode::Char('?' | 'q') => {
                model.layers.pop();
            }
            _ => {}
        }
    }
    Vec::new()
}

/// The commands that match what was typed, those that are called so first. What can be given elsewhere only is among them if it is
/// called so.
pub fn palette(model: &Model, typed: &str) -> Vec<&'static Command> {
    let (place, name) = (model.place(), typed.trim().to_lowercase());
    let is_here = |command: &Command| command.places.contains(&place);
    let all = || COMMANDS.iter().filter(|command| command.action != Action::Palette);
    if name.is_empty() {
        return all().filter(|command| is_here(command)).collect();
    }
    let rank = |command: &Command| match () {
        () if command.name == name || command.label == name => Some(0),
        () if command.name.starts_with(&name) || command.label.starts_with(&name) => Some(1),
        () if command.name.contains(&name) || command.label.contains(&name) => Some(2),
        () => None,
    };
    let mut called: Vec<&'static Command> = all().filter(|command| rank(command).is_some()).collect();
    called.sort_by_key(|command| (rank(command), !is_here(command)));
    let others = all().filter(|command| is_here(command) && rank(command).is_none());
    called.extend(matching(typed, others, |command| format!("{} {}", command.name, command.help)));
    called
}

fn on_palette_key(model: &mut Model, key: KeyEvent) -> Vec<Effect> {
    let Some(Layer::Palette { typed, selected }) = model.layers.last_mut() else { return Vec::new() };
    match key.code {
        KeyCode::Esc => {
            model.layers.pop();
        }
        KeyCode::Up => *selected = selected.saturating_sub(1),
        KeyCode::Down => *selected = selected.saturating_add(1),
        KeyCode::Enter => {
            let (typed, selected) = (typed.value().to_owned(), *selected);
            let found = palette(model, &typed);
            let chosen = found.get(selected.min(found.len().saturating_sub(1))).copied();
            model.layers.pop();
            return match chosen {
                Some(command) if command.places.contains(&model.place()) => act(model, command.action),
                Some(command) => {
                    model.tell(command.elsewhere(), false);
                    Vec::new()
                }
                None => Vec::new(),
            };
        }
        _ => {
            typed.handle_event(&Event::Key(key));
            *selected = 0;
        }
    }
    Vec::new()
}

fn on_confirm_key(model: &mut Model, key: KeyEvent) -> Vec<Effect> {
    let Some(Layer::Confirm { is_yes, .. }) = model.layers.last_mut() else { return Vec::new() };
    match key.code {
        KeyCode::Left | KeyCode::Right | KeyCode::Tab => *is_yes = !*is_yes,
        KeyCode::Char('y' | 'Y') => *is_yes = true,
        KeyCode::Char('n' | 'N') | KeyCode::Esc => {
            model.layers.pop();
        }
        KeyCode::Enter => {
            if let Some(Layer::Confirm { is_yes: true, effect, .. }) = model.layers.pop() {
                return begin(model, effect);
            }
        }
        _ => {}
    }
    Vec::new()
}

fn on_line_key(model: &mut Model, key: KeyEvent) -> Vec<Effect> {
    let Some(Layer::Line { typed, .. }) = model.layers.last_mut() else { return Vec::new() };
    if !matches!(key.code, KeyCode::Esc | KeyCode::Enter) {
        typed.handle_event(&Event::Key(key));
        return Vec::new();
    }
    let Some(Layer::Line { title, typed, field }) = model.layers.pop() else { return Vec::new() };
    let value = Some(typed.value().to_owned()).filter(|_| key.code == KeyCode::Enter);
    match (field, value) {
        (Field::Answer { asker, .. }, answer) => return vec![Effect::Answer { asker, answer }],
        (_, None) => {}
        (Field::Arguments, Some(value)) => model.new.arguments = value,
        (Field::Flags, Some(value)) => model.new.flags = value,
        (Field::Environment, Some(value)) => model.new.environment = value,
        (Field::Directory, Some(value)) => model.new.run_in = value,
        (Field::Command, Some(value)) => {
            model.new.command = value;
            return new::run_command(model);
        }
        (Field::Verb { mut words, reason }, Some(value)) => {
            let field = Field::Verb { words: words.clone(), reason: reason.clone() };
            model.options = Some((title, field, value.clone()));
            match new::split(&value) {
                Ok(more) if more.is_empty() => {}
                Ok(more) => {
                    words.extend(more);
                    return begin(model, Effect::Verb { words, reason, directory: None, environment: Vec::new() });
                }
                Err(why) => {
                    model.tell(why, true);
                    ask_again(model);
                }
            }
        }
    }
    Vec::new()
}

pub fn on_paste(model: &mut Model, pasted: &str) -> Vec<Effect> {
    match model.layers.last_mut() {
        Some(Layer::Line { typed, .. } | Layer::Palette { typed, .. }) => {
            *typed = pasted_to(typed, pasted);
        }
        Some(Layer::Choose { .. }) => paste_into_filter(model, pasted),
        Some(_) => {}
        None => {
            if let Some(job) = model.job.as_ref().filter(|job| job.is_typing && model.screen == Screen::Job) {
                let is_bracketed = job.screen.screen().bracketed_paste();
                return vec![Effect::Input(typing::paste(pasted, is_bracketed))];
            }
            paste_into_filter(model, pasted);
            return new::preview_if_new(model);
        }
    }
    Vec::new()
}

fn paste_into_filter(model: &mut Model, pasted: &str) {
    if let Some((filter, is_filtering, selected)) = filtered(model)
        && *is_filtering
    {
        *filter = pasted_to(filter, pasted);
        *selected = 0;
    }
}

/// What was typed with the first line of what is pasted behind it.
fn pasted_to(typed: &Input, pasted: &str) -> Input {
    Input::new(format!("{}{}", typed.value(), pasted.lines().next().unwrap_or_default()))
}

pub fn on_mouse(model: &mut Model, mouse: MouseEvent) -> Vec<Effect> {
    let pane = layout::pane(model);
    if let Some(job) = model.job.as_ref().filter(|job| job.is_typing && model.screen == Screen::Job) {
        return typing::mouse(mouse, pane, job.screen.screen()).map(Effect::Input).into_iter().collect();
    }
    let is_on_log = scrolls_log(model) && layout::parts(model).log.contains((mouse.column, mouse.row).into());
    match mouse.kind {
        MouseEventKind::ScrollUp if is_on_log => scroll_log(model, -1),
        MouseEventKind::ScrollDown if is_on_log => scroll_log(model, 1),
        MouseEventKind::ScrollUp => step(model, -1),
        MouseEventKind::ScrollDown => step(model, 1),
        MouseEventKind::Down(_) if model.layers.is_empty() => {
            if let Some(effects) = on_title(model, mouse.column, mouse.row) {
                return effects;
            }
            if model.screen == Screen::Job
                && model.job.as_ref().is_some_and(|job| job.tab == Tab::Terminal)
                && pane.contains((mouse.column, mouse.row).into())
            {
                return job::type_into(model);
            }
            match layout::row_at(model, mouse.column, mouse.row) {
                Some(row) => {
                    let was = filtered(model).map(|(_, _, selected)| std::mem::replace(selected, row));
                    if was == Some(row) { act(model, Action::Open) } else { new::preview_if_new(model) }
                }
                None => Vec::new(),
            }
        }
        _ => Vec::new(),
    }
}

/// A click on the name of a screen, or of a job's view, goes there.
fn on_title(model: &mut Model, column: u16, row: u16) -> Option<Vec<Effect>> {
    let body = layout::parts(model).body;
    if row == 0 {
        let (screen, ..) = layout::under(&layout::screens(model), column)?.clone();
        return Some(match screen {
            Screen::Jobs => act(model, Action::Jobs),
            Screen::Hosts => act(model, Action::Hosts),
            Screen::New => act(model, Action::New),
            Screen::Job => Vec::new(),
        });
    }
    if model.screen == Screen::Job && row == layout::job(body)[1].y {
        let (tab, ..) = *layout::under(&layout::tabs(), column)?;
        return Some(job::show(model, tab));
    }
    None
}

/// Whether pages are those of the log pane.
pub fn scrolls_log(model: &Model) -> bool {
    model.shows_log && model.layers.is_empty()
}

pub fn scroll_log(model: &mut Model, by: isize) -> Vec<Effect> {
    model.log_scroll = model.log_scroll.saturating_add_signed(-by).min(layout::log_above(model));
    Vec::new()
}

pub fn step(model: &mut Model, by: isize) -> Vec<Effect> {
    match model.layers.last_mut() {
        Some(Layer::Choose { .. }) => {
            model.hosts.step(by);
            return Vec::new();
        }
        Some(_) => return Vec::new(),
        None => {}
    }
    match model.screen {
        Screen::Jobs => model.jobs.step(by),
        Screen::Hosts => model.hosts.step(by),
        Screen::New => model.new.files.step(by),
        Screen::Job => {
            if let Some(job) = &mut model.job {
                match job.tab {
                    Tab::Checkpoints => job.checkpoints.step(by),
                    Tab::Holds => {
                        job.scroll = job.scroll.saturating_add_signed(by.clamp(-100, 100).try_into().unwrap_or(0));
                    }
                    Tab::Terminal => {
                        let at = job.screen.screen().scrollback().saturating_add_signed(-by);
                        job.screen.screen_mut().set_scrollback(at);
                    }
                }
            }
        }
    }
    new::preview_if_new(model)
}
