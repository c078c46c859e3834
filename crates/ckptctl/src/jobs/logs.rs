//! `logs`: what a job has printed.

use std::io::Write;

use anyhow::Context;
use ckpt_core::resource::bytes::Bytes;
use ckpt_transfer::protocol::{Reply, Request, Stream};
use ckpt_transfer::wire;
use rustix::termios::isatty;

use super::store::JobStore;
use crate::cli::LogsArgs;
use crate::client;
use crate::failure::Failure;
use crate::supervisor::Log;
use crate::{output, text};

/// How far back lines are counted.
const MOST: u64 = 16 << 20;
const PIECE: usize = 64 << 10;

/// Prints a job's output.
pub fn logs(args: &LogsArgs) -> anyhow::Result<i32> {
    let store = JobStore::open()?;
    let job = store.job(&args.job)?;
    let directory = store.directory(&job.name);
    let log = Log::view(&directory).with_context(|| format!("cannot read the log in {}", text::path(&directory)))?;
    let begin = match args.lines {
        Some(0) => log.end(),
        Some(lines) => log.lines_back(lines, MOST).context("the log cannot be read")?,
        None => log.start(),
    };
    let mut printer =
        Printer { json: args.json, keeps_returns: isatty(rustix::stdio::stdout()), has_return: false, next: begin };
    printer.print_all(&log)?;
    if args.follow {
        follow(&store, &args.job, &mut printer)?;
    }
    printer.end()?;
    Ok(0)
}

fn follow(store: &JobStore, name: &str, printer: &mut Printer) -> anyhow::Result<()> {
    loop {
        let job = store.job(name)?;
        if job.is_over() {
            return printer.print_all(&Log::view(&store.directory(name))?);
        }
        let stream = client::connect(store, &job)?;
        wire::send(&mut &stream, &Request::Attach { from: Some(printer.next), follow: true, size: None }, &[])?;
        // A supervisor that was killed is followed by another one.
        while let Ok(Some((reply, body))) = wire::receive::<Reply>(&mut &stream) {
            match reply {
                Reply::Output { stream, offset } => printer.print(stream, offset, &body)?,
                Reply::Ended(_) | Reply::Left { .. } => return Ok(()),
                Reply::Failed { message, exit } => return Err(Failure::of_exit(exit, message).into()),
                _ => {}
            }
        }
    }
}

/// Prints output, on a terminal as it is; elsewhere without the returns that the job's terminal has put before newlines.
struct Printer {
    json: bool,
    keeps_returns: bool,
    /// A return came last, and what follows decides about it.
    has_return: bool,
    /// The output offset of what comes next.
    next: u64,
}

impl Printer {
    fn print_all(&mut self, log: &Log) -> anyhow::Result<()> {
        while let Some(piece) = log.piece(self.next, PIECE) {
            let bytes = piece.bytes().context("the log cannot be read")?;
            self.print(piece.stream, piece.offset, &bytes)?;
        }
        Ok(())
    }

    fn print(&mut self, stream: Stream, offset: u64, bytes: &[u8]) -> anyhow::Result<()> {
        self.next = offset + bytes.len() as u64;
        if self.json {
            let text = Bytes(bytes.to_vec());
            return output::print_json(&serde_json::json!({ "offset": offset, "stream": stream, "text": text }));
        }
        if self.keeps_returns || stream != Stream::Terminal {
            self.end()?;
            return write(bytes);
        }
        write(&self.without_returns(bytes))
    }

    fn without_returns(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut plain = Vec::with_capacity(bytes.len());
        for byte in bytes {
            if self.has_return && *byte != b'\n' {
                plain.push(b'\r');
            }
            self.has_return = *byte == b'\r';
            if !self.has_return {
                plain.push(*byte);
            }
        }
        plain
    }

    /// A return that nothing follows.
    fn end(&mut self) -> anyhow::Result<()> {
        if std::mem::take(&mut self.has_return) { write(b"\r") } else { Ok(()) }
    }
}

fn write(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        // A reader that has gone away (`| head`) is no error, but then there is nothing left to do.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => result.context("standard output cannot be written; see where it leads to"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn returns_before_newlines_go_wherever_the_pieces_are_cut() {
        let text = b"a\r\nb\rc\r\r\nd";
        for cut in 0..text.len() {
            let mut printer = Printer { json: false, keeps_returns: false, has_return: false, next: 0 };
            let mut plain = printer.without_returns(&text[..cut]);
            plain.extend(printer.without_returns(&text[cut..]));
            assert_eq!(plain, b"a\nb\rc\r\nd", "{cut}");
        }
    }
}
