//! The list of tests and the runner: two at a time, one log each, and every skip said aloud.

use std::any::Any;
use std::fmt;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Error, Result, anyhow};

use crate::case::Case;
use crate::stage::{self, Stage, Who};

const WORKERS: usize = 2;
const LIMIT: Duration = Duration::from_secs(100);
/// For a test that must see that something is given up.
const LONG_LIMIT: Duration = Duration::from_secs(200);

type Body = Box<dyn Fn(&Case) -> Result<()> + Send + Sync>;

/// Who a test runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whos {
    /// As an ordinary user and again as root.
    Both,
    /// Only as an ordinary user.
    User,
    /// Only as root.
    Root,
}

/// The error by which a test says that it cannot run here.
#[derive(Debug)]
pub struct Skip(String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// Ends a test as skipped.
///
/// # Errors
/// Always: the skip.
pub fn skip<T>(reason: impl Into<String>) -> Result<T> {
    Err(Skip(reason.into()).into())
}

/// All tests, by name.
pub struct Suite {
    tests: Vec<Test>,
    limit: Duration,
}

impl Default for Suite {
    fn default() -> Self {
        Self { tests: Vec::new(), limit: LIMIT }
    }
}

struct Test {
    name: String,
    who: Who,
    body: Arc<Body>,
    limit: Duration,
}

enum Outcome {
    Passed,
    Skipped(String),
    Failed(Error),
}

impl Suite {
    /// No tests yet; each of them may take so long.
    #[must_use]
    pub fn with_limit(limit: Duration) -> Self {
        Self { limit, ..Self::default() }
    }

    /// Adds a test, once for each of `whos`.
    pub fn add(&mut self, name: &str, whos: Whos, body: impl Fn(&Case) -> Result<()> + Send + Sync + 'static) {
        self.add_within(self.limit, name, whos, body);
    }

    /// Adds a test that may take longer, most of which it waits.
    pub fn add_long(&mut self, name: &str, whos: Whos, body: impl Fn(&Case) -> Result<()> + Send + Sync + 'static) {
        self.add_within(LONG_LIMIT, name, whos, body);
    }

    fn add_within(
        &mut self,
        limit: Duration,
        name: &str,
        whos: Whos,
        body: impl Fn(&Case) -> Result<()> + Send + Sync + 'static,
    ) {
        let body: Arc<Body> = Arc::new(Box::new(body));
        let whos = match whos {
            Whos::Both => &[Who::User, Who::Root][..],
            Whos::User => &[Who::User],
            Whos::Root => &[Who::Root],
        };
        for &who in whos {
            let as_who = if who == Who::User { "user" } else { "root" };
            self.tests.push(Test { name: format!("{name}@{as_who}"), who, body: Arc::clone(&body), limit });
        }
    }

    /// Runs the tests whose names contain one of the arguments (all without any) and prints the counts as the last line.
    /// `--list` only prints the names.
    pub fn run(mut self, arguments: impl Iterator<Item = String>) -> ExitCode {
        let (options, filters): (Vec<_>, Vec<_>) = arguments.partition(|a| a.starts_with('-'));
        self.tests.retain(|t| filters.is_empty() || filters.iter().any(|f| t.name.contains(f.as_str())));
        if options.iter().any(|o| o == "--list") {
            for test in &self.tests {
                println!("{}", test.name);
            }
            return ExitCode::SUCCESS;
        }
        if let Err(error) = shed_inheritance() {
            eprintln!("the tests cannot start themselves afresh: {error}");
            return ExitCode::FAILURE;
        }
        match Stage::set_up() {
            Ok(stage) => self.run_on(&Arc::new(stage)),
            Err(error) => {
                eprintln!("the tests cannot be set up: {error:#}");
                ExitCode::FAILURE
            }
        }
    }

    fn run_on(self, stage: &Arc<Stage>) -> ExitCode {
        let tests = Arc::new(self.tests);
        let next = Arc::new(AtomicUsize::new(0));
        let (sender, results) = mpsc::channel();
        for _ in 0..WORKERS {
            let (tests, next) = (Arc::clone(&tests), Arc::clone(&next));
            let (stage, sender) = (Arc::clone(stage), sender.clone());
            thread::spawn(move || {
                while let Some(test) = tests.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let begun = Instant::now();
                    let outcome = run_one(test, &stage);
                    let result = (test.name.clone(), outcome, begun.elapsed());
                    if sender.send(result).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let (mut passed, mut failed, mut skipped) = (0, 0, 0);
        for (name, outcome, took) in results {
            let took = took.as_secs_f64();
            match outcome {
                Outcome::Passed => {
                    passed += 1;
                    println!("ok {name} ({took:.1} s)");
                }
                Outcome::Skipped(reason) => {
                    skipped += 1;
                    println!("SKIPPED {name}: {reason}");
                }
                Outcome::Failed(error) => {
                    failed += 1;
                    println!("FAILED {name} ({took:.1} s): {error:#}");
                    println!("       log: {}", log_path(&name).display());
                }
            }
        }
        println!("{passed} passed, {failed} failed, {skipped} skipped");
        if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// Starts this program again without the descriptors that it was not meant to have: the jobserver of
/// cargo, or a pipe of whatever runs the tests. Every test's program would inherit them, and hold
/// what cannot be saved. And with signals as they are by default: a shell starts what runs in its background with Ctrl+C
/// ignored, which is inherited as well.
fn shed_inheritance() -> std::io::Result<()> {
    const SHED: &str = "CKPT_TESTS_SHED";
    const SCRIPT: &str = r#"for fd in /proc/$$/fd/*; do
            n=${fd##*/}; ((n > 2)) && eval "exec $n>&-" 2>/dev/null
        done; exec env --default-signal "$0" "$@""#;
    if std::env::var_os(SHED).is_some() {
        return Ok(());
    }
    let mut again = Command::new("bash");
    again.args(["-c", SCRIPT]).arg(std::env::current_exe()?).args(std::env::args_os().skip(1));
    Err(again.env(SHED, "1").exec())
}

fn run_one(test: &Test, stage: &Arc<Stage>) -> Outcome {
    if !Stage::can_be(test.who) {
        return Outcome::Skipped("the tests were not started as root".to_owned());
    }
    let result =
        open_log(&test.name).and_then(|log| Case::new(Arc::clone(stage), test.who, log, test.limit)).and_then(|case| {
            let result = catch_unwind(AssertUnwindSafe(|| (test.body)(&case)));
            let result = result.unwrap_or_else(|panic| Err(anyhow!("panicked: {}", said(&*panic))));
            if let Err(error) = &result {
                case.note(&format!("{error:#}"));
            }
            result
        });
    match result {
        Ok(()) => Outcome::Passed,
        Err(error) => match error.downcast::<Skip>() {
            Ok(skip) => Outcome::Skipped(skip.0),
            Err(error) => Outcome::Failed(error),
        },
    }
}

fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message")
}

fn log_path(name: &str) -> std::path::PathBuf {
    stage::cache().join("logs").join(format!("{name}.log"))
}

fn open_log(name: &str) -> Result<File> {
    let path = log_path(name);
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    Ok(File::create(path)?)
}
