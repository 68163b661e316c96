// SPDX-License-Identifier: GPL-2.0

//! An axis with ticks at given positions.

use std::ops::Range;

use plotters::coord::ranged1d::DefaultFormatting;
use plotters::coord::ranged1d::KeyPointHint;
use plotters::coord::ranged1d::Ranged;

/// A linear axis from one number to another, the greater of which may come first.
#[derive(Clone, Debug)]
pub struct Axis {
    /// The numbers at the left or bottom end, and at the right or top end.
    pub range: Range<f64>,
    /// The positions of labels and lines.
    pub ticks: Vec<f64>,
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let part = (value - self.range.start) / (self.range.end - self.range.start);
        limit.0 + (part * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// Returns ticks from 0 to at most `end`, at equal distances that are round numbers.
pub fn equal_steps(end: f64) -> Vec<f64> {
    let decade = 10_f64.powf(end.log10().floor());
    let step = match end / decade {
        decades if decades < 2.0 => decade / 5.0,
        decades if decades < 5.0 => decade / 2.0,
        _ => decade,
    };
    (0..=10)
        .map(|n| f64::from(n) * step)
        .take_while(|tick| *tick <= end)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_can_run_either_way() {
        let axis = |range| Axis {
            range,
            ticks: Vec::new(),
        };
        assert_eq!(axis(0.0..4.0).map(&1.0, (100, 200)), 125);
        assert_eq!(axis(4.0..0.0).map(&1.0, (100, 200)), 175);
    }

    #[test]
    fn steps_are_round_numbers() {
        assert_eq!(equal_steps(13.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0]);
        assert_eq!(equal_steps(2400.0), [0.0, 500.0, 1000.0, 1500.0, 2000.0]);
        assert_eq!(equal_steps(6.0).len(), 7);
    }
}
