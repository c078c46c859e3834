#![allow(clippy::unwrap_used, reason = "a test that panics says where")]

use std::fmt::Write;
use std::path::PathBuf;

use ckpt_core::resource::bytes::Bytes;
use ckpt_transfer::protocol::{Ending, JobState, JobStatus, MoveReport};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::{Color, Modifier};

use super::draw;
use crate::emulator::Emulator;
use crate::menu::effect::{Asker, Effect, Reason};
use crate::menu::keys::Keymap;
use crate::menu::model::{
    Build, Checkpoint, Complaint, Field, FileKind, FileRow, HostRow, HostState, Layer, Model, Move, OpenJob, Running,
    Screen, Tab,
};
use crate::menu::theme::{Choice, Theme};
use crate::menu::update::{Msg, update};

fn job(name: &str, state: JobState, host: &str, ago: u64) -> JobStatus {
    let now = crate::jobs::now();
    let is_over = matches!(state, JobState::Ended | JobState::Saved);
    JobStatus {
        name: name.to_owned(),
        state,
        host: host.to_owned(),
        pid: (!is_over).then_some(4711),
        memory: (!is_over).then_some(87 << 20),
        cpu: (!is_over).then_some(3700),
        checkpoints: 2,
        last_checkpoint: (ago > 0).then_some(now - ago),
        started: now - 90_000,
        command: vec![Bytes(b"./sim".to_vec()), Bytes(b"--steps".to_vec()), Bytes(b"1000".to_vec())],
        directory: Bytes(b"/home/ada/sim".to_vec()),
        ending: (state == JobState::Ended).then_some(Ending::Exited(3)),
        ended: is_over.then_some(now - 60),
        last_line: format!("step {} of 1000", name.len() * 37),
        note: None,
    }
}

fn model(theme: Choice) -> Model {
    let mut model =
        Model::new(Theme::choose(theme, |_| None), Keymap::default(), false, PathBuf::from("/home/ada/sim"));
    model.jobs.replace(vec![
        job("sim", JobState::Running, "local", 125),
        job("render-frames", JobState::Running, "nodeb", 0),
        job("fit", JobState::Stopped, "local", 7300),
        job("old", JobState::Ended, "local", 86_500),
        job("far", JobState::Unreachable, "spot-3", 600),
    ]);
    model
}

fn with_job(model: &mut Model, tab: Tab) {
    let mut screen = Emulator::new(20, 80, 100);
    screen.process(b"step 110 of 1000\r\nstep \x1b[1;32m111\x1b[m of 1000\r\n");
    let now = crate::jobs::now();
    let checkpoint = |number, ago| Checkpoint {
        number,
        at: now - ago,
        bytes: (number + 1) << 20,
        pages: 512,
        pause: 0.0034,
        reason: "by hand".to_owned(),
        change: "37 pages".to_owned(),
        screen: vec![format!("step {number}00 of 1000"), String::new()],
    };
    let mut open = OpenJob {
        name: "sim".to_owned(),
        screen,
        attachment: 0,
        is_attached: true,
        is_typing: false,
        tab,
        checkpoints: crate::menu::model::List::default(),
        damaged: 0,
        schedule: None,
        holds: Some(Ok(vec![
            ("Threads".to_owned(), vec!["4711 sim".to_owned()]),
            ("Files".to_owned(), vec!["3 /home/ada/sim/out.txt".to_owned()]),
        ])),
        scroll: 0,
    };
    open.checkpoints.replace(vec![checkpoint(2, 125), checkpoint(1, 4000)]);
    model.job = Some(open);
    model.screen = Screen::Job;
}

fn with_files(model: &mut Model) {
    let file =
        |name: &str, kind| FileRow { name: name.to_owned(), path: model.started_in.join(name), kind, size: 1000 };
    let files = vec![
        file("..", FileKind::Parent),
        file("count.c", FileKind::Source),
        file("sim", FileKind::Program),
        file("data", FileKind::Directory),
        file("notes.txt", FileKind::Other),
    ];
    model.new.files.replace(files);
    model.new.files.selected = 1;
    let text = ["#include <stdio.h>", "", "int main(void)", "{", "\tputs(\"hello\");", "}"];
    model.new.preview = Some(("/home/ada/sim/count.c".into(), text.iter().map(|line| (*line).to_owned()).collect()));
    model.screen = Screen::New;
}

fn with_hosts(model: &mut Model) {
    let fact = |what: &str, found: &str| (what.to_owned(), found.to_owned());
    let ready = HostRow {
        state: HostState::Ready,
        facts: vec![
            fact("login", "as ada by key ~/.ssh/id_ed25519; OpenSSH 9.2, chacha20-poly1305"),
            fact("machine", "nodeb, Linux 6.1.0, load 0.42"),
            fact("memory", "30 GiB available"),
            fact("clock", "as here, within 12 ms"),
            fact("doctor", "everything is possible"),
        ],
        login: Some("key ~/.ssh/id_ed25519".to_owned()),
        load: Some(0.42),
        memory: Some(30 << 30),
        ..HostRow::new("nodeb", "ada@nodeb.example:22")
    };
    let failed = HostRow {
        state: HostState::Failed,
        facts: vec![fact("failed", "cannot reach 10.0.0.3:22: timed out; is it on?")],
        ..HostRow::new("spot-3", "ada@10.0.0.3:22")
    };
    model.hosts.replace(vec![HostRow::new("local", "this machine"), ready, failed]);
    model.hosts.selected = 1;
}

fn moving(model: &mut Model, result: Option<Result<Box<MoveReport>, String>>) {
    model.layers.push(Layer::Move { job: "sim".to_owned() });
    model.moves.push(Move {
        job: "sim".to_owned(),
        host: "nodeb".to_owned(),
        checks: vec![
            ("processor".to_owned(), "has all that the program may use".to_owned(), true),
            ("memory".to_owned(), "87 MiB of 30 GiB".to_owned(), true),
            ("files".to_owned(), "3 go along (1.2 MiB)".to_owned(), true),
        ],
        progress: Some(("memory".to_owned(), 40 << 20, 87 << 20)),
        rate: 1e8,
        last: None,
        result,
        is_cancelled: false,
    });
}

/// Every screen by its name.
#[allow(clippy::too_many_lines, reason = "a list")]
fn screens(theme: Choice) -> Vec<(&'static str, Model)> {
    let with = |change: &dyn Fn(&mut Model)| {
        let mut model = model(theme);
        change(&mut model);
        model
    };
    let report = MoveReport {
        job: "sim".to_owned(),
        from: "local".to_owned(),
        to: "nodeb".to_owned(),
        pid: 815,
        bytes: 90 << 20,
        pages: 22_000,
        file_bytes: 1_200_000,
        downtime: 0.84,
        parts: vec![("freeze".to_owned(), 0.004), ("memory".to_owned(), 0.8), ("start".to_owned(), 0.036)],
        total: 2.5,
        notes: Vec::new(),
    };
    let complaint = Complaint {
        text: "count.c:5:15: error: expected ';' before '}' token".to_owned(),
        at: Some(("count.c".to_owned(), 5)),
        message: "expected ';' before '}' token".to_owned(),
        around: vec![(4, "{".to_owned()), (5, "\tputs(\"hello\")".to_owned()), (6, "}".to_owned())],
    };
    vec![
        ("jobs", with(&|_| {})),
        ("jobs_none", with(&|model| model.jobs.replace(Vec::new()))),
        (
            "jobs_filter",
            with(&|model| {
                model.jobs.filter = "re".into();
                model.jobs.is_filtering = true;
            }),
        ),
        (
            "jobs_log",
            with(&|model| {
                model.shows_log = true;
                model.log.push(crate::menu::model::LogLine {
                    at: 0,
                    text: "ckptctl checkpoint sim".to_owned(),
                    is_error: false,
                });
                model.log.push(crate::menu::model::LogLine {
                    at: 61,
                    text: "the disk is full".to_owned(),
                    is_error: true,
                });
                let reason = Reason::Save { job: "sim".to_owned() };
                let progress = Some(("memory".to_owned(), 30 << 20, 87 << 20));
                let words = "ckptctl checkpoint sim".to_owned();
                model.acts.push(Running { reason, words, progress, is_cancelled: false });
            }),
        ),
        ("job_terminal", with(&|model| with_job(model, Tab::Terminal))),
        ("job_checkpoints", with(&|model| with_job(model, Tab::Checkpoints))),
        ("job_holds", with(&|model| with_job(model, Tab::Holds))),
        (
            "hosts",
            with(&|model| {
                with_hosts(model);
                model.screen = Screen::Hosts;
            }),
        ),
        ("new", with(&|model| with_files(model))),
        (
            "new_error",
            with(&|model| {
                with_files(model);
                let result = Some(Err(complaint.clone()));
                model.new.build = Some(Build {
                    source: "/home/ada/sim/count.c".into(),
                    flags: String::new(),
                    then_run: false,
                    result,
                });
                model.tell("count.c was not built", true);
            }),
        ),
        (
            "choose_host",
            with(&|model| {
                with_hosts(model);
                model.layers.push(Layer::Choose { job: "sim".to_owned() });
            }),
        ),
        ("move", with(&|model| moving(model, None))),
        ("move_done", with(&|model| moving(model, Some(Ok(Box::new(report.clone())))))),
        ("help", with(&|model| model.layers.push(Layer::Help { scroll: 0 }))),
        (
            "palette",
            with(&|model| {
                model.layers.push(Layer::Palette { typed: "sa".into(), selected: 0 });
            }),
        ),
        (
            "confirm",
            with(&|model| {
                model.layers.push(Layer::Confirm {
                    question: "End sim?".to_owned(),
                    detail: "What it has not saved is lost.".to_owned(),
                    is_yes: false,
                    effect: Effect::Quit,
                });
            }),
        ),
        (
            "add_host",
            with(&|model| {
                with_hosts(model);
                model.screen = Screen::Hosts;
                update(model, Msg::Event(Event::Key(KeyEvent::new(KeyCode::Char('a'), KeyModifiers::NONE))));
            }),
        ),
        (
            "question",
            with(&|model| {
                model.layers.push(Layer::Line {
                    title: "Password of ada@nodeb:".to_owned(),
                    typed: "secret".into(),
                    field: Field::Answer { asker: Asker::Move("sim".to_owned()), echo: false },
                });
            }),
        ),
    ]
}

/// The screen as text, and the styles in it that differ from plain, run by run.
fn picture(model: &mut Model, columns: u16, rows: u16) -> (String, String) {
    model.size = (columns, rows);
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
    terminal.draw(|frame| draw(model, frame)).unwrap();
    let buffer = terminal.backend().buffer();
    let (mut text, mut styles) = (String::new(), String::new());
    for y in 0..rows {
        let cells: Vec<_> = (0..columns).map(|x| &buffer[(x, y)]).collect();
        let line: String = cells.iter().map(|cell| cell.symbol()).collect();
        writeln!(text, "{}", line.trim_end()).unwrap();
        let mut x = 0;
        while x < cells.len() {
            let style = (cells[x].fg, cells[x].bg, cells[x].modifier);
            let end = (x..cells.len()).find(|at| (cells[*at].fg, cells[*at].bg, cells[*at].modifier) != style);
            let end = end.unwrap_or(cells.len());
            if style != (Color::Reset, Color::Reset, Modifier::empty()) {
                writeln!(styles, "{y}:{x}-{end} {} on {} {:?}", style.0, style.1, style.2).unwrap();
            }
            x = end;
        }
    }
    (text, styles)
}

#[test]
fn every_screen_looks_as_it_was_judged() {
    const THEMES: [(Choice, &str); 3] = [(Choice::Dark, "dark"), (Choice::Light, "light"), (Choice::None, "NO_COLOR")];
    for (index, (name, mut model)) in screens(Choice::Dark).into_iter().enumerate() {
        let (small, _) = picture(&mut model, 80, 24);
        let (large, _) = picture(&mut model, 160, 50);
        let (smallest, _) = picture(&mut model, 60, 16);
        let mut judged = format!("80x24\n{small}\n160x50\n{large}\n60x16\n{smallest}");
        for (theme, title) in THEMES {
            let (_, mut model) = screens(theme).swap_remove(index);
            let (same, styles) = picture(&mut model, 80, 24);
            assert_eq!(same, small, "{name} says the same in every theme");
            write!(judged, "\n{title}\n{styles}").unwrap();
        }
        insta::assert_snapshot!(name, judged);
    }
}

#[test]
fn any_size_can_be_drawn() {
    for (_, mut model) in screens(Choice::Dark) {
        for columns in [1, 7, 59, 60, 61, 99, 100, 300] {
            for rows in [1, 3, 15, 16, 17, 60] {
                picture(&mut model, columns, rows);
            }
        }
    }
}

#[test]
fn the_smallest_usable_size_shows_jobs_and_keys() {
    let mut model = model(Choice::None);
    let (shown, _) = picture(&mut model, 60, 16);
    for word in ["sim", "running", "? help", "q quit", "open"] {
        assert!(shown.contains(word), "{word} is not in\n{shown}");
    }
}

#[test]
fn without_colours_there_are_none() {
    for (name, mut model) in screens(Choice::None) {
        let (_, styles) = picture(&mut model, 100, 30);
        assert!(styles.lines().all(|line| line.contains(" Reset on Reset ")), "{name}: {styles}");
    }
}

#[test]
fn a_secret_is_not_shown() {
    for (name, mut model) in screens(Choice::Dark) {
        assert!(!picture(&mut model, 80, 24).0.contains("secret"), "{name}");
    }
}

#[test]
fn too_small_a_terminal_says_so_in_full() {
    let mut model = model(Choice::None);
    let (shown, _) = picture(&mut model, 20, 5);
    let words: Vec<&str> = shown.split_whitespace().collect();
    assert_eq!(words.join(" "), "This terminal is 20 x 5; the menu needs 60 x 16. q leaves it");
}

#[test]
fn what_is_refused_is_not_offered() {
    for (name, mut model) in screens(Choice::None) {
        model.read_only = true;
        let (shown, _) = picture(&mut model, 160, 30);
        let footer = shown.lines().last().unwrap_or_default();
        for offer in ["c save", "m move", "a automatic", "s stop", "t test", "a add", "r run", "t type", "Enter build"]
        {
            assert!(!footer.contains(offer), "{name}: {footer}");
        }
    }
}

#[test]
fn nothing_is_brought_back_that_was_never_saved() {
    let mut model = model(Choice::None);
    let footer = |model: &mut Model| picture(model, 160, 30).0.lines().last().unwrap_or_default().to_owned();
    model.jobs.selected = 3;
    assert!(footer(&mut model).contains("R restore"));
    model.jobs.rows.as_mut().unwrap()[3].checkpoints = 0;
    assert!(!footer(&mut model).contains("R restore"));
    with_job(&mut model, Tab::Terminal);
    assert!(footer(&mut model).contains("b branch"));
    model.jobs.rows.as_mut().unwrap()[0].checkpoints = 0;
    assert!(!footer(&mut model).contains("b branch"));
}

#[test]
fn what_the_compiler_said_is_beside_its_file() {
    let (_, mut model) = screens(Choice::None).into_iter().find(|(name, _)| *name == "new_error").unwrap();
    model.notice = None;
    assert!(picture(&mut model, 100, 30).0.contains("was not built"));
    model.new.files.selected = 2;
    assert!(!picture(&mut model, 100, 30).0.contains("was not built"));
}

#[test]
fn a_move_says_that_it_connects_and_its_job_is_moving() {
    let mut model = model(Choice::None);
    moving(&mut model, None);
    (model.moves[0].checks, model.moves[0].progress) = (Vec::new(), None);
    assert!(picture(&mut model, 80, 24).0.contains("connecting to nodeb ..."));
    model.layers.clear();
    model.jobs.rows.as_mut().unwrap()[0].state = JobState::Stopped;
    let shown = picture(&mut model, 80, 24).0;
    assert!(shown.lines().any(|line| line.contains("> sim ") && line.contains("moving")), "{shown}");
}

#[test]
fn a_filter_that_matches_nothing_says_so() {
    let mut model = model(Choice::None);
    with_hosts(&mut model);
    with_files(&mut model);
    (model.jobs.filter, model.hosts.filter, model.new.files.filter) = ("zzz".into(), "zzz".into(), "zzz".into());
    for screen in [Screen::Jobs, Screen::Hosts, Screen::New] {
        model.screen = screen;
        let shown = picture(&mut model, 100, 30).0;
        assert!(shown.contains("nothing matches; Esc clears"), "{shown}");
    }
}

#[test]
fn what_is_known_of_a_host_has_the_room_that_the_list_does_not_need() {
    let mut model = model(Choice::None);
    with_hosts(&mut model);
    model.screen = Screen::Hosts;
    let HostRow { facts, .. } = &mut model.hosts.rows.as_mut().unwrap()[1];
    facts.extend((1..=8).map(|number| (format!("more {number}"), "is known".to_owned())));
    assert!(picture(&mut model, 80, 24).0.contains("more 8"));
    assert!(picture(&mut model, 60, 16).0.contains("doctor"));
    // Many hosts leave it half.
    let many = (0..40).map(|number| HostRow::new(format!("host{number}"), "")).collect();
    model.hosts.replace(many);
    let shown = picture(&mut model, 80, 24).0;
    assert!(shown.contains("t tries the connection") && shown.contains("> host1"), "{shown}");
}

#[test]
fn the_log_shows_what_is_further_up() {
    let mut model = model(Choice::None);
    (1..=40).for_each(|number| model.note(format!("line {number}."), false));
    (model.shows_log, model.log_scroll) = (true, 33);
    let shown = picture(&mut model, 80, 24).0;
    assert!(shown.contains("line 1.") && shown.contains("line 7.") && !shown.contains("line 8."), "{shown}");
}

#[test]
fn jobs_that_cannot_be_listed_are_not_looked_for() {
    let mut model = model(Choice::None);
    model.jobs.rows = None;
    update(&mut model, Msg::Unlisted("there is no home directory".to_owned()));
    model.notice = None;
    let shown = picture(&mut model, 80, 24).0;
    assert!(shown.contains("there is no home") && !shown.contains("Looking"), "{shown}");
}
