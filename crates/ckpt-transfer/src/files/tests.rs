#![allow(clippy::unwrap_used, reason = "a test that panics says where")]

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use ckpt_core::resource::files::FileKind;
use ckpt_core::{Machine, Survey, SurveyedFile, Uses};

use super::*;
use crate::protocol::{FileEntry, FileRole, FilesPolicy};
use crate::store::Store;

/// Two machines in a directory: the program's paths are below `home` on the first one.
struct Stage {
    directory: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        let stage = Self { directory: tempfile::tempdir().unwrap() };
        fs::create_dir_all(stage.path("work/sub")).unwrap();
        fs::write(stage.path("work/in.txt"), "input").unwrap();
        fs::write(stage.path("work/out.txt"), "one\n").unwrap();
        fs::write(stage.path("work/sub/deep"), "deep").unwrap();
        symlink("in.txt", stage.path("work/link")).unwrap();
        fs::write(stage.path("lib.so"), "code").unwrap();
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn store(&self) -> Store {
        Store::at(self.path("cache"))
    }

    fn manifest(&self) -> Vec<FileEntry> {
        self.manifest_and_notes().0
    }

    fn manifest_and_notes(&self) -> (Vec<FileEntry>, Vec<String>) {
        let file = |name: &str, uses: Uses| SurveyedFile {
            path: self.path(name),
            kind: FileKind::Linked,
            uses,
            size: 0,
            mode: 0,
            modified: 0,
            build_id: None,
        };
        let survey = Survey {
            machine: Machine::this(),
            memory: 0,
            threads: 1,
            files: vec![
                file("lib.so", Uses { mapped: true, ..Uses::default() }),
                file("work/out.txt", Uses { written: true, ..Uses::default() }),
            ],
            directory: self.path("work"),
            notes: Vec::new(),
        };
        let asked = Asked { policy: FilesPolicy::Carry, with: &[], root: Path::new("/"), home: None };
        manifest(&survey, &asked, &mut Hashes::default()).unwrap()
    }

    /// Sends what is lacking into the store.
    fn send(&self, files: &[FileEntry], is_elsewhere: bool) -> usize {
        let (store, mut hashes) = (self.store(), Hashes::default());
        if is_elsewhere {
            // As if nothing were under the old paths.
            for file in files.iter().filter(|file| file.hash.is_some()) {
                store.keep(&file.path, file.hash.as_ref().unwrap()).unwrap();
            }
        }
        lacking(files, FilesPolicy::Carry, &store, &mut hashes).unwrap().len()
    }
}

#[test]
fn the_working_directory_goes_along_with_all_that_is_in_it() {
    let stage = Stage::new();
    let files = stage.manifest();
    let names: Vec<String> = files
        .iter()
        .map(|file| format!("{} {:?}", file.path.strip_prefix(stage.directory.path()).unwrap().display(), file.role))
        .collect();
    let expected = [
        "lib.so Code",
        "work Input",
        "work/in.txt Input",
        "work/link Input",
        "work/out.txt Output",
        "work/sub Input",
        "work/sub/deep Input",
    ];
    assert_eq!(names, expected);
}

#[test]
fn what_arrives_is_shown_as_it_was_and_follows_later_states() {
    let stage = Stage::new();
    let files = stage.manifest();
    assert_eq!(stage.send(&files, false), 0, "on the same machine nothing is lacking");
    assert_eq!(stage.send(&files, true), 0);
    let job = stage.path("job");
    let store = stage.store();
    let mut hashes = Hashes::default();
    // The source's files are gone here.
    fs::rename(stage.path("work"), stage.path("moved")).unwrap();
    fs::rename(stage.path("lib.so"), stage.path("moved.so")).unwrap();
    let placed = place(&files, FilesPolicy::Carry, &store, &mut hashes, &job).unwrap();
    let shown: Vec<&Path> = placed.shown.iter().map(|shown| shown.path.as_path()).collect();
    assert_eq!(shown, [stage.path("lib.so"), stage.path("work")]);
    let copy = &placed.shown[1].source;
    assert_eq!(fs::read_to_string(copy.join("sub/deep")).unwrap(), "deep");
    assert_eq!(fs::read_link(copy.join("link")).unwrap(), Path::new("in.txt"));
    assert!(placed.shown[0].read_only && !placed.shown[1].read_only);

    // A later state: one file more is gone, one has grown.
    fs::rename(stage.path("moved"), stage.path("work")).unwrap();
    fs::remove_file(stage.path("work/sub/deep")).unwrap();
    fs::write(stage.path("work/out.txt"), "one\ntwo\n").unwrap();
    let mut later = stage.manifest_without_code();
    later.extend(files.iter().filter(|file| file.role == FileRole::Code).cloned());
    let again = place(&later, FilesPolicy::Carry, &store, &mut hashes, &job).unwrap();
    assert_eq!(again.shown.len(), 2);
    assert!(!copy.join("sub/deep").exists());
    assert_eq!(fs::read_to_string(copy.join("out.txt")).unwrap(), "one\ntwo\n");
}

#[test]
fn what_was_put_in_place_ahead_is_left_alone() {
    let stage = Stage::new();
    let (old, store, job) = (stage.path("work/in.txt"), stage.store(), stage.path("job"));
    let settled = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(86400);
    fs::File::open(&old).unwrap().set_modified(settled).unwrap();
    let before = stage.manifest();
    stage.send(&before, true);
    // What it writes to changes before it is frozen: that is not here yet.
    fs::write(stage.path("work/out.txt"), "one\ntwo\n").unwrap();
    let after = stage.manifest();
    fs::rename(stage.path("work"), stage.path("moved")).unwrap();
    let mut hashes = Hashes::default();
    let work = below(&job, &stage.path("work"));
    place_ahead(&after, FilesPolicy::Carry, &store, &mut hashes, &job).unwrap();
    assert!(!work.join("out.txt").exists());
    let changed = |name: &str| {
        let stat = fs::symlink_metadata(work.join(name)).unwrap();
        (stat.ino(), stat.ctime(), stat.ctime_nsec())
    };
    let was = changed("in.txt");

    store.keep(&stage.path("moved/out.txt"), &blake3::hash(b"one\ntwo\n").to_hex()).unwrap();
    place(&after, FilesPolicy::Carry, &store, &mut hashes, &job).unwrap();
    assert_eq!(fs::read_to_string(work.join("out.txt")).unwrap(), "one\ntwo\n");
    assert_eq!(changed("in.txt"), was, "it was made once");
    // It is what it must be, whatever became of it meanwhile.
    fs::write(work.join("in.txt"), "INPUT").unwrap();
    place(&after, FilesPolicy::Carry, &store, &mut hashes, &job).unwrap();
    assert_eq!(fs::read_to_string(work.join("in.txt")).unwrap(), "input");
}

impl Stage {
    fn manifest_without_code(&self) -> Vec<FileEntry> {
        fs::write(self.path("lib.so"), "code").unwrap();
        let files = self.manifest();
        fs::remove_file(self.path("lib.so")).unwrap();
        files.into_iter().filter(|file| file.role != FileRole::Code).collect()
    }
}

#[test]
fn what_was_written_there_comes_home_and_conflicts_are_named() {
    let stage = Stage::new();
    let store = stage.store();
    let mut hashes = Hashes::default();
    let mut departed = Departed::new(stage.manifest());
    // What the program did there, described as its survey would.
    let there = {
        let elsewhere = stage.path("elsewhere");
        fs::create_dir_all(elsewhere.join("sub")).unwrap();
        fs::write(elsewhere.join("out.txt"), "one\ntwo\n").unwrap();
        fs::write(elsewhere.join("sub/new"), "new").unwrap();
        let mut files = departed.files().cloned().collect::<Vec<_>>();
        files.retain(|file| !file.path.ends_with("deep"));
        for (name, text) in [("out.txt", "one\ntwo\n"), ("sub/new", "new")] {
            let path = stage.path("work").join(name);
            files.retain(|file| file.path != path);
            let hash = blake3::hash(text.as_bytes()).to_hex().to_string();
            store.keep(&elsewhere.join(name), &hash).unwrap();
            let template = files.iter().find(|file| file.hash.is_some()).unwrap().clone();
            let (role, size) = (FileRole::Output, text.len() as u64);
            files.push(FileEntry { path, role, size, hash: Some(hash), ..template });
        }
        files
    };
    // Something outside of what went along does not get in.
    let mut hostile = there.clone();
    let outside = stage.path("victim");
    hostile.push(FileEntry { path: outside.clone(), ..there.last().unwrap().clone() });

    fs::write(stage.path("work/out.txt"), "mine").unwrap();
    let refused = bring_home(&hostile, &mut departed, &store, &mut hashes, false, true).unwrap_err().to_string();
    assert!(refused.contains("out.txt") && refused.contains("--overwrite"), "{refused}");
    assert_eq!(fs::read_to_string(stage.path("work/out.txt")).unwrap(), "mine");

    let brought = bring_home(&hostile, &mut departed, &store, &mut hashes, true, true).unwrap();
    assert_eq!(brought, [stage.path("work/out.txt"), stage.path("work/sub/new")]);
    assert_eq!(fs::read_to_string(stage.path("work/out.txt")).unwrap(), "one\ntwo\n");
    assert!(!stage.path("work/sub/deep").exists(), "it was removed there");
    assert!(!outside.exists());
    assert!(bring_home(&there, &mut departed, &store, &mut hashes, false, true).unwrap().is_empty());
}

/// A file that another machine tells of, whose contents are in the store.
fn told(stage: &Stage, path: PathBuf, text: &str) -> FileEntry {
    let source = stage.path("told");
    fs::write(&source, text).unwrap();
    let hash = blake3::hash(text.as_bytes()).to_hex().to_string();
    stage.store().keep(&source, &hash).unwrap();
    let size = text.len() as u64;
    let (hash, build_id, link) = (Some(hash), None, None);
    FileEntry { path, role: FileRole::Output, mode: 0o100_644, size, modified: 5, hash, build_id, link }
}

fn link(path: PathBuf, target: &Path) -> FileEntry {
    let link = Some(ckpt_core::resource::bytes::Bytes(target.as_os_str().as_bytes().to_vec()));
    FileEntry { path, role: FileRole::Input, mode: 0o120_777, size: 0, modified: 5, hash: None, build_id: None, link }
}

#[test]
fn no_link_leads_out_of_the_jobs_own_directory() {
    let stage = Stage::new();
    let (store, job, outside) = (stage.store(), stage.path("job"), stage.path("outside"));
    fs::create_dir(&outside).unwrap();
    let hostile = [link(PathBuf::from("/w/x"), &outside), told(&stage, PathBuf::from("/w/x/passwd"), "mine")];
    let refused = place(&hostile, FilesPolicy::Carry, &store, &mut Hashes::default(), &job).unwrap_err().to_string();
    assert!(refused.contains("stands in the way"), "{refused}");
    // One that the program made when it was here before.
    fs::create_dir_all(job.join("v")).unwrap();
    symlink(&outside, job.join("v/x")).unwrap();
    let again = [told(&stage, PathBuf::from("/v/x/passwd"), "mine")];
    assert!(place(&again, FilesPolicy::Carry, &store, &mut Hashes::default(), &job).is_err());
    // Where the link itself was, a file may be.
    let replaced = [told(&stage, PathBuf::from("/v/x"), "mine")];
    place(&replaced, FilesPolicy::Carry, &store, &mut Hashes::default(), &job).unwrap();
    assert_eq!(fs::read_to_string(job.join("v/x")).unwrap(), "mine");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn no_link_leads_out_at_home() {
    let stage = Stage::new();
    let (store, outside) = (stage.store(), stage.path("outside"));
    fs::create_dir(&outside).unwrap();
    let mut departed = Departed::new(stage.manifest());
    let home = |files: &[FileEntry], departed: &mut Departed| {
        bring_home(files, departed, &store, &mut Hashes::default(), true, true).map_err(|error| error.to_string())
    };
    let mut hostile = departed.files().cloned().collect::<Vec<_>>();
    hostile.push(link(stage.path("work/way"), &outside));
    hostile.push(told(&stage, stage.path("work/way/passwd"), "mine"));
    assert!(home(&hostile, &mut departed).unwrap_err().contains("stands in the way"));
    hostile.pop();
    let up = format!("{}/work/../outside/passwd", stage.directory.path().display());
    hostile.push(told(&stage, PathBuf::from(up), "mine"));
    home(&hostile, &mut departed).unwrap();
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert_eq!(fs::read_link(stage.path("work/way")).unwrap(), outside, "a link is no more than a link");

    // A directory that became a link here: what is removed there is not removed behind the link.
    let mut departed = Departed::new(stage.manifest());
    fs::rename(stage.path("work/sub"), outside.join("sub")).unwrap();
    symlink(outside.join("sub"), stage.path("work/sub")).unwrap();
    let gone: Vec<_> = departed.files().filter(|file| !file.path.ends_with("deep")).cloned().collect();
    home(&gone, &mut departed).unwrap();
    assert!(outside.join("sub/deep").exists());
}

#[test]
fn what_only_changed_here_stays_as_it_is_here() {
    let stage = Stage::new();
    let mut departed = Departed::new(stage.manifest());
    let there = departed.files().cloned().collect::<Vec<_>>();
    fs::write(stage.path("work/in.txt"), "edited while it was away").unwrap();
    fs::remove_file(stage.path("work/link")).unwrap();
    fs::write(stage.path("work/link"), "no link now").unwrap();
    assert!(conflicts(&there, &departed, &mut Hashes::default()).unwrap().is_empty());
    let brought = bring_home(&there, &mut departed, &stage.store(), &mut Hashes::default(), false, true).unwrap();
    assert!(brought.is_empty(), "{brought:?}");
    assert_eq!(fs::read_to_string(stage.path("work/in.txt")).unwrap(), "edited while it was away");

    // A link that changed there stands against a file that was changed here.
    let mut other = there;
    other.retain(|file| !file.path.ends_with("link"));
    other.push(link(stage.path("work/link"), Path::new("out.txt")));
    assert_eq!(conflicts(&other, &departed, &mut Hashes::default()).unwrap(), [stage.path("work/link")]);
}

#[test]
fn times_and_modes_come_along() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let stage = Stage::new();
    fs::set_permissions(stage.path("work/in.txt"), fs::Permissions::from_mode(0o440)).unwrap();
    let files = stage.manifest();
    stage.send(&files, true);
    let job = stage.path("job");
    place(&files, FilesPolicy::Carry, &stage.store(), &mut Hashes::default(), &job).unwrap();
    for name in ["work", "work/in.txt", "work/sub", "work/sub/deep", "work/link"] {
        let old = fs::symlink_metadata(stage.path(name)).unwrap();
        let new = fs::symlink_metadata(below(&job, &stage.path(name))).unwrap();
        assert_eq!((old.mode(), old.mtime(), old.mtime_nsec()), (new.mode(), new.mtime(), new.mtime_nsec()), "{name}");
    }
}

#[test]
fn what_is_no_file_stays_and_is_told() {
    let stage = Stage::new();
    let _socket = std::os::unix::net::UnixListener::bind(stage.path("work/socket")).unwrap();
    let (files, notes) = stage.manifest_and_notes();
    assert!(!files.iter().any(|file| file.path.ends_with("socket")));
    assert!(notes.iter().any(|note| note.contains("work/socket") && note.contains("a socket")), "{notes:?}");
}

#[test]
fn a_file_that_is_read_may_have_grown_where_it_is_expected() {
    let stage = Stage::new();
    let files = stage.manifest();
    fs::write(stage.path("work/in.txt"), "input and more").unwrap();
    lacking(&files, FilesPolicy::Expect, &stage.store(), &mut Hashes::default()).unwrap();
    fs::write(stage.path("work/in.txt"), "output and more").unwrap();
    assert!(lacking(&files, FilesPolicy::Expect, &stage.store(), &mut Hashes::default()).is_err());
}

#[test]
fn expected_files_must_be_the_same() {
    let stage = Stage::new();
    let files = stage.manifest();
    let store = stage.store();
    lacking(&files, FilesPolicy::Expect, &store, &mut Hashes::default()).unwrap();
    fs::write(stage.path("work/in.txt"), "other").unwrap();
    let error = lacking(&files, FilesPolicy::Expect, &store, &mut Hashes::default()).unwrap_err().to_string();
    assert!(error.contains("in.txt") && error.contains("another file"), "{error}");
    fs::remove_file(stage.path("work/in.txt")).unwrap();
    let error = lacking(&files, FilesPolicy::Shared, &store, &mut Hashes::default()).unwrap_err().to_string();
    assert!(error.contains("in.txt") && error.contains("not there"), "{error}");
}

#[test]
fn paths_from_elsewhere_are_not_believed() {
    for bad in ["", "relative", "/a/../../etc", "/a/./b/..", "/a\0b"] {
        assert!(!is_plain(Path::new(bad)), "{bad:?}");
    }
    assert!(is_plain(Path::new("/home/ada/x")));
    let stage = Stage::new();
    let mut files = stage.manifest();
    files[1].path = PathBuf::from("/tmp/../etc/passwd");
    assert!(place(&files, FilesPolicy::Carry, &stage.store(), &mut Hashes::default(), &stage.path("job")).is_err());
}
