// SPDX-License-Identifier: GPL-2.0

//! The view as lines, for pipes and dumb terminals.

use std::io::Write;

use anyhow::Result;

use super::rates::DeviceRates;
use super::rates::FileRates;
use super::rates::Sample;
use crate::words;

/// Prints the state of `now`, and the rates between two samples.
pub fn print(before: &Sample, now: &Sample, out: &mut impl Write) -> Result<()> {
    for device in &now.state.devices {
        let rates = DeviceRates::between(before, now, device.number);
        let size = words::or_unknown(device.pages, words::pages);
        let used = words::or_unknown(device.resident_pages, words::pages);
        let mut line = format!("{}: {used} of {size} used", device.node);
        if let Some(policy) = &device.policy {
            line += &format!(", policy {policy}");
        }
        line += &format!(
            ", out {:.0} pages/s{}, back {:.0} pages/s{}",
            rates.out(),
            causes(&rates.out),
            rates.back(),
            causes(&rates.back)
        );
        for (name, rate) in rates.faults.iter().filter(|(_, rate)| *rate > 0.0) {
            line += &format!(", {name} {rate:.0}/s");
        }
        writeln!(out, "{line}")?;
    }
    for file in &now.state.files {
        let rates = FileRates::between(before, now, file);
        writeln!(
            out,
            "  {} ({}) on device {}: {} there, {} elsewhere, out {:.0} pages/s, \
             back {:.0} pages/s, {}, engines {:.0} %",
            file.program,
            file.opener,
            file.device,
            words::or_unknown(file.device_kib, |kib| words::bytes(kib * 1024)),
            words::or_unknown(file.system_kib, |kib| words::bytes(kib * 1024)),
            rates.out,
            rates.back,
            words::count(file.queues, "queue"),
            rates.busy * 100.0
        )?;
    }
    for what in &now.state.hidden {
        writeln!(out, "  not shown: {what}")?;
    }
    writeln!(out)?;
    Ok(out.flush()?)
}

/// Returns the causes with a rate above 0.
fn causes(rates: &[(&str, f64)]) -> String {
    let some = rates.iter().filter(|(_, rate)| *rate > 0.0);
    let words: Vec<String> = some
        .map(|(cause, rate)| format!("{cause} {rate:.0}"))
        .collect();
    if words.is_empty() {
        String::new()
    } else {
        format!(" ({})", words.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::rates::tests::samples;

    #[test]
    fn a_line_a_device_and_a_line_a_process() {
        let (before, now) = samples();
        let mut out = Vec::new();
        print(&before, &now, &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "/dev/hmm_dmirror0: 2 MiB of 4 MiB used, policy xe, out 256 pages/s (request 256), \
             back 50 pages/s (cpu_fault 50), cpu faults 5/s\n\
             \x20 idle (7) on device 0: 8 KiB there, ? elsewhere, out 0 pages/s, back 0 pages/s, \
             0 queues, engines 0 %\n\
             \x20 busy (99) on device 0: 4 KiB there, ? elsewhere, out 256 pages/s, \
             back 0 pages/s, 0 queues, engines 50 %\n\n"
        );
    }
}
