//! A job's checkpoints: images with numbers, and what was told when they were made.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use ckpt_core::{CheckpointReport, Class};
use serde::{Deserialize, Serialize};

use super::store::{JobStore, now, read_json, write_json};
use crate::cli::HistoryArgs;
use crate::failure::Failure;
use crate::{output, text};

/// The history of one job.
#[derive(Debug, Clone)]
pub struct History {
    directory: PathBuf,
}

/// A checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Its number, from 1.
    pub number: u64,
    /// When it was made, in seconds since 1970.
    pub at: u64,
    /// Its size in bytes.
    pub bytes: u64,
    /// Pages of memory in it.
    pub pages: u64,
    /// Threads.
    pub threads: usize,
    /// How long the program could not run, in seconds.
    pub pause: f64,
    /// Whether the program was ended with it.
    pub ended: bool,
    /// What it looked like, and why it was made.
    #[serde(default, flatten)]
    pub scene: Scene,
}

/// A job as it was when a checkpoint was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scene {
    /// Why the checkpoint was made.
    pub reason: Reason,
    /// How many bytes the program had printed.
    pub output: u64,
    /// CPU time that it had used since it was started or restored, in seconds.
    pub cpu: u64,
    /// The lines of its terminal's screen.
    pub screen: Vec<String>,
    /// What makes a terminal as its was, of a program that has changed more than lines of text.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub terminal: String,
}

/// All that a history holds.
#[derive(Debug, Default)]
pub struct Contents {
    /// Those of which everything is known, oldest first.
    pub whole: Vec<Checkpoint>,
    /// The others, oldest first.
    pub damaged: Vec<Damaged>,
}

/// A checkpoint whose description cannot be understood. Its image may be good all the same.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Damaged {
    /// Its number.
    pub number: u64,
    /// Its image.
    pub image: PathBuf,
    /// What is damaged, and what to do.
    #[serde(rename = "damaged")]
    pub what: String,
}

/// Why a checkpoint was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Somebody asked for it.
    #[default]
    Asked,
    /// It was time: `ckptctl schedule`.
    Scheduled,
    /// The program was about to be moved.
    Move,
}

impl History {
    /// Of the job whose directory this is.
    pub fn of(directory: &Path) -> Self {
        Self { directory: directory.join("history") }
    }

    /// The image of a number.
    pub fn image(&self, number: u64) -> PathBuf {
        self.directory.join(format!("{number}.ckpt"))
    }

    /// The number of the next checkpoint, with a place for it.
    pub fn next(&self) -> anyhow::Result<u64> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.directory);
        made.with_context(|| format!("cannot make the directory {}", text::path(&self.directory)))?;
        Ok(self.numbers()?.last().map_or(1, |last| last + 1))
    }

    /// Enters a checkpoint whose image is complete.
    pub fn enter(&self, number: u64, report: &CheckpointReport, ended: bool, scene: Scene) -> anyhow::Result<()> {
        let checkpoint = Checkpoint {
            number,
            at: now(),
            bytes: report.bytes,
            pages: report.pages,
            threads: report.threads,
            pause: report.pause.as_secs_f64(),
            ended,
            scene,
        };
        write_json(&self.directory, &format!("{number}.json"), &checkpoint)
    }

    /// Removes a checkpoint.
    pub fn remove(&self, number: u64) -> anyhow::Result<()> {
        let image = self.image(number);
        fs::remove_file(&image).with_context(|| format!("cannot remove {}", text::path(&image)))?;
        // Without its image an entry means nothing.
        let _ = fs::remove_file(self.directory.join(format!("{number}.json")));
        Ok(())
    }

    /// All checkpoints of which everything is known, oldest first. One that is damaged is not among them: nothing may be
    /// decided by what it says.
    pub fn all(&self) -> anyhow::Result<Vec<Checkpoint>> {
        self.contents().map(|contents| contents.whole)
    }

    /// All checkpoints.
    pub fn contents(&self) -> anyhow::Result<Contents> {
        let mut contents = Contents::default();
        for number in self.numbers()? {
            match self.checkpoint(number) {
                Ok(checkpoint) => contents.whole.push(checkpoint),
                Err(damaged) => contents.damaged.push(damaged),
            }
        }
        Ok(contents)
    }

    /// The images of all checkpoints, oldest first.
    pub fn images(&self) -> anyhow::Result<Vec<PathBuf>> {
        Ok(self.numbers()?.into_iter().map(|number| self.image(number)).collect())
    }

    /// One whose entry was not written (its supervisor was killed) has its image's time and size.
    fn checkpoint(&self, number: u64) -> Result<Checkpoint, Damaged> {
        let image = self.image(number);
        let entry = self.directory.join(format!("{number}.json"));
        let damaged = |file: &Path, why: &str| {
            let advice = format!("its image may be good: ckptctl restore {}", text::quoted(&text::path(&image)));
            let what = format!("{} is damaged ({why}); {advice}", text::path(file));
            Damaged { number, image: image.clone(), what }
        };
        match read_json::<Checkpoint>(&entry) {
            Ok(Some(known)) if known.number == number => return Ok(known),
            Ok(Some(other)) => return Err(damaged(&entry, &format!("it describes the checkpoint {}", other.number))),
            Ok(None) => {}
            Err(error) => return Err(damaged(&entry, &error.root_cause().to_string())),
        }
        let stat = fs::metadata(&image).map_err(|error| damaged(&image, &error.to_string()))?;
        let at = stat.modified().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
        let at = at.unwrap_or(Duration::ZERO).as_secs();
        Ok(Checkpoint {
            number,
            at,
            bytes: stat.len(),
            pages: 0,
            threads: 0,
            pause: 0.0,
            ended: false,
            scene: Scene::default(),
        })
    }

    /// The checkpoint of a number, or the last one.
    pub fn find(&self, job: &str, number: Option<u64>) -> anyhow::Result<Checkpoint> {
        let all = self.numbers()?;
        let found = match number {
            Some(number) => all.into_iter().find(|one| *one == number),
            None => all.last().copied(),
        };
        if let Some(found) = found {
            return self.checkpoint(found).map_err(|one| {
                let which = format!("the checkpoint {found} of the job {job} cannot be had");
                Failure::new(Class::Failed, format!("{which}: {}, or another one: ckptctl history {job}", one.what))
                    .into()
            });
        }
        let what = number.map_or_else(|| "has no checkpoint".to_owned(), |n| format!("has no checkpoint {n}"));
        let message = format!("the job {job} {what}; `ckptctl history {job}` lists them");
        Err(Failure::new(Class::Failed, message).into())
    }

    /// The numbers that have an image, in ascending order.
    fn numbers(&self) -> anyhow::Result<Vec<u64>> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("cannot read {}", text::path(&self.directory)))?,
        };
        let mut numbers = Vec::new();
        for entry in entries {
            let name = entry.with_context(|| format!("cannot read {}", text::path(&self.directory)))?.file_name();
            numbers.extend(name.to_str().and_then(|name| name.strip_suffix(".ckpt")?.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }
}

/// The verb: lists a job's checkpoints.
pub fn history(args: &HistoryArgs) -> anyhow::Result<i32> {
    let store = JobStore::open()?;
    let job = store.job(&args.job)?;
    let contents = History::of(&store.directory(&job.name)).contents()?;
    if args.json {
        let all = &contents.whole;
        let changes = std::iter::once(None).chain(all.iter().map(Some)).zip(all);
        let listed: Vec<Listed<'_>> =
            changes.map(|(before, checkpoint)| Listed { checkpoint, change: change(before, checkpoint) }).collect();
        let (name, schedule, damaged) = (&job.name, &job.schedule, &contents.damaged);
        output::print_json(
            &serde_json::json!({ "job": name, "schedule": schedule, "checkpoints": listed, "damaged": damaged }),
        )?;
    } else {
        output::print(&table(&contents))?;
    }
    Ok(0)
}

/// A checkpoint as it is listed.
#[derive(Serialize)]
struct Listed<'a> {
    #[serde(flatten)]
    checkpoint: &'a Checkpoint,
    /// What changed since the one before, in words.
    change: String,
}

/// What changed from one checkpoint to the next, in words.
fn change(before: Option<&Checkpoint>, now: &Checkpoint) -> String {
    let Some(before) = before else { return String::new() };
    let mut changes = Vec::new();
    let printed = now.scene.output.saturating_sub(before.scene.output);
    if printed > 0 {
        changes.push(format!("{} printed", text::size(printed)));
    }
    if let Some(cpu) = now.scene.cpu.checked_sub(before.scene.cpu).filter(|cpu| *cpu > 0) {
        changes.push(format!("{} of CPU", text::age(cpu)));
    }
    match now.bytes.cmp(&before.bytes) {
        std::cmp::Ordering::Less => changes.push(format!("{} less", text::size(before.bytes - now.bytes))),
        std::cmp::Ordering::Greater => changes.push(format!("{} more", text::size(now.bytes - before.bytes))),
        std::cmp::Ordering::Equal => {}
    }
    if changes.is_empty() { "nothing to see".to_owned() } else { changes.join(", ") }
}

fn table(contents: &Contents) -> String {
    let all = &contents.whole;
    let whole = std::iter::once(None).chain(all.iter().map(Some)).zip(all).map(|(before, one)| {
        let cells = [
            one.number.to_string(),
            text::moment(i64::try_from(one.at).unwrap_or(i64::MAX).saturating_mul(1_000_000_000)),
            text::size(one.bytes),
            text::took(Duration::try_from_secs_f64(one.pause).unwrap_or_default()),
            match (one.scene.reason, one.ended) {
                (_, true) => "it was ended with it",
                (Reason::Asked, _) => "asked for",
                (Reason::Scheduled, _) => "by schedule",
                (Reason::Move, _) => "before a move",
            }
            .to_owned(),
            change(before, one),
        ];
        (one.number, cells.to_vec())
    });
    let damaged = contents.damaged.iter().map(|one| {
        let cells = [one.number.to_string().as_str(), "-", "-", "-", "damaged, see below", ""].map(str::to_owned);
        (one.number, cells.to_vec())
    });
    let mut rows: Vec<(u64, Vec<String>)> = whole.chain(damaged).collect();
    rows.sort_by_key(|(number, _)| *number);
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(_, cells)| cells).collect();
    let headings = ["N", "TIME", "SIZE", "PAUSE", "WHY", "CHANGED"];
    let mut out = text::table(&headings, &[true, false, true, true, false, false], &rows);
    for one in &contents.damaged {
        out.push_str(&text::plain(&format!("{}: {}", one.number, one.what)));
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics says where")]

    use super::*;

    #[test]
    fn an_image_without_an_entry_is_not_lost() {
        let directory = tempfile::tempdir().unwrap();
        let history = History::of(directory.path());
        assert!(history.all().unwrap().is_empty());
        assert_eq!(history.next().unwrap(), 1);
        let report = CheckpointReport {
            pid: 7,
            path: history.image(1),
            bytes: 10,
            pages: 3,
            threads: 2,
            pause: Duration::from_millis(5),
            total: Duration::from_millis(9),
        };
        fs::write(history.image(1), "image").unwrap();
        history.enter(1, &report, true, Scene::default()).unwrap();
        fs::write(history.image(10), "another image").unwrap();
        fs::write(history.image(3).with_extension("ckpt.7.unfinished"), "").unwrap();
        let all = history.all().unwrap();
        assert_eq!((all[0].number, all[0].pages, all[0].ended), (1, 3, true));
        assert_eq!((all[1].number, all[1].bytes), (10, 13));
        assert_eq!(history.next().unwrap(), 11);
        assert_eq!(history.find("sim", None).unwrap().number, 10);
        assert_eq!(history.find("sim", Some(1)).unwrap().number, 1);
        assert!(history.find("sim", Some(2)).unwrap_err().to_string().contains("no checkpoint 2"));
    }

    #[test]
    fn one_damaged_entry_does_not_hide_the_others() {
        let directory = tempfile::tempdir().unwrap();
        let history = History::of(directory.path());
        history.next().unwrap();
        let whole = |number| Checkpoint {
            number,
            at: 5,
            bytes: 10,
            pages: 3,
            threads: 1,
            pause: 0.5,
            ended: false,
            scene: Scene::default(),
        };
        let text = serde_json::to_string(&whole(1)).unwrap();
        let broken = [
            text[..text.len() / 2].to_owned(),
            String::new(),
            "nonsense".to_owned(),
            "[1]".to_owned(),
            text.replace("\"bytes\":10", "\"bytes\":\"many\""),
            text.replace("\"screen\":[]", "\"screen\":7"),
            text.replace("\"asked\"", "\"a whim\""),
            text.clone(),
        ];
        for number in 1..=3 {
            fs::write(history.image(number), "image").unwrap();
            write_json(&history.directory, &format!("{number}.json"), &whole(number)).unwrap();
        }
        for broken in broken {
            fs::write(history.directory.join("2.json"), &broken).unwrap();
            let contents = history.contents().unwrap();
            assert_eq!(contents.whole, [whole(1), whole(3)], "{broken}");
            let [damaged] = &contents.damaged[..] else { panic!("{contents:?}") };
            assert_eq!((damaged.number, &damaged.image), (2, &history.image(2)));
            assert!(damaged.what.contains("2.json is damaged ("), "{damaged:?}");
            assert!(damaged.what.ends_with(&format!("ckptctl restore {}", history.image(2).display())), "{damaged:?}");
            assert_eq!(history.find("sim", None).unwrap().number, 3);
            let refused = history.find("sim", Some(2)).unwrap_err().to_string();
            assert!(refused.contains("checkpoint 2 of the job sim") && refused.contains(&damaged.what), "{refused}");
            let table = table(&contents);
            let lines: Vec<&str> = table.lines().collect();
            assert!(lines[2].starts_with('2') && lines[2].contains("damaged"), "{table}");
            assert_eq!(lines[4], format!("2: {}", damaged.what));
        }
        // Which is the last one is not to be guessed.
        fs::write(history.directory.join("3.json"), "").unwrap();
        assert!(history.find("sim", None).unwrap_err().to_string().contains("checkpoint 3 of the job sim"));
        assert_eq!((history.all().unwrap(), history.images().unwrap().len()), (vec![whole(1)], 3));
    }
}
