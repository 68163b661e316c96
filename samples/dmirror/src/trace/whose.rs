// SPDX-License-Identifier: GPL-2.0

//! The selection of events: all, or those of a program and its children.

use std::collections::HashSet;

use dmirror_client::trace::Event;

use super::names::EXEC;

/// The event for the creation of children and threads, in the system `sched`.
pub const FORK: &str = "sched_process_fork";

/// The threads whose events are shown.
#[derive(Debug, Default)]
pub struct Whose {
    /// `None` means all threads.
    threads: Option<HashSet<i32>>,
}

impl Whose {
    /// Selects a process, and the threads and processes that it creates from now on.
    pub fn tree_of(pid: i32) -> Self {
        Self {
            threads: Some(HashSet::from([pid])),
        }
    }

    /// Returns whether an event is selected. Learns children from it.
    pub fn wants(&mut self, event: &Event) -> bool {
        let Some(threads) = &mut self.threads else {
            return ![FORK, EXEC].contains(&event.name.as_str());
        };
        if event.name == FORK {
            if threads.contains(&event.tid) {
                let child = event.number("child_pid");
                threads.extend(child.and_then(|child| i32::try_from(child).ok()));
            }
            return false;
        }
        event.name != EXEC && (threads.contains(&event.tid) || is_of_engine(&event.task))
    }
}

/// Returns whether a thread is a kernel thread that executes packets, `dmirrorN/M`, or handles
/// their faults, `dmirrorN/f`.
pub fn is_of_engine(task: &str) -> bool {
    let parts = task
        .strip_prefix("dmirror")
        .and_then(|rest| rest.split_once('/'));
    parts.is_some_and(|(device, _)| {
        !device.is_empty() && device.bytes().all(|byte| byte.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use dmirror_client::trace::Value;

    fn event(name: &str, task: &str, tid: i32, fields: &[(&str, i64)]) -> Event {
        let fields = fields.iter();
        Event {
            micros: 1,
            name: name.into(),
            task: task.into(),
            tid,
            cpu: 0,
            fields: fields
                .map(|(name, value)| ((*name).to_owned(), Value::Number(*value)))
                .collect(),
        }
    }

    #[test]
    fn follows_children_of_children() {
        let mut whose = Whose::tree_of(10);
        let fault = |tid| event("cpu_fault", "p", tid, &[]);
        assert!(whose.wants(&fault(10)));
        assert!(!whose.wants(&fault(11)));
        assert!(!whose.wants(&event(FORK, "p", 10, &[("pid", 10), ("child_pid", 11)])));
        assert!(!whose.wants(&event(FORK, "p", 11, &[("pid", 11), ("child_pid", 12)])));
        assert!(!whose.wants(&event(FORK, "q", 20, &[("pid", 20), ("child_pid", 21)])));
        assert!(whose.wants(&fault(11)) && whose.wants(&fault(12)));
        assert!(!whose.wants(&fault(21)));
        assert!(!whose.wants(&event(EXEC, "p", 11, &[])));
        assert!(!Whose::default().wants(&event(FORK, "p", 1, &[])));
        assert!(Whose::default().wants(&fault(1)));
        assert!(whose.wants(&event("device_fault", "dmirror0/1", 99, &[])));
    }

    #[test]
    fn engines_are_known_by_their_names() {
        assert!(is_of_engine("dmirror0/0") && is_of_engine("dmirror12/f"));
        assert!(!is_of_engine("dmirror-demo") && !is_of_engine("dmirror/x"));
    }
}
