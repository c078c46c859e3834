//! What a compiler did not like: its first error, and the source around that.

use std::fs;
use std::path::Path;

use super::model::Complaint;

/// Lines of the source that are shown before and after the error.
const AROUND: usize = 3;

/// Reads what a compiler said (`FILE:LINE:COLUMN: error: ...`), and the source where its first error is.
pub fn of(said: &str, directory: &Path) -> Complaint {
    let is_error =
        |line: &&str| ["error:", "undefined reference", "cannot find"].iter().any(|word| line.contains(word));
    let first = said.lines().find(is_error).or_else(|| said.lines().next()).unwrap_or_default();
    let at = place(first);
    let message = first.split_once("error: ").map_or(first, |(_, message)| message).to_owned();
    let source = at.as_ref().and_then(|(file, _)| fs::read(directory.join(file)).ok()).unwrap_or_default();
    let around = at.as_ref().map_or_else(Vec::new, |(_, line)| around(&String::from_utf8_lossy(&source), *line));
    Complaint { text: said.to_owned(), at, message, around }
}

/// The file and the line of an error.
fn place(error: &str) -> Option<(String, usize)> {
    let before = error.split_once(" error: ").or_else(|| error.split_once(" fatal error: "))?.0;
    let before = before.strip_suffix(" fatal").unwrap_or(before);
    // From behind, for a name that holds colons: the column, the line.
    let mut parts = before.trim_end_matches(':').rsplitn(3, ':');
    let (last, middle, file) = (parts.next()?, parts.next()?, parts.next());
    match (middle.parse(), last.parse::<usize>(), file) {
        (Ok(line), Ok(_), Some(file)) => Some((file.to_owned(), line)),
        (_, Ok(line), None) => Some((middle.to_owned(), line)),
        _ => None,
    }
}

fn around(source: &str, line: usize) -> Vec<(usize, String)> {
    let numbered = (1_usize..).zip(source.lines()).filter(|(number, _)| number.abs_diff(line) <= AROUND);
    numbered.map(|(number, text)| (number, text.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics says where")]

    use super::*;

    #[test]
    fn the_first_error_is_shown_where_it_is() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("x.c"), "int main(void)\n{\n    return 0\n}\n").unwrap();
        let said = "x.c: In function 'main':\nx.c:3:13: error: expected ';' before '}' token\n    3 | return 0\n";
        let found = of(said, directory.path());
        assert_eq!(found.at, Some(("x.c".to_owned(), 3)));
        assert_eq!((found.message.as_str(), found.around.len()), ("expected ';' before '}' token", 4));
        // In a header, and with colons in its name.
        fs::write(directory.path().join("a:b.h"), "one\n#include <none.h>\n").unwrap();
        let found =
            of("In file included from x.c:1:\na:b.h:2:10: fatal error: none.h: No such file\n", directory.path());
        assert_eq!((found.at, found.around.len()), (Some(("a:b.h".to_owned(), 2)), 2));
        assert_eq!(found.message, "none.h: No such file");
    }

    #[test]
    fn what_has_no_place_is_told_all_the_same() {
        let said = "/usr/bin/ld: /tmp/x.o: in function `main':\nx.c:(.text+0x5): undefined reference to `gone'\n";
        let found = of(said, Path::new("/"));
        assert_eq!((found.at, found.message.as_str()), (None, "x.c:(.text+0x5): undefined reference to `gone'"));
        let none = of("the compiler is missing; install gcc", Path::new("/"));
        assert_eq!((none.at, none.message.as_str()), (None, "the compiler is missing; install gcc"));
    }
}
