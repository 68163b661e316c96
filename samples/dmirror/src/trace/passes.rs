// SPDX-License-Identifier: GPL-2.0

//! Joins each event for an end with the event for its begin.

use std::collections::HashMap;

use dmirror_client::trace::Event;

/// The suffix of the names of events for a begin.
pub const BEGIN: &str = "_begin";

/// The suffix of the names of events for an end.
const END: &str = "_end";

/// An event, and its begin, if that is known.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The event.
    pub event: Event,
    /// The time of its begin, in microseconds; it ended at the event's time.
    pub began: Option<u64>,
}

impl Seen {
    /// Creates an event without a duration.
    pub fn now(event: Event) -> Self {
        Self { event, began: None }
    }

    /// Returns its duration in microseconds.
    pub fn took(&self) -> Option<u64> {
        self.began
            .map(|began| self.event.micros.saturating_sub(began))
    }

    /// Returns its name, without the suffix for an end.
    pub fn name(&self) -> &str {
        self.event
            .name
            .strip_suffix(END)
            .unwrap_or(&self.event.name)
    }
}

/// The begins without an end, by thread. A thread ends the latest one first.
#[derive(Debug, Default)]
pub struct Passes(HashMap<i32, Vec<Event>>);

impl Passes {
    /// Takes the next event; returns it with its begin, or `None` if it is a begin.
    pub fn join(&mut self, event: Event) -> Option<Seen> {
        let open = self.0.entry(event.tid).or_default();
        if event.name.ends_with(BEGIN) {
            open.push(event);
            return None;
        }
        let mut seen = Seen::now(event);
        if let Some(name) = seen.event.name.strip_suffix(END) {
            let is_begin = |begin: &Event| begin.name.strip_suffix(BEGIN) == Some(name);
            if let Some(place) = open.iter().rposition(is_begin) {
                seen.began = Some(open[place].micros);
                open.truncate(place);
            }
        } else if let Some(ns) = seen.event.number("ns") {
            let micros = u64::try_from(ns).unwrap_or(0).div_ceil(1000);
            seen.began = Some(seen.event.micros.saturating_sub(micros));
        }
        Some(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dmirror_client::trace::Value;

    fn event(micros: u64, name: &str, tid: i32) -> Event {
        Event {
            micros,
            name: name.into(),
            task: "t".into(),
            tid,
            cpu: 0,
            fields: Vec::new(),
        }
    }

    #[test]
    fn a_pass_within_a_pass_ends_first() {
        let mut passes = Passes::default();
        assert!(passes.join(event(10, "migrate_begin", 1)).is_none());
        assert!(passes.join(event(11, "migrate_begin", 2)).is_none());
        assert!(passes.join(event(12, "migrate_begin", 1)).is_none());
        let took = |passes: &mut Passes, micros, tid| {
            passes
                .join(event(micros, "migrate_end", tid))
                .unwrap()
                .took()
        };
        assert_eq!(took(&mut passes, 15, 1), Some(3));
        assert_eq!(took(&mut passes, 16, 2), Some(5));
        assert_eq!(took(&mut passes, 17, 1), Some(7));
        assert_eq!(took(&mut passes, 18, 1), None);
    }

    #[test]
    fn other_pairs_are_joined_by_their_names() {
        let mut passes = Passes::default();
        assert!(passes.join(event(1, "job_begin", 1)).is_none());
        assert!(passes.join(event(2, "migrate_begin", 1)).is_none());
        assert_eq!(
            passes.join(event(3, "migrate_end", 1)).unwrap().took(),
            Some(1)
        );
        let job = passes.join(event(9, "job_end", 1)).unwrap();
        assert_eq!((job.name(), job.took()), ("job", Some(8)));
    }

    #[test]
    fn who_says_how_long_it_took_needs_no_beginning() {
        let mut evict = event(100, "evict", 1);
        evict.fields.push(("ns".into(), Value::Number(40_500)));
        let seen = Passes::default().join(evict).unwrap();
        assert_eq!((seen.name(), seen.took()), ("evict", Some(41)));
    }
}
