//! Departures and arrivals: the engine of a move, with a pipe for the network.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ckpt_image::{Codec, Content, Encoder, HOST_ARCHITECTURE, ImageReader, ImageWriter, PageRange};
use ckpt_tests::{Case, Ending, Roundtrip, Running, Suite, Whos, skip};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::bad_input::Small;
use crate::{Plain, driver};

/// What comes over through a pipe as it does through a file.
const MOVED: &[Plain] = &[
    ("departure::registers_come_over", "regs_vector", &["avx"]),
    ("departure::general_registers_come_over", "regs_general", &[]),
    ("departure::heap_comes_over", "heap", &[]),
    ("departure::sparse_memory_comes_over", "anon_sparse", &[]),
    ("departure::zeros_come_over", "zeros", &[]),
    ("departure::shared_memory_comes_over", "shared_anon", &["once"]),
    ("departure::memory_mapped_twice_comes_over", "shared_anon", &["twice"]),
    ("departure::private_mappings_come_over", "file_maps", &["private"]),
    ("departure::shared_mappings_come_over", "file_maps", &["shared"]),
    ("departure::advice_comes_over", "advised", &[]),
    ("departure::threads_come_over", "threads_load", &[]),
    ("departure::a_crowd_comes_over", "crowd", &[]),
    ("departure::what_threads_told_the_kernel_comes_over", "thread_state", &[]),
    ("departure::dispositions_come_over", "dispositions", &[]),
    ("departure::pending_signals_come_over", "pending", &[]),
    ("departure::timers_come_over", "timers", &["posix"]),
    ("departure::files_come_over", "files", &["regular"]),
    ("departure::deleted_files_come_over", "files", &["deleted"]),
    ("departure::unlinked_mappings_come_over", "nameless", &["unlinked-private"]),
    ("departure::sealed_memory_files_come_over", "nameless", &["sealed"]),
    ("departure::pipes_come_over", "pipes", &["contents"]),
    ("departure::events_come_over", "events", &["watched"]),
    ("departure::attributes_come_over", "process", &[]),
    ("departure::clocks_go_on", "clocks", &[]),
    ("departure::python_comes_over", "python", &[]),
    ("departure::go_comes_over", "golang", &[]),
    ("departure::a_static_program_comes_over", "kinds_static", &[]),
];

/// What does not notice that it was frozen, parked and let go.
const UNDISTURBED: &[Plain] = &[
    ("departure::threads_do_not_notice", "threads_load", &[]),
    ("departure::dispositions_do_not_notice", "dispositions", &[]),
    ("departure::pending_signals_do_not_notice", "pending", &[]),
    ("departure::handlers_do_not_notice", "handler", &[]),
    ("departure::pending_stops_stay", "parked", &["stops"]),
    ("departure::a_blocked_continue_does_not_come", "parked", &["blocks"]),
    ("departure::timers_do_not_notice", "timers", &["posix"]),
    ("departure::registers_do_not_notice", "regs_vector", &["avx"]),
];

/// Waits that end by themselves, all at once, with limits long enough to be in the middle of them.
const WAITS: &[&str] = &[
    "3000",
    "nanosleep",
    "nanosleep-rem",
    "clock_nanosleep",
    "clock_nanosleep-abs",
    "poll",
    "ppoll",
    "select",
    "epoll",
    "epoll_pwait",
    "futex-rel",
    "cond-real",
    "cond-monotonic",
    "sem",
    "sigtimedwait",
];

pub fn add(suite: &mut Suite) {
    for (name, program, args) in MOVED {
        suite.add(name, Whos::Both, |case| Roundtrip::of(program).args(args).moved_by(driver(case)?).run(case));
    }
    suite.add("departure::waits_come_over", Whos::Both, |case| {
        Roundtrip::of("blocked").args(WAITS).asleep().moved_by(driver(case)?).run(case)
    });
    for (name, program, args) in UNDISTURBED {
        suite.add(name, Whos::User, |case| {
            Roundtrip::of(program).args(args).undergo(case, |pid| {
                for _ in 0..3 {
                    steps(case, "depart", pid, &["park", "wait=5", "resume"])?;
                }
                die_parked(case, pid)?;
                steps(case, "adopt", pid, &["resume"])
            })
        });
    }
    suite.add("departure::waits_do_not_notice", Whos::Both, |case| {
        Roundtrip::of("blocked").args(WAITS).asleep().undergo(case, |pid| {
            for _ in 0..2 {
                steps(case, "depart", pid, &["park", "wait=20", "resume"])?;
                case.wait_asleep(pid)?;
            }
            die_parked(case, pid)?;
            steps(case, "adopt", pid, &["wait=20", "resume"])
        })
    });
    // Its tracer's death takes the knowledge of them with it.
    suite.add("departure::pending_continues_stay", Whos::Both, |case| {
        Roundtrip::of("parked").args(&["continues"]).undergo(case, |pid| {
            steps(case, "depart", pid, &["park", "resume"])?;
            steps(case, "depart", pid, &["park", "wait=5", "resume"])
        })
    });
    suite.add("departure::pending_signals_are_saved_while_parked", Whos::User, |case| {
        let program = Roundtrip::of("parked").args(&["continues"]).start(case)?;
        let image = case.path("image");
        steps(case, "depart", program.pid(), &["park", &format!("save={}", image.display())])?;
        finish_from(case, &image, program)
    });
    suite.add("departure::a_dropped_one_runs_on", Whos::User, |case| {
        Roundtrip::of("threads_load").undergo(case, |pid| steps(case, "depart", pid, &["drop"]))
    });
    suite.add("departure::no_instruction_after_the_tracers_death", Whos::Both, no_instruction);
    suite.add("departure::parked_again_after_somebody_continued_it", Whos::User, parked_again);
    suite.add("departure::a_stopped_program_stays_stopped", Whos::Both, stopped_before);
    suite.add("departure::an_adopted_program_is_saved", Whos::Both, saved_by_another);
    suite.add("departure::a_departed_program_is_saved", Whos::Both, saved_by_the_same);
    suite.add("departure::a_full_disk_leaves_it_parked", Whos::Root, full_disk);
    suite.add("departure::a_program_that_nobody_parked_is_not_adopted", Whos::User, not_parked);
    suite.add("departure::a_cut_or_damaged_stream_leaves_nothing", Whos::Both, damaged_streams);
    suite.add("departure::what_has_arrived_waits_to_be_let_go", Whos::Both, held);
    suite.add("departure::an_image_of_an_older_order", Whos::User, older_order);
    suite.add("departure::of_pages_that_come_twice_the_last_holds", Whos::User, last_holds);
    suite.add("departure::a_lost_destination_resumes_the_source", Whos::Both, lost_destination);
    suite.add("departure::connections_are_given_up_on_demand", Whos::Both, connections);
    suite.add("departure::surveyed_without_being_stopped", Whos::Both, surveyed);
    suite.add("departure::a_portable_program_needs_little", Whos::User, portable);
}

/// This very program, where the case's user may execute it.
fn driver(case: &Case) -> Result<PathBuf> {
    let path = case.stage().bin().join(driver::NAME);
    if !path.exists() {
        // Two cases may want it at once: it appears whole.
        let copy =
            case.stage().bin().join(format!("{}-{}", driver::NAME, case.dir().display().to_string().replace('/', "-")));
        fs::copy(std::env::current_exe()?, &copy)?;
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
        fs::rename(&copy, &path)?;
    }
    Ok(path)
}

/// The driver, with something to do.
pub fn drive(case: &Case, words: &[&str]) -> Result<Command> {
    let mut command = case.command(driver(case)?);
    command.args(words);
    Ok(command)
}

/// Takes steps with a frozen program, all of which must succeed.
fn steps(case: &Case, verb: &str, pid: i32, steps: &[&str]) -> Result<()> {
    let pid = pid.to_string();
    let words = [&[verb, &pid], steps].concat();
    case.run(&mut drive(case, &words)?)?.expect(0).map(drop)
}

/// A tracer that has parked a program and waits.
fn parker(case: &Case, pid: i32) -> Result<Running> {
    let mut command = drive(case, &["depart", &pid.to_string(), "park", "say=parked", "hang"])?;
    let mut tracer = case.start_with_stdin(command.stdin(Stdio::piped()))?;
    tracer.wait_for_text("parked\n")?;
    Ok(tracer)
}

fn kill(pid: i32, signal: Signal) -> Result<()> {
    Ok(kill_process(Pid::from_raw(pid).context("no process")?, signal)?)
}

/// The program's tracer is killed while it holds it.
fn die_parked(case: &Case, pid: i32) -> Result<()> {
    let mut tracer = parker(case, pid)?;
    kill(tracer.pid(), Signal::KILL)?;
    ensure!(tracer.wait()? == Ending::Signaled(9), "{}", tracer.streams());
    case.wait_until("it is stopped", || Case::state(pid) == Some('T'))
}

fn counters(file: &mut File) -> Result<Vec<u64>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    bytes.chunks(4096).map(|page| Ok(u64::from_le_bytes(page[..8].try_into()?))).collect()
}

/// Two hundred tracers of a busy program are killed while it is parked: not one of its threads counts further.
fn no_instruction(case: &Case) -> Result<()> {
    const TIMES: usize = 100;
    let mut program = Roundtrip::of("busy").start(case)?;
    let pid = program.pid();
    let mut file = File::open(case.work().join("counters"))?;
    for _ in 0..TIMES {
        let mut tracer = parker(case, pid)?;
        let frozen = counters(&mut file)?;
        kill(tracer.pid(), Signal::KILL)?;
        ensure!(tracer.wait()? == Ending::Signaled(9), "{}", tracer.streams());
        case.wait_until("it is stopped", || Case::state(pid) == Some('T'))?;
        std::thread::sleep(Duration::from_millis(2));
        let stopped = counters(&mut file)?;
        ensure!(frozen == stopped, "they ran on: {frozen:?} {stopped:?}");
        steps(case, "adopt", pid, &["resume"])?;
        let mut now = stopped.clone();
        case.wait_until("all count again", || {
            now = counters(&mut file).unwrap_or_default();
            now.iter().zip(&stopped).all(|(now, then)| now > then)
        })?;
    }
    case.go()?;
    ensure!(program.wait()? == Ending::Exited(0), "{}", program.streams());
    Ok(())
}

/// A SIGCONT from somebody else takes the stop away; parked again it is safe again, and lets go it does not notice.
fn parked_again(case: &Case) -> Result<()> {
    Roundtrip::of("threads_load").undergo(case, |pid| {
        die_parked(case, pid)?;
        let number = pid.to_string();
        for last in ["hang", "resume"] {
            let words = ["adopt", &number, "say=adopted", "hang", "park", "say=again", last];
            let mut tracer = case.start_with_stdin(drive(case, &words)?.stdin(Stdio::piped()))?;
            tracer.wait_for_text("adopted\n")?;
            kill(pid, Signal::CONT)?;
            tracer.write(b"x")?;
            tracer.wait_for_text("again\n")?;
            if last == "hang" {
                kill(tracer.pid(), Signal::KILL)?;
                ensure!(tracer.wait()? == Ending::Signaled(9), "{}", tracer.streams());
                case.wait_until("it is stopped", || Case::state(pid) == Some('T'))?;
            } else {
                ensure!(tracer.wait()? == Ending::Exited(0), "{}", tracer.streams());
            }
        }
        case.wait_until("it runs on", || matches!(Case::state(pid), Some('R' | 'S')))
    })
}

/// One that was stopped before stays so, whatever becomes of its tracer, and goes on at SIGCONT alone.
fn stopped_before(case: &Case) -> Result<()> {
    let mut program = Roundtrip::of("stopped").start(case)?;
    let pid = program.pid();
    let is_stopped = || Case::state(pid) == Some('T');
    kill(pid, Signal::STOP)?;
    case.wait_until("it is stopped", is_stopped)?;
    steps(case, "depart", pid, &["park", "resume"])?;
    case.wait_until("it is stopped again", is_stopped)?;
    die_parked(case, pid)?;
    steps(case, "adopt", pid, &["resume"])?;
    case.wait_until("it is stopped again", is_stopped)?;
    case.go()?;
    std::thread::sleep(Duration::from_millis(50));
    ensure!(program.stdout() == "ready\n" && is_stopped(), "it went on by itself: {}", program.streams());
    kill(pid, Signal::CONT)?;
    ensure!(program.wait()? == Ending::Exited(0), "{}", program.streams());
    Ok(())
}

/// Brings a saved program back and lets it end: it prints what an undisturbed run prints.
fn finish_from(case: &Case, image: &Path, mut first: Running) -> Result<()> {
    ensure!(first.wait()? == Ending::Signaled(9), "{}", first.streams());
    let mut restored = case.restore(image, &[])?;
    case.go()?;
    let ending = restored.wait()?;
    let printed = first.stdout() + &restored.stdout();
    ensure!(ending == Ending::Exited(0) && printed == "ready\nas expected\n", "{ending:?} {printed:?}");
    Ok(())
}

fn saved_by_another(case: &Case) -> Result<()> {
    let program = Roundtrip::of("threads_load").start(case)?;
    let image = case.path("image");
    die_parked(case, program.pid())?;
    steps(case, "adopt", program.pid(), &[&format!("save={}", image.display())])?;
    finish_from(case, &image, program)
}

/// A signal that comes after it was parked is in the image, and that it was parked is not.
fn saved_by_the_same(case: &Case) -> Result<()> {
    let program = Roundtrip::of("threads_load").start(case)?;
    let image = case.path("image");
    steps(case, "depart", program.pid(), &["park", "park", "wait=20", &format!("save={}", image.display())])?;
    finish_from(case, &image, program)
}

/// What cannot be saved here can be saved there.
fn full_disk(case: &Case) -> Result<()> {
    let small = Small::make(case, 128)?;
    let program = Roundtrip::of("heap").start(case)?;
    let pid = program.pid();
    for verb in ["depart", "adopt"] {
        let words = [verb, &pid.to_string(), "park", &format!("save={}", small.0.join("image").display())];
        let finished = case.run(&mut drive(case, &words)?)?.expect(1)?;
        ensure!(finished.stderr.contains("space"), "{finished:?}");
        Case::expect_only(&small.0, &[])?;
        case.wait_until("it is stopped", || Case::state(pid) == Some('T'))?;
    }
    let image = case.path("image");
    steps(case, "adopt", pid, &[&format!("save={}", image.display())])?;
    finish_from(case, &image, program)
}

fn not_parked(case: &Case) -> Result<()> {
    let mut program = Roundtrip::of("threads_load").start(case)?;
    let words = ["adopt", &program.pid().to_string(), "resume"];
    let finished = case.run(&mut drive(case, &words)?)?.expect(1)?;
    ensure!(finished.stderr.contains("is not stopped"), "{finished:?}");
    case.go()?;
    ensure!(program.wait()? == Ending::Exited(0), "{}", program.streams());
    Ok(())
}

/// The restored ones among this case's processes: its own children are known to it.
fn strangers(case: &Case, known: &[i32]) -> Vec<i32> {
    let mark = format!("CKPT_TEST_GO={}", case.path("go").display());
    let pids =
        fs::read_dir("/proc").into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| !known.contains(pid))
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/environ"))
                .is_ok_and(|all| all.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes()))
        })
        .collect()
}

fn damaged_streams(case: &Case) -> Result<()> {
    let mut program = Roundtrip::of("heap").start(case)?;
    let pid = program.pid();
    let whole = case.write("stream", "")?;
    case.run(&mut drive(case, &["write", &pid.to_string(), &whole.display().to_string()])?)?.expect(0)?;
    let bytes = fs::read(&whole)?;
    let length = bytes.len();
    let cuts = [0, 1, 63, 64, 1000, length / 3, length / 2, length - 100, length - 1];
    for (number, cut) in cuts.into_iter().enumerate() {
        let file = case.write(format!("cut{number}"), &bytes[..cut])?;
        refused(case, &file, &["incomplete", "empty"])?;
    }
    for at in [20, 500, length / 2, length - 40] {
        let mut bytes = bytes.clone();
        bytes[at] ^= 4;
        let file = case.write(format!("damaged{at}"), bytes)?;
        refused(case, &file, &["damaged", "incomplete", "not known", "does not know"])?;
    }
    case.wait_until("nothing is left of what was being built", || strangers(case, &[pid]).is_empty())?;
    case.go()?;
    ensure!(program.wait()? == Ending::Exited(0), "{}", program.streams());
    // What was not damaged arrives, now that its place is free.
    let mut arrived = case.start(&mut drive(case, &["arrive", &whole.display().to_string()])?)?;
    ensure!(arrived.wait()? == Ending::Exited(0), "{}", arrived.streams());
    ensure!(arrived.stdout() == "as expected\n", "{}", arrived.streams());
    Ok(())
}

/// What has arrived runs when it is let go and not before; dropped, or when its engine is killed, it is gone.
fn held(case: &Case) -> Result<()> {
    let mut program = Roundtrip::of("threads_load").start(case)?;
    let stream = case.write("stream", "")?;
    case.run(&mut drive(case, &["write", &program.pid().to_string(), &stream.display().to_string()])?)?.expect(0)?;
    kill(program.pid(), Signal::KILL)?;
    ensure!(program.wait()? == Ending::Signaled(9), "{}", program.streams());
    // If it ran, it would say so and end.
    case.go()?;
    for fate in ["killed", "dropped", "let go"] {
        let mut command = drive(case, &["hold", &stream.display().to_string()])?;
        let mut engine = case.start_with_stdin(command.stdin(Stdio::piped()))?;
        engine.wait_for_text("\n")?;
        let said = engine.stdout();
        let pid: i32 = said.trim_start_matches("held ").trim_end().parse().with_context(|| said.clone())?;
        std::thread::sleep(Duration::from_millis(50));
        ensure!(
            Case::state(pid) == Some('t') && engine.stdout() == said,
            "{:?} {}",
            Case::state(pid),
            engine.streams()
        );
        match fate {
            "killed" => {
                kill(engine.pid(), Signal::KILL)?;
                ensure!(engine.wait()? == Ending::Signaled(9), "{}", engine.streams());
            }
            "dropped" => {
                engine.close_stdin();
                ensure!(engine.wait()? == Ending::Exited(0), "{}", engine.streams());
                ensure!(Case::state(pid).is_none(), "it is still there");
            }
            _ => {
                engine.write(b"go")?;
                ensure!(engine.wait()? == Ending::Exited(0), "{}", engine.streams());
                ensure!(engine.stdout() == said + "as expected\n", "{}", engine.streams());
            }
        }
        case.wait_until("nothing is left", || strangers(case, &[]).is_empty() && Case::state(pid).is_none())?;
    }
    Ok(())
}

fn refused(case: &Case, file: &Path, told: &[&str]) -> Result<()> {
    let finished = case.run(&mut drive(case, &["arrive", &file.display().to_string()])?)?.expect(1)?;
    let is_told = told.iter().any(|word| finished.stderr.contains(word));
    ensure!(is_told && !finished.stderr.contains("panicked"), "{}: {finished:?}", file.display());
    Ok(())
}

/// An image whose state comes last, as it did: a file of it is restored, a stream is refused by name.
fn older_order(case: &Case) -> Result<()> {
    let program = Roundtrip::of("heap").start(case)?;
    let older = case.path("older");
    let mut parts = Parts::of(case, program)?;
    // The vDSO's run was the last of all.
    parts.runs.rotate_left(1);
    let mut writer = parts.begin(&older)?;
    parts.put_runs(&mut writer, |data| data)?;
    parts.put_states(&mut writer)?;
    writer.finish()?;
    case.give(&older)?;
    refused(case, &older, &["older versions"])?;
    case.go()?;
    expect_the_rest(&mut case.restore(&older, &[])?)
}

/// Every page comes twice, wrong and then right, at once or after all others: the last one holds, of a file and of a stream.
fn last_holds(case: &Case) -> Result<()> {
    let program = Roundtrip::of("heap").start(case)?;
    let image = case.path("twice");
    let mut parts = Parts::of(case, program)?;
    let mut writer = parts.begin(&image)?;
    parts.put_states(&mut writer)?;
    // The vDSO is not ours to be wrong about.
    let rest = parts.runs.split_off(1);
    parts.put_runs(&mut writer, |data| data)?;
    parts.runs = rest;
    let wrong = |data: Vec<u8>| data.iter().map(|byte| !byte).collect();
    parts.put_runs(&mut writer, wrong)?;
    parts.put_runs(&mut writer, |data| data)?;
    for run in std::mem::take(&mut parts.runs) {
        parts.runs = vec![run];
        parts.put_runs(&mut writer, wrong)?;
        parts.put_runs(&mut writer, |data| data)?;
    }
    writer.finish()?;
    case.give(&image)?;
    case.go()?;
    expect_the_rest(&mut case.restore(&image, &[])?)?;
    expect_the_rest(&mut case.start(&mut drive(case, &["arrive", &image.display().to_string()])?)?)
}

/// The program is what it was.
fn expect_the_rest(running: &mut Running) -> Result<()> {
    ensure!(running.wait()? == Ending::Exited(0), "{}", running.streams());
    ensure!(running.stdout() == "as expected\n", "{}", running.streams());
    Ok(())
}

/// What an image is made of.
struct Parts {
    layout: Value,
    states: Vec<(String, Value)>,
    runs: Vec<(Vec<PageRange>, Vec<u8>)>,
    encoder: Encoder,
}

impl Parts {
    /// Of an image of a program, which is ended.
    fn of(case: &Case, mut program: Running) -> Result<Self> {
        let image = case.path("image");
        case.checkpoint(program.pid(), &image, &["--stop"])?;
        ensure!(program.wait()? == Ending::Signaled(9), "{}", program.streams());
        let mut reader = ImageReader::new(File::open(image)?)?;
        let encoder = Encoder::new(4096, Codec::None)?;
        let mut parts = Self { layout: Value::Null, states: Vec::new(), runs: Vec::new(), encoder };
        while let Some(record) = reader.next_record()? {
            match record.content {
                Content::Layout => parts.layout = reader.read_json()?,
                Content::State { name } => parts.states.push((name, reader.read_json()?)),
                Content::Pages { ranges, .. } => {
                    let mut data = Vec::new();
                    reader.read_data(&mut data)?;
                    parts.runs.push((ranges, data));
                }
                Content::FileData { file, .. } => anyhow::bail!("it carries file {file}"),
            }
        }
        Ok(parts)
    }

    fn begin(&self, file: &Path) -> Result<ImageWriter<File>> {
        let mut writer = ImageWriter::new(File::create(file)?, HOST_ARCHITECTURE, 4096)?;
        writer.put_layout(&self.layout)?;
        Ok(writer)
    }

    fn put_states(&self, writer: &mut ImageWriter<File>) -> Result<()> {
        self.states.iter().try_for_each(|(name, state)| Ok(writer.put_state(name, state)?))
    }

    fn put_runs(&mut self, writer: &mut ImageWriter<File>, change: impl Fn(Vec<u8>) -> Vec<u8>) -> Result<()> {
        for (ranges, data) in &self.runs {
            writer.append(&self.encoder.pages(0, ranges, &change(data.clone()))?)?;
        }
        Ok(())
    }
}

/// The destination dies in the middle: the source runs on.
fn lost_destination(case: &Case) -> Result<()> {
    Roundtrip::of("threads_load").undergo(case, |pid| {
        let mut command = drive(case, &["send", &pid.to_string()])?;
        let mut source = case.start_with_stdin(command.stdin(Stdio::piped()).stdout(Stdio::null()))?;
        case.wait_until("it is frozen", || Case::state(pid) == Some('t'))?;
        // The end of its input is the end of the other side.
        source.close_stdin();
        ensure!(source.wait()? == Ending::Exited(0), "{}", source.streams());
        case.wait_until("it runs on", || matches!(Case::state(pid), Some('R' | 'S')))
    })
}

/// Connected sockets are refused by name, and reset on demand; a program that was moved so once can be moved again.
fn connections(case: &Case) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port().to_string();
    let mut program = Roundtrip::of("connected").args(&[&port]).start(case)?;
    let mut peers = (0..3).map(|_| Ok(listener.accept()?.0)).collect::<Result<Vec<_>>>()?;
    let pid = program.pid();
    let image = case.path("image");
    case.run(&mut case.checkpoint_command(pid, &image, &[]))?
        .expect_refusal(&[3], &[&pid.to_string(), "TCP", "connection", "--tcp=close"])?;
    let words = ["survey", &pid.to_string()];
    let surveyed = case.run(&mut drive(case, &words)?)?.expect(1)?;
    ensure!(surveyed.stderr.contains("--tcp=close"), "{surveyed:?}");
    let surveyed = case.run(drive(case, &words)?.env("DRIVER_TCP_CLOSE", "1"))?.expect(0)?;
    ensure!(surveyed.stdout.contains("is given up"), "{surveyed:?}");
    // What the peer had sent is lost with the connection.
    peers[0].write_all(b"hello")?;
    case.checkpoint(pid, &image, &["--tcp=close", "--stop"])?;
    ensure!(program.wait()? == Ending::Signaled(9), "{}", program.streams());
    let restored = case.restore(&image, &[])?;
    let again = case.path("again");
    case.checkpoint(case.restored_pid(&restored)?, &again, &["--stop"])?;
    let mut restored = case.restore(&again, &[])?;
    case.go()?;
    ensure!(restored.wait()? == Ending::Exited(0), "{}", restored.streams());
    ensure!(restored.stdout() == "as expected\n", "{}", restored.streams());
    Ok(())
}

/// A survey tells the same of a running program as a freeze, and the program is not stopped for it.
fn surveyed(case: &Case) -> Result<()> {
    let mut program = Roundtrip::of("busy").start(case)?;
    let pid = program.pid();
    let began = Instant::now();
    let finished = case.run(&mut drive(case, &["survey", &pid.to_string()])?)?.expect(0)?;
    let text = &finished.stdout;
    ensure!(began.elapsed() < Duration::from_secs(5), "it took {:?}", began.elapsed());
    for told in
        ["threads: 5", "bin/busy", "executable: true", "work/counters", "written: true", "libc.so.6", "build_id: Some"]
    {
        ensure!(text.contains(told), "no {told:?} in {text}");
    }
    ensure!(Case::state(pid) != Some('t') && Case::state(pid) != Some('T'), "{:?}", Case::state(pid));
    let mut refused = Roundtrip::of("refused").args(&["timerfd"]).start(case)?;
    let finished = case.run(&mut drive(case, &["survey", &refused.pid().to_string()])?)?.expect(1)?;
    ensure!(finished.stderr.contains("timerfd") && finished.stderr.contains("77"), "{finished:?}");
    case.go()?;
    ensure!(program.wait()? == Ending::Exited(0), "{}", program.streams());
    ensure!(refused.wait()? == Ending::Exited(0), "{}", refused.streams());
    Ok(())
}

/// A program that was started for any machine needs none of this one's newer features.
fn portable(case: &Case) -> Result<()> {
    let mut texts = Vec::new();
    for environment in [Vec::new(), ckpt_core::portable_environment()] {
        let mut command = case.program("heap")?;
        let mut program = case.start(command.envs(environment))?;
        program.wait_for_text("ready\n")?;
        texts.push(case.run(&mut drive(case, &["survey", &program.pid().to_string()])?)?.expect(0)?.stdout);
        case.go()?;
        ensure!(program.wait()? == Ending::Exited(0), "{}", program.streams());
        case.reset()?;
    }
    if !texts[0].contains("\"avx2\"") {
        return skip("this processor has no feature that could be left out");
    }
    for feature in ["avx2", "bmi2", "fma", "erms", "xsave"] {
        ensure!(!texts[1].contains(&format!("\"{feature}\"")), "{feature} is needed: {}", texts[1]);
    }
    ensure!(texts[1].contains("\"sse4_2\"") && texts[1].contains("measured_state: false"), "{}", texts[1]);
    ensure!(texts[0].contains("measured_state: true"), "{}", texts[0]);
    Ok(())
}
