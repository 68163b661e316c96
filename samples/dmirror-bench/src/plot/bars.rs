// SPDX-License-Identifier: GPL-2.0

//! Bars, two for each operation.

use anyhow::Result;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;
use plotters::style::text_anchor::Pos;
use plotters::style::text_anchor::VPos;

use super::COLOURS;
use super::Picture;
use super::axis::Axis;
use super::text;
use super::unit_of;
use crate::report::Clock;
use crate::report::Group;
use crate::report::Report;

/// Nanoseconds a page of the operations of a group, on a logarithmic axis.
#[derive(Debug)]
pub struct Bars {
    title: String,
    modules: [String; 2],
    rows: Vec<Row>,
    clock: Clock,
}

#[derive(Debug)]
struct Row {
    label: String,
    values: [Option<f64>; 2],
}

/// Pixels of a row.
const ROW: u32 = 46;

impl Bars {
    /// The bars of a group; `None` if nothing of it was measured.
    pub fn of(ours: &Report, theirs: &Report, clock: Clock, group: Group) -> Option<Self> {
        let keys: Vec<_> = ours.keys(clock).filter(|key| key.group == group).collect();
        let value = |report: &Report, key| Some(report.total(clock, key)?.per_page());
        let rows = keys.iter().map(|key| Row {
            label: match group {
                Group::OnePage => key.operation.clone(),
                _ => format!("{}, {}", key.operation, key.memory),
            },
            values: [value(ours, key), value(theirs, key)],
        });
        let rows: Vec<Row> = rows
            .filter(|row| row.values.iter().any(Option::is_some))
            .collect();
        let at = keys.first().map(|key| group.place(key.at))?;
        (!rows.is_empty()).then(|| Self {
            title: match group {
                Group::OnePage => "Operations on one page".to_owned(),
                _ => format!("Operations on {at}, a page"),
            },
            modules: [ours.module().to_owned(), theirs.module().to_owned()],
            rows,
            clock,
        })
    }
}

impl Picture for Bars {
    fn height(&self) -> u32 {
        150 + ROW * self.rows.len() as u32
    }

    fn draw<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>) -> Result<()>
    where
        DB::ErrorType: 'static,
    {
        let values = || self.rows.iter().flat_map(|row| row.values).flatten();
        let least = values().fold(f64::INFINITY, f64::min).max(1.0);
        let most = values().fold(1.0, f64::max);
        // A decade below, so that the shortest bar can be seen, and room for numbers.
        let (low, high) = (least.log10().floor() - 0.3, most.log10() + 0.6);
        let decades = (low.ceil() as i32..=high.floor() as i32).map(f64::from);
        let count = self.rows.len() as f64;
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, text(26))
            .margin(16)
            .x_label_area_size(60)
            .y_label_area_size(220)
            .build_cartesian_2d(
                Axis {
                    range: low..high,
                    ticks: decades.collect(),
                },
                Axis {
                    range: count..0.0,
                    ticks: (0..self.rows.len()).map(|row| row as f64 + 0.5).collect(),
                },
            )?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc(unit_of(self.clock))
            .x_label_formatter(&|power| self.clock.write(10_f64.powf(*power)))
            .y_label_formatter(&|at| {
                let row = self.rows.get(*at as usize);
                row.map_or_else(String::new, |row| row.label.clone())
            })
            .axis_desc_style(text(19))
            .label_style(text(17))
            .draw()?;
        for (which, (module, colour)) in self.modules.iter().zip(COLOURS).enumerate() {
            let bars = self.rows.iter().enumerate().filter_map(|(row, values)| {
                let value = values.values[which]?;
                let top = row as f64 + 0.12 + 0.38 * which as f64;
                Some((value, top))
            });
            let bars: Vec<(f64, f64)> = bars.collect();
            chart
                .draw_series(bars.iter().map(|(value, top)| {
                    let end = value.max(1.0).log10();
                    Rectangle::new([(low, *top), (end, top + 0.36)], colour.filled())
                }))?
                .label(module)
                .legend(move |(x, y)| {
                    Rectangle::new([(x, y - 6), (x + 18, y + 6)], colour.filled())
                });
            let style = text(16).pos(Pos::new(HPos::Left, VPos::Center));
            chart.draw_series(bars.iter().map(|(value, top)| {
                let at = (value.max(1.0).log10() + 0.02, top + 0.18);
                Text::new(self.clock.write(*value), at, style.clone())
            }))?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.4))
            .label_font(text(18))
            .draw()?;
        Ok(())
    }
}
