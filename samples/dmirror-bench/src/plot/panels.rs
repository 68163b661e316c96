// SPDX-License-Identifier: GPL-2.0

//! Panels, one for each pattern of a simulation, with a line for each policy.

use std::ops::Range;

use anyhow::Result;
use plotters::coord::Shift;
use plotters::element::DashedPathElement;
use plotters::prelude::*;

use super::COLOURS;
use super::Picture;
use super::WIDTH;
use super::axis::Axis;
use super::text;
use crate::policy::Eviction;
use crate::policy::Simulation;

/// Number of panels in a row.
const COLUMNS: usize = 2;

/// The heights of a panel, and of the part above all panels, in pixels.
const PANEL: u32 = 300;
const HEAD: u32 = 84;

/// Distance between entries of the legend, in pixels.
const STEP: i32 = 150;

/// The time under each policy, as a multiple of the best, over the size of the memory.
#[derive(Debug)]
pub struct Panels {
    title: String,
    percents: Vec<u16>,
    /// The policies of all panels, in the order of the legend.
    policies: Vec<Policy>,
    panels: Vec<Panel>,
    /// The largest ratio.
    most: f64,
}

#[derive(Debug, PartialEq)]
struct Policy {
    label: String,
    /// The number of its preset, which gives the colour.
    preset: usize,
    eviction: Option<Eviction>,
}

#[derive(Debug)]
struct Panel {
    pattern: &'static str,
    /// The percents and ratios of each policy.
    lines: Vec<Vec<(f64, f64)>>,
}

impl Panels {
    /// Returns the panels of a simulation.
    pub fn of(simulation: &Simulation) -> Self {
        let mut presets = Vec::new();
        let mut policies: Vec<Policy> = Vec::new();
        let mut panels: Vec<Panel> = Vec::new();
        let mut percents = Vec::new();
        let mut most: f64 = 1.0;
        for row in &simulation.rows {
            let preset = place(&mut presets, row.preset);
            let policy = Policy {
                label: row.policy(),
                preset,
                eviction: row.eviction,
            };
            let policy = place(&mut policies, policy);
            place(&mut percents, row.percent);
            let pattern = row.pattern.name();
            if panels.last().is_none_or(|panel| panel.pattern != pattern) {
                panels.push(Panel {
                    pattern,
                    lines: Vec::new(),
                });
            }
            let ratio = simulation.ratio(row);
            most = most.max(ratio);
            if let Some(panel) = panels.last_mut() {
                let lines = panel.lines.len().max(policy + 1);
                panel.lines.resize(lines, Vec::new());
                panel.lines[policy].push((f64::from(row.percent), ratio));
            }
        }
        percents.sort_unstable();
        Self {
            title: format!(
                "Computed time under each policy, device of {} MiB",
                simulation.device_bytes >> 20
            ),
            percents,
            policies,
            panels,
            most,
        }
    }

    fn across(&self) -> Range<f64> {
        let ends = [self.percents.first(), self.percents.last()];
        let [first, last] = ends.map(|end| f64::from(end.copied().unwrap_or(100)));
        let room = (last - first).max(10.0) * 0.05;
        first - room..last + room
    }

    /// Returns the number of entries in a row of the legend.
    fn legend_columns(&self) -> usize {
        ((WIDTH as i32 - 40) / STEP) as usize
    }

    fn head(&self) -> u32 {
        HEAD + 24 * (self.policies.len().div_ceil(self.legend_columns()) as u32 - 1)
    }
}

/// Returns the index of an item in a list, and adds the item first if it is not in the list.
fn place<T: PartialEq>(list: &mut Vec<T>, item: T) -> usize {
    list.iter().position(|it| *it == item).unwrap_or_else(|| {
        list.push(item);
        list.len() - 1
    })
}

impl Picture for Panels {
    fn height(&self) -> u32 {
        self.head() + PANEL * self.panels.len().div_ceil(COLUMNS) as u32
    }

    fn draw<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>) -> Result<()>
    where
        DB::ErrorType: 'static,
    {
        let (head, body) = area.split_vertically(self.head());
        head.draw(&Text::new(self.title.clone(), (20, 14), text(26)))?;
        for (nth, policy) in self.policies.iter().enumerate() {
            let (row, column) = (nth / self.legend_columns(), nth % self.legend_columns());
            let at = (20 + STEP * column as i32, 62 + 24 * row as i32);
            draw_line(&head, policy, [at, (at.0 + 36, at.1)])?;
            let label = Text::new(policy.label.clone(), (at.0 + 44, at.1 - 8), text(17));
            head.draw(&label)?;
        }
        let rows = self.panels.len().div_ceil(COLUMNS);
        let areas = body.split_evenly((rows, COLUMNS));
        for (panel, area) in self.panels.iter().zip(areas) {
            self.draw_panel(panel, &area)?;
        }
        Ok(())
    }
}

/// Draws a short line of the legend.
fn draw_line<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    policy: &Policy,
    [start, end]: [(i32, i32); 2],
) -> Result<()>
where
    DB::ErrorType: 'static,
{
    let style = policy.style();
    match policy.dashes() {
        None => area.draw(&PathElement::new([start, end], style))?,
        Some((size, gap)) => {
            let line = DashedPathElement::new([start, end], size, gap, style);
            area.draw(&line)?;
        }
    }
    Ok(())
}

impl Policy {
    fn colour(&self) -> RGBColor {
        COLOURS[self.preset % COLOURS.len()]
    }

    /// Returns the style of the line. Every other preset has a wide and light line, so that a line
    /// at the same place stays visible on it.
    fn style(&self) -> ShapeStyle {
        match self.preset % 2 {
            0 => self.colour().stroke_width(2),
            _ => self.colour().mix(0.45).stroke_width(6),
        }
    }

    /// Returns the lengths of dashes and gaps; `None` for a solid line.
    fn dashes(&self) -> Option<(i32, i32)> {
        match self.eviction {
            None | Some(Eviction::Lru) => None,
            Some(Eviction::Fifo) => Some((14, 6)),
            Some(Eviction::Random) => Some((5, 6)),
        }
    }
}

impl Panels {
    fn draw_panel<DB: DrawingBackend>(
        &self,
        panel: &Panel,
        area: &DrawingArea<DB, Shift>,
    ) -> Result<()>
    where
        DB::ErrorType: 'static,
    {
        // Ratios are logarithmic, because the worst is far from the best.
        let top = self.most.log10() + 0.1;
        let digits = [1.0, 2.0, 5.0].map(f64::log10);
        let ticks = (0..=top.ceil() as i32)
            .flat_map(|decade| digits.map(|digit| digit + f64::from(decade)))
            .filter(|tick| *tick <= top);
        let mut chart = ChartBuilder::on(area)
            .caption(panel.pattern, text(20))
            .margin(10)
            .margin_right(24)
            .x_label_area_size(50)
            .y_label_area_size(66)
            .build_cartesian_2d(
                Axis {
                    range: self.across(),
                    ticks: self.percents.iter().map(|it| f64::from(*it)).collect(),
                },
                Axis {
                    range: -0.05..top,
                    ticks: ticks.collect(),
                },
            )?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(BLACK.mix(0.12))
            .x_desc("memory that is accessed, of the device's")
            .y_desc("time, to the best")
            .x_label_formatter(&|percent| format!("{percent:.0} %"))
            .y_label_formatter(&|height| format!("{:.0}", 10_f64.powf(*height)))
            .axis_desc_style(text(16))
            .label_style(text(15))
            .draw()?;
        for (policy, line) in self.policies.iter().zip(&panel.lines) {
            let style = policy.style();
            let points: Vec<(f64, f64)> = line.iter().map(|(at, it)| (*at, it.log10())).collect();
            match policy.dashes() {
                None => chart.draw_series(LineSeries::new(points.clone(), style))?,
                Some((size, gap)) => {
                    let line = DashedLineSeries::new(points.clone(), size, gap, style);
                    chart.draw_series(line)?
                }
            };
            let colour = policy.colour().filled();
            chart.draw_series(points.iter().map(|at| Circle::new(*at, 3, colour)))?;
        }
        Ok(())
    }
}
