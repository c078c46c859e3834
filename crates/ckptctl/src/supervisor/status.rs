//! What a job is doing, as its supervisor sees it.

use ckpt_transfer::protocol::{JobState, JobStatus};

use super::{Log, Place, Supervisor};
use crate::jobs;

/// How much of the log's end the last line is looked for in.
const LAST: u64 = 4096;

impl Supervisor {
    /// The job's status.
    pub fn status(&self) -> anyhow::Result<JobStatus> {
        let state = self.state();
        let job = state.job.clone().ok_or_else(|| self.failure("has no program yet"))?;
        let mut status = jobs::status_of(&self.store, &job);
        status.last_line = last_line(&state.log);
        match &state.place {
            Place::Away(away) if !away.reached => status.state = JobState::Unreachable,
            Place::Here(_) if state.act == Some(super::MOVE) => status.state = JobState::Moving,
            _ => {}
        }
        Ok(status)
    }
}

/// The last line that says something, without what moves the cursor and sets colours.
pub fn last_line(log: &Log) -> String {
    let end = log.end();
    let bytes = log.bytes(end.saturating_sub(LAST).max(log.start()), end).unwrap_or_default();
    let text = without_escapes(&String::from_utf8_lossy(&bytes));
    let mut lines = text.rsplit(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty());
    lines.next().unwrap_or_default().to_owned()
}

fn without_escapes(text: &str) -> String {
    let mut plain = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            ('\u{1b}', Some('[')) => {
                chars.next();
                // Up to the final byte of a control sequence (ECMA-48).
                while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {}
            }
            ('\u{1b}', Some(']')) => while chars.next().is_some_and(|c| c != '\u{7}' && c != '\u{1b}') {},
            ('\u{1b}', _) => drop(chars.next()),
            _ if c.is_control() && c != '\n' && c != '\r' => {}
            _ => plain.push(c),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics says where")]

    use ckpt_transfer::protocol::Stream;

    use super::*;

    #[test]
    fn the_last_line_is_what_can_be_read_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = Log::open(directory.path()).unwrap();
        assert_eq!(last_line(&log), "");
        log.append(Stream::Terminal, b"step 1\r\n\x1b[32mstep \x1b[1m2\x1b[0m\r\n\x1b]0;title\x07\r\n").unwrap();
        assert_eq!(last_line(&log), "step 2");
    }
}
