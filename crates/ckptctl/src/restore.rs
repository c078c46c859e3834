//! `restore`: bring a program back.

use ckpt_core::{Ending, RestoreOptions, Shown};

use crate::cli::RestoreArgs;
use crate::{jobs, output, text};

/// Restores an image; in the foreground the status is the program's own.
pub fn restore(args: &RestoreArgs) -> anyhow::Result<i32> {
    if let Some((job, number)) = jobs::named(&args.file)? {
        return jobs::restore(args, &job, number);
    }
    let read_only: Vec<Shown> =
        args.show_read_only.iter().cloned().map(|shown| Shown { read_only: true, ..shown }).collect();
    let options = RestoreOptions {
        nest: args.nest,
        files: args.files,
        ignore_cpu: args.ignore_cpu,
        detach: args.detach,
        view: args.show.iter().chain(&read_only).cloned().collect(),
    };
    let restored = ckpt_core::restore(&args.file, &options)?;
    for note in &restored.report().notes {
        eprintln!("ckptctl: note: {}", text::plain(note));
    }
    if !args.detach {
        return Ok(status(restored.wait()?));
    }
    if args.json {
        output::print_json(restored.report())?;
    } else {
        output::print(&format!("{}\n", restored.pid()))?;
    }
    restored.detach();
    Ok(0)
}

/// As a shell tells how a program ended.
pub fn status(ending: Ending) -> i32 {
    match ending {
        Ending::Exited(status) => status,
        Ending::Signaled(signal) => 128 + signal,
    }
}
