// SPDX-License-Identifier: GPL-2.0

//! The results of a simulation, as a table.

use comfy_table::CellAlignment;
use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::presets::UTF8_FULL_CONDENSED;

use super::Row;
use super::Simulation;
use super::cost::COSTS;
use crate::units;

/// Makes a table with a row for each result.
pub fn table(simulation: &Simulation, markdown: bool) -> String {
    let mut table = empty(markdown);
    table.set_header([
        "pattern",
        "memory",
        "preset",
        "eviction",
        "device faults",
        "CPU faults",
        "to device",
        "back",
        "evicted",
        "time",
        "to the best",
    ]);
    for row in &simulation.rows {
        table.add_row(cells(simulation, row));
    }
    for column in table.column_iter_mut().skip(4) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!("{table}\n")
}

/// Makes a table of the costs that times are computed from.
pub fn costs(markdown: bool) -> String {
    let mut table = empty(markdown);
    table.set_header(["cost", "time", "source"]);
    for (_, ns, what, basis) in COSTS {
        table.add_row([what, &units::time(ns as f64), basis]);
    }
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!("{table}\n")
}

fn empty(markdown: bool) -> Table {
    let mut table = Table::new();
    table.load_preset(if markdown {
        ASCII_MARKDOWN
    } else {
        UTF8_FULL_CONDENSED
    });
    table
}

fn cells(simulation: &Simulation, row: &Row) -> [String; 11] {
    [
        row.pattern.name().to_owned(),
        format!("{} %", row.percent),
        row.preset.to_owned(),
        row.eviction
            .map_or("–", |eviction| eviction.name())
            .to_owned(),
        row.device_faults.to_string(),
        row.cpu_faults.to_string(),
        units::size(row.out_bytes),
        units::size(row.back_bytes),
        units::size(row.evicted_bytes),
        units::time(row.time_ns as f64),
        format!("{:.2}", simulation.ratio(row)),
    ]
}
