#![allow(clippy::unwrap_used)] // a test that cannot set itself up shall fail

use std::io::Write;
use std::time::{Duration, SystemTime};

use super::*;

/// A directory of the test's own, on a real file system.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ckpt-files-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Makes a captured file again, beside where it was.
fn recreate(state: &FileState) -> File {
    let beside = File::open(state.path.parent().unwrap()).ok();
    state.recreate(beside.map(OwnedFd::from).as_ref()).unwrap()
}

fn capture(path: &Path) -> FileState {
    let file = File::open(path).unwrap();
    let stat = file.metadata().unwrap();
    FileState::capture(0, path.to_path_buf(), FileKind::Linked, Some(&file), &stat).unwrap()
}

/// Makes the time of modification another one, whatever the clock's resolution.
fn touch(path: &Path) {
    let later = SystemTime::now() + Duration::from_secs(5);
    File::options().write(true).open(path).unwrap().set_modified(later).unwrap();
}

#[test]
fn what_a_file_is_like_today() {
    let dir = Dir::new("compare");
    let path = dir.file("log", b"first line\n");
    let state = capture(&path);
    assert_eq!(state.compare(&path).unwrap(), Change::Same);
    touch(&path);
    assert_eq!(state.compare(&path).unwrap(), Change::Same, "touched, with the same contents");

    File::options().append(true).open(&path).unwrap().write_all(b"second line\n").unwrap();
    assert_eq!(state.compare(&path).unwrap(), Change::Grown);
    fs::write(&path, b"other line\n").unwrap();
    touch(&path);
    assert_eq!(state.compare(&path).unwrap(), Change::Changed, "as long, but other contents");
    fs::write(&path, b"other line\nsecond line\n").unwrap();
    assert_eq!(state.compare(&path).unwrap(), Change::Changed, "longer, with another beginning");
    fs::write(&path, b"first").unwrap();
    assert_eq!(state.compare(&path).unwrap(), Change::Changed, "shorter");
    fs::remove_file(&path).unwrap();
    assert_eq!(state.compare(&path).unwrap(), Change::Missing);
    fs::create_dir(&path).unwrap();
    assert_eq!(state.compare(&path).unwrap(), Change::OtherKind, "a directory now");
}

/// A copy on another machine has another inode and another time.
#[test]
fn a_copy_is_the_same() {
    let dir = Dir::new("copy");
    let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let state = capture(&dir.file("one", &bytes));
    let copy = dir.file("two", &bytes);
    touch(&copy);
    assert_eq!(state.compare(&copy).unwrap(), Change::Same);
    // An empty file is told from one that is missing, and can grow.
    let empty = dir.file("empty", b"");
    let state = capture(&empty);
    assert_eq!(state.compare(&dir.file("also-empty", b"")).unwrap(), Change::Same);
    assert_eq!(state.compare(&copy).unwrap(), Change::Grown);
}

/// Beginning and end are looked at; the end of a file that grew is where it ended.
#[test]
fn large_files_are_recognized_by_both_ends() {
    let dir = Dir::new("large");
    let mut bytes: Vec<u8> = (0..=250).cycle().take(1 << 20).collect();
    let path = dir.file("data", &bytes);
    let state = capture(&path);
    assert_eq!((state.size, state.fingerprint.len()), (1 << 20, 64));
    for at in [0, 65_535, (1 << 20) - 65_536, (1 << 20) - 1] {
        bytes[at] ^= 1;
        assert_eq!(state.compare(&dir.file("edited", &bytes)).unwrap(), Change::Changed, "byte {at}");
        bytes[at] ^= 1;
    }
    bytes.extend_from_slice(b"more");
    assert_eq!(state.compare(&dir.file("grown", &bytes)).unwrap(), Change::Grown);
}

/// Sizes around what one and two samples hold.
#[test]
fn every_byte_of_a_small_file_counts() {
    let dir = Dir::new("samples");
    for size in [1_usize, 65_535, 65_536, 65_537, 131_071, 131_072] {
        let mut bytes = vec![7; size];
        let state = capture(&dir.file("before", &bytes));
        for at in [0, size / 2, size - 1] {
            bytes[at] ^= 1;
            assert_eq!(state.compare(&dir.file("after", &bytes)).unwrap(), Change::Changed, "{at} of {size}");
            bytes[at] ^= 1;
        }
        assert_eq!(state.compare(&dir.file("after", &bytes)).unwrap(), Change::Same);
    }
}

#[test]
fn a_directory_is_the_same_as_long_as_it_is_one() {
    let dir = Dir::new("directory");
    let stat = fs::metadata(&dir.0).unwrap();
    let state = FileState::capture(3, dir.0.clone(), FileKind::Linked, None, &stat).unwrap();
    assert!(state.fingerprint.is_empty() && state.build_id.is_none());
    dir.file("new", b"");
    assert_eq!(state.compare(&dir.0).unwrap(), Change::Same);
    assert_eq!(state.compare(&dir.0.join("new")).unwrap(), Change::OtherKind);
}

/// Debian's programs carry a build id; it is the one that `file` and `readelf -n` show.
#[test]
fn programs_are_known_by_their_build_id() {
    let path = fs::canonicalize("/bin/ls").unwrap();
    let id = capture(&path).build_id.expect("/bin/ls has a build id");
    assert!(id.len() == 40 && id.bytes().all(|digit| digit.is_ascii_hexdigit()), "{id}");
    let dir = Dir::new("build-id");
    assert_eq!(capture(&dir.file("text", b"#!/bin/sh\n")).build_id, None);
    assert_eq!(capture(&dir.file("cut", &fs::read(&path).unwrap()[..100])).build_id, None);
}

/// A file without a name is made where the first one was, and leaves none.
#[test]
fn an_unlinked_file_is_made_again_without_a_name() {
    let dir = Dir::new("recreate");
    let path = dir.file("gone", b"contents");
    let mut state = capture(&path);
    state.kind = FileKind::Unlinked;
    fs::remove_file(&path).unwrap();
    let mut file = recreate(&state);
    assert!(!path.exists());
    let stat = file.metadata().unwrap();
    assert_eq!((stat.nlink(), stat.dev(), stat.len()), (0, state.inode.0, 0));
    file.write_all(b"it can be written").unwrap();
    let mut back = [0; 2];
    file.read_exact_at(&mut back, 3).unwrap();
    assert_eq!(&back, b"ca");
}

/// What stands at the path now is someone else's and stays untouched.
#[test]
fn another_file_at_the_path_is_left_alone() {
    let dir = Dir::new("taken");
    let path = dir.file("name", b"old");
    let mut state = capture(&path);
    state.kind = FileKind::Unlinked;
    fs::write(&path, b"new").unwrap();
    let file = recreate(&state);
    assert_eq!((file.metadata().unwrap().nlink(), fs::read(&path).unwrap()), (0, b"new".to_vec()));
    // Nor is its directory needed.
    state.path = PathBuf::from("/no/such/directory/name");
    assert_eq!(recreate(&state).metadata().unwrap().nlink(), 0);
}

#[test]
fn a_memfd_is_made_again_by_its_name() {
    let dir = Dir::new("memfd");
    let mut state = capture(&dir.file("any", b""));
    state.kind = FileKind::Memfd { name: "shared buffer".to_owned(), seals: 0 };
    let file = recreate(&state);
    let link = fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file))).unwrap();
    assert_eq!(link, Path::new("/memfd:shared buffer (deleted)"));
    let seals = rustix::fs::fcntl_get_seals(&file).unwrap();
    assert!(!seals.contains(rustix::fs::SealFlags::SEAL), "seals can be added");
}

fn stretches(file: &mut File, size: u64) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    each_stretch(file, size, |start, length| {
        found.push((start, length));
        Ok::<_, io::Error>(())
    })
    .unwrap();
    found
}

#[test]
fn holes_of_a_sparse_file_are_left_out() {
    const MIB: u64 = 1 << 20;
    let dir = Dir::new("sparse");
    let path = dir.file("file", b"");
    let mut file = File::options().read(true).write(true).open(&path).unwrap();
    file.set_len(64 * MIB).unwrap();
    file.write_all_at(&[1; 4096], 8 * MIB).unwrap();
    file.write_all_at(&[1; 8192], 32 * MIB).unwrap();
    let found = stretches(&mut file, 64 * MIB);
    let covers = |at: u64| found.iter().any(|(start, length)| (*start..start + length).contains(&at));
    assert!([8 * MIB, 8 * MIB + 4095, 32 * MIB, 32 * MIB + 8191].into_iter().all(covers), "{found:?}");
    assert!(found.iter().map(|(_, length)| length).sum::<u64>() < MIB, "{found:?}");
    assert_eq!(file.stream_position().unwrap(), 0);

    let mut buffer = [0; 8192];
    read_stretch(&mut file, 32 * MIB, &mut buffer).unwrap();
    assert_eq!(buffer, [1; 8192]);
    assert!(read_stretch(&mut file, 64 * MIB - 1, &mut buffer).is_err(), "past the end");
}

#[test]
fn a_file_without_holes_is_one_stretch() {
    let dir = Dir::new("whole");
    let mut file = File::open(dir.file("file", &[9; 10_000])).unwrap();
    assert_eq!(stretches(&mut file, 10_000), [(0, 10_000)]);
    // It grew meanwhile: what was there when it was looked at is what counts.
    assert_eq!(stretches(&mut file, 5_000), [(0, 5_000)]);
    let mut empty = File::open(dir.file("empty", b"")).unwrap();
    assert_eq!(stretches(&mut empty, 0), []);
    let mut hole = File::options().read(true).write(true).open(dir.file("hole", b"")).unwrap();
    hole.set_len(1 << 20).unwrap();
    assert_eq!(stretches(&mut hole, 1 << 20), []);
    hole.seek(SeekFrom::Start(5)).unwrap();
    let error = each_stretch(&mut file, 10_000, |_, _| Err(io::Error::other("full")));
    assert_eq!(error.unwrap_err().to_string(), "full");
}

#[test]
fn the_state_is_the_same_after_json() {
    let dir = Dir::new("json");
    let mut state = capture(&dir.file("name", b"x"));
    for kind in [FileKind::Linked, FileKind::Unlinked, FileKind::Memfd { name: "m".to_owned(), seals: 15 }] {
        state.kind = kind;
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<FileState>(&text).unwrap(), state);
    }
}

#[test]
fn an_unlinked_file_keeps_its_mode() {
    let dir = Dir::new("mode");
    let mut state = capture(&dir.file("gone", b""));
    state.kind = FileKind::Unlinked;
    for (mode, path) in [(0o666, state.path.clone()), (0o604, dir.0.join("new")), (0o666, dir.0.join("new2"))] {
        state.mode = libc::S_IFREG | mode;
        state.path = path;
        assert_eq!(recreate(&state).metadata().unwrap().mode() & 0o7777, mode);
    }
}
