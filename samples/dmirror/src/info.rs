// SPDX-License-Identifier: GPL-2.0

//! `dmirror info`: devices, their memory, policy, engines and users.

use std::io::Write;

use anyhow::Result;
use clap::Args;
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use owo_colors::OwoColorize as _;

use crate::state::DeviceState;
use crate::state::State;
use crate::words;

/// The arguments of `dmirror info`.
#[derive(Args, Debug)]
pub struct Arguments {
    /// Print the same data as JSON, for programs
    #[arg(long)]
    json: bool,
}

impl Arguments {
    /// Prints the state of the devices.
    pub fn run(&self) -> Result<()> {
        let state = State::look()?;
        if self.json {
            let text = serde_json::to_string_pretty(&state)?;
            writeln!(std::io::stdout(), "{text}")?;
        } else {
            show(&state, &mut anstream::stdout().lock())?;
        }
        Ok(())
    }
}

/// Returns an empty table with these columns, without lines.
pub fn table<const N: usize>(columns: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING);
    table.set_header(columns);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

fn show(state: &State, out: &mut impl Write) -> Result<()> {
    let module = &state.module;
    write!(out, "{} {}", "module".bold(), module.name)?;
    if let Some(version) = &module.version {
        write!(out, " {version}")?;
    }
    if let Some(users) = module.users {
        write!(out, ", {}", words::count(users, "user"))?;
    }
    writeln!(out)?;
    if !module.parameters.is_empty() {
        writeln!(out, "       {}", module.parameters.join(" "))?;
    }
    if !state.is_ours() {
        writeln!(
            out,
            "       This is the kernel's own test module. It shows neither memory nor statistics, \
             and has no\n       engines and no policy."
        )?;
    }
    writeln!(out)?;
    writeln!(out, "{}", trimmed(&devices(state)))?;
    for device in &state.devices {
        moved(device, out)?;
    }
    settings(state, out)?;
    writeln!(out)?;
    if state.files.is_empty() {
        writeln!(out, "No process that could be looked at has a device open.")?;
    } else {
        writeln!(out, "{}", trimmed(&files(state)))?;
    }
    for what in &state.hidden {
        let note = format!("Not shown: {what}. Root sees it.");
        writeln!(out, "{}", note.dimmed())?;
    }
    Ok(())
}

/// Returns a table as text, without blanks at the ends of lines.
pub fn trimmed(table: &Table) -> String {
    let lines: Vec<String> = table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect();
    lines.join("\n")
}

fn devices(state: &State) -> Table {
    let mut table = table([
        "device",
        "memory",
        "size",
        "used",
        "free",
        "engines",
        "policy",
        "open files",
    ]);
    for device in &state.devices {
        let used = device.resident_pages.zip(device.reserved_pages);
        let open = state
            .files
            .iter()
            .filter(|file| file.device == device.number);
        table.add_row([
            device.node.clone(),
            device.memory.to_owned(),
            words::or_unknown(device.pages, words::pages),
            words::or_unknown(
                used.map(|(resident, reserved)| resident + reserved),
                words::pages,
            ),
            words::or_unknown(device.free_pages, words::pages),
            words::or_unknown(device.engines, |engines| engines.to_string()),
            words::or_unknown(device.policy.clone(), |policy| policy),
            open.count().to_string(),
        ]);
    }
    table
}

/// Prints how much a device has moved and faulted in, if anything.
fn moved(device: &DeviceState, out: &mut impl Write) -> Result<()> {
    let Some(stats) = device.stats else {
        return Ok(());
    };
    if stats.out() + stats.device_faults == 0 {
        return Ok(());
    }
    writeln!(out)?;
    writeln!(out, "{} since the module was loaded:", device.node.bold())?;
    for (causes, to_device) in [(&device.moved_out, true), (&device.moved_back, false)] {
        for (cause, pages) in causes {
            if *pages > 0 {
                let way = if to_device { "to the device" } else { "back" };
                let why = words::cause(cause, to_device);
                let pages = words::count(*pages, "page");
                writeln!(out, "  {pages:>14} {way:13}  because {why}")?;
            }
        }
    }
    for (number, what) in [
        (stats.freed, "pages freed where they were, on the device"),
        (stats.cpu_faults, "faults of CPUs on its pages"),
        (stats.device_faults, "ranges faulted in by the device"),
        (stats.evictions, "blocks that had to go back"),
    ] {
        if number > 0 {
            writeln!(out, "  {number:>8}       {what}")?;
        }
    }
    Ok(())
}

/// Prints the settings, once for all devices with the same settings.
fn settings(state: &State, out: &mut impl Write) -> Result<()> {
    let mut shown: Vec<&DeviceState> = Vec::new();
    for device in &state.devices {
        let same = |other: &&DeviceState| other.settings == device.settings;
        if device.settings.is_empty() || shown.iter().any(same) {
            continue;
        }
        shown.push(device);
        let nodes: Vec<&str> = state
            .devices
            .iter()
            .filter(|other| other.settings == device.settings)
            .map(|other| other.node.as_str())
            .collect();
        writeln!(out)?;
        writeln!(out, "{} of {}:", "settings".bold(), nodes.join(", "))?;
        let mut line = String::from(" ");
        for (name, value) in &device.settings {
            let value = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            let word = format!(" {name}={value}");
            if line.len() + word.len() > 96 {
                writeln!(out, "{line}")?;
                line = String::from(" ");
            }
            line += &word;
        }
        writeln!(out, "{line}")?;
    }
    Ok(())
}

fn files(state: &State) -> Table {
    let mut table = table([
        "process",
        "program",
        "device",
        "mapped there",
        "mapped elsewhere",
        "moved out",
        "queues",
        "engine time",
    ]);
    for file in &state.files {
        let busy: u64 = file.engine_ns.iter().sum();
        table.add_row([
            file.opener.to_string(),
            file.program.clone(),
            file.device.to_string(),
            words::or_unknown(file.device_kib, |kib| words::bytes(kib * 1024)),
            words::or_unknown(file.system_kib, |kib| words::bytes(kib * 1024)),
            words::or_unknown(file.out_pages, words::pages),
            file.queues.to_string(),
            format!("{:.3} s", busy as f64 / 1e9),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::FileState;
    use crate::state::ModuleState;

    fn shown(state: &State) -> String {
        let mut out = anstream::StripStream::new(Vec::new());
        show(state, &mut out).unwrap();
        String::from_utf8(out.into_inner()).unwrap()
    }

    #[test]
    fn what_is_not_known_is_said() {
        let state = State {
            module: ModuleState {
                name: "dmirror".into(),
                ..ModuleState::default()
            },
            devices: vec![DeviceState {
                node: "/dev/hmm_dmirror0".into(),
                memory: "private",
                ..DeviceState::default()
            }],
            hidden: vec!["statistics".into()],
            ..State::default()
        };
        let text = shown(&state);
        assert!(text.contains("/dev/hmm_dmirror0  private  ?"), "{text}");
        assert!(text.contains("Not shown: statistics."), "{text}");
        assert!(text.contains("No process"), "{text}");
    }

    #[test]
    fn a_device_says_why_pages_moved() {
        let stats = dmirror_client::Stats {
            out_request: 512,
            back_cpu_fault: 1,
            ..Default::default()
        };
        let mut device = DeviceState {
            node: "/dev/hmm_dmirror1".into(),
            number: 1,
            ..DeviceState::default()
        };
        device.moved_out.insert("request", 512);
        device.moved_back.insert("cpu_fault", 1);
        device.settings.insert("granule".into(), 4096.into());
        device.settings.insert("order".into(), "[old] new".into());
        device.stats = Some(stats);
        let state = State {
            devices: vec![device],
            files: vec![FileState {
                pid: 12,
                opener: 12,
                program: "python3".into(),
                device: 1,
                device_kib: Some(2048),
                ..FileState::default()
            }],
            ..State::default()
        };
        let text = shown(&state);
        assert!(
            text.contains("512 pages to the device  because a program asked"),
            "{text}"
        );
        assert!(
            text.contains("1 page back           because a CPU touched them"),
            "{text}"
        );
        assert!(text.contains("  granule=4096 order=[old] new\n"), "{text}");
        assert!(text.contains("python3  1       2 MiB"), "{text}");
        assert!(text.contains("own test module"), "{text}");
    }
}
