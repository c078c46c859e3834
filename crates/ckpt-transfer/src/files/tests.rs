#![allow(clippy::unwrap_used, reason = "a test that panics says where")]

use std::fs;
use std::os::unix::fs::symlink;

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
        manifest(&survey, &asked, &mut Hashes::default()).unwrap().0
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
        let mut files = departed.files().to_vec();
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
