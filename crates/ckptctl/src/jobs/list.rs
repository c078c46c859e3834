//! `ps`: the jobs and what they are doing.

use ckpt_core::proc;
use serde::Serialize;

use super::store::{self, Job, JobState, JobStore};
use crate::cli::PsArgs;
use crate::{output, text};

/// A job as it is listed.
#[derive(Serialize)]
struct Listed {
    #[serde(flatten)]
    job: Job,
    state: JobState,
    /// Bytes of memory that it uses now.
    memory: Option<u64>,
    /// Seconds since it was started, until it ended.
    age: u64,
}

/// Lists the jobs.
pub fn ps(args: &PsArgs) -> anyhow::Result<i32> {
    let listed: Vec<Listed> = JobStore::open()?.all()?.into_iter().map(look).collect();
    if args.json {
        output::print_json(&serde_json::json!({ "jobs": listed }))?;
    } else {
        output::print(&table(&listed))?;
    }
    Ok(0)
}

fn look(job: Job) -> Listed {
    let state = job.state();
    let memory = if state == JobState::Ended { None } else { resident(job.pid) };
    let until = job.ending.map_or_else(store::now, |ending| ending.at);
    Listed { state, memory, age: until.saturating_sub(job.started), job }
}

/// Resident memory, the second number of `/proc/PID/statm`, which counts pages.
fn resident(pid: i32) -> Option<u64> {
    let text = proc::read(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = std::str::from_utf8(&text).ok()?.split(' ').nth(1)?.parse().ok()?;
    pages.checked_mul(u64::try_from(rustix::param::page_size()).ok()?)
}

fn table(jobs: &[Listed]) -> String {
    let rows: Vec<Vec<String>> = jobs
        .iter()
        .map(|Listed { job, state, memory, age }| {
            let state = match (state, job.ending) {
                (JobState::Running, _) => "running".to_owned(),
                (JobState::Stopped, _) => "stopped".to_owned(),
                (JobState::Ended, Some(ending)) => format!("ended ({})", ending.status),
                (JobState::Ended, None) => "ended".to_owned(),
            };
            let words: Vec<String> = job.command.iter().map(|word| text::quoted(&word.text())).collect();
            vec![
                job.name.clone(),
                state,
                job.pid.to_string(),
                memory.map_or_else(|| "-".to_owned(), text::size),
                text::age(*age),
                text::plain(&words.join(" ")),
            ]
        })
        .collect();
    let headings = ["NAME", "STATE", "PID", "MEMORY", "AGE", "COMMAND"];
    text::table(&headings, &[false, false, true, true, true, false], &rows)
}

#[cfg(test)]
mod tests {
    use ckpt_core::resource::bytes::Bytes;

    use super::*;
    use crate::jobs::store::JobEnding;

    #[test]
    fn a_row_tells_name_state_and_command() {
        let job = Job {
            name: "sim".to_owned(),
            pid: 7,
            start_ticks: 0,
            boot: String::new(),
            command: vec![Bytes(b"./sim".to_vec()), Bytes(b"a b\x1b".to_vec())],
            directory: Bytes(b"/".to_vec()),
            started: 100,
            ending: Some(JobEnding { status: 137, at: 160 }),
        };
        let table = table(&[look(job)]);
        let row = table.lines().nth(1).unwrap_or_default();
        assert_eq!(row, "sim   ended (137)    7       -  1 min  ./sim 'a b\\u{1b}'");
    }
}
