// SPDX-License-Identifier: GPL-2.0

//! Bars, two for each operation.

use std::ops::Range;

use anyhow::Result;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;
use plotters::style::text_anchor::Pos;
use plotters::style::text_anchor::VPos;

use super::COLOURS;
use super::Picture;
use super::WIDTH;
use super::axis::Axis;
use super::axis::equal_steps;
use super::text;
use super::unit_of;
use crate::report::Clock;
use crate::report::Group;
use crate::report::Report;
use crate::units;

/// The bars of a group: the nanoseconds per page of each operation.
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

/// The height of a row in pixels.
const ROW: u32 = 46;

impl Bars {
    /// Returns the bars of a group; `None` if nothing of it was measured.
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
                _ => format!("Operations on {at}"),
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
        let scale = Scale::of(
            values().fold(f64::INFINITY, f64::min),
            values().fold(1.0, f64::max),
        );
        let count = self.rows.len() as f64;
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, text(26))
            .margin(16)
            .x_label_area_size(60)
            .y_label_area_size(220)
            .build_cartesian_2d(
                Axis {
                    range: scale.range(),
                    ticks: scale.ticks(),
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
            .x_desc(format!("{} per page", unit_of(self.clock)))
            .x_label_formatter(&|at| units::shorten(&self.clock.write(scale.value(*at))))
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
            chart.draw_series(bars.iter().map(|(value, top)| {
                let ends = [(scale.range().start, *top), (scale.at(*value), top + 0.36)];
                Rectangle::new(ends, colour.filled())
            }))?;
            let style = text(16).pos(Pos::new(HPos::Left, VPos::Center));
            chart.draw_series(bars.iter().map(|(value, top)| {
                let label = EmptyElement::at((scale.at(*value), top + 0.18));
                label + Text::new(self.clock.write(*value), (6, 0), style.clone())
            }))?;
            // Beside the title, where no bar reaches.
            let (x, y) = (WIDTH as i32 - 270 + 130 * which as i32, 30);
            area.draw(&Rectangle::new(
                [(x, y - 7), (x + 18, y + 7)],
                colour.filled(),
            ))?;
            let style = text(18).pos(Pos::new(HPos::Left, VPos::Center));
            area.draw(&Text::new(module.clone(), (x + 26, y), style))?;
        }
        Ok(())
    }
}

/// A horizontal axis: from 0 on, or logarithmic where bars would be too short.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Scale {
    Linear { most: f64 },
    Logarithmic { low: f64, high: f64 },
}

impl Scale {
    fn of(least: f64, most: f64) -> Self {
        if most < 50.0 * least {
            return Self::Linear { most };
        }
        // Keep the shortest bar visible, and leave room for the number of the longest.
        Self::Logarithmic {
            low: least.max(1.0).log10().floor() - 0.3,
            high: most.log10() + 0.7,
        }
    }

    fn range(self) -> Range<f64> {
        match self {
            Self::Linear { most } => 0.0..most * 1.12,
            Self::Logarithmic { low, high } => low..high,
        }
    }

    fn ticks(self) -> Vec<f64> {
        match self {
            Self::Linear { .. } => equal_steps(self.range().end),
            Self::Logarithmic { low, high } => (low.ceil() as i32..=high.floor() as i32)
                .map(f64::from)
                .collect(),
        }
    }

    fn at(self, value: f64) -> f64 {
        match self {
            Self::Linear { .. } => value,
            Self::Logarithmic { .. } => value.max(1.0).log10(),
        }
    }

    fn value(self, at: f64) -> f64 {
        match self {
            Self::Linear { .. } => at,
            Self::Logarithmic { .. } => 10_f64.powf(at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_of_very_different_lengths_are_logarithmic() {
        assert_eq!(Scale::of(100.0, 900.0), Scale::Linear { most: 900.0 });
        let scale = Scale::of(100.0, 1e7);
        assert_eq!(scale.ticks(), [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
        assert_eq!(scale.value(scale.at(1000.0)).round(), 1000.0);
    }
}
