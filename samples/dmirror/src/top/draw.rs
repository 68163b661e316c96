// SPDX-License-Identifier: GPL-2.0

//! Drawing the view.

use dmirror_client::hpage_pmd_nr;
use ratatui::Frame;
use ratatui::layout::Constraint;
use ratatui::layout::Layout;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::style::Stylize as _;
use ratatui::text::Line;
use ratatui::text::Span;
use ratatui::widgets::Cell;
use ratatui::widgets::Clear;
use ratatui::widgets::Paragraph;
use ratatui::widgets::Row;
use ratatui::widgets::Table;

use super::blocks;
use super::rates::DeviceRates;
use super::view::Over;
use super::view::View;

use crate::state::DeviceState;
use crate::words;

/// Number of lines of a device.
const DEVICE_LINES: u16 = 6;

/// Draws the whole view.
pub fn draw(view: &View, frame: &mut Frame<'_>) {
    let (_, now) = view.samples();
    let devices = now.state.devices.len() as u16;
    let areas = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(devices * DEVICE_LINES),
        Constraint::Fill(1),
        Constraint::Length(1),
    ]);
    let [title, middle, processes, foot] = areas.areas(frame.area());
    frame.render_widget(Paragraph::new(title_line(view)), title);
    for (place, device) in now.state.devices.iter().enumerate() {
        let top = middle.y + place as u16 * DEVICE_LINES;
        let area = Rect::new(middle.x, top, middle.width, DEVICE_LINES);
        let area = area.intersection(middle);
        frame.render_widget(
            Paragraph::new(device_lines(view, place, device, area.width)),
            area,
        );
    }
    frame.render_widget(process_table(view), processes);
    frame.render_widget(Paragraph::new(foot_line(view)), foot);
    match view.over() {
        Over::Nothing => {}
        Over::Help => over(frame, &help_lines(view.utf8)),
        Over::Presets(presets) => over(frame, &preset_lines(view, presets)),
    }
}

fn title_line(view: &View) -> Line<'static> {
    let (_, now) = view.samples();
    let mut spans = vec![
        "dmirror top".bold(),
        Span::raw(format!("  every {} s", view.interval)),
    ];
    if view.is_paused() {
        spans.push("  paused".bold().yellow());
    }
    for what in &now.state.hidden {
        spans.push(format!("  not shown: {what}").dim());
    }
    Line::from(spans)
}

fn device_lines(view: &View, place: usize, device: &DeviceState, width: u16) -> Vec<Line<'static>> {
    let (before, now) = view.samples();
    let rates = DeviceRates::between(before, now, device.number);
    let mark = if view.chosen() == place { ">" } else { " " };
    let name = format!("{mark} {}", device.node);
    let policy = words::or_unknown(device.policy.clone(), |policy| policy);
    let engines = words::or_unknown(device.engines, |engines| {
        words::count(engines.into(), "engine")
    });
    let title = vec![
        name.bold(),
        Span::raw(format!("  {} memory, {engines}, policy ", device.memory)),
        policy.cyan(),
    ];
    let indent = 2;
    let width = width.saturating_sub(2 * indent);
    let mut map = blocks::map(&device.blocks, width, view.utf8);
    map.spans.insert(0, Span::raw(" ".repeat(indent.into())));
    let numbers = format!(
        "  {} used of {}, {} free, {} of it in whole blocks{}",
        words::or_unknown(device.resident_pages, words::pages),
        words::or_unknown(device.pages, words::pages),
        words::or_unknown(device.free_pages, words::pages),
        words::or_unknown(device.free_blocks, |blocks| words::pages(
            blocks * hpage_pmd_nr() as u64
        )),
        blocks::legend(device.blocks.len(), width),
    );
    vec![
        Line::from(title),
        map,
        Line::from(numbers),
        rate_line("out ", &rates.out, rates.out()),
        rate_line("back", &rates.back, rates.back()),
        fault_line(&rates.faults),
    ]
}

fn rate_line(way: &str, causes: &[(&'static str, f64)], all: f64) -> Line<'static> {
    let mut spans = vec![Span::raw(format!("  {way} {all:>8.0} pages/s "))];
    spans.extend(causes.iter().map(|cause| rate(cause)));
    Line::from(spans)
}

fn fault_line(faults: &[(&'static str, f64)]) -> Line<'static> {
    let mut spans = vec![Span::raw("  per second:")];
    // Leave out rates of 0, except for the first two, which everybody looks for.
    let shown = faults.iter().enumerate();
    let shown = shown.filter(|(place, (_, rate))| *place < 2 || *rate > 0.0);
    spans.extend(shown.map(|(_, fault)| rate(fault)));
    Line::from(spans)
}

fn rate((name, rate): &(&'static str, f64)) -> Span<'static> {
    let text = format!("  {name} {rate:.0}");
    if *rate > 0.0 { text.bold() } else { text.dim() }
}

fn process_table(view: &View) -> Table<'static> {
    let head = [
        "process",
        "program",
        "device",
        "there",
        "elsewhere",
        "out/s",
        "back/s",
        "queues",
        "engines",
    ];
    let kib = |kib: Option<u64>| words::or_unknown(kib, |kib| words::bytes(kib * 1024));
    let rows = view.files().into_iter().map(|(file, rates)| {
        Row::new([
            file.opener.to_string(),
            file.program.clone(),
            file.device.to_string(),
            kib(file.device_kib),
            kib(file.system_kib),
            format!("{:.0}", rates.out),
            format!("{:.0}", rates.back),
            file.queues.to_string(),
            format!("{:.0} %", rates.busy * 100.0),
        ])
    });
    let widths = [8, 16, 6, 9, 9, 8, 8, 6, 7].map(Constraint::Length);
    let head = head.map(|name| Cell::from(name).style(Style::new().reversed()));
    Table::new(rows, widths)
        .header(Row::new(head))
        .column_spacing(1)
}

fn foot_line(view: &View) -> Line<'static> {
    if !view.message().is_empty() {
        return Line::from(view.message().to_owned()).bold();
    }
    let sort = view.sort().word();
    Line::from(format!(
        "q quit  space pause  s sort (by {sort})  Tab next device  p policy  h help"
    ))
    .dim()
}

fn help_lines(utf8: bool) -> Vec<String> {
    vec![
        "q, Esc   quit".into(),
        "space    pause, and go on".into(),
        "s        sort processes by memory, pages moved, engine time, number".into(),
        "Tab      choose the next device (arrow keys, too)".into(),
        "p        set a preset of the policy of the chosen device (root)".into(),
        String::new(),
        blocks::help(utf8),
        String::new(),
        "there      device memory that the device has mapped for the process".into(),
        "elsewhere  other memory that it has mapped".into(),
        "out, back  pages that commands of the process move".into(),
        "engines    100 % is one engine that works all the time".into(),
    ]
}

fn preset_lines(view: &View, presets: &[String]) -> Vec<String> {
    let (_, now) = view.samples();
    let device = now.state.devices.get(view.chosen());
    let mut lines = vec![format!(
        "Policy of {}:",
        device.map_or("the device", |device| device.node.as_str())
    )];
    for (place, preset) in presets.iter().take(9).enumerate() {
        lines.push(format!("{}  {preset}", place + 1));
    }
    lines.push("any other key: leave it".into());
    lines
}

/// Draws lines in the middle, over the rest of the view.
fn over(frame: &mut Frame<'_>, lines: &[String]) {
    let longest = lines
        .iter()
        .map(|line| line.chars().count())
        .max()
        .unwrap_or(0);
    let all = frame.area();
    let width = (longest as u16 + 4).min(all.width);
    let height = (lines.len() as u16 + 2).min(all.height);
    let area = Rect::new(
        (all.width - width) / 2,
        (all.height - height) / 2,
        width,
        height,
    );
    let mut text = vec![Line::default()];
    text.extend(lines.iter().map(|line| Line::from(format!("  {line}"))));
    frame.render_widget(Clear, area);
    let style = Style::new().reversed();
    frame.render_widget(Paragraph::new(text).style(style), area);
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::KeyCode;
    use ratatui::crossterm::event::KeyEvent;
    use ratatui::crossterm::event::KeyModifiers;

    use super::*;
    use crate::top::rates::tests::samples;

    fn view() -> View {
        let (before, now) = samples();
        let mut view = View::new(before, 1.0, false);
        view.add(now);
        view
    }

    fn drawn(view: &View, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(view, frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |y| {
            (0..width)
                .map(|x| buffer[(x, y)].symbol())
                .collect::<String>()
        };
        (0..height).map(|y| line(y).trim_end().to_owned()).collect()
    }

    #[test]
    fn shows_devices_and_processes() {
        let lines = drawn(&view(), 100, 14);
        let expected = [
            "dmirror top  every 1 s",
            "",
            "> /dev/hmm_dmirror0  private memory, 2 engines, policy xe",
            "  ####....",
            "  2 MiB used of 4 MiB, 2 MiB free, 2 MiB of it in whole blocks, 2 MiB are 4 characters",
            "  out       256 pages/s   request 256  device_fault 0",
            concat!(
                "  back       50 pages/s   request 0  device_fault 0  cpu_fault 50  eviction 0",
                "  release 0"
            ),
            "  per second:  cpu faults 5  device faults 0",
            "process  program          device there     elsewhere out/s    back/s   queues engines",
            "7        idle             0      8 KiB     ?         0        0        0      0 %",
            "99       busy             0      4 KiB     ?         256      0        0      50 %",
            "",
            "",
            "q quit  space pause  s sort (by memory)  Tab next device  p policy  h help",
        ];
        for (line, expected) in lines.iter().zip(expected) {
            assert_eq!(line.trim_end(), expected);
        }
    }

    #[test]
    fn help_stands_over_the_rest() {
        let mut view = view();
        view.press(KeyEvent::new(KeyCode::Char('h'), KeyModifiers::NONE));
        let lines = drawn(&view, 100, 24);
        assert!(
            lines
                .iter()
                .any(|line| line.contains("space    pause, and go on")),
            "{lines:#?}"
        );
    }

    #[test]
    fn a_small_terminal_is_no_reason_to_fail() {
        let mut view = view();
        for (width, height) in [(1, 1), (10, 3), (200, 5)] {
            drawn(&view, width, height);
        }
        view.press(KeyEvent::new(KeyCode::Char('?'), KeyModifiers::NONE));
        drawn(&view, 2, 2);
    }

    #[test]
    fn a_pause_is_said() {
        let mut view = view();
        view.press(KeyEvent::new(KeyCode::Char(' '), KeyModifiers::NONE));
        assert_eq!(drawn(&view, 80, 10)[0], "dmirror top  every 1 s  paused");
    }
}
