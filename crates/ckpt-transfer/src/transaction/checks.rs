//! What is looked at before a program is frozen.

use ckpt_core::Class;

use super::{Fault, Plan};
use crate::protocol::{FilesPolicy, MachineReport, SurveyReport};

/// Beside the program's own memory: page tables, and the other end itself.
const MEMORY_MARGIN: u64 = 64 << 20;
/// Disk space that stays free: logs, and the copies of files that are written to.
const DISK_MARGIN: u64 = 64 << 20;
/// From here on a difference of clocks is worth a word, in seconds.
const CLOCK: f64 = 1.0;

/// Something that was looked at.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    /// What.
    pub what: &'static str,
    /// What was found.
    pub found: String,
    /// Whether it does not stand in the way.
    pub ok: bool,
    /// The exit status if it does.
    pub exit: i32,
}

impl Check {
    fn good(what: &'static str, found: impl Into<String>) -> Self {
        Self { what, found: found.into(), ok: true, exit: 0 }
    }

    fn bad(what: &'static str, class: Class, found: impl Into<String>) -> Self {
        Self { what, found: found.into(), ok: false, exit: class as i32 }
    }

    /// What it says when it stands in the way.
    #[must_use]
    pub fn refusal(&self) -> String {
        format!("{}; the program was not touched", self.found)
    }
}

/// Whether the program could go on there.
pub(super) fn checks(
    survey: &SurveyReport,
    there: Option<&MachineReport>,
    plan: &Plan,
    lacking: &Result<Vec<(usize, u64)>, Fault>,
    clock_ahead: Option<(f64, f64)>,
) -> Vec<Check> {
    let mut all = Vec::new();
    if let Some(there) = there {
        all.push(processor(survey, there, plan));
        all.push(nest(there));
        all.push(memory(survey, there, plan));
        all.push(disk(survey, there, lacking));
    }
    all.push(files(survey, plan, lacking));
    all.extend(clock_ahead.map(clock));
    all.extend(survey.notes.iter().map(|note| Check::good("note", note.clone())));
    all
}

fn processor(survey: &SurveyReport, there: &MachineReport, plan: &Plan) -> Check {
    const WHAT: &str = "processor";
    match survey.machine.unfit(&there.machine) {
        None => Check::good(WHAT, format!("{} has all that the program may use", there.machine.cpu)),
        Some((what, _)) if plan.options.ignore_cpu => Check::good(WHAT, format!("{what}: ignored, as you said")),
        Some((what, advice)) => Check::bad(WHAT, Class::CannotCheckpoint, format!("{what}; {advice}")),
    }
}

fn nest(there: &MachineReport) -> Check {
    match &there.nest {
        Ok(()) => Check::good("namespaces", "allowed: it keeps its process ids, clocks and paths"),
        Err(why) => Check::good(
            "namespaces",
            format!(
                "not allowed ({why}): its process ids change, and files are found at other paths when they are opened anew"
            ),
        ),
    }
}

fn memory(survey: &SurveyReport, there: &MachineReport, plan: &Plan) -> Check {
    const WHAT: &str = "memory";
    let needed = survey.memory.saturating_add(MEMORY_MARGIN);
    let found = format!("{} needed, {} available on {}", bytes(survey.memory), bytes(there.memory), plan.to);
    if let Some(most) = plan.most_memory.filter(|most| survey.memory > *most) {
        let found = format!("{}, but the hosts file allows only {} there", found, bytes(most));
        return Check::bad(WHAT, Class::Remote, found);
    }
    if there.memory < needed {
        return Check::bad(WHAT, Class::Remote, format!("{found}; free some there, or take another host"));
    }
    Check::good(WHAT, found)
}

fn disk(survey: &SurveyReport, there: &MachineReport, lacking: &Result<Vec<(usize, u64)>, Fault>) -> Check {
    const WHAT: &str = "disk";
    // What is written to is kept twice: in the store, and as the program's own.
    let all: u64 = survey.files.iter().map(|file| file.size).sum();
    let to_send = sent(survey, lacking);
    let needed = to_send.saturating_add(all.min(to_send)).saturating_add(DISK_MARGIN);
    let found = format!("{} of files to be sent, {} free there", bytes(to_send), bytes(there.disk));
    if there.disk < needed {
        let needed = format!("{} needed with what must stay free", bytes(needed));
        let advice = "free some space there, or set the host's directory";
        return Check::bad(WHAT, Class::Remote, format!("{found}, {needed}; {advice}"));
    }
    Check::good(WHAT, found)
}

fn sent(survey: &SurveyReport, lacking: &Result<Vec<(usize, u64)>, Fault>) -> u64 {
    let lacking = lacking.as_ref().map_or(&[][..], Vec::as_slice);
    let size = |(index, there): &(usize, u64)| Some(survey.files.get(*index)?.size.saturating_sub(*there));
    lacking.iter().filter_map(size).sum()
}

fn files(survey: &SurveyReport, plan: &Plan, lacking: &Result<Vec<(usize, u64)>, Fault>) -> Check {
    const WHAT: &str = "files";
    let count = survey.files.len();
    match lacking {
        Err(Fault::Failed(_, failed)) => {
            Check { what: WHAT, found: failed.message.clone(), ok: false, exit: failed.exit }
        }
        // Told as what it is, where the move ends.
        Err(_) => Check::good(WHAT, format!("{count}")),
        Ok(lacking) => Check::good(
            WHAT,
            match plan.options.files {
                FilesPolicy::Carry => format!("{count} go along, {} of them are to be sent", lacking.len()),
                FilesPolicy::Expect => format!("{count} are the same there"),
                FilesPolicy::Shared => format!("{count} are there"),
            },
        ),
    }
}

fn clock((ahead, within): (f64, f64)) -> Check {
    let found = if ahead.abs() <= within.max(0.05) {
        format!("as at the source, within {:.0} ms", within.max(0.001) * 1e3)
    } else {
        let way = if ahead > 0.0 { "ahead" } else { "behind" };
        let word = if ahead.abs() > CLOCK { ": the program sees the time of day jump" } else { "" };
        format!("{:.1} s {way}{word}", ahead.abs())
    };
    Check::good("clock", found)
}

#[allow(clippy::cast_precision_loss, reason = "shown with one digit")]
fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} bytes") } else { format!("{value:.1} {}", UNITS[unit]) }
}
