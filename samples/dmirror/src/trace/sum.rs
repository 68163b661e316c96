// SPDX-License-Identifier: GPL-2.0

//! The summary at the end of a trace: the moved pages, by program and cause.

use std::collections::BTreeMap;

use super::passes::Seen;
use super::tell;
use crate::info;
use crate::words;

/// Moves, by device, direction, program and cause.
#[derive(Debug, Default)]
pub struct Sum(BTreeMap<Key, Moved>);

#[derive(Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Key {
    device: String,
    to_device: bool,
    program: String,
    pid: String,
    cause: String,
}

#[derive(Debug, Default)]
struct Moved {
    passes: u64,
    pages: u64,
    micros: u64,
}

impl Sum {
    /// Counts an event if it is the end of a migration.
    pub fn add(&mut self, seen: &Seen) {
        let event = &seen.event;
        if event.name != "migrate_end" {
            return;
        }
        let text = |field| event.text(field).unwrap_or_default();
        let key = Key {
            device: text("device"),
            to_device: text("to") == "device",
            program: event.task.clone(),
            pid: text("pid"),
            cause: text("cause"),
        };
        let moved = self.0.entry(key).or_default();
        moved.passes += 1;
        let pages = event.number("moved").unwrap_or(0);
        moved.pages += u64::try_from(pages).unwrap_or(0);
        moved.micros += seen.took().unwrap_or(0);
    }

    /// Returns the table that is shown at the end.
    pub fn table(&self) -> String {
        if self.0.is_empty() {
            return "No page has moved.\n".to_owned();
        }
        let mut table = info::table(["device", "pages", "", "by", "because", "passes", "time"]);
        for (key, moved) in &self.0 {
            let way = if key.to_device {
                "to the device"
            } else {
                "back"
            };
            table.add_row([
                key.device.clone(),
                moved.pages.to_string(),
                way.to_owned(),
                format!("{} {}", key.program, key.pid),
                words::cause(&key.cause, key.to_device).to_owned(),
                moved.passes.to_string(),
                tell::time(moved.micros),
            ]);
        }
        format!("\n{}\n", info::trimmed(&table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dmirror_client::trace::Event;
    use dmirror_client::trace::Value;

    fn seen(task: &str, cause: &str, moved: i64) -> Seen {
        let word = |text: &str| Value::Word(text.to_owned());
        Seen {
            event: Event {
                micros: 100,
                name: "migrate_end".into(),
                task: task.into(),
                tid: 1,
                cpu: 0,
                fields: vec![
                    ("device".into(), Value::Number(0)),
                    ("pid".into(), Value::Number(9)),
                    ("to".into(), word("system")),
                    ("cause".into(), word(cause)),
                    ("moved".into(), Value::Number(moved)),
                ],
            },
            began: Some(90),
        }
    }

    #[test]
    fn passes_of_a_program_for_a_cause_are_a_row() {
        let mut sum = Sum::default();
        sum.add(&seen("a", "cpu_fault", 1));
        sum.add(&seen("a", "cpu_fault", 2));
        sum.add(&seen("b", "eviction", 512));
        let table = sum.table();
        let lines: Vec<Vec<&str>> = table
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        let row = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(lines[2], row("0 3 back a 9 a CPU touched them 2 20 us"));
        assert_eq!(
            lines[3],
            row("0 512 back b 9 others needed the room 1 10 us")
        );
    }

    #[test]
    fn nothing_is_said_to_be_nothing() {
        assert_eq!(Sum::default().table(), "No page has moved.\n");
    }
}
