use super::*;

fn io(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

fn all() -> Vec<(Error, Class)> {
    let path = || PathBuf::from("/x.ckpt");
    let text = || "it".to_owned();
    let damaged = ImageError::Damaged { position: 7, what: text() };
    vec![
        (Error::refused(5, "descriptor 3 is a pipe", "close it"), Class::CannotCheckpoint),
        (Error::NoProcess { pid: 5 }, Class::Failed),
        (Error::Died { pid: 5 }, Class::Failed),
        (Error::NotPermitted { what: text(), advice: text() }, Class::NotPermitted),
        (Error::Trace(TraceError::Denied { tid: 5 }), Class::NotPermitted),
        (Error::Trace(TraceError::Gone { tid: 5 }), Class::Failed),
        (Error::Image { path: path(), source: damaged }, Class::BadImage),
        (Error::Foreign { path: path(), what: text(), advice: text() }, Class::BadImage),
        (Error::file("read", path())(io(libc::ENOENT)), Class::Failed),
        (Error::restore("it", "do"), Class::RestoreFailed),
        (Error::system("open")(io(libc::EMFILE)), Class::Failed),
        (Error::Cancelled, Class::Cancelled),
    ]
}

/// The classes are the exit codes of the command.
#[test]
fn every_failure_has_its_class() {
    for (error, class) in all() {
        assert_eq!(error.class(), class, "{error}");
    }
    let codes = [Class::Failed, Class::Usage, Class::CannotCheckpoint, Class::NotPermitted, Class::Remote]
        .map(|class| class as i32);
    assert_eq!(codes, [1, 2, 3, 4, 5]);
    assert_eq!([Class::BadImage as i32, Class::RestoreFailed as i32, Class::Cancelled as i32], [6, 7, 130]);
}

/// What happened, to what, and what to do: in one line.
#[test]
fn a_message_is_one_line() {
    for (error, _) in all() {
        let text = error.to_string();
        assert!(!text.contains('\n') && !text.ends_with('.') && !text.is_empty(), "{text}");
    }
}

#[test]
fn advice_fits_the_errno() {
    for (errno, advice) in [
        (libc::ENOENT, "check the path"),
        (libc::EACCES, "may use"),
        (libc::ENOSPC, "free some space"),
        (libc::EDQUOT, "free some space"),
        (libc::EROFS, "can be written"),
        (libc::EISDIR, "path of a file"),
        (libc::EIO, "try again"),
    ] {
        let text = Error::file("write", "/x")(io(errno)).to_string();
        assert!(text.starts_with("write /x: ") && text.contains(advice), "{text}");
    }
}

/// What the kernel refuses while a program is being rebuilt is a failure to restore; what is wrong with the image stays
/// what it is.
#[test]
fn failures_of_the_machinery_become_failures_to_restore() {
    for (error, class) in all() {
        let is_machinery =
            matches!(error, Error::Trace(_) | Error::Proc(_) | Error::System { .. } | Error::Died { .. });
        let after = error.while_restoring();
        assert_eq!(after.class(), if is_machinery { Class::RestoreFailed } else { class }, "{after}");
    }
}
