//! An image in words.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use ckpt_core::resource::descriptors::{Inherited, Opened};
use ckpt_core::resource::files::{FileKind, FileState};
use ckpt_core::resource::memory::{Backing, Region};
use ckpt_core::resource::{Layout, ProcessLayout, ProcessState};

use super::{kind, name, protection};
use crate::image::Descriptions;
use crate::text;

/// The instruction pointer in `struct user_regs_struct`.
const RIP: usize = 16;
/// `SIG_IGN`.
const IGNORE: u64 = 1;

/// All that a person wants to know of an image.
pub fn report(file: &Path, image: &Descriptions) -> String {
    let mut out = String::new();
    let summary = &image.summary;
    let _ = writeln!(
        out,
        "{}: image of format {}.{}, {}, {}\nid {}",
        text::path(file),
        image.header.major,
        image.header.minor,
        text::size(summary.bytes),
        text::count(summary.records, "record", "records"),
        summary.id,
    );
    let machine = &image.layout.machine;
    let _ = writeln!(
        out,
        "made on {}, kernel {}, {}",
        text::plain(&machine.host),
        text::plain(&machine.kernel),
        text::plain(&machine.cpu)
    );
    for (index, (process, state)) in image.layout.processes.iter().zip(&image.states).enumerate() {
        out.push('\n');
        about_process(&mut out, process, state);
        about_threads(&mut out, state);
        about_memory(&mut out, image, index);
        about_descriptors(&mut out, &image.layout, state);
        about_timers_and_signals(&mut out, state);
    }
    about_files(&mut out, image);
    out
}

fn about_process(out: &mut String, process: &ProcessLayout, state: &ProcessState) {
    let words: Vec<String> = process.command.iter().map(|word| text::quoted(&word.text())).collect();
    let _ = writeln!(out, "process {} ({})", process.pid, text::plain(&process.name.text()));
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(out, "  {name:<10}{value}");
    };
    line("command", &text::plain(words.join(" ").trim_end_matches(" ''")));
    line("directory", &text::path(&state.process.cwd));
    line("saved", &text::moment(state.clocks.realtime));
    line("user", &format!("{}, group {}", state.credentials.uid, state.credentials.gid));
    if let Some(signal) = state.signals.stopped_by {
        line("stopped", &format!("by {}", signal_name(signal)));
    }
}

fn about_threads(out: &mut String, state: &ProcessState) {
    let _ = writeln!(out, "\nthreads ({})", state.threads.len());
    let rows: Vec<Vec<String>> = state
        .threads
        .iter()
        .map(|thread| {
            let ip = thread.registers.get(RIP).copied().unwrap_or_default();
            let wait = match &thread.wait {
                Some(wait) => {
                    format!("waits, {:.3} s left", std::time::Duration::from_nanos(wait.remaining).as_secs_f64())
                }
                None => String::new(),
            };
            vec![thread.tid.to_string(), text::plain(&thread.name.text()), format!("{ip:#x}"), wait]
        })
        .collect();
    indent(out, &text::table(&["TID", "NAME", "AT", ""], &[true, false, true, false], &rows));
}

fn about_memory(out: &mut String, image: &Descriptions, index: usize) {
    let layout = &image.layout;
    let regions = &layout.processes[index].memory.regions;
    let held = &image.held[index];
    let _ = writeln!(out, "\nmemory ({})", text::count(regions.len() as u64, "region", "regions"));
    let rows: Vec<Vec<String>> = regions
        .iter()
        .zip(held)
        .map(|(region, held)| {
            vec![
                format!("{:x}-{:x}", region.start, region.end),
                text::size(region.size()),
                if *held == 0 { "-".to_owned() } else { text::size(*held) },
                protection(region),
                kind(layout, index, region).to_owned(),
                what(layout, index, region),
            ]
        })
        .collect();
    let headings = ["ADDRESS", "SIZE", "STORED", "PROT", "KIND", "WHAT"];
    indent(out, &text::table(&headings, &[false, true, true, false, false, false], &rows));

    let mut totals: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (region, held) in regions.iter().zip(held) {
        let total = totals.entry(kind(layout, index, region)).or_default();
        *total = (total.0 + region.size(), total.1 + held);
    }
    let all = totals.values().fold((0, 0), |sum, total| (sum.0 + total.0, sum.1 + total.1));
    let rows: Vec<Vec<String>> = totals
        .into_iter()
        .chain([("all", all)])
        .map(|(kind, (size, held))| vec![kind.to_owned(), text::size(size), text::size(held)])
        .collect();
    out.push('\n');
    indent(out, &text::table(&["KIND", "SIZE", "STORED"], &[false, true, true], &rows));
    let pages = image.pages;
    if pages.bytes != pages.stored_bytes {
        let (bytes, stored) = (text::size(pages.bytes), text::size(pages.stored_bytes));
        let _ = writeln!(out, "  {bytes} of pages are compressed to {stored}");
    }
}

fn about_descriptors(out: &mut String, layout: &Layout, state: &ProcessState) {
    let open = &state.descriptors;
    let _ = writeln!(out, "\ndescriptors ({})", open.descriptors.len());
    let mut first: BTreeMap<usize, i32> = BTreeMap::new();
    for descriptor in &open.descriptors {
        first.entry(descriptor.description).or_insert(descriptor.fd);
    }
    for descriptor in &open.descriptors {
        let what = match (open.descriptions.get(descriptor.description), first.get(&descriptor.description)) {
            (_, Some(earlier)) if *earlier != descriptor.fd => format!("shared with {earlier}"),
            (Some(description), _) => {
                let what = opened(layout, &description.opened);
                format!("{what}, at {}, flags {:#o}", description.offset, description.flags)
            }
            (None, _) => "not described".to_owned(),
        };
        let exec = if descriptor.close_on_exec { ", close on exec" } else { "" };
        let _ = writeln!(out, "  {:>3}  {what}{exec}", descriptor.fd);
    }
}

fn opened(layout: &Layout, opened: &Opened) -> String {
    match opened {
        Opened::File(id) => match layout.files.iter().find(|file| file.id == *id) {
            Some(file) => text::path(&file.path),
            None => format!("file {id}"),
        },
        Opened::Device(path) => text::path(path),
        Opened::Terminal { path, .. } => format!("terminal {}", text::path(path)),
        Opened::Pipe(pipe) => {
            let end = if pipe.is_reading { "reading" } else { "writing" };
            format!("{end} end of pipe {}, {} bytes in it", pipe.inode, pipe.unread.len())
        }
        Opened::EventCounter(counter) => format!("eventfd, count {}", counter.count),
        Opened::Epoll(epoll) => format!("epoll of {} descriptors", epoll.watched.len()),
        Opened::ResetSocket(_) => "socket whose connection is over".to_owned(),
        Opened::Inherited(Inherited::Pipe) => "pipe of the launching shell".to_owned(),
        Opened::Inherited(Inherited::Socket) => "socket of the launching shell".to_owned(),
    }
}

fn about_timers_and_signals(out: &mut String, state: &ProcessState) {
    const NAMES: [&str; 3] = ["real", "virtual", "profiling"];
    let mut timers = String::new();
    for (name, [_, _, seconds, micros]) in NAMES.iter().zip(&state.timers.interval) {
        if (*seconds, *micros) != (0, 0) {
            let _ = writeln!(timers, "  interval timer ({name}), {seconds}.{micros:06} s left");
        }
    }
    for timer in &state.timers.posix {
        let [_, _, seconds, nanos] = timer.setting;
        let left = if (seconds, nanos) == (0, 0) { "off".to_owned() } else { format!("{seconds}.{nanos:09} s left") };
        let _ = writeln!(timers, "  POSIX timer {}, clock {}, {left}", timer.id, timer.clock);
    }
    if !timers.is_empty() {
        let _ = write!(out, "\ntimers\n{timers}");
    }
    let names = |ignored: bool| {
        let chosen = state.signals.actions.iter().filter(|action| (action.handler == IGNORE) == ignored);
        chosen.map(|action| signal_name(action.signal)).collect::<Vec<_>>().join(" ")
    };
    let pending = state.signals.pending.len() + state.threads.iter().map(|thread| thread.pending.len()).sum::<usize>();
    let lines = [("handled", names(false)), ("ignored", names(true)), ("pending", pending.to_string())];
    out.push_str("\nsignals\n");
    for (name, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        let _ = writeln!(out, "  {name:<10}{value}");
    }
}

fn about_files(out: &mut String, image: &Descriptions) {
    let _ = writeln!(out, "\nfiles ({})", image.layout.files.len());
    let rows: Vec<Vec<String>> = image
        .layout
        .files
        .iter()
        .map(|file| {
            let carried = match image.carried.get(&file.id) {
                Some(bytes) => text::size(*bytes),
                None if file.is_carried => text::size(0),
                None => "-".to_owned(),
            };
            vec![text::size(file.size), carried, format!("{}{}", text::path(&file.path), remark(file))]
        })
        .collect();
    indent(out, &text::table(&["SIZE", "CARRIED", "PATH"], &[true, true, false], &rows));
}

fn remark(file: &FileState) -> &'static str {
    match file.kind {
        FileKind::Linked => "",
        FileKind::Unlinked => " (unlinked)",
        FileKind::Memfd { .. } => " (memfd)",
    }
}

/// What is behind a region, in words.
fn what(layout: &Layout, process: usize, region: &Region) -> String {
    let mut what = text::plain(&name(layout, process, region));
    if let Backing::Shared { offset, .. } | Backing::File { offset, .. } = region.backing {
        let _ = write!(what, " at {offset:#x}");
    }
    if !region.traits.is_empty() {
        let names: Vec<String> = region.traits.iter().map(|set| format!("{set:?}")).collect();
        let _ = write!(what, "{}[{}]", if what.is_empty() { "" } else { " " }, names.join(" "));
    }
    what
}

/// `SIGINT` and the like; real-time signals count from SIGRTMIN.
fn signal_name(signal: i32) -> String {
    const FIRST_REAL_TIME: i32 = 32;
    match signal_hook::low_level::signal_name(signal) {
        Some(name) => name.to_owned(),
        None if signal >= FIRST_REAL_TIME => format!("real-time signal {signal}"),
        None => format!("signal {signal}"),
    }
}

fn indent(out: &mut String, text: &str) {
    for line in text.lines() {
        let _ = writeln!(out, "  {line}");
    }
}
