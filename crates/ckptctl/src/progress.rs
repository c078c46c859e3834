//! How far a long act is: one line on the terminal, written over. Nothing where standard error is no terminal.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::text;

/// All of it is only there when that is verified: until then there is no 100.
const MOST: u64 = 99;
const REDRAWS: u8 = 10;
/// How often the engine is looked at.
const TICK: Duration = Duration::from_millis(100);

/// A line that shows bytes, rate and time left.
pub struct Progress {
    bar: ProgressBar,
    phase: String,
}

impl Progress {
    /// One that shows nothing yet; never anything when `is_quiet`.
    pub fn new(is_quiet: bool) -> Self {
        let is_shown = !is_quiet && std::io::stderr().is_terminal();
        let target = if is_shown { ProgressDrawTarget::stderr_with_hz(REDRAWS) } else { ProgressDrawTarget::hidden() };
        Self { bar: ProgressBar::with_draw_target(Some(0), target).with_style(style()), phase: String::new() }
    }

    /// So far is the act: `done` of `total` bytes. A total of 0 is one that is not known.
    pub fn show(&mut self, phase: &str, done: u64, total: u64) {
        if self.phase != phase {
            phase.clone_into(&mut self.phase);
            // Another rate.
            self.bar.reset();
            self.bar.set_message(text::plain(phase));
        }
        self.bar.set_length(total);
        self.bar.set_position(done);
    }

    /// Takes the line away, so that something else can be printed.
    pub fn clear(&mut self) {
        self.bar.finish_and_clear();
        self.phase.clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Tells how far the engine is with a program's memory, until it is dropped.
pub struct Watching {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watching {
    /// `tell` gets the bytes done and the bytes in all, again and again. Of what is over at once it hears nothing.
    pub fn start(
        engine: Arc<ckpt_core::Progress>,
        mut tell: impl FnMut(u64, u64) + Send + 'static,
    ) -> anyhow::Result<Self> {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let telling = move || {
            while !over.load(Ordering::Relaxed) {
                let (done, total) = (engine.done(), engine.total());
                if done > 0 && total > 0 {
                    // How much it is in all is only known about.
                    tell(done.min(total), total);
                }
                thread::park_timeout(TICK);
            }
        };
        let thread = thread::Builder::new().name("progress".to_owned()).spawn(telling);
        Ok(Self { is_over, thread: Some(thread.context("no thread could be made")?) })
    }

    /// Ends it. From then on nothing more is told; for that, what is being told now is waited for.
    pub fn end(mut self) {
        let thread = self.thread.take();
        drop(self);
        if let Some(thread) = thread {
            thread.thread().unpark();
            // It does nothing that could fail.
            let _ = thread.join();
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

fn style() -> ProgressStyle {
    let plain = ProgressStyle::default_bar();
    let style =
        ProgressStyle::with_template("{msg:<10} {percent_of} {bar:24} {amount}  {rate}  {left}").unwrap_or(plain);
    style
        .progress_chars("=> ")
        .with_key("percent_of", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            // The terminal cannot refuse what is written into memory.
            let _ = out.write_str(&percent(state.pos(), state.len().unwrap_or(0)));
        })
        .with_key("amount", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            let _ = out.write_str(&amount(state.pos(), state.len().unwrap_or(0)));
        })
        .with_key("rate", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            let _ = out.write_str(&rate(state.per_sec()));
        })
        .with_key("left", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            let is_known = state.len().is_some_and(|total| total > state.pos()) && state.per_sec() > 0.0;
            let _ = out.write_str(&if is_known { left(state.eta()) } else { String::new() });
        })
}

fn percent(done: u64, total: u64) -> String {
    match done.saturating_mul(100).checked_div(total) {
        Some(percent) => format!("{:>3}%", percent.min(MOST)),
        None => "    ".to_owned(),
    }
}

fn amount(done: u64, total: u64) -> String {
    if total == 0 { text::size(done) } else { format!("{} of {}", text::size(done), text::size(total)) }
}

fn rate(per_second: f64) -> String {
    // Out of range only before the first byte.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "for people")]
    let per_second = per_second.max(0.0) as u64;
    format!("{}/s", text::size(per_second))
}

fn left(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..60 => format!("{seconds} s left"),
        seconds => format!("{}:{:02} min left", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_bytes_rate_and_time_left() {
        assert_eq!(percent(0, 10), "  0%");
        assert_eq!(percent(10, 10), " 99%", "it is not verified yet");
        assert_eq!(percent(5, 0), "    ");
        assert_eq!(amount(512, 1024), "512 B of 1 KiB");
        assert_eq!(amount(512, 0), "512 B");
        assert_eq!(rate(1536.2), "1.5 KiB/s");
        assert_eq!(left(Duration::from_secs(59)), "59 s left");
        assert_eq!(left(Duration::from_secs(125)), "2:05 min left");
    }

    #[test]
    fn nothing_is_told_of_what_has_not_begun() {
        let (told, hearing) = std::sync::mpsc::channel();
        let tell = move |done, total| told.send((done, total)).unwrap_or_default();
        let Ok(watching) = Watching::start(Arc::default(), tell) else { panic!("no thread") };
        watching.end();
        assert!(hearing.recv().is_err());
    }

    #[test]
    fn the_template_is_understood() {
        assert!(ProgressStyle::with_template("{msg:<10} {percent_of} {bar:24} {amount}  {rate}  {left}").is_ok());
    }
}
