//! The configuration file, `$XDG_CONFIG_HOME/ckptctl/config.toml`. `config/config.toml` in the sources shows all of it.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use ckpt_core::Class;
use ckpt_transfer::{directories, hosts};
use serde::Deserialize;

use crate::client::DetachKey;
use crate::failure::Failure;
use crate::menu::{Keymap, ThemeChoice};
use crate::text;

/// What can be configured.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What is typed, before d, to leave a job's terminal.
    pub detach_key: DetachKey,
    /// The menu's colours.
    pub theme: ThemeChoice,
    /// Commands of the menu, and the keys that give them instead of their own.
    pub keys: BTreeMap<String, Vec<String>>,
}

/// Where the file is.
///
/// # Errors
/// Without a home directory.
pub fn path() -> anyhow::Result<PathBuf> {
    let directory = directories::base("XDG_CONFIG_HOME", ".config");
    let Some(directory) = directory else {
        return Err(Failure::new(
            Class::Failed,
            "there is no directory for the configuration; set HOME or XDG_CONFIG_HOME",
        )
        .into());
    };
    Ok(directory.join("ckptctl/config.toml"))
}

/// Reads it; without a file, or a place for one, everything is as by default.
///
/// # Errors
/// A mistake is named by its line.
pub fn load() -> anyhow::Result<Config> {
    let Ok(path) = path() else { return Ok(Config::default()) };
    match std::fs::read(&path) {
        Ok(content) => text_of(&content).and_then(parse).map_err(|error| {
            Failure::new(Class::Usage, format!("{}: {error}; mend it or move it away", text::path(&path))).into()
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Config::default()),
        Err(error) => Err(Failure::new(Class::Failed, format!("cannot read {}: {error}", text::path(&path))).into()),
    }
}

fn text_of(content: &[u8]) -> Result<&str, String> {
    hosts::text_of(content).map_err(|(line, what)| format!("line {line}: {what}"))
}

fn parse(content: &str) -> Result<Config, String> {
    let config: Config = toml::from_str(content).map_err(|error| {
        let line = error.span().map_or(1, |span| content[..span.start.min(content.len())].matches('\n').count() + 1);
        format!("line {line}: {}", error.message().lines().next().unwrap_or_default())
    })?;
    // A wrong key is a mistake in a line, too.
    config.keymap().map_err(|(command, what)| {
        let line = content.lines().position(|line| line.trim_start().starts_with(&command)).map_or(1, |at| at + 1);
        format!("line {line}: {what}")
    })?;
    Ok(config)
}

impl Config {
    /// The keys of the menu, with those that were given here.
    ///
    /// # Errors
    /// The command and what is wrong with its keys.
    pub fn keymap(&self) -> Result<Keymap, (String, String)> {
        let mut keymap = Keymap::default();
        for (command, keys) in &self.keys {
            keymap.rebind(command, keys).map_err(|what| (command.clone(), what))?;
        }
        Ok(keymap)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that panics says where")]

    use super::*;

    #[test]
    fn the_example_says_what_holds_without_a_file() {
        let example = include_str!("../../../config/config.toml");
        assert_eq!(parse(example).unwrap(), Config::default());
        // What is commented out there is right as well, and is the default.
        let shown: Vec<&str> = example
            .lines()
            .map(|line| {
                line.strip_prefix('#').filter(|line| line.contains(" = ") || line.starts_with('[')).unwrap_or("")
            })
            .collect();
        let config = parse(&shown.join("\n")).unwrap();
        assert_eq!(config.theme, ThemeChoice::Auto);
        assert!(shown.contains(&"detach_key = \"ctrl+]\""));
        assert_eq!(config.detach_key, DetachKey::default());
        let default = Keymap::default();
        for command in crate::menu::COMMANDS {
            assert!(config.keys.contains_key(command.name), "{} is not in the example", command.name);
            assert_eq!(config.keymap().unwrap().keys_of(command), default.keys_of(command), "{}", command.name);
        }
    }

    #[test]
    fn mistakes_are_named_by_their_line() {
        for (content, line, word) in [
            ("theme = \"dark\"\ncolour = 1\n", 2, "colour"),
            ("\n\ntheme = \"pink\"\n", 3, "pink"),
            ("[keys]\nsave = [\"m\"]\n", 2, "migrate"),
            ("[keys]\nsave = \"m\"\n", 2, "sequence"),
            ("theme = \n", 1, ""),
            ("theme = \"dark\"\n\ndetach_key = \"ctrl+5\"\n", 3, "ctrl+5"),
            ("detach_key = 5\n", 1, "string"),
            ("\ndetach_key = \"ctrl+m\"\n", 2, "Enter"),
        ] {
            let error = parse(content).unwrap_err();
            assert!(error.starts_with(&format!("line {line}: ")) && error.contains(word), "{error}");
        }
        assert_eq!(text_of(b"a = 1\nb = '\xe4'\n").unwrap_err(), "line 2: this is not text in UTF-8");
        assert_eq!(text_of(b"").unwrap(), "");
    }
}
