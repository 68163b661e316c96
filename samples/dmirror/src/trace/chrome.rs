// SPDX-License-Identifier: GPL-2.0

//! The Trace Event Format of chrome://tracing, which Perfetto reads as well: events with a begin
//! and an end are bars, other events are marks.

use std::collections::HashSet;
use std::io::BufWriter;
use std::io::Write;

use anyhow::Result;
use serde_json::Value;
use serde_json::json;

use super::passes::Seen;
use super::tell;

/// A file that is being written.
pub struct Chrome {
    out: Box<dyn Write>,
    /// Set if there is an event in it.
    begun: bool,
    named: HashSet<i64>,
}

impl Chrome {
    /// Creates a file without events.
    pub fn new(file: impl Write + 'static) -> Result<Self> {
        let mut out: Box<dyn Write> = Box::new(BufWriter::new(file));
        writeln!(out, "{{\"displayTimeUnit\":\"ms\",\"traceEvents\":[")?;
        Ok(Self {
            out,
            begun: false,
            named: HashSet::new(),
        })
    }

    /// Adds an event.
    pub fn add(&mut self, seen: &Seen) -> Result<()> {
        let event = &seen.event;
        let pid = event.number("pid").unwrap_or(event.tid.into());
        for (number, kind) in [(pid, "process_name"), (event.tid.into(), "thread_name")] {
            // A process may have the number of a thread; the sign tells them apart.
            let known = if kind == "thread_name" {
                -number
            } else {
                number
            };
            if self.named.insert(known) {
                let args = json!({"name": event.task});
                let tid = event.tid;
                self.put(&json!({"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": args}))?;
            }
        }
        let mut object = json!({
            "name": name(seen),
            "cat": seen.name(),
            "pid": pid,
            "tid": event.tid,
            "args": tell::Fields(event),
        });
        match seen.began {
            Some(began) => {
                object["ph"] = json!("X");
                object["ts"] = json!(began);
                object["dur"] = json!(event.micros.saturating_sub(began));
            }
            None => {
                object["ph"] = json!("i");
                object["ts"] = json!(event.micros);
                object["s"] = json!("t");
            }
        }
        self.put(&object)
    }

    /// Ends the file.
    pub fn end(mut self) -> Result<()> {
        writeln!(self.out, "\n]}}")?;
        Ok(self.out.flush()?)
    }

    fn put(&mut self, object: &Value) -> Result<()> {
        let comma = if self.begun { ",\n" } else { "" };
        self.begun = true;
        Ok(write!(self.out, "{comma}{object}")?)
    }
}

/// Returns the label of the bar or mark.
fn name(seen: &Seen) -> String {
    let event = &seen.event;
    match (event.text("to"), event.text("cause")) {
        (Some(to), Some(cause)) => format!("to {to}: {cause}"),
        (None, Some(cause)) => format!("{}: {cause}", seen.name()),
        _ => seen.name().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io;
    use std::rc::Rc;

    use dmirror_client::trace::Event;
    use dmirror_client::trace::Value as Field;

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Rc<RefCell<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn event(name: &str) -> Event {
        Event {
            micros: 200,
            name: name.into(),
            task: "demo".into(),
            tid: 6,
            cpu: 0,
            fields: vec![
                ("pid".into(), Field::Number(5)),
                ("cause".into(), Field::Word("request".into())),
            ],
        }
    }

    #[test]
    fn passes_are_bars_and_faults_are_marks() {
        let shared = Shared::default();
        let mut file = Chrome::new(shared.clone()).unwrap();
        let pass = Seen {
            event: event("migrate_end"),
            began: Some(150),
        };
        file.add(&pass).unwrap();
        file.add(&Seen::now(event("cpu_fault"))).unwrap();
        file.end().unwrap();
        let json: Value = serde_json::from_slice(&shared.0.borrow()).unwrap();
        let events = json["traceEvents"].as_array().unwrap();
        let of = |kind: &str| {
            events
                .iter()
                .filter(|event| event["ph"] == kind)
                .collect::<Vec<_>>()
        };
        assert_eq!(of("M").len(), 2);
        let bars = of("X");
        assert_eq!(
            (bars[0]["ts"].as_u64(), bars[0]["dur"].as_u64()),
            (Some(150), Some(50))
        );
        assert_eq!(bars[0]["name"], "migrate: request");
        assert_eq!(
            (of("i")[0]["pid"].as_u64(), of("i")[0]["tid"].as_u64()),
            (Some(5), Some(6))
        );
    }

    #[test]
    fn a_file_without_events_is_a_file() {
        let shared = Shared::default();
        Chrome::new(shared.clone()).unwrap().end().unwrap();
        let json: Value = serde_json::from_slice(&shared.0.borrow()).unwrap();
        assert_eq!(json["traceEvents"].as_array().unwrap().len(), 0);
    }
}
