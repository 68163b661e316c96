// SPDX-License-Identifier: GPL-2.0

//! Lines, one for each operation and module, over the axis of a sweep.

use std::ops::Range;

use anyhow::Result;
use plotters::coord::Shift;
use plotters::prelude::*;

use super::COLOURS;
use super::Picture;
use super::axis::Axis;
use super::axis::equal_steps;
use super::text;
use super::unit_of;
use crate::report::Clock;
use crate::report::Group;
use crate::report::Memory;
use crate::report::Report;
use crate::units;

/// The quantity that a vertical axis shows.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Measure {
    /// Instructions or time per page, logarithmic.
    Logarithmic(Clock),
    /// Instructions or time per page, from 0 on.
    Linear(Clock),
    /// Pages per second, from 0 on.
    Rate,
}

impl Measure {
    /// Returns the position of a number of nanoseconds per page on the axis.
    fn height(self, per_page: f64) -> f64 {
        match self {
            Self::Logarithmic(_) => per_page.max(1.0).log10(),
            Self::Linear(_) => per_page,
            Self::Rate => 1e9 / per_page.max(1.0),
        }
    }

    fn write(self, height: f64) -> String {
        units::shorten(&match self {
            Self::Logarithmic(clock) => clock.write(10_f64.powf(height)),
            Self::Linear(clock) => clock.write(height),
            Self::Rate => units::count(height),
        })
    }

    /// Returns the visible part of the axis, for heights from `bottom` to `top`.
    fn range(self, bottom: f64, top: f64) -> Range<f64> {
        match self {
            Self::Logarithmic(_) => bottom - 0.1..top + 0.1,
            Self::Linear(_) | Self::Rate => 0.0..top * 1.1,
        }
    }

    /// Returns the ticks: round numbers in each decade, or equal steps.
    fn ticks(self, range: &Range<f64>) -> Vec<f64> {
        if !matches!(self, Self::Logarithmic(_)) {
            return equal_steps(range.end);
        }
        let decades = range.start.floor() as i32..=range.end.ceil() as i32;
        let digits = [1.0, 1.5, 2.0, 3.0, 5.0, 7.0].map(f64::log10);
        decades
            .flat_map(|decade| digits.map(|digit| digit + f64::from(decade)))
            .filter(|tick| range.contains(tick))
            .collect()
    }
}

/// The width of the legend beside a picture, in pixels.
const LEGEND: u32 = 360;

/// A picture of a sweep.
#[derive(Debug)]
pub struct Lines {
    title: String,
    x: String,
    y: String,
    group: Group,
    measure: Measure,
    series: Vec<Series>,
}

#[derive(Debug)]
struct Series {
    label: String,
    /// The number of its operation, which gives the colour.
    operation: usize,
    /// Set if it belongs to the other module.
    dashed: bool,
    /// Places on the axis, and nanoseconds per page.
    points: Vec<(u64, f64)>,
}

impl Lines {
    /// Returns the pictures of all sweeps by a clock, each with its name.
    pub fn all_of(ours: &Report, theirs: &Report, clock: Clock) -> Vec<(String, Self)> {
        let mut all = Vec::new();
        for group in [
            Group::Sizes,
            Group::Threads,
            Group::Oversubscribed,
            Group::Window,
        ] {
            for memory in [Memory::Small, Memory::Huge] {
                // Threads have two kinds of work, of which one is much quicker.
                let kinds: &[&str] = match group {
                    Group::Threads => &["out and back", "READ"],
                    _ => &[""],
                };
                for kind in kinds {
                    let lines = Self::of(ours, theirs, clock, group, memory, kind);
                    let Some(lines) = lines else { continue };
                    let memory = match memory {
                        Memory::Small => "small",
                        Memory::Huge => "huge",
                    };
                    let kind = kind.to_lowercase().replace(' ', "-");
                    let name = [group.name(), kind.as_str(), memory, &clock.to_string()];
                    let name: Vec<&str> =
                        name.into_iter().filter(|part| !part.is_empty()).collect();
                    all.push((name.join("-"), lines));
                }
            }
        }
        all
    }

    fn of(
        ours: &Report,
        theirs: &Report,
        clock: Clock,
        group: Group,
        memory: Memory,
        kind: &str,
    ) -> Option<Self> {
        let keys: Vec<_> = ours
            .keys(clock)
            .filter(|key| key.group == group && key.memory == memory)
            .filter(|key| key.operation.starts_with(kind))
            .collect();
        let mut operations: Vec<&str> = Vec::new();
        for key in &keys {
            if !operations.contains(&key.operation.as_str()) {
                operations.push(&key.operation);
            }
        }
        let mut series = Vec::new();
        for (number, operation) in operations.into_iter().enumerate() {
            for (report, dashed) in [(ours, false), (theirs, true)] {
                let keys = keys.iter().filter(|key| key.operation == operation);
                let points =
                    keys.filter_map(|key| Some((key.at, report.total(clock, key)?.per_page())));
                let points: Vec<_> = points.collect();
                if !points.is_empty() {
                    series.push(Series {
                        label: format!("{}: {operation}", report.module()),
                        operation: number,
                        dashed,
                        points,
                    });
                }
            }
        }
        let (title, x) = match group {
            Group::Sizes => (
                "Migration of memory of different sizes",
                "size of the memory",
            ),
            Group::Threads => ("Workers at the same time", "threads or processes"),
            Group::Oversubscribed => (
                "Working sets larger than the device",
                "working set, in percent of the device's memory",
            ),
            _ => ("CPU faults with a window", "bytes that a fault brings back"),
        };
        let (measure, y) = match group {
            Group::Threads => (
                Measure::Rate,
                "pages a second, all workers together".to_owned(),
            ),
            Group::Oversubscribed => (
                Measure::Linear(clock),
                format!("{} per page that moved", unit_of(clock)),
            ),
            Group::Window => (
                Measure::Linear(clock),
                format!("{} per page", unit_of(clock)),
            ),
            _ => (
                Measure::Logarithmic(clock),
                format!("{} per page", unit_of(clock)),
            ),
        };
        (!series.is_empty()).then(|| Self {
            title: format!("{title}, pages: {memory}"),
            x: x.to_owned(),
            y,
            group,
            measure,
            series,
        })
    }

    /// Returns the position of a place of the sweep on the axis.
    fn across(&self, at: u64) -> f64 {
        match self.group {
            Group::Oversubscribed => at as f64,
            _ => (at.max(1) as f64).log2(),
        }
    }

    /// Returns every place that was measured, in order.
    fn places(&self) -> Vec<u64> {
        let points = self.series.iter().flat_map(|series| &series.points);
        let mut places: Vec<u64> = points.map(|(at, _)| *at).collect();
        places.sort_unstable();
        places.dedup();
        places
    }
}

impl Picture for Lines {
    fn height(&self) -> u32 {
        620
    }

    fn draw<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>) -> Result<()>
    where
        DB::ErrorType: 'static,
    {
        let places = self.places();
        let across: Vec<f64> = places.iter().map(|at| self.across(*at)).collect();
        let (left, right) = ends(across.iter().copied());
        let points = self.series.iter().flat_map(|series| &series.points);
        let (bottom, top) = ends(points.map(|(_, per_page)| self.measure.height(*per_page)));
        let room = (right - left).max(1.0) * 0.03;
        let height = self.measure.range(bottom, top);
        let ticks = self.measure.ticks(&height);
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, text(26))
            .margin(16)
            .margin_right(LEGEND)
            .x_label_area_size(60)
            .y_label_area_size(100)
            .build_cartesian_2d(
                Axis {
                    range: left - room..right + room,
                    ticks: across.clone(),
                },
                Axis {
                    range: height,
                    ticks,
                },
            )?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(BLACK.mix(0.12))
            .x_desc(&self.x)
            .y_desc(&self.y)
            .x_label_formatter(&|x| {
                let place = across.iter().position(|at| at == x);
                let place = place.and_then(|place| places.get(place));
                place.map_or_else(String::new, |at| self.group.place(*at))
            })
            .y_label_formatter(&|y| self.measure.write(*y))
            .axis_desc_style(text(19))
            .label_style(text(16))
            .draw()?;
        for series in &self.series {
            let colour = COLOURS[series.operation % COLOURS.len()];
            let points: Vec<(f64, f64)> = series
                .points
                .iter()
                .map(|(at, per_page)| (self.across(*at), self.measure.height(*per_page)))
                .collect();
            let style = colour.stroke_width(2);
            if series.dashed {
                let line = DashedLineSeries::new(points.clone(), 8, 5, style);
                chart.draw_series(line)?;
                chart.draw_series(points.iter().map(|at| Circle::new(*at, 4, colour)))?;
            } else {
                chart.draw_series(LineSeries::new(points.clone(), style))?;
                chart.draw_series(points.iter().map(|at| Circle::new(*at, 4, colour.filled())))?;
            }
        }
        self.draw_legend(area)
    }
}

impl Lines {
    /// Draws the legend beside the picture, where no line runs.
    fn draw_legend<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>) -> Result<()>
    where
        DB::ErrorType: 'static,
    {
        let (width, _) = area.dim_in_pixel();
        for (row, series) in self.series.iter().enumerate() {
            let colour = COLOURS[series.operation % COLOURS.len()];
            let (x, y) = (width as i32 - LEGEND as i32 + 16, 80 + 30 * row as i32);
            let middle = (x + 20, y);
            let style = colour.stroke_width(2);
            if series.dashed {
                for start in [x, x + 26] {
                    area.draw(&PathElement::new([(start, y), (start + 12, y)], style))?;
                }
                area.draw(&Circle::new(middle, 4, colour))?;
            } else {
                area.draw(&PathElement::new([(x, y), (x + 40, y)], style))?;
                area.draw(&Circle::new(middle, 4, colour.filled()))?;
            }
            area.draw(&Text::new(series.label.clone(), (x + 48, y - 8), text(16)))?;
        }
        Ok(())
    }
}

/// Returns the smallest and the largest of some numbers.
fn ends(numbers: impl Iterator<Item = f64>) -> (f64, f64) {
    numbers.fold(
        (f64::INFINITY, f64::NEG_INFINITY),
        |(least, most), number| (least.min(number), most.max(number)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithmic_ticks_are_round_numbers() {
        let ticks = Measure::Logarithmic(Clock::Instructions).ticks(&(1.9..3.1));
        let ticks: Vec<String> = ticks
            .into_iter()
            .map(|tick| Measure::Logarithmic(Clock::Instructions).write(tick))
            .collect();
        assert_eq!(ticks, ["100", "150", "200", "300", "500", "700", "1 k"]);
    }

    #[test]
    fn a_rate_starts_from_nothing() {
        assert_eq!(Measure::Rate.range(500.0, 1000.0).start, 0.0);
        assert_eq!(Measure::Rate.height(1000.0), 1e6);
    }
}
