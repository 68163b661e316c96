// SPDX-License-Identifier: GPL-2.0

//! The content of the view, and the effect of keys on it.

use std::io;

use dmirror_client::Policy;
use dmirror_client::node::Node;
use ratatui::crossterm::event::KeyCode;
use ratatui::crossterm::event::KeyEvent;
use ratatui::crossterm::event::KeyModifiers;

use super::rates::FileRates;
use super::rates::Sample;
use crate::state::FileState;

/// The order of the rows of processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// Device memory that is mapped, most first.
    Memory,
    /// Pages that move, most first.
    Moves,
    /// Time of engines, most first.
    Engines,
    /// Number, least first.
    Pid,
}

impl Sort {
    fn next(self) -> Self {
        match self {
            Self::Memory => Self::Moves,
            Self::Moves => Self::Engines,
            Self::Engines => Self::Pid,
            Self::Pid => Self::Memory,
        }
    }

    /// Returns the order in words.
    pub fn word(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Moves => "pages moved",
            Self::Engines => "engine time",
            Self::Pid => "process",
        }
    }
}

/// The part that is drawn over the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Over {
    /// Nothing.
    Nothing,
    /// The help about keys.
    Help,
    /// Presets to choose from.
    Presets(Vec<String>),
}

/// The action after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Continue.
    GoOn,
    /// Quit.
    Quit,
}

/// The view.
#[derive(Clone, Debug)]
pub struct View {
    before: Sample,
    now: Sample,
    /// Seconds between two samples.
    pub interval: f64,
    /// Set if the terminal can show more than ASCII.
    pub utf8: bool,
    paused: bool,
    sort: Sort,
    /// The index of the device to which keys apply.
    chosen: usize,
    over: Over,
    message: String,
}

impl View {
    /// Creates a view of a first sample.
    pub fn new(first: Sample, interval: f64, utf8: bool) -> Self {
        Self {
            before: first.clone(),
            now: first,
            interval,
            utf8,
            paused: false,
            sort: Sort::Memory,
            chosen: 0,
            over: Over::Nothing,
            message: String::new(),
        }
    }

    /// Shows another sample from now on.
    pub fn add(&mut self, sample: Sample) {
        self.before = std::mem::replace(&mut self.now, sample);
        let last = self.now.state.devices.len().saturating_sub(1);
        self.chosen = self.chosen.min(last);
    }

    /// Returns the previous sample and the last one.
    pub fn samples(&self) -> (&Sample, &Sample) {
        (&self.before, &self.now)
    }

    /// Returns whether the view is paused.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Returns the order of processes.
    pub fn sort(&self) -> Sort {
        self.sort
    }

    /// Returns the index of the chosen device.
    pub fn chosen(&self) -> usize {
        self.chosen
    }

    /// Returns the part that is drawn over the rest.
    pub fn over(&self) -> &Over {
        &self.over
    }

    /// Returns the message about the last key.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns the open files in the chosen order, with their rates.
    pub fn files(&self) -> Vec<(&FileState, FileRates)> {
        let rates = |file| (file, FileRates::between(&self.before, &self.now, file));
        let mut files: Vec<_> = self.now.state.files.iter().map(rates).collect();
        let key = |(file, rates): &(&FileState, FileRates)| match self.sort {
            Sort::Memory => -(file.device_kib.unwrap_or(0) as f64),
            Sort::Moves => -(rates.out + rates.back),
            Sort::Engines => -rates.busy,
            Sort::Pid => f64::from(file.opener),
        };
        files.sort_by(|one, other| key(one).total_cmp(&key(other)));
        files
    }

    /// Handles a key, and returns the action after it.
    pub fn press(&mut self, key: KeyEvent) -> Then {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        if control && key.code == KeyCode::Char('c') {
            return Then::Quit;
        }
        self.message.clear();
        match std::mem::replace(&mut self.over, Over::Nothing) {
            Over::Presets(presets) => {
                self.preset(key.code, &presets);
                return Then::GoOn;
            }
            // Any key closes it.
            Over::Help => return Then::GoOn,
            Over::Nothing => {}
        }
        let devices = self.now.state.devices.len().max(1);
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Then::Quit,
            KeyCode::Char(' ') => self.paused = !self.paused,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('h' | '?') => self.over = Over::Help,
            KeyCode::Tab | KeyCode::Down => self.chosen = (self.chosen + 1) % devices,
            KeyCode::Up => self.chosen = (self.chosen + devices - 1) % devices,
            KeyCode::Char('p') => self.ask(),
            _ => {}
        }
        Then::GoOn
    }

    fn node(&self) -> Option<Node> {
        let device = self.now.state.devices.get(self.chosen)?;
        Some(Node::of_number(device.number))
    }

    /// Offers the presets of the chosen device.
    fn ask(&mut self) {
        let presets = self.node().map(|node| match Policy::of(&node.name()) {
            Ok(Some(policy)) => policy.presets(),
            Ok(None) => Err(io::Error::other("it takes root, and debugfs")),
            Err(error) => Err(error),
        });
        match presets {
            Some(Ok(presets)) => self.over = Over::Presets(presets),
            Some(Err(error)) => self.message = format!("The policy cannot be changed: {error}"),
            None => {}
        }
    }

    /// Sets the preset with the number of a digit key; other keys set none.
    fn preset(&mut self, key: KeyCode, presets: &[String]) {
        let KeyCode::Char(digit @ '1'..='9') = key else {
            return;
        };
        let place = digit as usize - '1' as usize;
        let (Some(preset), Some(node)) = (presets.get(place), self.node()) else {
            return;
        };
        let chosen = match Policy::of(&node.name()) {
            Ok(Some(policy)) => policy.choose(preset),
            Ok(None) => Err(io::ErrorKind::NotFound.into()),
            Err(error) => Err(error),
        };
        self.message = match chosen {
            Ok(()) => format!("The policy of {} is {preset} now.", node.name()),
            Err(error) => format!("The policy cannot be {preset}: {error}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::rates::tests::samples;

    fn view() -> View {
        let (before, now) = samples();
        let mut view = View::new(before, 1.0, false);
        view.add(now);
        view
    }

    fn press(view: &mut View, code: KeyCode) -> Then {
        view.press(KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn keys_do_what_help_says() {
        let mut view = view();
        press(&mut view, KeyCode::Char(' '));
        assert!(view.is_paused());
        press(&mut view, KeyCode::Char(' '));
        assert!(!view.is_paused());
        press(&mut view, KeyCode::Char('h'));
        assert_eq!(view.over(), &Over::Help);
        assert_eq!(
            press(&mut view, KeyCode::Char('q')),
            Then::GoOn,
            "closes help"
        );
        assert_eq!(view.over(), &Over::Nothing);
        assert_eq!(press(&mut view, KeyCode::Char('q')), Then::Quit);
        let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(view.press(control_c), Then::Quit);
    }

    #[test]
    fn processes_are_sorted() {
        let mut view = view();
        let names = |view: &View| -> Vec<String> {
            let files = view.files();
            files.iter().map(|(file, _)| file.program.clone()).collect()
        };
        assert_eq!(names(&view), ["idle", "busy"], "by memory");
        press(&mut view, KeyCode::Char('s'));
        assert_eq!(names(&view), ["busy", "idle"], "by moves");
        press(&mut view, KeyCode::Char('s'));
        assert_eq!(names(&view), ["busy", "idle"], "by engines");
        press(&mut view, KeyCode::Char('s'));
        assert_eq!(names(&view), ["idle", "busy"], "by pid");
    }

    #[test]
    fn a_policy_that_cannot_be_set_is_said() {
        let mut view = view();
        // There is no device of that number anywhere.
        view.now.state.devices[0].number = 4_000_000;
        view.over = Over::Presets(vec!["xe".into()]);
        press(&mut view, KeyCode::Char('1'));
        assert!(
            view.message().contains("cannot be xe"),
            "{}",
            view.message()
        );
        press(&mut view, KeyCode::Char('p'));
        assert!(
            view.message().contains("cannot be changed"),
            "{}",
            view.message()
        );
        assert_eq!(view.over(), &Over::Nothing);
    }
}
