// SPDX-License-Identifier: GPL-2.0

//! Pictures of what two modules took.

mod axis;
mod bars;
mod lines;
mod panels;

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use anyhow::Result;
use anyhow::anyhow;
use epaint_default_fonts::UBUNTU_LIGHT;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::register_font;

use crate::policy::Simulation;
use crate::report::Clock;
use crate::report::Group;
use crate::report::Report;

use self::bars::Bars;
use self::lines::Lines;
use self::panels::Panels;

/// The name of the font. An SVG contains the name only, and a viewer uses its own font of that
/// name.
const FONT: &str = "sans-serif";

/// The width of all pictures, in pixels.
const WIDTH: u32 = 1100;

const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 90, 181),
    RGBColor(213, 94, 0),
    RGBColor(0, 135, 100),
    RGBColor(170, 60, 140),
    RGBColor(150, 110, 0),
    RGBColor(70, 70, 70),
];

/// A picture, independent of the format of its file.
trait Picture {
    /// Returns the height in pixels.
    fn height(&self) -> u32;

    /// Draws the picture.
    fn draw<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>) -> Result<()>
    where
        DB::ErrorType: 'static;
}

/// Draws all groups that were measured into the folder `out`, each as SVG and as
/// PNG, and returns the files.
///
/// # Errors
///
/// If nothing was measured, or a file cannot be written.
pub fn plot(ours: &Report, theirs: &Report, out: &Path) -> Result<Vec<PathBuf>> {
    prepare(out)?;
    let mut files = Vec::new();
    for clock in [Clock::Instructions, Clock::Host] {
        for group in [Group::Ops, Group::OnePage] {
            if let Some(bars) = Bars::of(ours, theirs, clock, group) {
                files.extend(store(&bars, out, &format!("{group}-{clock}"))?);
            }
        }
        for (name, lines) in Lines::all_of(ours, theirs, clock) {
            files.extend(store(&lines, out, &name)?);
        }
    }
    anyhow::ensure!(!files.is_empty(), "there is nothing to draw");
    Ok(files)
}

/// Draws the times of a simulation into the folder `out`, as SVG and as PNG, and
/// returns the files.
///
/// # Errors
///
/// If nothing was simulated, or a file cannot be written.
pub fn plot_policy(simulation: &Simulation, out: &Path) -> Result<[PathBuf; 2]> {
    anyhow::ensure!(!simulation.rows.is_empty(), "there is nothing to draw");
    prepare(out)?;
    store(&Panels::of(simulation), out, "policy")
}

/// Registers the font, and creates the folder.
fn prepare(out: &Path) -> Result<()> {
    register_font(FONT, FontStyle::Normal, UBUNTU_LIGHT)
        .map_err(|_| anyhow!("the font cannot be read"))?;
    fs::create_dir_all(out).with_context(|| out.display().to_string())
}

/// Writes a picture as `NAME.svg` and `NAME.png`.
fn store(picture: &impl Picture, out: &Path, name: &str) -> Result<[PathBuf; 2]> {
    let files = ["svg", "png"].map(|kind| out.join(format!("{name}.{kind}")));
    let size = (WIDTH, picture.height());
    draw(picture, SVGBackend::new(&files[0], size))
        .with_context(|| files[0].display().to_string())?;
    draw(picture, BitMapBackend::new(&files[1], size))
        .with_context(|| files[1].display().to_string())?;
    Ok(files)
}

fn draw<DB: DrawingBackend>(picture: &impl Picture, backend: DB) -> Result<()>
where
    DB::ErrorType: 'static,
{
    let area = backend.into_drawing_area();
    area.fill(&WHITE)?;
    picture.draw(&area)?;
    area.present()?;
    Ok(())
}

/// Returns the unit in the label of an axis of times.
fn unit_of(clock: Clock) -> &'static str {
    match clock {
        Clock::Instructions => "instructions",
        Clock::Host => "time",
    }
}

/// Returns the style of text of `size` pixels.
fn text(size: u32) -> TextStyle<'static> {
    (FONT, size).into_font().color(&BLACK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;

    #[test]
    fn a_picture_names_what_it_shows() {
        let clock = Clock::Instructions;
        let ours = report(clock, &[("READ", &[3000]), ("WRITE", &[2000])]);
        let theirs = report(clock, &[("READ", &[2000])]);
        register_font(FONT, FontStyle::Normal, UBUNTU_LIGHT)
            .ok()
            .unwrap();
        let bars = Bars::of(&ours, &theirs, clock, Group::Ops).unwrap();
        let mut svg = String::new();
        let size = (WIDTH, bars.height());
        draw(&bars, SVGBackend::with_string(&mut svg, size)).unwrap();
        assert!(svg.contains("READ, 4 KiB"));
        assert!(svg.contains("750"));
        assert!(svg.contains("instructions per page"));
        assert!(Bars::of(&ours, &theirs, clock, Group::OnePage).is_none());
    }
}
