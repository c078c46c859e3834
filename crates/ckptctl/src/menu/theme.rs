//! Colours by what they mean.

use ratatui::style::{Color, Modifier, Style};
use serde::Deserialize;

/// Which colours the user wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choice {
    /// As the terminal seems to be.
    #[default]
    Auto,
    /// For a dark background.
    Dark,
    /// For a light background.
    Light,
    /// None at all.
    None,
}

/// The styles of what is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Theme {
    /// What is selected.
    pub selected: Style,
    /// Headings and what can be acted on.
    pub accent: Style,
    /// What matters less.
    pub dim: Style,
    /// Goes well.
    pub good: Style,
    /// Needs attention.
    pub warn: Style,
    /// Went wrong.
    pub bad: Style,
    /// Keys in the footer.
    pub key: Style,
}

impl Theme {
    /// The theme for a choice in this environment: `NO_COLOR` wins (<https://no-color.org>), `COLORFGBG` tells a light
    /// background.
    pub fn choose(choice: Choice, environment: impl Fn(&str) -> Option<String>) -> Self {
        if environment("NO_COLOR").is_some_and(|value| !value.is_empty()) {
            return Self::plain();
        }
        let is_light = || {
            let background = environment("COLORFGBG")?.rsplit(';').next()?.parse::<u8>().ok()?;
            Some(background == 7 || background == 15)
        };
        match choice {
            Choice::None => Self::plain(),
            Choice::Light => Self::light(),
            Choice::Auto if is_light() == Some(true) => Self::light(),
            Choice::Dark | Choice::Auto => Self::dark(),
        }
    }

    /// Whether it has no colours.
    pub fn is_plain(&self) -> bool {
        *self == Self::plain()
    }

    fn plain() -> Self {
        let plain = Style::new();
        let bold = plain.add_modifier(Modifier::BOLD);
        Self {
            selected: plain.add_modifier(Modifier::REVERSED),
            accent: bold,
            dim: plain,
            good: plain,
            warn: bold,
            bad: bold,
            key: bold,
        }
    }

    fn dark() -> Self {
        Self {
            selected: Style::new().bg(Color::Indexed(236)).add_modifier(Modifier::BOLD),
            accent: Style::new().fg(Color::Cyan),
            dim: Style::new().fg(Color::Indexed(245)),
            good: Style::new().fg(Color::Green),
            warn: Style::new().fg(Color::Yellow),
            bad: Style::new().fg(Color::Red),
            key: Style::new().fg(Color::Cyan).add_modifier(Modifier::BOLD),
        }
    }

    fn light() -> Self {
        Self {
            selected: Style::new().bg(Color::Indexed(254)).add_modifier(Modifier::BOLD),
            accent: Style::new().fg(Color::Blue),
            dim: Style::new().fg(Color::Indexed(242)),
            good: Style::new().fg(Color::Indexed(28)),
            warn: Style::new().fg(Color::Indexed(130)),
            bad: Style::new().fg(Color::Indexed(160)),
            key: Style::new().fg(Color::Blue).add_modifier(Modifier::BOLD),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_heard() {
        let with =
            |name: &'static str, value: &'static str| move |asked: &str| (asked == name).then(|| value.to_owned());
        assert_eq!(Theme::choose(Choice::Dark, with("NO_COLOR", "1")), Theme::plain());
        assert_eq!(Theme::choose(Choice::Dark, with("NO_COLOR", "")), Theme::dark());
        assert_eq!(Theme::choose(Choice::Auto, with("COLORFGBG", "0;15")), Theme::light());
        assert_eq!(Theme::choose(Choice::Auto, with("COLORFGBG", "15;0")), Theme::dark());
        assert_eq!(Theme::choose(Choice::Light, |_| None), Theme::light());
    }
}
