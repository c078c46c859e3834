#![allow(clippy::unwrap_used, reason = "a test that panics says where")]

use ckpt_core::resource::bytes::Bytes;
use serde_json::json;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};

use super::moves::moving;
use super::new::split;
use super::*;
use crate::menu::keys::Keymap;
use crate::menu::model::{FileKind, HostState, Notice, Tab};
use crate::menu::theme::{Choice, Theme};
use crate::menu::view::layout;

fn model() -> Model {
    Model::new(Theme::choose(Choice::None, |_| None), Keymap::default(), false, PathBuf::from("/work"))
}

fn press(model: &mut Model, keys: &str) -> Vec<Effect> {
    let mut effects = Vec::new();
    for c in keys.chars() {
        let code = match c {
            '\n' => KeyCode::Enter,
            '\x1b' => KeyCode::Esc,
            '\t' => KeyCode::Tab,
            '>' => KeyCode::Right,
            c => KeyCode::Char(c),
        };
        effects.extend(update(model, Msg::Event(Event::Key(KeyEvent::new(code, KeyModifiers::NONE)))));
    }
    effects
}

fn job(name: &str, state: JobState) -> JobStatus {
    JobStatus {
        name: name.to_owned(),
        state,
        host: "local".to_owned(),
        pid: Some(7),
        memory: None,
        cpu: None,
        checkpoints: 1,
        last_checkpoint: None,
        started: 0,
        command: vec![Bytes(b"prog".to_vec())],
        directory: Bytes(b"/".to_vec()),
        ending: None,
        ended: None,
        last_line: String::new(),
        note: None,
    }
}

fn verbs(effects: &[Effect]) -> Vec<String> {
    let verb = |effect: &Effect| match effect {
        Effect::Verb { words, .. } | Effect::Build { words, .. } => Some(words.join(" ")),
        Effect::Save { job } => Some(format!("checkpoint {job}")),
        _ => None,
    };
    effects.iter().filter_map(verb).collect()
}

fn told(model: &Model) -> &str {
    model.notice.as_ref().map_or("", |notice| &notice.text)
}

#[test]
fn a_first_run_opens_the_picker_at_the_first_source() {
    let mut model = model();
    assert_eq!(update(&mut model, Msg::Jobs(Vec::new())), [Effect::List("/work".into())]);
    assert_eq!(model.screen, Screen::New);
    let file =
        |name: &str, kind| FileRow { name: name.to_owned(), path: PathBuf::from("/work").join(name), kind, size: 1 };
    let files = vec![
        file("zebra", FileKind::Other),
        file("prog", FileKind::Program),
        file("count.c", FileKind::Source),
        file("..", FileKind::Parent),
    ];
    let effects = update(&mut model, Msg::Listed("/work".into(), Ok(files)));
    assert_eq!(effects, [Effect::Preview("/work/count.c".into())]);

    // Enter builds, r runs, and the job is shown.
    assert_eq!(verbs(&press(&mut model, "\n")), ["build count.c"]);
    assert_eq!(press(&mut model, "r"), [], "as soon as it is built");
    let effects = update(&mut model, Msg::Built("/work/count".into(), Ok(())));
    assert_eq!(verbs(&effects), ["run --detach --json -- /work/count"]);
    update(&mut model, Msg::Did { reason: Reason::Run, result: Err("cannot start it".to_owned()) });
    assert_eq!(verbs(&press(&mut model, "\n")), ["build count.c"]);
    update(&mut model, Msg::Built("/work/count".into(), Ok(())));
    assert!(told(&model).contains("r runs it"), "{}", told(&model));
    assert_eq!(verbs(&press(&mut model, "r")), ["build count.c"], "in case it was changed");
    let effects = update(&mut model, Msg::Built("/work/count".into(), Ok(())));
    assert_eq!(verbs(&effects), ["run --detach --json -- /work/count"]);
    let effects = update(&mut model, Msg::Did { reason: Reason::Run, result: Ok(json!({ "job": "count" })) });
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Attach { job, .. } if job == "count")));
    assert_eq!(model.screen, Screen::Job);

    // c saves: pause and size are told.
    update(&mut model, Msg::Jobs(vec![job("count", JobState::Running)]));
    assert_eq!(verbs(&press(&mut model, "c")), ["checkpoint count"]);
    let answer = json!({ "bytes": 204_800, "pause_seconds": 0.0031 });
    update(&mut model, Msg::Did { reason: Reason::Save { job: "count".to_owned() }, result: Ok(answer) });
    assert!(told(&model).contains("200 KiB") && told(&model).contains("3.1 ms"), "{}", told(&model));
    assert!(model.log.iter().any(|line| line.text == "ckptctl checkpoint count"));
}

#[test]
fn what_destroys_is_asked_about_and_no_is_the_default() {
    let mut model = model();
    update(&mut model, Msg::Jobs(vec![job("sim", JobState::Running)]));
    assert_eq!(press(&mut model, "s\n"), []);
    assert!(model.layers.is_empty());
    assert_eq!(press(&mut model, "sy\x1b"), []);
    assert_eq!(verbs(&press(&mut model, "s>\n")), ["stop sim --json"]);
    // It is under way: not twice.
    assert_eq!(press(&mut model, "sy\n"), []);
    assert!(told(&model).contains("under way"));
}

#[test]
fn what_is_not_possible_now_says_why() {
    let mut model = model();
    update(&mut model, Msg::Jobs(vec![job("sim", JobState::Ended)]));
    for (key, why) in [("c", "has ended"), ("m", "has ended"), ("s", "has ended")] {
        assert_eq!(press(&mut model, key), []);
        assert!(told(&model).contains(why), "{key}: {}", told(&model));
    }
    update(&mut model, Msg::Jobs(vec![job("sim", JobState::Running)]));
    for (key, why) in [("D", "stop it first"), ("R", "stop it first")] {
        assert_eq!(press(&mut model, key), []);
        assert!(told(&model).contains(why), "{key}: {}", told(&model));
    }
}

#[test]
fn a_read_only_menu_only_looks() {
    let mut model = model();
    model.read_only = true;
    update(&mut model, Msg::Jobs(vec![job("sim", JobState::Running)]));
    assert_eq!(press(&mut model, "c"), []);
    assert!(told(&model).contains("ckptctl checkpoint sim"), "{}", told(&model));
    assert_eq!(press(&mut model, "sy"), []);
    assert!(!verbs(&press(&mut model, "\n")).is_empty(), "the history is read");
}

#[test]
fn escape_closes_one_layer_and_never_the_menu() {
    let mut model = model();
    update(&mut model, Msg::Jobs(vec![job("sim", JobState::Running)]));
    press(&mut model, "\n");
    assert_eq!(model.screen, Screen::Job);
    press(&mut model, "?");
    press(&mut model, "\x1b");
    assert_eq!((model.layers.len(), model.screen), (0, Screen::Job));
    assert_eq!(press(&mut model, "\x1b"), [Effect::Detach]);
    for _ in 0..3 {
        assert_eq!(press(&mut model, "\x1b"), []);
    }
    assert_eq!(press(&mut model, "q"), [Effect::Quit]);
}

#[test]
fn keys_go_to_the_program_until_the_menu_is_asked_for() {
    let mut model = model();
    update(&mut model, Msg::Jobs(vec![job("sim", JobState::Running)]));
    press(&mut model, "\n");
    assert_eq!(press(&mut model, "t"), [], "it is not connected yet");
    let number = model.attachments;
    update(&mut model, Msg::Terminal(number - 1, Shown::Attached(true)));
    assert_eq!(press(&mut model, "t"), [], "that was another one");
    update(&mut model, Msg::Terminal(number, Shown::Attached(true)));
    // When it breaks off, it is attached again, once.
    let again = update(&mut model, Msg::Terminal(number, Shown::Attached(false)));
    assert!(matches!(again[..], [Effect::Attach { number: next, .. }] if next == number + 1), "{again:?}");
    assert_eq!(update(&mut model, Msg::Terminal(number + 1, Shown::Attached(false))), []);
    update(&mut model, Msg::Terminal(number + 1, Shown::Attached(true)));
    press(&mut model, "t");
    assert_eq!(press(&mut model, "q\x1b"), [Effect::Input(b"q".to_vec()), Effect::Input(b"\x1b".to_vec())]);
    let control = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(update(&mut model, Msg::Event(Event::Key(control))), [Effect::Input(vec![3])]);
    let leave = KeyEvent::new(KeyCode::Char(']'), KeyModifiers::CONTROL);
    assert_eq!(update(&mut model, Msg::Event(Event::Key(leave))), []);
    assert_eq!(press(&mut model, "q"), [Effect::Quit]);
}

#[test]
fn the_choice_stays_with_its_job_when_the_list_changes() {
    let mut model = model();
    update(&mut model, Msg::Jobs(vec![job("a", JobState::Running), job("c", JobState::Running)]));
    model.jobs.selected = 1;
    update(&mut model, Msg::Jobs(["a", "b", "c"].map(|name| job(name, JobState::Running)).to_vec()));
    assert_eq!(model.jobs.chosen().unwrap().name, "c");
    update(&mut model, Msg::Jobs(vec![job("a", JobState::Running)]));
    assert_eq!(model.jobs.chosen().unwrap().name, "a");
    press(&mut model, "/zz");
    assert!(model.jobs.chosen().is_none());
    press(&mut model, "\x1b");
    assert_eq!(model.jobs.chosen().unwrap().name, "a");
}

#[test]
fn a_move_is_shown_to_its_end_and_can_be_given_up() {
    let mut model = model();
    update(&mut model, Msg::Jobs(vec![job("sim", JobState::Running)]));
    assert_eq!(press(&mut model, "m"), [Effect::Hosts]);
    update(&mut model, Msg::Hosts(Ok(vec![HostRow::new("nodeb", "")])));
    let migrate = Effect::Migrate { job: "sim".to_owned(), host: "nodeb".to_owned() };
    assert_eq!(press(&mut model, "\n"), [migrate]);
    let asker = Asker::Move("sim".to_owned());
    update(&mut model, Msg::Ask(asker.clone(), "Password:".to_owned(), false));
    assert_eq!(press(&mut model, "pw\n"), [Effect::Answer { asker, answer: Some("pw".to_owned()) }]);
    for (done, at) in [(0, 0), (50, 500), (100, 1000)] {
        update(&mut model, Msg::Progress("sim".to_owned(), ("memory".to_owned(), done, 1000), at));
    }
    let current = moving(&mut model, "sim").unwrap();
    assert!((current.rate - 100.0).abs() < 1.0, "{}", current.rate);
    // Esc closes the dialog, and m shows it again.
    assert_eq!(press(&mut model, "\x1b"), []);
    assert!(model.layers.is_empty());
    assert_eq!(press(&mut model, "m"), []);
    let given_up = Effect::CancelMove { job: "sim".to_owned() };
    assert_eq!(press(&mut model, "x"), std::slice::from_ref(&given_up));
    assert_eq!(press(&mut model, "x"), []);
    update(&mut model, Msg::Moved("sim".to_owned(), Err("cancelled".to_owned())));
    assert_eq!(told(&model), "sim: cancelled");
    assert!(!model.log.iter().any(|line| line.is_error), "it was asked for");
    press(&mut model, "\x1b");
    assert!(model.layers.is_empty() && model.moves.is_empty());
    // Out of sight it can be given up as well, and leaves nothing behind.
    press(&mut model, "m\n\x1b");
    assert_eq!(press(&mut model, "x"), [given_up]);
    update(&mut model, Msg::Moved("sim".to_owned(), Err("cancelled".to_owned())));
    assert!(model.moves.is_empty());
}

#[test]
fn arguments_are_split_as_a_shell_does() {
    assert_eq!(split(r#"a "b c" d\ e '' 'x"y'"#).unwrap(), ["a", "b c", "d e", "", "x\"y"]);
    assert!(split("  ").unwrap().is_empty());
    assert!(split("printf 'x").unwrap_err().contains("without its second one"));
}

#[test]
fn hosts_are_tried_and_changed() {
    let mut model = model();
    update(&mut model, Msg::Jobs(vec![job("sim", JobState::Running)]));
    press(&mut model, "h");
    let rows = || vec![HostRow::new("local", "this machine"), HostRow::new("nodeb", "ada@nodeb:22")];
    update(&mut model, Msg::Hosts(Ok(rows())));
    assert_eq!(press(&mut model, "T"), [Effect::Try(vec!["local".to_owned(), "nodeb".to_owned()])]);
    assert_eq!(press(&mut model, "t"), [], "it is being tried");
    update(&mut model, Msg::Ask(Asker::Trial("nodeb".to_owned()), "Password:".to_owned(), false));
    let answer = Effect::Answer { asker: Asker::Trial("nodeb".to_owned()), answer: None };
    assert_eq!(press(&mut model, "\x1b"), [answer]);
    update(&mut model, Msg::Fact("nodeb".to_owned(), "login".to_owned(), "by key".to_owned()));
    let found = json!({ "ok": true, "login": { "by": "key" }, "machine": { "load": 0.5 }, "memory": 1024 });
    update(&mut model, Msg::Tried("nodeb".to_owned(), found));
    // Read again, what was found still holds; at another address it does not.
    update(&mut model, Msg::Hosts(Ok(rows())));
    model.hosts.selected = 1;
    let row = model.hosts.chosen().unwrap();
    assert_eq!(
        (row.state, row.load, row.memory, row.login.as_deref()),
        (HostState::Ready, Some(0.5), Some(1024), Some("key"))
    );
    update(&mut model, Msg::Hosts(Ok(vec![HostRow::new("local", ""), HostRow::new("nodeb", "bob@nodeb:22")])));
    assert_eq!(model.hosts.chosen().unwrap().state, HostState::Untried);

    assert_eq!(press(&mut model, "anodec me@nodec --sessions 1\n").len(), 1);
    assert!(model.log.iter().any(|line| line.text == "ckptctl hosts add nodec me@nodec --sessions 1"));
    assert_eq!(verbs(&press(&mut model, "Dy\n")), [""; 0], "the hosts file is being changed");
    update(&mut model, Msg::Did { reason: Reason::Hosts, result: Ok(Value::Null) });
    assert_eq!(verbs(&press(&mut model, "Dy\n")), ["hosts remove nodeb"]);
    // The new one is what keys are meant for.
    let more = ["local", "nodeb", "nodec"].map(|name| HostRow::new(name, "")).to_vec();
    update(&mut model, Msg::Hosts(Ok(more)));
    assert_eq!(model.hosts.chosen().unwrap().name, "nodec");
    model.hosts.selected = 0;
    assert_eq!(press(&mut model, "D"), []);
    assert!(model.layers.is_empty() && told(&model).contains("always there"));
}

#[test]
fn what_is_under_way_can_be_given_up() {
    let mut model = model();
    update(&mut model, Msg::Jobs(vec![job("sim", JobState::Running)]));
    press(&mut model, "x");
    assert!(told(&model).contains("nothing is under way"));
    press(&mut model, "c");
    let reason = Reason::Save { job: "sim".to_owned() };
    update(&mut model, Msg::Doing(reason.clone(), "memory".to_owned(), 1, 2));
    assert_eq!(model.acts[0].progress, Some(("memory".to_owned(), 1, 2)));
    assert_eq!(press(&mut model, "x"), [Effect::Cancel(reason.clone())]);
    assert_eq!(press(&mut model, "x"), [], "it is being given up");
    update(&mut model, Msg::Did { reason, result: Err("cancelled".to_owned()) });
    assert_eq!((model.acts.len(), told(&model)), (0, "sim: cancelled"));
}

#[test]
fn what_is_given_up_is_that_of_the_chosen_job() {
    let mut model = model();
    update(&mut model, Msg::Jobs(vec![job("big", JobState::Running), job("small", JobState::Running)]));
    let save = |job: &str| Reason::Save { job: job.to_owned() };
    press(&mut model, "c");
    model.jobs.selected = 1;
    press(&mut model, "c");
    model.jobs.selected = 0;
    assert_eq!(press(&mut model, "x"), [Effect::Cancel(save("big"))]);
    assert_eq!(press(&mut model, "x"), []);
    assert_eq!(told(&model), "it is being given up already");
    press(&mut model, "h");
    assert_eq!(press(&mut model, "x"), [], "a host is no job");
    // What went wrong by itself is an error all the same.
    update(&mut model, Msg::Did { reason: save("big"), result: Err("the disk is full".to_owned()) });
    assert_eq!(model.notice, Some(Notice { text: "big: the disk is full".to_owned(), is_error: true }));
}

#[test]
fn a_command_line_is_run_and_a_job_saved_by_itself() {
    let mut model = model();
    update(&mut model, Msg::Jobs(Vec::new()));
    model.new.environment = "A='x y'".to_owned();
    assert_eq!(verbs(&press(&mut model, "!sleep '1 0'\n")), ["run --detach --json -- sleep 1 0"]);
    // The log tells all of it.
    let logged = model.log.last().map(|line| line.text.clone());
    assert_eq!(logged.as_deref(), Some("A='x y' ckptctl run --detach -- sleep '1 0'"));
    update(&mut model, Msg::Did { reason: Reason::Run, result: Ok(json!({ "job": "sleep" })) });
    update(&mut model, Msg::Jobs(vec![job("sleep", JobState::Running)]));
    assert_eq!(press(&mut model, "a"), [Effect::Schedule { job: "sleep".to_owned() }]);
    update(&mut model, Msg::Schedule("sleep".to_owned(), None));
    assert_eq!(verbs(&press(&mut model, "\n")), ["schedule sleep --json --every 10m --before-move"]);
    // What is wrong is asked for again.
    let reason = Reason::Schedule { job: "sleep".to_owned() };
    update(&mut model, Msg::Did { reason, result: Err("--every is no time".to_owned()) });
    assert!(matches!(model.layers.last(), Some(Layer::Line { typed, .. }) if typed.value().contains("10m")));
    press(&mut model, "\x1b");
    model.new.environment = "A=1 B".to_owned();
    press(&mut model, "n");
    press(&mut model, "!sleep\n");
    assert!(told(&model).contains("NAME=VALUE"), "{}", told(&model));
}

#[test]
fn the_mouse_chooses_opens_and_goes_to_screens() {
    let mut model = model();
    update(&mut model, Msg::Jobs(vec![job("a", JobState::Running), job("b", JobState::Running)]));
    let click = |model: &mut Model, column: u16, row: u16| {
        let kind = MouseEventKind::Down(MouseButton::Left);
        update(model, Msg::Event(Event::Mouse(MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE })))
    };
    // Below the header, the number of jobs, and the headings.
    click(&mut model, 5, 4);
    assert_eq!((model.jobs.selected, model.screen), (1, Screen::Jobs));
    click(&mut model, 5, 2);
    assert_eq!(model.jobs.selected, 1, "a heading is no row");
    click(&mut model, 5, 4);
    assert_eq!((model.screen, model.job.as_ref().unwrap().name.as_str()), (Screen::Job, "b"));
    // Its views, and the screens in the header.
    let tab = |tab: Tab| layout::tabs().iter().find(|(known, ..)| *known == tab).unwrap().2;
    click(&mut model, tab(Tab::Holds), 2);
    assert_eq!(model.job.as_ref().unwrap().tab, Tab::Holds);
    let hosts = layout::screens(&model).iter().find(|(known, ..)| *known == Screen::Hosts).unwrap().2;
    click(&mut model, hosts + 1, 0);
    assert_eq!(model.screen, Screen::Hosts);
    click(&mut model, 0, 0);
    assert_eq!(model.screen, Screen::Hosts);
}

#[test]
fn a_source_is_built_before_it_is_run() {
    let mut model = model();
    update(&mut model, Msg::Jobs(Vec::new()));
    let file = FileRow { name: "x.c".to_owned(), path: "/work/x.c".into(), kind: FileKind::Source, size: 1 };
    update(&mut model, Msg::Listed("/work".into(), Ok(vec![file])));
    model.new.program = Some("/work/other".into());
    let is_build =
        |effects: &[Effect], wanted| matches!(effects, [Effect::Build { unless_newer, .. }] if *unless_newer == wanted);
    assert!(is_build(&press(&mut model, "r"), false), "never another program");
    assert_eq!(verbs(&update(&mut model, Msg::Built("/work/x".into(), Ok(())))).len(), 1);
    update(&mut model, Msg::Did { reason: Reason::Run, result: Err("no".to_owned()) });
    assert!(is_build(&press(&mut model, "r"), true), "unless it was changed");
}

#[test]
fn a_smaller_pane_keeps_its_last_lines() {
    let mut model = model();
    update(&mut model, Msg::Jobs(vec![job("sim", JobState::Running)]));
    press(&mut model, "\n");
    let number = model.attachments;
    let text: Vec<String> = (1..=40).map(|n| format!("line {n}\r\n")).collect();
    update(&mut model, Msg::Terminal(number, Shown::Output(text.concat().into_bytes())));
    for rows in [12, 30, 10, 24] {
        update(&mut model, Msg::Event(Event::Resize(80, rows)));
    }
    update(&mut model, Msg::Terminal(number, Shown::Output(b"line 41\r\n".to_vec())));
    let screen = model.job.as_ref().unwrap().screen.screen();
    let shown: Vec<String> = screen.rows(0, 80).filter(|line| line.starts_with("line")).collect();
    let numbers: Vec<usize> = shown.iter().map(|line| line[5..].trim().parse().unwrap()).collect();
    assert!(numbers.windows(2).all(|two| two[1] == two[0] + 1), "{numbers:?}");
    assert_eq!(numbers.last(), Some(&41));
}

#[test]
fn a_read_only_menu_types_nothing_and_a_removed_job_is_left() {
    let mut model = model();
    model.read_only = true;
    update(&mut model, Msg::Jobs(vec![job("sim", JobState::Running)]));
    press(&mut model, "\n");
    let number = model.attachments;
    update(&mut model, Msg::Terminal(number, Shown::Attached(true)));
    press(&mut model, "t");
    assert!(!model.job.as_ref().unwrap().is_typing && told(&model).contains("read-only"));
    assert_eq!(update(&mut model, Msg::Jobs(Vec::new())), [Effect::Detach]);
    assert_eq!(model.screen, Screen::Jobs);
    assert!(told(&model).contains("sim was removed"));
}

#[test]
fn what_cannot_be_seen_is_not_done() {
    let mut model = model();
    update(&mut model, Msg::Jobs(vec![job("sim", JobState::Running)]));
    update(&mut model, Msg::Event(Event::Resize(50, 12)));
    assert_eq!(press(&mut model, "csy\n?n"), []);
    assert!(model.layers.is_empty() && model.screen == Screen::Jobs);
    assert_eq!(press(&mut model, "q"), [Effect::Quit]);
    let control = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(update(&mut model, Msg::Event(Event::Key(control))), [Effect::Quit]);
    update(&mut model, Msg::Event(Event::Resize(60, 16)));
    assert_eq!(verbs(&press(&mut model, "c")), ["checkpoint sim"]);
    // Not even into a program.
    press(&mut model, "\n");
    let number = model.attachments;
    update(&mut model, Msg::Terminal(number, Shown::Attached(true)));
    press(&mut model, "t");
    update(&mut model, Msg::Event(Event::Resize(20, 5)));
    assert_eq!(press(&mut model, "x"), []);
    assert_eq!(update(&mut model, Msg::Event(Event::Paste("rm".to_owned()))), []);
}

#[test]
fn a_read_only_menu_refuses_before_it_asks_and_leaves_terminals_as_they_are() {
    let mut model = model();
    model.read_only = true;
    update(&mut model, Msg::Jobs(vec![job("sim", JobState::Running)]));
    for (key, verb) in [("s", "stop sim"), ("m", "migrate sim HOST"), ("a", "schedule sim --every 10m")] {
        assert_eq!(press(&mut model, key), []);
        assert!(model.layers.is_empty() && told(&model).ends_with(&format!("ckptctl {verb}")), "{}", told(&model));
    }
    let opened = press(&mut model, "\n");
    assert!(matches!(opened[0], Effect::Attach { size: None, .. }), "{opened:?}");
    assert_eq!(update(&mut model, Msg::Event(Event::Resize(90, 30))), []);
    press(&mut model, "h");
    update(&mut model, Msg::Hosts(Ok(vec![HostRow::new("nodeb", "ada@nodeb:22")])));
    for (key, verb) in [
        ("t", "hosts test nodeb"),
        ("\n", "hosts test nodeb"),
        ("T", "hosts test"),
        ("a", "hosts add NAME ADDRESS"),
        ("e", "hosts edit nodeb --address ada@nodeb:22"),
        ("D", "hosts remove nodeb"),
    ] {
        assert_eq!(press(&mut model, key), []);
        assert!(model.layers.is_empty() && told(&model).ends_with(&format!("ckptctl {verb}")), "{}", told(&model));
    }
    press(&mut model, "n!");
    assert!(model.layers.is_empty() && told(&model).contains("ckptctl run"), "{}", told(&model));
}

#[test]
fn what_was_never_saved_and_has_ended_can_be_run_again_or_removed() {
    let mut model = model();
    update(&mut model, Msg::Jobs(vec![JobStatus { checkpoints: 0, ..job("sim", JobState::Ended) }]));
    for key in ["c", "m", "s", "a", "R"] {
        assert_eq!(press(&mut model, key), []);
        assert!(told(&model).ends_with("n runs it again, D removes it"), "{key}: {}", told(&model));
    }
}

#[test]
fn the_palette_gives_the_command_that_was_named() {
    let mut model = model();
    update(&mut model, Msg::Jobs(vec![job("sim", JobState::Ended)]));
    for (typed, name) in
        [("branch", "branch"), ("run", "run"), ("save", "save"), ("move", "migrate"), ("rem", "remove")]
    {
        assert_eq!(palette(&model, typed)[0].name, name, "{typed}");
    }
    assert_eq!(palette(&model, "bring back")[0].name, "restore", "by what it does");
    assert!(palette(&model, "").iter().all(|command| command.places.contains(&model.place())));
    assert_eq!(press(&mut model, ":branch\n"), []);
    assert_eq!((told(&model), model.layers.len()), ("branch is possible in a job", 0));
    assert_eq!(verbs(&press(&mut model, ":restore\n")), ["restore sim --detach --json"]);
}

#[test]
fn what_is_shown_of_a_file_is_read_again() {
    let mut model = model();
    update(&mut model, Msg::Jobs(Vec::new()));
    let file =
        |name: &str, kind| FileRow { name: name.to_owned(), path: format!("/work/{name}").into(), kind, size: 1 };
    let files = || vec![file("..", FileKind::Parent), file("x.c", FileKind::Source), file("d", FileKind::Directory)];
    update(&mut model, Msg::Listed("/work".into(), Ok(files())));
    update(&mut model, Msg::Previewed("/work/x.c".into(), vec!["old".to_owned()]));
    let again = update(&mut model, Msg::Listed("/work".into(), Ok(files())));
    assert_eq!(again, [Effect::Preview("/work/x.c".into())]);
    assert_eq!(model.new.preview.as_ref().unwrap().1, ["old"], "until the new one is there");
    let down = KeyEvent::new(KeyCode::Down, KeyModifiers::NONE);
    assert_eq!(update(&mut model, Msg::Event(Event::Key(down))), [Effect::Preview("/work/d".into())]);
    assert!(model.new.preview.is_none());
}

#[test]
fn a_new_job_is_the_chosen_one_in_the_list() {
    let mut model = model();
    let jobs = |names: &[&str]| Msg::Jobs(names.iter().map(|name| job(name, JobState::Running)).collect());
    update(&mut model, jobs(&["a", "b"]));
    press(&mut model, "n!sleep 9\n");
    update(&mut model, Msg::Did { reason: Reason::Run, result: Ok(json!({ "job": "sleep" })) });
    press(&mut model, "j");
    update(&mut model, jobs(&["a", "b"]));
    assert_eq!(model.jobs.chosen().unwrap().name, "a", "it is not known yet");
    update(&mut model, jobs(&["a", "b", "sleep"]));
    assert_eq!(model.jobs.chosen().unwrap().name, "sleep");
    // What was chosen by hand stays.
    press(&mut model, "gk");
    update(&mut model, jobs(&["a", "sleep"]));
    assert_eq!(model.jobs.chosen().unwrap().name, "a");
}

#[test]
fn a_filter_can_be_pasted() {
    let mut model = model();
    update(&mut model, Msg::Jobs(vec![job("a", JobState::Running), job("sim", JobState::Running)]));
    let paste = |model: &mut Model| update(model, Msg::Event(Event::Paste("im\nx".to_owned())));
    assert_eq!(paste(&mut model), []);
    assert_eq!(model.jobs.filter.value(), "", "nothing is being typed");
    press(&mut model, "/s");
    paste(&mut model);
    assert_eq!((model.jobs.filter.value(), model.jobs.chosen().unwrap().name.as_str()), ("sim", "sim"));
}

#[test]
fn the_log_can_be_scrolled() {
    let mut model = model();
    update(&mut model, Msg::Jobs(vec![job("a", JobState::Running), job("b", JobState::Running)]));
    (1..=40).for_each(|number| model.note(format!("line {number}"), false));
    press(&mut model, "L");
    let key = |model: &mut Model, code| update(model, Msg::Event(Event::Key(KeyEvent::new(code, KeyModifiers::NONE))));
    key(&mut model, KeyCode::PageUp);
    assert_eq!((model.log_scroll, model.jobs.selected), (10, 0));
    (0..9).for_each(|_| drop(key(&mut model, KeyCode::PageUp)));
    let most = layout::log_above(&model);
    assert_eq!((model.log_scroll, most), (most, 33));
    let log = layout::parts(&model).log;
    let (kind, modifiers) = (MouseEventKind::ScrollDown, KeyModifiers::NONE);
    update(&mut model, Msg::Event(Event::Mouse(MouseEvent { kind, column: 3, row: log.y + 1, modifiers })));
    assert_eq!((model.log_scroll, model.jobs.selected), (32, 0));
    update(&mut model, Msg::Event(Event::Mouse(MouseEvent { kind, column: 3, row: 4, modifiers })));
    assert_eq!((model.log_scroll, model.jobs.selected), (32, 1), "the list, where it is");
    press(&mut model, "LL");
    assert_eq!(model.log_scroll, 0);
}
