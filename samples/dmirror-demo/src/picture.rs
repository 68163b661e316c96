// SPDX-License-Identifier: GPL-2.0

//! A row of characters that shows where the pages of a range are.

use dmirror_client::Place;
use dmirror_client::Survey;
use dmirror_client::place::LETTERS;

/// The number of characters in a row.
const WIDTH: usize = 64;

/// Returns the meanings of the characters.
pub fn legend() -> String {
    LETTERS
        .map(|(letter, what)| format!("{letter} {what}"))
        .join(", ")
}

/// Draws the places of pages, several per character if there are many.
pub fn draw(survey: &Survey) -> String {
    row(survey.places(), WIDTH)
}

/// Returns the known place of the pages that [`Survey::on_device`] counts.
pub fn there(survey: &Survey) -> &'static str {
    if survey.frames_shown() {
        "on the device"
    } else {
        "not present"
    }
}

/// Draws numbers, one per character, relative to the largest.
pub fn bars(numbers: &[u64]) -> String {
    const HEIGHTS: &[u8; 9] = b"_.:-=+*#@";
    let most = numbers.iter().max().copied().unwrap_or(0).max(1);
    let steps = HEIGHTS.len() as u64 - 1;
    let height = |number: &u64| (number * steps).div_ceil(most) as usize;
    numbers
        .iter()
        .map(|number| char::from(HEIGHTS[height(number)]))
        .collect()
}

fn row(places: &[Place], width: usize) -> String {
    let per_character = places.len().div_ceil(width).max(1);
    places.chunks(per_character).map(character).collect()
}

fn character(places: &[Place]) -> char {
    let mut characters = places.iter().map(|place| place.letter());
    let first = characters.next().unwrap_or('-');
    if characters.all(|character| character == first) {
        first
    } else {
        '+'
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYSTEM: Place = Place::System { frame: 1 };
    const DEVICE: Place = Place::Device {
        frame: 2,
        entry: Some(28),
    };

    #[test]
    fn one_page_a_character() {
        assert_eq!(
            row(&[SYSTEM, DEVICE, Place::Absent, Place::Held], 64),
            "sD-x"
        );
    }

    #[test]
    fn only_a_page_known_to_be_on_the_device_is_drawn_there() {
        assert_eq!(row(&[DEVICE, Place::Hidden, Place::Swapped], 64), "D?w");
    }

    #[test]
    fn several_pages_a_character() {
        assert_eq!(row(&[DEVICE, DEVICE, DEVICE, SYSTEM, SYSTEM], 3), "D+s");
        assert_eq!(row(&[], 3), "");
    }

    #[test]
    fn bars_are_parts_of_the_largest() {
        assert_eq!(bars(&[0, 1, 400, 800, 401]), "_.=@+");
        assert_eq!(bars(&[0, 0]), "__");
    }
}
