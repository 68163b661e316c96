// SPDX-License-Identifier: GPL-2.0

//! An axis with ticks where they are wanted.

use std::ops::Range;

use plotters::coord::ranged1d::DefaultFormatting;
use plotters::coord::ranged1d::KeyPointHint;
use plotters::coord::ranged1d::Ranged;

/// A linear axis from one number to another, the greater of which may come first.
#[derive(Clone, Debug)]
pub struct Axis {
    /// From the left or the bottom, to the right or the top.
    pub range: Range<f64>,
    /// Where labels and lines are.
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
}
