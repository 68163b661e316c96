// SPDX-License-Identifier: GPL-2.0

//! An event in words, and as JSON.

use dmirror_client::Errno;
use dmirror_client::trace::Event;
use dmirror_client::trace::Value;
use serde::Serialize;
use serde::Serializer;
use serde_json::json;

use super::passes::BEGIN;
use super::passes::Seen;
use super::whose::is_of_engine;
use crate::words;

/// An event as a JSON object.
#[derive(Serialize)]
pub struct Json<'a> {
    time_us: u64,
    event: &'a str,
    task: &'a str,
    tid: i32,
    cpu: u32,
    fields: Fields<'a>,
}

impl<'a> Json<'a> {
    /// Creates the object for an event.
    pub fn of(event: &'a Event) -> Self {
        Self {
            time_us: event.micros,
            event: &event.name,
            task: &event.task,
            tid: event.tid,
            cpu: event.cpu,
            fields: Fields(event),
        }
    }
}

/// The fields of an event as a JSON object, in their order. Addresses are text, because not every
/// reader of JSON supports 64-bit numbers.
pub struct Fields<'a>(pub &'a Event);

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value = |value: &Value| match value {
            Value::Number(number) => json!(number),
            other => json!(other.to_string()),
        };
        let fields = self.0.fields.iter();
        serializer.collect_map(fields.map(|(name, of)| (name, value(of))))
    }
}

/// Returns whether an event contains something that no other event reports.
pub fn is_news(event: &Event) -> bool {
    match event.name.as_str() {
        // The pass that brings pages back reports it, too.
        "cpu_fault" => {
            event.text("answer").as_deref() != Some("retry") || event.number("moved") == Some(0)
        }
        "reserve" => event.number("error") != Some(0),
        // Otherwise, `own` is 1, or a word of another version of the module.
        "invalidate" => event.number("own") == Some(0) && event.number("cleared") != Some(0),
        _ => true,
    }
}

/// Returns the line for an event: time, task, device, description.
pub fn line(seen: &Seen, begin: u64) -> String {
    let event = &seen.event;
    let seconds = event.micros.saturating_sub(begin) as f64 / 1e6;
    let device = event.text("device").unwrap_or_default();
    let pid = event.text("pid").unwrap_or_else(|| event.tid.to_string());
    let who = if is_of_engine(&event.task) {
        format!("{} (engine)", event.task)
    } else {
        format!("{} {pid}", event.task)
    };
    let mut line = format!(
        "{seconds:>11.6}  {who:<22}  device {device}  {}",
        what(seen)
    );
    if let Some(took) = seen.took() {
        line += &format!(" [{}]", time(took));
    }
    line
}

/// Formats a time in a suitable unit.
pub fn time(micros: u64) -> String {
    match micros {
        0..1000 => format!("{micros} us"),
        1000..1_000_000 => format!("{:.1} ms", micros as f64 / 1e3),
        _ => format!("{:.1} s", micros as f64 / 1e6),
    }
}

/// Returns the description of an event.
fn what(seen: &Seen) -> String {
    let event = &seen.event;
    let text = |field| event.text(field).unwrap_or_else(|| "?".to_owned());
    let pages = |field| match event.number(field) {
        // A process that ends loses all of its address space.
        Some(number) if number > 1 << 40 => "all pages".to_owned(),
        Some(number) => words::count(u64::try_from(number).unwrap_or(0), "page"),
        None => "? pages".to_owned(),
    };
    let at = || match event.value("address") {
        Some(Value::Address(0)) | Some(Value::Number(0)) | None => String::new(),
        Some(address) => format!(" at {address}"),
    };
    let to_device = event.text("to").as_deref() == Some("device");
    let cause = text("cause");
    let because = || format!("because {}", words::cause(&cause, to_device));
    match event.name.as_str() {
        "migrate_begin" | "migrate_end" => {
            let way = match (to_device, event.name.ends_with(BEGIN)) {
                (true, true) => "going to the device",
                (true, false) => "to the device",
                (false, true) => "coming back",
                (false, false) => "came back",
            };
            let wanted = pages("pages");
            let number = match event.number("moved") {
                None => wanted,
                // Its window is chosen later, so only the touched page is requested.
                Some(_) if cause == "cpu_fault" => pages("moved"),
                Some(moved) if Some(moved) == event.number("pages") => wanted,
                Some(moved) => format!("{moved} of {wanted}"),
            };
            format!("{number} {way}{}, {}{}", at(), because(), error(event))
        }
        "cpu_fault" => {
            let answer = match text("answer").as_str() {
                "retry" => String::new(),
                "out_of_memory" => ": there is no memory for it".to_owned(),
                "bus_error" => ": SIGBUS".to_owned(),
                other => format!(": {other}"),
            };
            let moved = pages("moved");
            format!(
                "a CPU touched {}, {moved} came back{answer}",
                text("address")
            )
        }
        "device_fault" => {
            let verb = match text("access").as_str() {
                "read" => "reads".to_owned(),
                "write" => "writes".to_owned(),
                other => format!("wants ({other})"),
            };
            let pages = pages("pages");
            format!(
                "the device {verb} {pages}{} that it had not mapped{}",
                at(),
                error(event)
            )
        }
        "invalidate" => format!(
            "page tables changed ({}) for {}{}, the device forgets {}",
            text("event"),
            pages("pages"),
            at(),
            pages("cleared")
        ),
        "exclusive" => format!(
            "the device takes {} of {}{} for itself alone{}",
            text("made"),
            pages("pages"),
            at(),
            error(event)
        ),
        "reserve" if event.number("block") == Some(1) => format!(
            "a block of the device is reserved, {}{}",
            pages("got"),
            error(event)
        ),
        "reserve" => format!(
            "{} of {} on the device are reserved{}",
            text("got"),
            pages("pages"),
            error(event)
        ),
        "evict" => {
            let left = match event.number("left") {
                Some(0) | None => String::new(),
                Some(left) => format!(", {left} stayed"),
            };
            let moved = pages("moved");
            let block = text("block");
            format!(
                "block {block} is emptied, {moved}{left}, {}{}",
                because(),
                error(event)
            )
        }
        _ => unknown(seen),
    }
}

/// Describes an event of which only the format file is known.
fn unknown(seen: &Seen) -> String {
    let fields = seen.event.fields.iter();
    let fields = fields.filter(|(name, _)| name != "device" && name != "pid");
    let fields: Vec<String> = fields
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    format!("{} {}", seen.name(), fields.join(" "))
}

fn error(event: &Event) -> String {
    match event.number("error") {
        Some(0) | None => String::new(),
        Some(number) => {
            let errno = Errno::from_raw(i32::try_from(-number).unwrap_or(0));
            format!(": {errno:?}, {}", errno.desc())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, fields: &str) -> Event {
        let value = |text: &str| match (text.strip_prefix("0x"), text.parse()) {
            (Some(hex), _) => Value::Address(u64::from_str_radix(hex, 16).unwrap()),
            (None, Ok(number)) => Value::Number(number),
            (None, Err(_)) => Value::Word(text.to_owned()),
        };
        Event {
            micros: 1_500_000,
            name: name.into(),
            task: "python3".into(),
            tid: 8,
            cpu: 1,
            fields: fields
                .split_whitespace()
                .map(|field| field.split_once('=').unwrap())
                .map(|(name, text)| (name.to_owned(), value(text)))
                .collect(),
        }
    }

    fn told(name: &str, fields: &str) -> String {
        what(&Seen::now(event(name, fields)))
    }

    #[test]
    fn a_line_says_when_who_and_where() {
        let fields =
            "device=1 pid=7 address=0x7000 pages=512 to=device cause=request moved=512 error=0";
        let seen = Seen {
            event: event("migrate_end", fields),
            began: Some(1_490_000),
        };
        assert_eq!(
            line(&seen, 1_000_000),
            "   0.500000  python3 7               device 1  512 pages to the device at 0x7000, \
             because a program asked for it [10.0 ms]"
        );
    }

    #[test]
    fn events_are_told_in_words() {
        assert_eq!(
            told(
                "migrate_end",
                "address=0 pages=512 to=system cause=eviction moved=3 error=-16"
            ),
            "3 of 512 pages came back, because others needed the room: EBUSY, \
             Device or resource busy"
        );
        assert_eq!(
            told("cpu_fault", "address=0x5000 moved=1 answer=retry"),
            "a CPU touched 0x5000, 1 page came back"
        );
        assert_eq!(
            told("cpu_fault", "address=0x5000 moved=0 answer=bus_error"),
            "a CPU touched 0x5000, 0 pages came back: SIGBUS"
        );
        assert_eq!(
            told(
                "device_fault",
                "address=0x5000 pages=2 access=write error=-14"
            ),
            "the device writes 2 pages at 0x5000 that it had not mapped: EFAULT, Bad address"
        );
        assert_eq!(
            told("evict", "block=3 moved=510 left=2 cause=release error=0"),
            "block 3 is emptied, 510 pages, 2 stayed, because somebody released the device"
        );
    }

    #[test]
    fn a_fault_brings_back_what_is_near() {
        let fields = "address=0x5000 pages=1 to=system cause=cpu_fault moved=8 error=0";
        assert_eq!(
            told("migrate_end", fields),
            "8 pages came back at 0x5000, because a CPU touched them"
        );
        assert_eq!(
            told(
                "migrate_begin",
                "address=0x5000 pages=1 to=system cause=cpu_fault"
            ),
            "1 page coming back at 0x5000, because a CPU touched them"
        );
    }

    #[test]
    fn the_end_of_a_process_has_no_number_of_pages() {
        let fields = "address=0 pages=4503599627370495 event=unmap own=0 cleared=2";
        assert_eq!(
            told("invalidate", fields),
            "page tables changed (unmap) for all pages, the device forgets 2 pages"
        );
    }

    #[test]
    fn an_event_of_tomorrow_has_its_fields() {
        assert_eq!(
            told("job_end", "device=0 queue=2 error=-5"),
            "job queue=2 error=-5"
        );
    }

    #[test]
    fn what_the_device_does_to_page_tables_is_no_news() {
        assert!(!is_news(&event("invalidate", "own=1 cleared=3")));
        assert!(!is_news(&event("invalidate", "own=0 cleared=0")));
        assert!(is_news(&event("invalidate", "own=0 cleared=3")));
        assert!(!is_news(&event("cpu_fault", "moved=3 answer=retry")));
        assert!(is_news(&event("cpu_fault", "moved=0 answer=bus_error")));
        assert!(is_news(&event("reserve", "error=-12")));
        assert!(is_news(&event("anything", "")));
    }

    #[test]
    fn json_has_numbers_and_words() {
        let event = event("cpu_fault", "device=0 address=0x5000 answer=retry");
        let json = serde_json::to_value(Json::of(&event)).unwrap();
        assert_eq!(json["fields"]["device"], 0);
        assert_eq!(json["fields"]["address"], "0x5000");
        assert_eq!(json["fields"]["answer"], "retry");
        assert_eq!(json["time_us"], 1_500_000);
    }
}
