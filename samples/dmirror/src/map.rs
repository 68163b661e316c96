// SPDX-License-Identifier: GPL-2.0

//! `dmirror map`: draws where a process's memory is, mapping by mapping.

use std::io;
use std::io::IsTerminal as _;
use std::io::Write;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Context as _;
use anyhow::Result;
use anyhow::bail;
use clap::Args;
use dmirror_client::Place;
use dmirror_client::map::Counts;
use dmirror_client::map::Mapping;
use dmirror_client::map::ProcessMap;
use dmirror_client::place::FRAMES_HIDDEN;
use dmirror_client::place::LETTERS;
use owo_colors::AnsiColors;
use owo_colors::OwoColorize as _;
use serde_json::json;

use crate::words;

/// Maximum number of characters in the picture of a mapping.
const WIDTH: u64 = 64;

/// The colours of [`LETTERS`].
const COLOURS: [AnsiColors; LETTERS.len()] = [
    AnsiColors::Green,
    AnsiColors::Blue,
    AnsiColors::Yellow,
    AnsiColors::Magenta,
    AnsiColors::Red,
    AnsiColors::Cyan,
    AnsiColors::BrightBlack,
];

/// The arguments of `dmirror map`.
#[derive(Args, Debug)]
pub struct Arguments {
    /// The process
    pid: i32,

    /// Look again and again, until the process has ended
    #[arg(long, conflicts_with = "json")]
    watch: bool,

    /// How many seconds are between two looks
    #[arg(long, value_name = "S", default_value_t = 1.0, value_parser = seconds)]
    interval: f64,

    /// How many times to look with --watch, at most
    #[arg(long, value_name = "N", requires = "watch")]
    count: Option<u64>,

    /// Show mappings of which no page is anywhere, too
    #[arg(long)]
    all: bool,

    /// Print JSON: for each mapping the runs of pages that are in the same place
    #[arg(long)]
    json: bool,
}

/// Parses a time in seconds, from 0.01 to 86400.
pub fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.01..=86400.0).contains(&seconds) => Ok(seconds),
        _ => Err("not a number of seconds from 0.01 to 86400".to_owned()),
    }
}

impl Arguments {
    /// Prints the map, once or repeatedly.
    pub fn run(&self) -> Result<()> {
        let look = || ProcessMap::look(self.pid);
        let ended = || !Path::new(&format!("/proc/{}", self.pid)).exists();
        let what = || format!("cannot look at the memory of process {}", self.pid);
        if ended() {
            bail!("there is no process {}", self.pid);
        }
        let mut map = look().with_context(what)?;
        if self.json {
            writeln!(
                io::stdout(),
                "{}",
                serde_json::to_string_pretty(&json(&map))?
            )?;
            return Ok(());
        }
        let mut out = anstream::stdout();
        let clears = self.watch && io::stdout().is_terminal();
        let mut looks = 1;
        loop {
            let mut text = Vec::new();
            show(&map, self.all, &mut text)?;
            if clears {
                write!(out, "\x1b[H\x1b[2J")?;
            }
            out.write_all(&text)?;
            out.flush()?;
            if !self.watch || self.count.is_some_and(|count| looks >= count) {
                return Ok(());
            }
            looks += 1;
            sleep(Duration::from_secs_f64(self.interval));
            map = match look() {
                Ok(map) => map,
                Err(_) if ended() => {
                    writeln!(out, "process {} has ended", self.pid)?;
                    return Ok(());
                }
                Err(error) => return Err(error).with_context(what),
            };
        }
    }
}

/// Returns the number of pages in each place that has any, with its letter and words.
fn kinds(counts: &Counts) -> impl Iterator<Item = (u64, char, &'static str)> {
    let numbers = [
        counts.device,
        counts.system,
        counts.swapped,
        counts.held,
        counts.hidden,
    ];
    let kinds = numbers.into_iter().zip(LETTERS);
    kinds
        .filter(|(pages, _)| *pages > 0)
        .map(|(pages, (letter, what))| (pages, letter, what))
}

/// Returns the character that stands for some pages.
fn character(counts: &Counts) -> char {
    let mut there = kinds(counts);
    match (there.next(), there.next()) {
        (None, _) => '-',
        (Some((_, letter, _)), None) => letter,
        (Some(_), Some(_)) => '+',
    }
}

fn coloured(character: char) -> String {
    let mut letters = LETTERS.iter().zip(COLOURS);
    match letters.find(|((letter, _), _)| *letter == character) {
        Some((_, colour)) => character.color(colour).to_string(),
        None => character.to_string(),
    }
}

fn show(map: &ProcessMap, all: bool, out: &mut impl Write) -> Result<()> {
    let title = format!("{} ({})", map.program, map.pid);
    writeln!(out, "{}: {}", title.bold(), where_is(&map.counts()))?;
    let key = LETTERS.map(|(letter, what)| format!("{} {what}", coloured(letter)));
    writeln!(out, "{}", key.join(", "))?;
    if !map.frames_shown {
        writeln!(out, "{FRAMES_HIDDEN}")?;
    }
    for mapping in &map.mappings {
        let counts = mapping.counts();
        if !all && counts.all() == 0 {
            continue;
        }
        let (pages, parts) = mapping.parts(WIDTH);
        writeln!(out)?;
        write!(
            out,
            "{:x}-{:x} {} {}",
            mapping.range.addr(),
            mapping.range.end(),
            mapping.permissions,
            words::bytes(mapping.range.bytes()),
        )?;
        match mapping.name.as_str() {
            "" => writeln!(out)?,
            name => writeln!(out, " {}", name.bold())?,
        }
        let picture: String = parts
            .iter()
            .map(|counts| coloured(character(counts)))
            .collect();
        let each = words::count(pages, "page");
        writeln!(out, "  {picture}  {}", format!("({each} each)").dimmed())?;
        writeln!(out, "  {}", where_is(&counts))?;
    }
    Ok(())
}

fn where_is(counts: &Counts) -> String {
    let parts: Vec<String> = kinds(counts)
        .map(|(pages, _, what)| format!("{} {what}", words::pages(pages)))
        .collect();
    if parts.is_empty() {
        "nothing".to_owned()
    } else {
        parts.join(", ")
    }
}

fn json(map: &ProcessMap) -> serde_json::Value {
    json!({
        "pid": map.pid,
        "program": map.program,
        "frames_shown": map.frames_shown,
        "pages": numbers(&map.counts()),
        "mappings": map.mappings.iter().map(mapping_json).collect::<Vec<_>>(),
    })
}

fn numbers(counts: &Counts) -> serde_json::Value {
    json!({
        "device": counts.device,
        "system": counts.system,
        "swapped": counts.swapped,
        "held": counts.held,
        "hidden": counts.hidden,
    })
}

fn mapping_json(mapping: &Mapping) -> serde_json::Value {
    let mut runs = Vec::new();
    for (first, places) in &mapping.runs {
        let mut page = *first;
        for same in places.chunk_by(|one, other| word(*one) == word(*other)) {
            let pages = same.len() as u64;
            if let Some(place) = same.first().and_then(|place| word(*place)) {
                runs.push(json!({"page": page, "pages": pages, "place": place}));
            }
            page += pages;
        }
    }
    json!({
        "start": format!("{:#x}", mapping.range.addr()),
        "end": format!("{:#x}", mapping.range.end()),
        "permissions": mapping.permissions,
        "name": mapping.name,
        "pages": numbers(&mapping.counts()),
        "runs": runs,
    })
}

fn word(place: Place) -> Option<&'static str> {
    match place {
        Place::Absent => None,
        Place::System { .. } => Some("system"),
        Place::Device { .. } => Some("device"),
        Place::Swapped => Some("swapped"),
        Place::Held => Some("held"),
        Place::Hidden => Some("hidden"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dmirror_client::PageRange;
    use dmirror_client::page_size;

    const DEVICE: Place = Place::Device {
        frame: 1,
        entry: None,
    };
    const SYSTEM: Place = Place::System { frame: 1 };

    fn map() -> ProcessMap {
        let mapping = |at: u64, runs| Mapping {
            range: PageRange::new(at * page_size() as u64, 128).unwrap(),
            permissions: "rw-p".into(),
            name: "[heap]".into(),
            runs,
        };
        let mut places = vec![DEVICE; 5];
        places.extend([SYSTEM; 3]);
        ProcessMap {
            pid: 5,
            program: "python3".into(),
            mappings: vec![mapping(16, vec![(2, places)]), mapping(1024, Vec::new())],
            frames_shown: true,
        }
    }

    fn shown(map: &ProcessMap, all: bool) -> String {
        let mut out = anstream::StripStream::new(Vec::new());
        show(map, all, &mut out).unwrap();
        String::from_utf8(out.into_inner()).unwrap()
    }

    #[test]
    fn a_mapping_is_a_row_of_characters() {
        let text = shown(&map(), false);
        let row = format!("  -DD+s{}  (2 pages each)", "-".repeat(59));
        assert!(text.contains(&row), "{text}");
        assert!(
            text.contains("20 KiB on a device, 12 KiB in system memory"),
            "{text}"
        );
        assert_eq!(text.matches("[heap]").count(), 1);
        assert_eq!(shown(&map(), true).matches("[heap]").count(), 2);
    }

    #[test]
    fn what_the_kernel_hides_is_said() {
        let mut map = map();
        map.frames_shown = false;
        map.mappings[0].runs = vec![(0, vec![Place::Hidden])];
        let text = shown(&map, false);
        assert!(
            text.contains("to root only") && text.contains("  ?---"),
            "{text}"
        );
    }

    #[test]
    fn a_place_has_the_same_letter_alone_and_counted() {
        let hidden = Place::Hidden;
        for place in [
            DEVICE,
            SYSTEM,
            Place::Swapped,
            Place::Held,
            hidden,
            Place::Absent,
        ] {
            let mut map = map();
            map.mappings[0].runs = vec![(0, vec![place])];
            assert_eq!(character(&map.counts()), place.letter());
        }
    }

    #[test]
    fn json_has_runs_of_pages_in_one_place() {
        let json = json(&map());
        assert_eq!(json["pages"]["device"], 5);
        let runs = &json["mappings"][0]["runs"];
        assert_eq!(runs[0], json!({"page": 2, "pages": 5, "place": "device"}));
        assert_eq!(runs[1], json!({"page": 7, "pages": 3, "place": "system"}));
    }

    #[test]
    fn an_interval_is_some_time() {
        assert_eq!(seconds("0.5"), Ok(0.5));
        assert!(seconds("0").is_err() && seconds("inf").is_err() && seconds("x").is_err());
    }
}
