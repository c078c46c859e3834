//! `push`: a program and its image are copied to a host, as one would with scp, and started there if wanted.
//!
//! What makes it more than scp: an interrupted copy goes on, what is there is not sent again, and files that the image refers to
//! and that are others there go along.

mod parcel;
mod start;

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use ckpt_core::Class;
use ckpt_core::resource::bytes::Bytes;
use ckpt_transfer::hosts::{Host, Hosts};
use ckpt_transfer::protocol::Target;
use ckpt_transfer::send::{self, SendError};
use ckpt_transfer::ssh::{Fate, Secrets, Session};
use serde_json::json;

use self::parcel::{Item, Parcel};
use crate::cli::PushArgs;
use crate::failure::Failure;
use crate::progress::Progress;
use crate::prompt::TerminalPrompter;
use crate::{output, text};

/// Copies a program and its image to a host; with `--start` gives the status with which it ends there.
pub fn push(args: &PushArgs) -> anyhow::Result<i32> {
    let parcel = Parcel::of(&args.job, args.start)?;
    let there = There::reach(args)?;
    let mut progress = Progress::new(args.json);
    let arrived = deliver(&parcel, &there, &mut progress)?;
    progress.clear();
    let name = text::plain(&parcel.name());
    let started = if args.start { Some(start::start(args.name.as_deref(), &parcel, &there, &arrived)?) } else { None };
    if args.json {
        output::print_json(&json!({
            "program": arrived.program,
            "image": arrived.image,
            "host": there.host.name,
            "sent": arrived.sent,
            "shown": arrived.shown.iter().map(|shown| json!({ "path": shown.path, "at": shown.at })).collect::<Vec<_>>(),
            "job": started,
        }))?;
        return Ok(0);
    }
    let sent =
        if arrived.sent == 0 { "was there already".to_owned() } else { format!("{} sent", text::size(arrived.sent)) };
    let told =
        format!("{name} and {name}.ckpt are in {} on {} ({sent})\n", text::plain(&there.directory), there.host.name);
    if let Some(job) = started {
        // What the program prints goes to standard output, and nothing else.
        eprintln!(
            "{told}{job} runs on {} as a job; what it prints follows. Ctrl+C leaves it running there",
            there.host.name
        );
        start::follow(&there, &job)
    } else {
        output::print(&format!("{told}{}\n", advice(args, &parcel, &there, &arrived)))?;
        Ok(0)
    }
}

fn advice(args: &PushArgs, parcel: &Parcel, there: &There, arrived: &Arrived) -> String {
    let again = format!("ckptctl push {} {} --start", text::quoted(&args.job), text::quoted(&args.host));
    match arrived.shown.len() {
        0 if parcel.is_linked => {
            let program = format!("./{}", parcel.name());
            let directory = text::quoted(&there.directory);
            format!("go on there with: cd {directory} && {} -r\nor from here with: {again}", text::quoted(&program))
        }
        0 => format!("go on with: {again}"),
        some => format!(
            "{} that it uses came along, since the host has others or none; go on with: {again}",
            text::count(u64::try_from(some).unwrap_or_default(), "file or directory", "files and directories"),
        ),
    }
}

/// The host, as far as it was got to know.
struct There {
    host: Host,
    hosts: Hosts,
    /// This program, there.
    ckptctl: String,
    /// Where the files go.
    directory: String,
    secrets: std::cell::RefCell<Secrets>,
}

impl There {
    fn reach(args: &PushArgs) -> anyhow::Result<Self> {
        let hosts = Hosts::load()?;
        let host = hosts.find(&args.host)?;
        let mut secrets = Secrets::new();
        let session = Session::connect(&host, &hosts, &mut TerminalPrompter, &mut secrets)?;
        let mut progress = Progress::new(args.json);
        let installed = session.install(&mut |done, total| progress.show("ckptctl", done, total))?;
        drop(progress);
        let given = args.directory.as_deref().or(host.directory.as_deref());
        let directory = match given.map(Path::to_str) {
            Some(Some(directory)) if directory.starts_with('/') => directory.to_owned(),
            Some(None) => return Err(not_utf8(given.unwrap_or(Path::new("")))),
            relative => {
                let finished = session.exec(&["pwd"])?.finish()?;
                let home =
                    String::from_utf8(finished.output).context("the home directory there has no readable name")?;
                let home = home.trim_end_matches('\n');
                relative.flatten().map_or_else(|| home.to_owned(), |relative| format!("{home}/{relative}"))
            }
        };
        drop(session);
        Ok(Self { ckptctl: installed.path, directory, secrets: std::cell::RefCell::new(secrets), host, hosts })
    }

    /// A session of its own: an agent takes one up.
    fn session(&self) -> anyhow::Result<Session> {
        Ok(Session::connect(&self.host, &self.hosts, &mut TerminalPrompter, &mut self.secrets.borrow_mut())?)
    }

    /// The words that run ckptctl there, where its jobs are.
    fn words(&self, words: &[&str]) -> Vec<String> {
        let place = self.host.directory.as_ref().map(|path| path.to_string_lossy().into_owned());
        let places = place.iter().flat_map(|place| {
            let set = ["XDG_STATE_HOME", "XDG_CACHE_HOME"].map(|name| format!("{name}={place}"));
            std::iter::once("env".to_owned()).chain(set)
        });
        places.chain([self.ckptctl.clone()]).chain(words.iter().map(|word| (*word).to_owned())).collect()
    }

    /// Whether a command succeeds there.
    fn does(&self, words: &[&str]) -> anyhow::Result<bool> {
        Ok(self.session()?.exec(words)?.finish()?.status == 0)
    }

    fn agent(&self) -> anyhow::Result<(UnixStream, Fate)> {
        let words = self.words(&["agent"]);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        Ok(self.session()?.exec(&words)?.pump()?)
    }
}

/// A file that the program finds at its old path only if it is shown there.
struct ShownThere {
    path: String,
    at: String,
    read_only: bool,
}

/// What is there now.
struct Arrived {
    program: String,
    image: String,
    shown: Vec<ShownThere>,
    /// Bytes.
    sent: u64,
}

/// Sends what the host lacks.
fn deliver(parcel: &Parcel, there: &There, progress: &mut Progress) -> anyhow::Result<Arrived> {
    let directory = utf8(&parcel.directory)?;
    // Without it new files of the program would have no place.
    let own = if there.does(&["test", "-d", directory])? { None } else { Some(directory) };
    if own.is_some() {
        let path = format!("{}/{}.files{directory}", there.directory, parcel.name());
        if !there.does(&["mkdir", "-p", &path])? {
            let message = format!(
                "{}: the directory {path} cannot be made there; name another one with --directory",
                there.host.name
            );
            return Err(Failure::new(Class::Remote, message).into());
        }
    }
    let (mut stream, fate) = there.agent()?;
    send_all(parcel, &there.directory, own, &mut stream, progress).map_err(|error| match error {
        Trouble::Sending(SendError::Refused { message, exit }) => {
            Failure::of_exit(exit, format!("{}: {message}", there.host.name)).into()
        }
        Trouble::Sending(SendError::Wire(error)) => {
            const MOMENT: Duration = Duration::from_secs(1);
            let why = fate.wait(MOMENT).unwrap_or_else(|| error.to_string());
            let message =
                format!("{}: the copy was interrupted: {why}; the same command goes on with it", there.host.name);
            Failure::new(Class::Remote, message).into()
        }
        Trouble::Sending(error) => error.into(),
        Trouble::Other(error) => error,
    })
}

enum Trouble {
    Sending(SendError),
    Other(anyhow::Error),
}

impl From<SendError> for Trouble {
    fn from(error: SendError) -> Self {
        Self::Sending(error)
    }
}

impl From<anyhow::Error> for Trouble {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

/// `own`: the program's working directory, where the host has none of that name.
fn send_all(
    parcel: &Parcel,
    directory: &str,
    own: Option<&str>,
    stream: &mut UnixStream,
    progress: &mut Progress,
) -> Result<Arrived, Trouble> {
    let name = parcel.name();
    let (program, image) = (format!("{directory}/{name}"), format!("{directory}/{name}.ckpt"));
    let mut wanted =
        vec![(&parcel.program, target(&parcel.program, &program)), (&parcel.image, target(&parcel.image, &image))];
    let beside = |path: &str| format!("{directory}/{name}.files{path}");
    let mut shown: Vec<ShownThere> =
        own.iter().map(|own| ShownThere { path: (*own).to_owned(), at: beside(own), read_only: false }).collect();
    for file in &parcel.files {
        let path = utf8(&file.item.known_as)?;
        if send::has(stream, &target(&file.item, path), file.item.size)?.is_none() {
            continue;
        }
        let is_in_own = own.is_some_and(|own| file.item.known_as.starts_with(own));
        let at = if file.is_program && !is_in_own { program.clone() } else { beside(path) };
        if at != program {
            wanted.push((&file.item, target(&file.item, &at)));
        }
        if !is_in_own {
            shown.push(ShownThere { path: path.to_owned(), at, read_only: file.read_only });
        }
    }
    let mut lacking = Vec::new();
    for (item, target) in wanted {
        if let Some(there) = send::has(stream, &target, item.size)? {
            lacking.push((item, target, there));
        }
    }
    let total = lacking.iter().map(|(item, _, there)| item.size - there).sum();
    let mut done = 0;
    for (item, target, there) in lacking {
        send::put(stream, &item.path, &target, item.size, there, &mut |count| {
            done += count;
            progress.show(&name, done, total);
        })?;
    }
    Ok(Arrived { program, image, shown, sent: total })
}

fn target(item: &Item, path: &str) -> Target {
    Target::File { path: Bytes(path.as_bytes().to_vec()), mode: item.mode, hash: item.hash.clone() }
}

fn utf8(path: &Path) -> anyhow::Result<&str> {
    path.to_str().ok_or_else(|| not_utf8(path))
}

fn not_utf8(path: &Path) -> anyhow::Error {
    let message =
        format!("{} is no UTF-8, and cannot be said to another host; give the file another name", text::path(path));
    Failure::new(Class::Failed, message).into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics says where")]

    use std::fs;
    use std::path::PathBuf;

    use ckpt_transfer::serve::serve;
    use ckpt_transfer::store::Store;
    use ckpt_transfer::wire;

    use super::parcel::Used;
    use super::*;

    #[test]
    fn what_the_host_lacks_goes_there_and_is_shown() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let item = |name: &str| {
            fs::write(at(name), name).unwrap();
            Item::of(&at(name), &at(name), 0o755).unwrap()
        };
        let gone =
            |item: Item| Item { known_as: PathBuf::from("/nowhere").join(item.path.file_name().unwrap()), ..item };
        let used = |item: Item, is_program| Used { item, is_program, read_only: true };
        let parcel = Parcel {
            program: item("count"),
            image: item("count.ckpt"),
            files: vec![
                used(gone(item("count")), true),
                used(item("same.so"), false),
                used(gone(item("other.so")), false),
            ],
            is_linked: true,
            directory: PathBuf::from("/nowhere"),
        };
        let (mut here, mut there) = UnixStream::pair().unwrap();
        let store = Store::at(at("cache"));
        std::thread::spawn(move || {
            while let Ok(Some((request, _))) = wire::receive(&mut there) {
                assert!(serve(&request, &mut there, &store).unwrap());
            }
        });
        let target = at("there").to_str().unwrap().to_owned();
        let Ok(arrived) = send_all(&parcel, &target, None, &mut here, &mut Progress::new(true)) else {
            panic!("not sent")
        };
        assert_eq!(fs::read_to_string(at("there/count")).unwrap(), "count");
        assert_eq!(fs::read_to_string(at("there/count.ckpt")).unwrap(), "count.ckpt");
        assert_eq!(fs::read_to_string(at("there/count.files/nowhere/other.so")).unwrap(), "other.so");
        let shown: Vec<_> = arrived.shown.iter().map(|shown| (shown.path.as_str(), shown.at.as_str())).collect();
        let expected = [
            ("/nowhere/count", format!("{target}/count")),
            ("/nowhere/other.so", format!("{target}/count.files/nowhere/other.so")),
        ];
        assert_eq!(shown, expected.each_ref().map(|(path, at)| (*path, at.as_str())));
        assert_eq!(arrived.sent, "count".len() as u64 + "count.ckpt".len() as u64 + "other.so".len() as u64);
        let Ok(again) = send_all(&parcel, &target, None, &mut here, &mut Progress::new(true)) else {
            panic!("not sent")
        };
        assert_eq!((again.sent, again.shown.len()), (0, 2));

        // The working directory is not there: it is shown as a whole, with what is in it.
        let Ok(own) = send_all(&parcel, &target, Some("/nowhere"), &mut here, &mut Progress::new(true)) else {
            panic!("not sent")
        };
        let shown: Vec<_> = own.shown.iter().map(|shown| (shown.path.as_str(), shown.read_only)).collect();
        assert_eq!(shown, [("/nowhere", false)]);
        assert_eq!(fs::read_to_string(at("there/count.files/nowhere/count")).unwrap(), "count");
    }
}
