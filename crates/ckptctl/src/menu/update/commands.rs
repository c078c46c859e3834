//! The commands: each is done, or it is said why it is not possible now.

use ckpt_transfer::protocol::{JobState, JobStatus};
use tui_input::Input;

use super::{hosts, input, job, moves, new};
use crate::jobs::Schedule;
use crate::menu::effect::{Effect, Reason};
use crate::menu::keys::Action;
use crate::menu::model::{Field, Layer, Model, Running, Screen, Tab, state_word};
use crate::text;

/// Does a command, or says why it is not possible now.
pub fn act(model: &mut Model, action: Action) -> Vec<Effect> {
    const PAGE: isize = 10;
    match action {
        Action::Up => input::step(model, -1),
        Action::Down => input::step(model, 1),
        Action::PageUp if input::scrolls_log(model) => input::scroll_log(model, -PAGE),
        Action::PageDown if input::scrolls_log(model) => input::scroll_log(model, PAGE),
        Action::PageUp => input::step(model, -PAGE),
        Action::PageDown => input::step(model, PAGE),
        Action::First => input::step(model, isize::MIN / 2),
        Action::Last => input::step(model, isize::MAX / 2),
        Action::Open => open(model),
        Action::Back => back(model),
        Action::Quit => vec![Effect::Quit],
        Action::Help => {
            model.layers.push(Layer::Help { scroll: 0 });
            Vec::new()
        }
        Action::Palette => {
            model.layers.push(Layer::Palette { typed: Input::default(), selected: 0 });
            Vec::new()
        }
        Action::Filter => {
            if let Some((_, is_filtering, _)) = input::filtered(model) {
                *is_filtering = true;
            }
            Vec::new()
        }
        Action::Jobs => go_jobs(model),
        Action::Hosts => {
            let effects = job::leave_job(model);
            model.screen = Screen::Hosts;
            [effects, vec![Effect::Hosts]].concat()
        }
        Action::New => go_new(model),
        Action::Type => job::type_into(model),
        Action::NextTab => job::next_tab(model),
        Action::Run => new::run(model),
        Action::Arguments => ask(model, Field::Arguments),
        Action::Flags => ask(model, Field::Flags),
        Action::Environment => ask(model, Field::Environment),
        Action::Directory => ask(model, Field::Directory),
        Action::Command if refuses(model, "ckptctl run --detach -- PROGRAM") => Vec::new(),
        Action::Command => ask(model, Field::Command),
        Action::Save => on_job(model, is_living, |name| Effect::Save { job: name.to_owned() }),
        Action::Schedule => schedule(model),
        Action::Migrate => moves::choose_host(model),
        Action::Restore => job::restore(model, "restore"),
        Action::Branch => job::restore(model, "branch"),
        Action::Stop => confirm(model, is_living, "End", "What it has not saved is lost.", |name| {
            (words(&["stop", name, "--json"]), Reason::Stop { job: name.to_owned() })
        }),
        Action::Remove if model.screen == Screen::Hosts => hosts::remove(model),
        Action::Remove => {
            let ended = |job: &JobStatus| match job.state {
                JobState::Ended | JobState::Saved => Ok(()),
                _ => Err(format!("{} is {}: stop it first", job.name, state_word(job.state))),
            };
            confirm(model, ended, "Remove", "Its log and all its checkpoints are deleted.", |name| {
                (words(&["rm", name, "--json"]), Reason::Remove { job: name.to_owned() })
            })
        }
        Action::Test => hosts::test(model),
        Action::TestAll => hosts::test_all(model),
        Action::AddHost => hosts::add(model),
        Action::EditHost => hosts::edit(model),
        Action::Cancel => cancel(model),
        Action::Log => {
            (model.shows_log, model.log_scroll) = (!model.shows_log, 0);
            job::resized(model)
        }
    }
}

pub fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

pub fn is_living(job: &JobStatus) -> Result<(), String> {
    match job.state {
        // Whether a host can be reached is known best by trying.
        JobState::Running | JobState::Stopped | JobState::Unreachable => Ok(()),
        JobState::Moving => Err(format!("{} is being moved; wait until it has arrived", job.name)),
        JobState::Ended | JobState::Saved if job.checkpoints == 0 => Err(is_over(job)),
        JobState::Ended | JobState::Saved => {
            Err(format!("{} has ended; R brings it back from its last checkpoint", job.name))
        }
    }
}

/// What can be done about a job that has ended and was never saved.
pub fn is_over(job: &JobStatus) -> String {
    format!("{} has ended and was never saved; n runs it again, D removes it", job.name)
}

/// Does something with the current job, if it is in a state for it.
fn on_job(
    model: &mut Model,
    allowed: impl Fn(&JobStatus) -> Result<(), String>,
    effect: impl Fn(&str) -> Effect,
) -> Vec<Effect> {
    match current(model, allowed) {
        Ok(name) => begin(model, effect(&name)),
        Err(why) => {
            model.tell(why, false);
            Vec::new()
        }
    }
}

pub fn current(model: &Model, allowed: impl Fn(&JobStatus) -> Result<(), String>) -> Result<String, String> {
    match (model.current_job(), &model.job) {
        (Some(job), _) => allowed(job).map(|()| job.name.clone()),
        // Just started: the list will know it in a moment.
        (None, Some(open)) if model.screen == Screen::Job => Ok(open.name.clone()),
        _ => Err("there is no job here; n makes one".to_owned()),
    }
}

fn confirm(
    model: &mut Model,
    allowed: impl Fn(&JobStatus) -> Result<(), String>,
    verb: &str,
    detail: &str,
    effect: impl Fn(&str) -> (Vec<String>, Reason),
) -> Vec<Effect> {
    match current(model, allowed) {
        Ok(name) => {
            let (words, reason) = effect(&name);
            let effect = Effect::Verb { words, reason, directory: None, environment: Vec::new() };
            if model.read_only {
                return begin(model, effect);
            }
            let question = format!("{verb} {name}?");
            model.layers.push(Layer::Confirm { question, detail: detail.to_owned(), is_yes: false, effect });
        }
        Err(why) => model.tell(why, false),
    }
    Vec::new()
}

/// Starts an act: it is shown while it lasts, and in the log pane as the verb that it is.
pub fn begin(model: &mut Model, effect: Effect) -> Vec<Effect> {
    let (verb, reason) = match &effect {
        Effect::Verb { words, reason, .. } => (words.clone(), Some(reason.clone())),
        Effect::Build { words, .. } => (words.clone(), Some(Reason::Build)),
        Effect::Save { job } => (words(&["checkpoint", job]), Some(Reason::Save { job: job.clone() })),
        // It has a dialog of its own.
        Effect::Migrate { job, host } => (words(&["migrate", job, host]), None),
        _ => return vec![effect],
    };
    if reason.as_ref().is_some_and(|reason| !reason.is_act()) {
        return vec![effect];
    }
    let shown_in = match &effect {
        Effect::Verb { directory: Some(directory), .. } | Effect::Build { directory, .. }
            if *directory != model.started_in =>
        {
            format!("cd {} && ", text::quoted(&directory.to_string_lossy()))
        }
        _ => String::new(),
    };
    let variables = if let Effect::Verb { environment, .. } = &effect { environment.as_slice() } else { &[] };
    let variables = variables.iter().map(|(name, value)| format!("{name}={}", text::quoted(value)));
    let verb = verb.iter().filter(|word| *word != "--json").map(|word| text::quoted(word));
    let shown: Vec<String> = variables.chain(std::iter::once("ckptctl".to_owned())).chain(verb).collect();
    let shown = format!("{shown_in}{}", shown.join(" "));
    if refuses(model, &shown) {
        return Vec::new();
    }
    if let Some(reason) = reason {
        if model.acts.iter().any(|act| act.reason == reason) {
            model.tell("that is under way already", false);
            return Vec::new();
        }
        model.acts.push(Running { reason, words: shown.clone(), progress: None, is_cancelled: false });
    }
    model.note(shown, false);
    vec![effect]
}

/// Whether this is a menu that only looks; then it is said which verb would do it.
pub fn refuses(model: &mut Model, verb: &str) -> bool {
    if model.read_only {
        model.tell(format!("this menu is read-only; the verb would be: {verb}"), false);
    }
    model.read_only
}

/// Gives up what is under way for the current job, or for what is made on this screen.
fn cancel(model: &mut Model) -> Vec<Effect> {
    let at = model.acts.iter().rposition(|act| !act.is_cancelled && model.is_about_this(act));
    if let Some(act) = at.and_then(|at| model.acts.get_mut(at)) {
        act.is_cancelled = true;
        return vec![Effect::Cancel(act.reason.clone())];
    }
    let job = model.current_name().map(str::to_owned);
    if let Some(job) = job.as_ref().filter(|job| model.moves.iter().any(|current| current.is_going_on(job))) {
        return moves::give_up(model, job);
    }
    if model.acts.iter().any(|act| model.is_about_this(act)) {
        model.tell("it is being given up already", false);
    } else {
        let whose = job.map(|job| format!(" for {job}")).unwrap_or_default();
        model.tell(format!("nothing is under way{whose}"), false);
    }
    Vec::new()
}

fn ask(model: &mut Model, field: Field) -> Vec<Effect> {
    let (title, value) = match &field {
        Field::Arguments => ("Arguments of the program", &model.new.arguments),
        Field::Flags => ("Flags for the compiler, such as -O2 -lm", &model.new.flags),
        Field::Environment => ("Environment for the program: NAME=VALUE ...", &model.new.environment),
        Field::Directory => ("Directory in which the program runs; empty: the one that is shown", &model.new.run_in),
        Field::Command => {
            ("A program and its arguments. There is no shell: for a pipe, sh -c 'this | that'", &model.new.command)
        }
        Field::Verb { .. } | Field::Answer { .. } => return Vec::new(),
    };
    let (title, typed) = (title.to_owned(), Input::new(value.clone()));
    model.layers.push(Layer::Line { title, typed, field });
    Vec::new()
}

/// Asks for the rest of a verb, which can be changed and added to.
pub fn ask_options(model: &mut Model, title: &str, first: &[&str], rest: &str, reason: Reason) -> Vec<Effect> {
    let field = Field::Verb { words: words(first), reason };
    model.layers.push(Layer::Line { title: title.to_owned(), typed: Input::new(rest.to_owned()), field });
    Vec::new()
}

/// Asks for the options of a verb again, which were wrong.
pub fn ask_again(model: &mut Model) {
    if let Some((title, field, typed)) = model.options.take() {
        model.layers.push(Layer::Line { title, typed: Input::new(typed), field });
    }
}

fn schedule(model: &mut Model) -> Vec<Effect> {
    match current(model, is_living) {
        Ok(job) if refuses(model, &format!("ckptctl schedule {} --every 10m", text::quoted(&job))) => Vec::new(),
        Ok(job) => vec![Effect::Schedule { job }],
        Err(why) => {
            model.tell(why, false);
            Vec::new()
        }
    }
}

/// Asks when a job is to be saved by itself, beginning with what holds now.
pub fn ask_schedule(model: &mut Model, job: &str, schedule: Option<Schedule>) -> Vec<Effect> {
    let title = format!(
        "Save {job} by itself: --every 10m (90s, 2h, 1d), --keep 10 of the latest and one an hour and a day, --before-move; --off ends that"
    );
    let now = schedule.map_or_else(|| "--every 10m --before-move".to_owned(), |schedule| schedule.options());
    let reason = Reason::Schedule { job: job.to_owned() };
    ask_options(model, &title, &["schedule", job, "--json"], &now, reason)
}

fn open(model: &mut Model) -> Vec<Effect> {
    if let Some(Layer::Choose { job }) = model.layers.last() {
        let job = job.clone();
        return moves::begin_move(model, job);
    }
    match model.screen {
        Screen::Jobs => match model.current_job().map(|job| job.name.clone()) {
            Some(name) => job::open_job(model, &name),
            None => Vec::new(),
        },
        Screen::Job if model.job.as_ref().is_some_and(|job| job.tab == Tab::Checkpoints) => {
            job::restore(model, "restore")
        }
        Screen::Job => job::type_into(model),
        Screen::Hosts => hosts::test(model),
        Screen::New => new::open_file(model),
    }
}

fn back(model: &mut Model) -> Vec<Effect> {
    if model.layers.pop().is_some() {
        return Vec::new();
    }
    if let Some((filter, ..)) = input::filtered(model)
        && !filter.value().is_empty()
    {
        *filter = Input::default();
        return Vec::new();
    }
    if model.shows_log {
        model.shows_log = false;
        return job::resized(model);
    }
    match model.screen {
        Screen::Jobs => {
            model.tell("this is the first screen; q leaves the menu, jobs run on", false);
            Vec::new()
        }
        _ => go_jobs(model),
    }
}

pub fn go_jobs(model: &mut Model) -> Vec<Effect> {
    model.screen = Screen::Jobs;
    job::leave_job(model)
}

pub fn go_new(model: &mut Model) -> Vec<Effect> {
    let mut effects = job::leave_job(model);
    model.screen = Screen::New;
    effects.push(Effect::List(model.new.directory.clone()));
    effects
}
