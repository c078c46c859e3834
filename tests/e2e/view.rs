//! Files and directories that lie elsewhere now and are shown to the program where they were.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ckpt_tests::{Case, Ending, Roundtrip, Running, Suite, Whos, skip};
use serde_json::Value;

pub fn add(suite: &mut Suite) {
    suite.add("view::directory_that_is_gone", Whos::Both, |case| there_and_on(case, &[]));
    suite.add("view::directory_that_is_gone_in_a_nest", Whos::Root, |case| there_and_on(case, &["--nest", "always"]));
    suite.add("view::directory_in_the_root_directory", Whos::Both, in_the_root);
    suite.add("view::over_other_files_of_the_same_names", Whos::Both, over_others);
    suite.add("view::files_one_by_one", Whos::Both, one_by_one);
    suite.add("view::files_within_a_directory", Whos::Both, within);
    suite.add("view::symbolic_link_on_the_way", Whos::Both, link_on_the_way);
    suite.add("view::beside_thousands_of_files", Whos::Both, beside_thousands);
    suite.add("view::in_a_directory_that_may_not_be_listed", Whos::User, unlisted);
    suite.add("view::in_a_directory_that_may_not_be_searched", Whos::User, unsearched);
    suite.add("view::working_directory_that_may_not_be_searched", Whos::User, working_directory_unsearched);
    suite.add("view::without_namespaces", Whos::Both, |case| without_namespaces(case, None));
    suite.add("view::namespaces_forbidden", Whos::User, |case| without_namespaces(case, Some("no_user_namespaces")));
    suite.add("view::read_only", Whos::Both, read_only);
    for (name, program, args) in OTHERS {
        let name = format!("view::under_a_new_root_{name}");
        suite.add(&name, Whos::Both, |case| {
            Roundtrip::of(program).args(args).restore_flags(NEW_ROOT).generations(2).run(case)
        });
    }
    suite.add("view::files_that_have_changed", Whos::Both, changed);
    suite.add("view::what_cannot_be_shown", Whos::Both, refused);
}

/// Needs a new root directory, and nothing of what the programs use.
const NEW_ROOT: &[&str] = &["--show", "/ckpt-view/usr=/usr"];
const OTHERS: &[(&str, &str, &[&str])] = &[
    ("files", "files", &["regular"]),
    ("directory", "files", &["directory"]),
    ("devices", "files", &["devices"]),
    ("unlinked_file", "files", &["deleted"]),
    ("process", "process", &[]),
    ("pipes", "pipes", &["contents"]),
    ("threads", "threads_load", &[]),
];

/// Where the program is started, and where its files are moved to.
struct Moved {
    old: PathBuf,
    new: PathBuf,
    program: Running,
    image: PathBuf,
}

impl Moved {
    /// Starts the program in `old`, saves and ends it. The files stay.
    fn save(case: &Case, old: PathBuf, mode: &str) -> Result<Self> {
        fs::create_dir_all(&old)?;
        for name in ["bin", "in", "work"] {
            fs::create_dir(old.join(name))?;
            case.give(&old.join(name))?;
        }
        case.give(&old)?;
        fs::write(old.join("in/data"), "firstsecondthird")?;
        fs::write(old.join("in/more"), "more")?;
        let executable = old.join("bin/paths");
        fs::copy(case.stage().program("paths")?, &executable)?;
        let mut command = case.command(&executable);
        let mut program = case.start(command.arg(&old).arg(mode))?;
        program.wait_for_text("ready\n")?;
        let image = case.path("image");
        case.checkpoint(program.pid(), &image, &["--stop"])?;
        program.wait()?;
        Ok(Self { old, new: case.make_dir("elsewhere")?.join("new"), program, image })
    }

    /// Moves the files to `new`.
    fn away(self) -> Result<Self> {
        fs::rename(&self.old, &self.new)?;
        Ok(self)
    }

    fn show_all(&self) -> Vec<OsString> {
        vec!["--show".into(), show(&self.old, &self.new)]
    }

    /// What the program did by names is where its files are now.
    fn check_written(&self, by_name: bool) -> Result<()> {
        let log = fs::read_to_string(self.new.join("work/log"))?;
        let wanted = if by_name { "before\nafter\nrelative\nabsolute\n" } else { "before\nafter\n" };
        ensure!(log == wanted, "the log holds {log:?}");
        let made = fs::read_to_string(self.new.join("work/renamed")).unwrap_or_default();
        ensure!((made == "made") == by_name, "what it made holds {made:?}");
        Ok(())
    }
}

fn show(old: &Path, new: &Path) -> OsString {
    [old.as_os_str(), new.as_os_str()].join(std::ffi::OsStr::new("="))
}

fn machine(case: &Case) -> Result<PathBuf> {
    let machine = case.make_dir("machine")?;
    for name in ["empty", "full", "full/inner"] {
        fs::create_dir(machine.join(name))?;
    }
    fs::write(machine.join("full/file"), "here")?;
    fs::write(machine.join("file"), "file")?;
    symlink("full/file", machine.join("link"))?;
    symlink("nowhere", machine.join("dangling"))?;
    Ok(machine)
}

fn restore(case: &Case, image: &Path, flags: &[&str], shown: &[OsString]) -> Result<Running> {
    case.start(case.ckptctl(["restore"]).arg(image).args(flags).args(shown))
}

fn finishes_well(case: &Case, mut restored: Running) -> Result<Running> {
    case.go()?;
    let ending = restored.wait()?;
    ensure!(ending == Ending::Exited(0) && restored.stdout() == "as expected\n", "{}", restored.streams());
    Ok(restored)
}

/// All names below a directory with what is known of them, to be compared.
fn listing(directory: &Path) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let stat = fs::symlink_metadata(&path)?;
        all.push(format!("{} {:?} {:?}", path.display(), stat.permissions(), stat.modified()?));
        if stat.is_dir() {
            all.extend(listing(&path)?);
        }
    }
    all.sort();
    Ok(all)
}

fn mounts() -> Result<String> {
    Ok(fs::read_to_string("/proc/self/mountinfo")?)
}

/// Restores where the files are elsewhere, saves that again by its id and restores it again. The machine stays as it was.
fn there_and_on(case: &Case, flags: &[&str]) -> Result<()> {
    let machine = machine(case)?;
    let moved = Moved::save(case, machine.join("some/where/old"), "")?.away()?;
    fs::remove_dir_all(machine.join("some"))?;
    let before = (listing(&machine)?, mounts()?);
    let first = restore(case, &moved.image, flags, &moved.show_all())?;
    let second = case.path("second");
    case.checkpoint(case.restored_pid(&first)?, &second, &["--stop"])?;
    let inspected = case.run(case.ckptctl(["inspect", "--json"]).arg(&second))?.expect(0)?.json()?;
    let files = inspected["layout"]["files"].as_array().context("no files")?;
    let is_ours =
        |file: &&Value| file["path"].as_str().is_some_and(|path| path.starts_with(&*moved.old.to_string_lossy()));
    let kinds: Vec<(&str, &Value)> =
        files.iter().filter(is_ours).filter_map(|file| Some((file["path"].as_str()?, &file["kind"]))).collect();
    let unlinked = kinds.iter().filter(|(_, kind)| *kind != "linked").count();
    ensure!(kinds.len() == 5 && unlinked == 1, "executable, data, log, directory, and one unlinked: {kinds:?}");
    let restored = finishes_well(case, restore(case, &second, flags, &moved.show_all())?)?;
    moved.check_written(true)?;
    ensure!((listing(&machine)?, mounts()?) == before, "the machine has changed");
    let notes = restored.stderr();
    let is_told = notes.contains("kept in memory") && notes.contains(&*machine.join("some").to_string_lossy());
    ensure!(is_told, "what is made in {} is lost, which is not told: {notes:?}", machine.join("some").display());
    drop(moved.program);
    Ok(())
}

fn in_the_root(case: &Case) -> Result<()> {
    let top = PathBuf::from(format!("/ckpt-view-{}-{:?}", std::process::id(), case.who));
    if fs::create_dir(&top).is_err() {
        return skip("only root makes directories in the root directory");
    }
    let saved = Moved::save(case, top.join("old"), "").and_then(Moved::away);
    fs::remove_dir_all(&top)?;
    let moved = saved?;
    let before = mounts()?;
    let first = restore(case, &moved.image, &[], &moved.show_all())?;
    let second = case.path("second");
    let pid = case.restored_pid(&first)?;
    let root = fs::read_link(format!("/proc/{pid}/root"))?;
    ensure!(root == Path::new("/"), "its root directory is {}", root.display());
    case.checkpoint(pid, &second, &["--stop"])?;
    finishes_well(case, restore(case, &second, &[], &moved.show_all())?)?;
    moved.check_written(true)?;
    ensure!(!top.exists() && mounts()? == before, "the machine has changed");
    Ok(())
}

fn over_others(case: &Case) -> Result<()> {
    let machine = machine(case)?;
    let moved = Moved::save(case, machine.join("old"), "")?.away()?;
    for name in ["bin", "in", "work", "in/data"] {
        fs::create_dir_all(moved.old.join(name))?;
    }
    fs::write(moved.old.join("work/log"), "another log")?;
    let before = listing(&machine)?;
    let restored = finishes_well(case, restore(case, &moved.image, &[], &moved.show_all())?)?;
    moved.check_written(true)?;
    ensure!(listing(&machine)? == before, "the machine has changed");
    ensure!(!restored.stderr().contains("memory"), "nothing is in memory only: {}", restored.streams());
    Ok(())
}

/// Only single files and the directories that the program uses as such.
fn one_by_one(case: &Case) -> Result<()> {
    let machine = machine(case)?;
    let moved = Moved::save(case, machine.join("old"), "")?.away()?;
    let names = ["bin/paths", "in/data", "in/more", "in", "work"];
    let shown: Vec<OsString> =
        names.iter().flat_map(|name| ["--show".into(), show(&moved.old.join(name), &moved.new.join(name))]).collect();
    finishes_well(case, restore(case, &moved.image, &[], &shown)?)?;
    moved.check_written(true)
}

/// A file and a directory in a directory: one exists there, the other does not.
fn within(case: &Case) -> Result<()> {
    let machine = machine(case)?;
    let moved = Moved::save(case, machine.join("old"), "")?.away()?;
    let (data, work) = (case.path("elsewhere/data"), case.path("elsewhere/work"));
    fs::rename(moved.new.join("work"), &work)?;
    fs::rename(moved.new.join("in/data"), &data)?;
    fs::write(moved.new.join("in/data"), "another file")?;
    let before = listing(&moved.new)?;
    let mut shown = vec!["--show".into(), show(&moved.old.join("in/data"), &data)];
    shown.extend(["--show".into(), show(&moved.old.join("work"), &work)]);
    shown.extend(moved.show_all());
    finishes_well(case, restore(case, &moved.image, &[], &shown)?)?;
    ensure!(listing(&moved.new)? == before, "the directory that is shown has changed");
    fs::rename(work, moved.new.join("work"))?;
    moved.check_written(true)
}

/// What was a directory is a symbolic link to one here.
fn link_on_the_way(case: &Case) -> Result<()> {
    let machine = machine(case)?;
    let moved = Moved::save(case, machine.join("some/old"), "")?.away()?;
    fs::remove_dir(machine.join("some"))?;
    symlink("empty", machine.join("some"))?;
    let before = listing(&machine)?;
    finishes_well(case, restore(case, &moved.image, &[], &moved.show_all())?)?;
    moved.check_written(true)?;
    ensure!(listing(&machine)? == before, "the machine has changed");
    Ok(())
}

fn beside_thousands(case: &Case) -> Result<()> {
    let machine = machine(case)?;
    for number in 0..5000 {
        fs::write(machine.join(format!("file{number}")), "")?;
    }
    let moved = Moved::save(case, machine.join("old"), "")?.away()?;
    let began = Instant::now();
    let restored = restore(case, &moved.image, &[], &moved.show_all())?;
    case.restored_pid(&restored)?;
    let took = began.elapsed();
    case.note(&format!("restored beside 5000 files in {took:?}"));
    ensure!(took < Duration::from_secs(2), "it took {took:?}");
    finishes_well(case, restored)?;
    moved.check_written(true)
}

fn unlisted(case: &Case) -> Result<()> {
    let outer = case.make_dir("machine")?;
    let moved = Moved::save(case, outer.join("old"), "")?.away()?;
    if chown(&outer, Some(0), Some(0)).is_err() {
        return skip("only root gives directories away");
    }
    fs::write(outer.join("beside"), "")?;
    fs::set_permissions(&outer, fs::Permissions::from_mode(0o711))?;
    // Beside it is something that cannot be seen any more: the program counts what it did, could it count.
    let mut restored = restore(case, &moved.image, &[], &moved.show_all())?;
    case.go()?;
    ensure!(restored.wait()? == Ending::Exited(1), "{}", restored.streams());
    let said = restored.stdout();
    ensure!(said.matches("FAIL line").count() == 1 && said.contains("0 entries, were 1"), "{}", restored.streams());
    ensure!(restored.stderr().contains("machine/* of this machine"), "{}", restored.streams());
    moved.check_written(true)
}

/// A directory on the way belongs to somebody else and is closed: an empty one stands for it.
fn unsearched(case: &Case) -> Result<()> {
    let outer = case.make_dir("machine")?;
    let inner = case.make_dir("machine/inner")?;
    let moved = Moved::save(case, inner.join("old"), "")?.away()?;
    if chown(&outer, Some(0), Some(0)).is_err() {
        return skip("only root gives directories away");
    }
    fs::write(inner.join("beside"), "")?;
    fs::set_permissions(&outer, fs::Permissions::from_mode(0o700))?;
    let before = (listing(&outer)?, mounts()?);
    let restored = finishes_well(case, restore(case, &moved.image, &[], &moved.show_all())?)?;
    ensure!(restored.stderr().contains("machine/* of this machine"), "{}", restored.streams());
    ensure!((listing(&outer)?, mounts()?) == before, "the machine has changed");
    moved.check_written(true)
}

/// So it is with the working directory itself, where there can be an empty one.
fn working_directory_unsearched(case: &Case) -> Result<()> {
    let directory = case.make_dir("machine")?;
    let mut program = case.start(case.program("heap")?.current_dir(&directory))?;
    program.wait_for_text("ready\n")?;
    let image = case.path("image");
    case.checkpoint(program.pid(), &image, &["--stop"])?;
    program.wait()?;
    if chown(&directory, Some(0), Some(0)).is_err() {
        return skip("only root gives directories away");
    }
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700))?;
    let refused = case.run(case.ckptctl(["restore", "--nest", "never"]).arg(&image))?;
    refused.expect_refusal(&[7], &[&directory.to_string_lossy(), "may not be searched", "--show"])?;
    let restored = restore(case, &image, &[], &[])?;
    let pid = case.restored_pid(&restored)?;
    let seen = fs::read_link(format!("/proc/{pid}/cwd"))?;
    ensure!(seen == directory, "it is in {}", seen.display());
    finishes_well(case, restored).map(drop)
}

/// What is open and mapped is there, and the user is told that names are not.
fn without_namespaces(case: &Case, wrapper: Option<&str>) -> Result<()> {
    let moved = Moved::save(case, machine(case)?.join("old"), "no-names")?.away()?;
    let restored = match wrapper {
        None => restore(case, &moved.image, &["--nest", "never"], &moved.show_all())?,
        Some(wrapper) => {
            let mut command = case.program(wrapper)?;
            case.start(command.arg(case.stage().ckptctl()).arg("restore").arg(&moved.image).args(moved.show_all()))?
        }
    };
    let restored = finishes_well(case, restored)?;
    moved.check_written(false)?;
    let old = moved.old.display().to_string();
    let is_told = restored.stderr().lines().any(|line| line.contains("by name") && line.contains(&old));
    ensure!(is_told, "{}", restored.streams());
    Ok(())
}

fn read_only(case: &Case) -> Result<()> {
    let moved = Moved::save(case, machine(case)?.join("old"), "read-only")?.away()?;
    let only = |name: &str| ["--show-read-only".into(), show(&moved.old.join(name), &moved.new.join(name))];
    let shown: Vec<OsString> = moved.show_all().into_iter().chain(only("in")).collect();
    finishes_well(case, restore(case, &moved.image, &[], &shown)?)?;
    moved.check_written(true)?;
    fs::write(moved.new.join("work/log"), "before\n")?;
    let mut command = case.ckptctl(["restore"]);
    let refused = case.run(command.arg(&moved.image).args(moved.show_all()).args(only("work")))?;
    refused.expect_refusal(&[7], &["work/log", "Read-only"]).map(drop)
}

fn changed(case: &Case) -> Result<()> {
    let moved = Moved::save(case, machine(case)?.join("old"), "")?.away()?;
    let try_with =
        |flags: &[&str]| case.run(case.ckptctl(["restore"]).arg(&moved.image).args(flags).args(moved.show_all()));
    let log = moved.new.join("work/log");
    let named = [&*moved.old.join("work/log").to_string_lossy(), &*log.to_string_lossy()].map(str::to_owned);
    let named: Vec<&str> = named.iter().map(String::as_str).collect();
    fs::write(&log, "BEFORE\n")?;
    try_with(&[])?.expect_refusal(&[7], &named)?;
    fs::remove_file(&log)?;
    try_with(&[])?.expect_refusal(&[7], &named)?;
    fs::write(&log, "before\ngrown\n")?;
    case.give(&log)?;
    let restored = restore(case, &moved.image, &["--files", "rollback"], &moved.show_all())?;
    case.restored_pid(&restored)?;
    ensure!(fs::read_to_string(&log)? == "before\n", "it was not rolled back");
    finishes_well(case, restored)?;
    moved.check_written(true)?;
    // A library or executable must be the same.
    let executable = moved.new.join("bin/paths");
    fs::copy(case.stage().program("heap")?, &executable)?;
    let named = executable.to_string_lossy().into_owned();
    try_with(&["--files", "keep"])?.expect_refusal(&[7], &["mapped", &named]).map(drop)
}

fn refused(case: &Case) -> Result<()> {
    let moved = Moved::save(case, machine(case)?.join("old"), "")?.away()?;
    let with = |shown: &str| case.run(case.ckptctl(["restore"]).arg(&moved.image).args(["--show", shown]));
    let (old, new) = (moved.old.display().to_string(), moved.new.display().to_string());
    with(&format!("{old}={new}/missing"))?.expect_refusal(&[7], &["missing", "No such file"])?;
    with(&format!("/proc/x={new}"))?.expect_refusal(&[7], &["/proc"])?;
    with(&format!("{old}/..={new}"))?.expect_refusal(&[7], &[".."])?;
    with(&format!("x={new}"))?.expect(2)?;
    // Not enough is shown: what is missing is named.
    with(&format!("{old}/bin={new}/bin"))?.expect_refusal(&[7], &[&format!("{old}/")])?;
    with(&format!("{old}/in={new}/in"))?.expect_refusal(&[7], &[&format!("{old}/work")])?;
    let restored = restore(case, &moved.image, &[], &moved.show_all())?;
    finishes_well(case, restored)?;
    moved.check_written(true)
}
