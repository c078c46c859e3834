//! What can be done, by which key, and where: the one table behind the footer, the help screen, the palette, and the
//! `[keys]` of the configuration file.

use std::collections::BTreeMap;
use std::fmt;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

/// Something that the user can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    Up,
    Down,
    PageUp,
    PageDown,
    First,
    Last,
    Open,
    Back,
    Quit,
    Help,
    Palette,
    Filter,
    Jobs,
    Hosts,
    New,
    Type,
    NextTab,
    Run,
    Arguments,
    Flags,
    Environment,
    Directory,
    Save,
    Migrate,
    Restore,
    Branch,
    Stop,
    Remove,
    Test,
    TestAll,
    Command,
    AddHost,
    EditHost,
    Schedule,
    Cancel,
    Log,
}

impl Action {
    /// Whether it changes something outside the menu: what `--read-only` refuses.
    pub fn is_act(self) -> bool {
        use Action::{
            AddHost, Branch, Command, EditHost, Migrate, Remove, Restore, Run, Save, Schedule, Stop, Test, TestAll,
            Type,
        };
        matches!(
            self,
            Type | Run
                | Command
                | Save
                | Schedule
                | Migrate
                | Restore
                | Branch
                | Stop
                | Remove
                | Test
                | TestAll
                | AddHost
                | EditHost
        )
    }
}

/// Where a command can be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The list of jobs.
    Jobs,
    /// One job.
    Job,
    /// The hosts.
    Hosts,
    /// The making of a new job.
    New,
    /// The choice of a host to move to.
    Choose,
}

/// A command: what it is called and how it is given.
pub struct Command {
    /// What it does.
    pub action: Action,
    /// Its name in the configuration file and the palette.
    pub name: &'static str,
    /// Its keys, unless the configuration says otherwise.
    pub keys: &'static [&'static str],
    /// Its word in the footer; empty: not shown there.
    pub label: &'static str,
    /// What it does, in a sentence.
    pub help: &'static str,
    /// Where it can be given.
    pub places: &'static [Place],
}

impl Place {
    /// Where that is, in words.
    pub fn told(self) -> &'static str {
        match self {
            Self::Jobs => "in the list of jobs",
            Self::Job => "in a job",
            Self::Hosts => "among the hosts",
            Self::New => "when making a new job",
            Self::Choose => "when a host is chosen",
        }
    }
}

impl Command {
    /// Where it can be given, for somebody who is elsewhere.
    pub fn elsewhere(&self) -> String {
        let places: Vec<&str> =
            self.places.iter().filter(|place| **place != Choose).map(|place| place.told()).collect();
        format!("{} is possible {}", self.name, places.join(", "))
    }
}

use Place::{Choose, Hosts, Job, Jobs, New};
const ALL: &[Place] = &[Jobs, Job, Hosts, New, Choose];
const SCREENS: &[Place] = &[Jobs, Job, Hosts, New];

const fn command(
    action: Action,
    name: &'static str,
    keys: &'static [&'static str],
    label: &'static str,
    help: &'static str,
    places: &'static [Place],
) -> Command {
    Command { action, name, keys, label, help, places }
}

/// All commands, in the order in which the footer shows them.
pub const COMMANDS: &[Command] = &[
    command(
        Action::Open,
        "open",
        &["enter"],
        "open",
        "Open the job or directory; build the source; choose the host",
        ALL,
    ),
    command(Action::Type, "type", &["t"], "type", "Send all keys to the program, until the detach key", &[Job]),
    command(Action::Run, "run", &["r"], "run", "Run the chosen program as a job", &[New]),
    command(Action::NextTab, "next-tab", &["tab"], "view", "Terminal, checkpoints, what it holds", &[Job]),
    command(Action::Save, "save", &["c"], "save", "Save the program into its history; it runs on", &[Jobs, Job]),
    command(Action::Migrate, "migrate", &["m"], "move", "Move the program to another machine, or home", &[Jobs, Job]),
    command(
        Action::Restore,
        "restore",
        &["R"],
        "restore",
        "Bring the program back from its chosen checkpoint",
        &[Jobs, Job],
    ),
    command(
        Action::Branch,
        "branch",
        &["b"],
        "branch",
        "Start a second run from the chosen checkpoint, beside the first",
        &[Job],
    ),
    command(Action::Command, "command", &["!"], "command line", "Run a command line instead of a file", &[New]),
    command(Action::Arguments, "arguments", &["a"], "arguments", "Give the program arguments", &[New]),
    command(Action::Flags, "flags", &["f"], "flags", "Give the compiler flags", &[New]),
    command(
        Action::Environment,
        "environment",
        &["e"],
        "environment",
        "Set environment variables for the program",
        &[New],
    ),
    command(Action::Directory, "directory", &["d"], "directory", "Run the program in another directory", &[New]),
    command(
        Action::Schedule,
        "schedule",
        &["a"],
        "automatic",
        "Have the job saved by itself: every so often, before each move",
        &[Jobs, Job],
    ),
    command(
        Action::Test,
        "test",
        &["t"],
        "test",
        "Try the connection to the host and see what is possible there",
        &[Hosts, Choose],
    ),
    command(
        Action::TestAll,
        "test-all",
        &["T"],
        "test all",
        "Try the connections to all hosts that are shown",
        &[Hosts],
    ),
    command(Action::AddHost, "add-host", &["a"], "add", "Add a host to the hosts file", &[Hosts, Choose]),
    command(Action::EditHost, "edit-host", &["e"], "edit", "Change a host in the hosts file", &[Hosts]),
    command(
        Action::New,
        "new",
        &["n"],
        "new",
        "Make a new job from a source file, a program or a command",
        &[Jobs, Job, Hosts],
    ),
    command(Action::Hosts, "hosts", &["h"], "hosts", "The machines that jobs can move to", &[Jobs, Job, New]),
    command(Action::Jobs, "jobs", &["j"], "jobs", "All jobs", &[Job, Hosts, New]),
    command(Action::Stop, "stop", &["s"], "stop", "End the program (SIGTERM, then SIGKILL)", &[Jobs, Job]),
    command(
        Action::Remove,
        "remove",
        &["D"],
        "",
        "Forget an ended job with its history, or a host of the hosts file",
        &[Jobs, Job, Hosts],
    ),
    command(Action::Cancel, "cancel", &["x"], "", "Give up what is under way", SCREENS),
    command(Action::Filter, "filter", &["/"], "filter", "Show only what matches", &[Jobs, Hosts, New, Choose]),
    command(Action::Palette, "palette", &[":", "ctrl+p"], "", "Find a command by its name", SCREENS),
    command(
        Action::Log,
        "log",
        &["L"],
        "log",
        "What was done, as the verbs that would do the same; and what went wrong",
        SCREENS,
    ),
    command(Action::Up, "up", &["up", "k"], "", "Up", ALL),
    command(Action::Down, "down", &["down"], "", "Down", ALL),
    command(Action::PageUp, "page-up", &["pageup"], "", "A page up", ALL),
    command(Action::PageDown, "page-down", &["pagedown"], "", "A page down", ALL),
    command(Action::First, "first", &["home", "g"], "", "To the first", ALL),
    command(Action::Last, "last", &["end", "G"], "", "To the last", ALL),
    command(Action::Back, "back", &["esc"], "", "Close the topmost layer; never the program", ALL),
    command(Action::Help, "help", &["?"], "help", "All keys", SCREENS),
    command(Action::Quit, "quit", &["q", "ctrl+c"], "quit", "Leave the menu; jobs run on", SCREENS),
];

/// A key with its modifiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    code: Code,
    ctrl: bool,
    alt: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Code {
    Char(char),
    Named(&'static str),
    Function(u8),
}

const NAMED: &[(&str, KeyCode)] = &[
    ("enter", KeyCode::Enter),
    ("esc", KeyCode::Esc),
    ("tab", KeyCode::Tab),
    ("backtab", KeyCode::BackTab),
    ("backspace", KeyCode::Backspace),
    ("delete", KeyCode::Delete),
    ("insert", KeyCode::Insert),
    ("up", KeyCode::Up),
    ("down", KeyCode::Down),
    ("left", KeyCode::Left),
    ("right", KeyCode::Right),
    ("pageup", KeyCode::PageUp),
    ("pagedown", KeyCode::PageDown),
    ("home", KeyCode::Home),
    ("end", KeyCode::End),
];

impl Key {
    /// The key of an event, if it is one that a command can have.
    pub fn of(event: KeyEvent) -> Option<Self> {
        let code = match event.code {
            KeyCode::Char(c) => Code::Char(c),
            KeyCode::F(number) => Code::Function(number),
            other => Code::Named(NAMED.iter().find(|(_, code)| *code == other)?.0),
        };
        let has = |modifier| event.modifiers.contains(modifier);
        Some(Self { code, ctrl: has(KeyModifiers::CONTROL), alt: has(KeyModifiers::ALT) })
    }

    /// Reads `ctrl+p`, `alt+x`, `f5`, `enter`, `R`.
    pub fn parse(text: &str) -> Option<Self> {
        let (mut ctrl, mut alt, mut rest) = (false, false, text);
        loop {
            if let Some(after) = rest.strip_prefix("ctrl+") {
                (ctrl, rest) = (true, after);
            } else if let Some(after) = rest.strip_prefix("alt+") {
                (alt, rest) = (true, after);
            } else {
                break;
            }
        }
        let mut chars = rest.chars();
        let code = match (chars.next(), chars.next()) {
            (Some(c), None) => Code::Char(c),
            (Some('f'), Some(_)) if rest[1..].parse::<u8>().is_ok_and(|n| (1..=12).contains(&n)) => {
                Code::Function(rest[1..].parse().ok()?)
            }
            _ if rest == "space" => Code::Char(' '),
            _ => Code::Named(NAMED.iter().find(|(name, _)| *name == rest)?.0),
        };
        Some(Self { code, ctrl, alt })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let modifiers = [(self.ctrl, "Ctrl+"), (self.alt, "Alt+")];
        for (_, name) in modifiers.iter().filter(|(is_held, _)| *is_held) {
            f.write_str(name)?;
        }
        match self.code {
            Code::Char(' ') => f.write_str("Space"),
            Code::Char(c) if self.ctrl => write!(f, "{}", c.to_uppercase()),
            Code::Char(c) => write!(f, "{c}"),
            Code::Function(number) => write!(f, "F{number}"),
            Code::Named("pageup") => f.write_str("PgUp"),
            Code::Named("pagedown") => f.write_str("PgDn"),
            Code::Named(name) => {
                let mut chars = name.chars();
                chars.next().map_or(Ok(()), |first| write!(f, "{}{}", first.to_uppercase(), chars.as_str()))
            }
        }
    }
}

/// Which keys give which commands.
#[derive(Debug, Clone)]
pub struct Keymap {
    keys: BTreeMap<&'static str, Vec<Key>>,
}

impl Default for Keymap {
    fn default() -> Self {
        let keys = COMMANDS
            .iter()
            .map(|command| (command.name, command.keys.iter().filter_map(|key| Key::parse(key)).collect()))
            .collect();
        Self { keys }
    }
}

impl Keymap {
    /// Gives a command other keys.
    ///
    /// # Errors
    /// What is wrong with the command's name or a key, in words.
    pub fn rebind(&mut self, command: &str, keys: &[String]) -> Result<(), String> {
        let Some(command) = COMMANDS.iter().find(|known| known.name == command) else {
            let names: Vec<&str> = COMMANDS.iter().map(|command| command.name).collect();
            return Err(format!("there is no command {command:?}; there are {}", names.join(", ")));
        };
        let parse = |key: &String| {
            Key::parse(key)
                .ok_or_else(|| format!("{key:?} is no key; write one as x, X, ctrl+x, alt+x, f5, enter, esc, up"))
        };
        let keys = keys.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
        let taken = COMMANDS.iter().find(|other| {
            other.name != command.name
                && other.places.iter().any(|place| command.places.contains(place))
                && self.keys_of(other).iter().any(|key| keys.contains(key))
        });
        if let Some(taken) = taken {
            return Err(format!("{} and {} cannot have the same key", command.name, taken.name));
        }
        self.keys.insert(command.name, keys);
        Ok(())
    }

    /// The keys of a command.
    pub fn keys_of(&self, command: &Command) -> &[Key] {
        self.keys.get(command.name).map_or(&[], Vec::as_slice)
    }

    /// The first key of an action.
    pub fn key_of(&self, action: Action) -> Option<Key> {
        let command = COMMANDS.iter().find(|command| command.action == action)?;
        self.keys_of(command).first().copied()
    }

    /// That key and what it does; nothing where there is none.
    pub fn hint(&self, action: Action, what: &str) -> Option<String> {
        self.key_of(action).map(|key| format!("{key} {what}"))
    }

    /// What a key means at a place.
    pub fn action(&self, key: Key, place: Place) -> Option<Action> {
        COMMANDS
            .iter()
            .find(|command| command.places.contains(&place) && self.keys_of(command).contains(&key))
            .map(|command| command.action)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics says where")]

    use super::*;

    #[test]
    fn no_two_commands_share_a_key_at_a_place() {
        let keymap = Keymap::default();
        for (index, one) in COMMANDS.iter().enumerate() {
            assert_eq!(keymap.keys_of(one).len(), one.keys.len(), "{} has a key that is none", one.name);
            for other in &COMMANDS[index + 1..] {
                let meet = one.places.iter().any(|place| other.places.contains(place));
                let shared = keymap.keys_of(one).iter().find(|key| keymap.keys_of(other).contains(key));
                assert!(!meet || shared.is_none(), "{} and {} share {}", one.name, other.name, shared.unwrap());
                assert_ne!(one.name, other.name);
            }
        }
    }

    #[test]
    fn the_documentation_has_every_command() {
        let documented = include_str!("../../../../docs/menu.md");
        for command in COMMANDS {
            let keys: Vec<String> = command.keys.iter().map(|key| format!("`{key}`")).collect();
            let line = format!("| `{}` | {} | {} |", command.name, keys.join(", "), command.help);
            assert!(documented.contains(&line), "docs/menu.md has no line {line}");
        }
    }

    #[test]
    fn keys_are_read_as_they_are_written() {
        for (text, shown) in
            [("ctrl+p", "Ctrl+P"), ("R", "R"), ("f5", "F5"), ("pageup", "PgUp"), ("space", "Space"), ("enter", "Enter")]
        {
            assert_eq!(Key::parse(text).unwrap().to_string(), shown);
        }
        for bad in ["", "ctrl+", "f13", "hyper+x", "entr"] {
            assert!(Key::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_rebound_key_works_and_a_clash_is_told() {
        let mut keymap = Keymap::default();
        keymap.rebind("save", &["w".to_owned()]).unwrap();
        assert_eq!(keymap.action(Key::parse("w").unwrap(), Place::Jobs), Some(Action::Save));
        assert_eq!(keymap.action(Key::parse("c").unwrap(), Place::Jobs), None);
        assert!(keymap.rebind("save", &["m".to_owned()]).unwrap_err().contains("migrate"));
        assert!(keymap.rebind("sav", &[]).unwrap_err().contains("there is no command"));
        assert!(keymap.rebind("save", &["meta".to_owned()]).unwrap_err().contains("is no key"));
    }
}
