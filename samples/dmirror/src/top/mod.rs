// SPDX-License-Identifier: GPL-2.0

//! `dmirror top`: a live view of devices and their users.

mod blocks;
mod draw;
mod plain;
mod rates;
mod view;

use std::io;
use std::io::IsTerminal as _;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context as _;
use anyhow::Result;
use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event;
use ratatui::crossterm::event::Event;
use ratatui::crossterm::event::KeyEventKind;
use ratatui::crossterm::terminal;

use self::rates::Sample;
use self::view::Then;
use self::view::View;
use crate::map::seconds;
use crate::needs;

/// The arguments of `dmirror top`.
#[derive(Args, Debug)]
pub struct Arguments {
    /// How many seconds are between two looks
    #[arg(long, short, value_name = "S", default_value_t = 1.0, value_parser = seconds)]
    interval: f64,

    /// Print lines instead, as is done where there is no terminal for more
    #[arg(long)]
    plain: bool,

    /// Look so many times, then end
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

impl Arguments {
    /// Shows the view until the user quits, or the requested number of samples is reached.
    pub fn run(&self) -> Result<()> {
        needs::ours("statistics")?;
        let first = Sample::take()?;
        let term = std::env::var("TERM").unwrap_or_default();
        let dumb = matches!(term.as_str(), "" | "dumb");
        // A serial port may not know its size.
        let is_sized = terminal::size().is_ok_and(|(columns, rows)| columns > 0 && rows > 0);
        let is_terminal = io::stdout().is_terminal() && io::stdin().is_terminal();
        if self.plain || dumb || !is_sized || !is_terminal {
            return self.print(first);
        }
        let mut terminal = ratatui::try_init().context("cannot use the terminal; try --plain")?;
        let outcome = self.live(&mut terminal, first);
        ratatui::restore();
        outcome
    }

    fn interval(&self) -> Duration {
        Duration::from_secs_f64(self.interval)
    }

    fn print(&self, mut before: Sample) -> Result<()> {
        let mut looks = 0;
        while self.count.is_none_or(|count| looks < count) {
            std::thread::sleep(self.interval());
            let now = Sample::take()?;
            plain::print(&before, &now, &mut io::stdout().lock())?;
            before = now;
            looks += 1;
        }
        Ok(())
    }

    fn live(&self, terminal: &mut DefaultTerminal, first: Sample) -> Result<()> {
        let mut view = View::new(first, self.interval, is_utf8());
        let mut next = Instant::now();
        let mut looks = 0;
        loop {
            if Instant::now() >= next && !view.is_paused() {
                view.add(Sample::take()?);
                looks += 1;
                next = Instant::now() + self.interval();
            }
            terminal.draw(|frame| draw::draw(&view, frame))?;
            if self.count.is_some_and(|count| looks >= count) {
                return Ok(());
            }
            let patience = match view.is_paused() {
                true => self.interval(),
                false => next.saturating_duration_since(Instant::now()),
            };
            if !event::poll(patience)? {
                continue;
            }
            if let Event::Key(key) = event::read()? {
                if key.kind == KeyEventKind::Press && view.press(key) == Then::Quit {
                    return Ok(());
                }
            }
        }
    }
}

/// Returns whether the terminal can show UTF-8, according to the locale in the environment.
fn is_utf8() -> bool {
    let set = |name| {
        std::env::var(name)
            .ok()
            .filter(|value: &String| !value.is_empty())
    };
    let locale = set("LC_ALL")
        .or_else(|| set("LC_CTYPE"))
        .or_else(|| set("LANG"));
    let locale = locale.unwrap_or_default().to_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}
