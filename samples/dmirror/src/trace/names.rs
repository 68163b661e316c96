// SPDX-License-Identifier: GPL-2.0

//! The names of threads. The kernel records a name when it switches from one thread to another, so
//! events of a program that was just executed have the name of the previous program.

use std::collections::HashMap;
use std::path::Path;

use dmirror_client::trace::Event;

/// The event for the execution of a program, in the system `sched`.
pub const EXEC: &str = "sched_process_exec";

/// Maximum length of a name in the kernel.
const LENGTH: usize = 15;

/// The program that each thread executes.
#[derive(Debug, Default)]
pub struct Names(HashMap<i32, Name>);

#[derive(Debug, Default)]
struct Name {
    /// The name of the program that it has executed, if any.
    now: Option<String>,
    /// Names that it had earlier.
    old: Vec<String>,
}

impl Names {
    /// Corrects the name in an event, and learns names from it.
    pub fn mend(&mut self, event: &mut Event) {
        let name = self.0.entry(event.tid).or_default();
        if event.name == EXEC {
            let file = event.text("filename").unwrap_or_default();
            let file = Path::new(&file).file_name().unwrap_or_default();
            let mut now = file.to_string_lossy().into_owned();
            while now.len() > LENGTH {
                now.pop();
            }
            name.old.extend(name.now.take());
            if event.task != now {
                name.old.push(event.task.clone());
            }
            name.old.retain(|old| *old != now);
            name.now = Some(now);
        }
        match &name.now {
            Some(now) if name.old.contains(&event.task) => event.task.clone_from(now),
            Some(_) => {}
            None if name.old.contains(&event.task) => {}
            None => name.old.push(event.task.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dmirror_client::trace::Value;

    fn mended(names: &mut Names, name: &str, task: &str, tid: i32, file: &str) -> String {
        let mut event = Event {
            micros: 1,
            name: name.into(),
            task: task.into(),
            tid,
            cpu: 0,
            fields: vec![("filename".into(), Value::Word(file.into()))],
        };
        names.mend(&mut event);
        event.task
    }

    #[test]
    fn a_program_has_its_own_name() {
        let mut names = Names::default();
        let fault = "cpu_fault";
        assert_eq!(mended(&mut names, fault, "sh", 5, ""), "sh");
        mended(&mut names, EXEC, "sh", 5, "/usr/bin/python3");
        assert_eq!(mended(&mut names, fault, "sh", 5, ""), "python3");
        assert_eq!(mended(&mut names, fault, "python3", 5, ""), "python3");
        assert_eq!(
            mended(&mut names, fault, "worker", 5, ""),
            "worker",
            "named itself"
        );
        assert_eq!(
            mended(&mut names, fault, "sh", 6, ""),
            "sh",
            "another thread"
        );
        mended(&mut names, EXEC, "python3", 5, "/bin/sh");
        assert_eq!(mended(&mut names, fault, "python3", 5, ""), "sh");
        assert_eq!(mended(&mut names, fault, "sh", 5, ""), "sh");
    }

    #[test]
    fn long_names_are_cut_as_by_the_kernel() {
        let mut names = Names::default();
        let file = "/bin/dmirror-selftest";
        assert_eq!(
            mended(&mut names, EXEC, "dmirror", 5, file),
            "dmirror-selftes"
        );
    }
}
