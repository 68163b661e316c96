// SPDX-License-Identifier: GPL-2.0

//! A device's memory as a map of its blocks.

use dmirror_client::hpage_pmd_nr;
use ratatui::style::Color;
use ratatui::style::Style;
use ratatui::text::Line;
use ratatui::text::Span;

use crate::words;

/// Maximum number of characters that show one block.
const WIDEST: usize = 4;

/// The characters for free, partly used (three levels) and full blocks, in UTF-8 and in ASCII.
const LEVELS: [[char; 2]; 5] = [['·', '.'], ['░', '-'], ['▒', '='], ['▓', '+'], ['█', '#']];

/// Returns the number of blocks per character, and the number of characters per block; one of the
/// two is 1.
fn scale(blocks: usize, width: usize) -> (usize, usize) {
    let (blocks, width) = (blocks.max(1), width.max(1));
    (blocks.div_ceil(width), (width / blocks).clamp(1, WIDEST))
}

/// Returns the level for `used` pages out of `all`: any used page is visible, and only blocks that
/// are full look full.
fn level(used: u64, all: u64) -> usize {
    match used {
        0 => 0,
        used if used >= all => 4,
        used => 1 + (used * 3 / all) as usize,
    }
}

/// Draws blocks in a line of at most `width` characters; `used` has the number of used pages of
/// each block.
pub fn map(used: &[u64], width: u16, utf8: bool) -> Line<'static> {
    let (together, repeat) = scale(used.len(), width.into());
    let shown = used.chunks(together).map(|blocks| {
        let level = level(
            blocks.iter().sum(),
            blocks.len() as u64 * (hpage_pmd_nr() as u64),
        );
        let glyph = LEVELS[level][usize::from(!utf8)];
        let colour = match level {
            0 => Color::DarkGray,
            4 => Color::Green,
            _ => Color::Yellow,
        };
        let text = glyph.to_string().repeat(repeat);
        Span::styled(text, Style::new().fg(colour))
    });
    Line::from(shown.collect::<Vec<_>>())
}

/// Returns the meaning of a character of [`map`], in words.
pub fn legend(blocks: usize, width: u16) -> String {
    let (together, repeat) = scale(blocks, width.into());
    match (blocks, repeat) {
        (0, _) => String::new(),
        (_, 1) => format!(
            ", {} per character",
            words::pages(together as u64 * (hpage_pmd_nr() as u64))
        ),
        _ => format!(
            ", {} are {repeat} characters",
            words::pages(hpage_pmd_nr() as u64)
        ),
    }
}

/// Returns the meaning of the characters, for the help.
pub fn help(utf8: bool) -> String {
    let [free, some, half, most, full] = LEVELS.map(|glyphs| glyphs[usize::from(!utf8)]);
    format!("{free}        free memory; {some} {half} {most} partly used; {full} full")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_look_as_full_as_they_are() {
        let text = |utf8| map(&[0, 1, 200, 400, 511, 512], 6, utf8).to_string();
        assert_eq!(text(false), ".-=++#");
        assert_eq!(text(true), "·░▒▓▓█");
        assert_eq!(map(&[], 6, true).to_string(), "");
    }

    #[test]
    fn few_blocks_are_wide_and_many_share_characters() {
        assert_eq!(map(&[512, 0], 5, false).to_string(), "##..");
        assert_eq!(map(&[512, 0], 100, false).to_string(), "####....");
        assert_eq!(map(&[512, 512, 0, 512, 0], 3, false).to_string(), "#=.");
        assert_eq!(map(&[0; 1000], 96, false).width(), 91);
        assert_eq!(legend(2, 100), ", 2 MiB are 4 characters");
        assert_eq!(legend(5, 3), ", 4 MiB per character");
        assert_eq!(legend(0, 3), "");
    }
}
