// SPDX-License-Identifier: GPL-2.0

//! The results of two modules, side by side.

use comfy_table::CellAlignment;
use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::presets::UTF8_FULL_CONDENSED;

use crate::report::Clock;
use crate::report::Group;
use crate::report::Key;
use crate::report::Report;

/// Returns a table with a row for each operation of `groups`, or of all groups if that is empty:
/// its time on each module, in instructions and by the clock, and the ratio of the first module to
/// the second.
pub fn table(ours: &Report, theirs: &Report, groups: &[Group], markdown: bool) -> String {
    let clocks: Vec<Clock> = [Clock::Instructions, Clock::Host]
        .into_iter()
        .filter(|clock| ours.keys(*clock).next().is_some())
        .collect();
    let mut table = Table::new();
    table.load_preset(if markdown {
        ASCII_MARKDOWN
    } else {
        UTF8_FULL_CONDENSED
    });
    let mut header: Vec<String> = ["group", "operation", "pages", "at"]
        .map(str::to_owned)
        .into();
    for clock in &clocks {
        header.push(format!("{}, {clock}", ours.module()));
        header.push(format!("{} per page", ours.module()));
        header.push(format!("{}, {clock}", theirs.module()));
        header.push("ratio".to_owned());
    }
    table.set_header(header);
    for key in keys(ours, &clocks) {
        if groups.is_empty() || groups.contains(&key.group) {
            let mut row = vec![
                key.group.to_string(),
                key.operation.clone(),
                key.memory.to_string(),
                key.group.place(key.at),
            ];
            for clock in &clocks {
                row.extend(cells(ours, theirs, *clock, key));
            }
            table.add_row(row);
        }
    }
    for column in table.column_iter_mut().skip(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!("{table}\n")
}

/// Returns the keys by any clock, each once, in the order of groups.
fn keys<'a>(report: &'a Report, clocks: &[Clock]) -> Vec<&'a Key> {
    let mut keys: Vec<&Key> = Vec::new();
    for key in clocks.iter().flat_map(|clock| report.keys(*clock)) {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys.sort_by_key(|key| key.group);
    keys
}

/// Returns the cells of one clock: our time, our time per page, their time, and the ratio.
fn cells(ours: &Report, theirs: &Report, clock: Clock, key: &Key) -> [String; 4] {
    let total = |report: &Report| report.total(clock, key);
    let time = |report: &Report| match total(report) {
        Some(total) => clock.write(total.ns as f64),
        None => report.reason(clock, key).map_or("", |_| "n/a").to_owned(),
    };
    let ratio = total(ours)
        .zip(total(theirs))
        .and_then(|(ours, theirs)| ours.ratio(theirs));
    [
        time(ours),
        total(ours).map_or_else(String::new, |total| clock.write(total.per_page())),
        time(theirs),
        ratio.map_or_else(String::new, |ratio| match ratio {
            ratio if ratio < 0.1 => format!("{ratio:.4}"),
            _ => format!("{ratio:.2}"),
        }),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;

    #[test]
    fn a_row_has_both_times_and_the_ratio() {
        let clock = Clock::Instructions;
        let ours = report(clock, &[("READ", &[3000]), ("WRITE", &[])]);
        let theirs = report(clock, &[("READ", &[2000]), ("WRITE", &[5000])]);
        let text = table(&ours, &theirs, &[], true);
        let rows: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split('|').map(str::trim).collect())
            .collect();
        assert_eq!(
            rows[2][1..9],
            [
                "ops", "READ", "4 KiB", "4 MiB", "3.00 k", "750", "2.00 k", "1.50"
            ]
        );
        assert_eq!(
            rows[3][1..9],
            ["ops", "WRITE", "4 KiB", "4 MiB", "n/a", "", "5.00 k", ""]
        );
        let other = table(&ours, &theirs, &[Group::Sizes], true);
        assert_eq!(other.lines().count(), 2);
    }
}
