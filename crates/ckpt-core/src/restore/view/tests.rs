#![allow(clippy::unwrap_used, reason = "a test that panics says where")]

use super::*;

fn shown(path: &str, source: &str) -> Shown {
    Shown { path: path.into(), source: source.into(), read_only: false }
}

fn view(all: &[(&str, &str)]) -> Result<View, String> {
    let all: Vec<Shown> = all.iter().map(|(path, source)| shown(path, source)).collect();
    View::new(&all, []).map_err(|error| error.to_string())
}

#[test]
fn the_longest_path_counts() {
    let view = view(&[("/a/b/null", "/dev/null"), ("/a/./b//", "/usr"), ("/c", "/dev/zero")]).unwrap();
    for (path, source) in [
        ("/a/b/null", "/dev/null"),
        ("/a/b", "/usr"),
        ("/a/b/lib/x", "/usr/lib/x"),
        ("/a/bc", "/a/bc"),
        ("/a", "/a"),
        ("/c", "/dev/zero"),
        ("/", "/"),
    ] {
        assert_eq!(view.source_of(Path::new(path)), Path::new(source), "{path}");
    }
    let through = ["/", "/a", "/a/b"].map(|path| view.leads_through(Path::new(path)));
    assert_eq!(through, [true; 3]);
    assert!(!["/c", "/a/b/null", "/a/bc"].iter().any(|path| view.leads_through(Path::new(path))));
}

#[test]
fn sources_are_without_links() {
    let dir = std::env::temp_dir().join(format!("ckpt-view-{}", std::process::id()));
    fs::create_dir(&dir).unwrap();
    std::os::unix::fs::symlink("/dev/null", dir.join("link")).unwrap();
    let found = view(&[("/x", dir.join("link").to_str().unwrap())]);
    let missing = view(&[("/x", dir.join("missing").to_str().unwrap())]);
    fs::remove_dir_all(&dir).unwrap();
    assert_eq!(found.unwrap().source_of(Path::new("/x")), Path::new("/dev/null"));
    assert!(missing.unwrap_err().contains("missing"));
}

#[test]
fn what_cannot_be_shown_is_refused() {
    for path in ["a", "/", "//", "/a/../b", "/proc", "/proc/self"] {
        let refused = view(&[(path, "/usr")]).unwrap_err();
        assert!(refused.contains(path), "{refused}");
    }
    let inside = view(&[("/a", "/dev/null"), ("/a/b", "/usr")]).unwrap_err();
    assert!(inside.contains("/a/b cannot be in /a"), "{inside}");
    let twice = view(&[("/a", "/dev/null"), ("/a/", "/usr")]).unwrap_err();
    assert!(twice.contains("two files are to be shown at /a"), "{twice}");
}

#[test]
fn the_tree_holds_every_name_once() {
    let view = view(&[("/a/b/c", "/dev/null"), ("/a/d", "/usr"), ("/a/d/e", "/dev/null")]).unwrap();
    let tree = view.tree();
    let a = &tree.below[std::ffi::OsStr::new("a")];
    assert_eq!((tree.below.len(), a.shows, a.below.len()), (1, None, 2));
    let d = &a.below[std::ffi::OsStr::new("d")];
    assert_eq!((d.shows, d.below.len()), (Some(1), 1));
}

#[test]
fn few_paths_are_named() {
    let some = |number: usize| some_of([Path::new("/a"); 9][..number].iter().copied());
    assert_eq!(some(1), "/a");
    assert_eq!(some(3), "/a, /a, /a");
    assert_eq!(some(5), "/a, /a, /a and 2 more");
}
