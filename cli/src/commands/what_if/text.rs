//! A table with bars, for a terminal.

use std::io::{self, Write};

use rustix::termios::tcgetwinsize;

use super::figures::{Figures, Kind, Panel, elide, ends};

/// The least that a bar has.
const BAR: usize = 8;

/// The nodes with their numbers and a bar each, which takes the rest of the line.
pub(crate) fn print(out: &mut impl Write, figures: &Figures) -> io::Result<()> {
    let columns = tcgetwinsize(io::stdout()).map_or(0, |size| usize::from(size.ws_col));
    // That of old where there is no terminal.
    let columns = if columns > 0 { columns } else { 80 };
    writeln!(out, "{}", elide(&figures.title, columns))?;
    for panel in &figures.panels {
        writeln!(out, "\n{}\n", panel.heading)?;
        table(out, figures, panel, columns)?;
    }
    writeln!(out)?;
    let mut key = figures.key.iter().filter(|(shade, ..)| *shade != ' ');
    key.try_for_each(|(shade, _, means)| writeln!(out, "{shade} {means}"))
}

fn table(out: &mut impl Write, figures: &Figures, panel: &Panel, columns: usize) -> io::Result<()> {
    let heads = figures.heads.map(String::from);
    let mut rows = vec![("NODE".to_owned(), &heads, [0; 3])];
    for line in &panel.lines {
        let [(parts, _), _] = line.bars;
        rows.push((elide(&line.label, (columns / 4).max(12)), &line.cells, parts));
    }
    rows.push(("all".to_owned(), &panel.all, [0; 3]));
    let names = rows
        .iter()
        .map(|(name, ..)| name.chars().count())
        .max()
        .unwrap_or(0);
    // No node has a longer cell than all of them together.
    let widths = figures
        .heads
        .iter()
        .zip(&panel.all)
        .map(|(head, all)| head.len().max(all.len()));
    let widths: Vec<usize> = widths.collect();
    let taken = names + widths.iter().map(|width| 2 + width).sum::<usize>() + 2;
    for (name, cells, parts) in rows {
        let mut line = format!("{name:<names$}");
        for (cell, width) in cells.iter().zip(&widths) {
            line += &format!("  {cell:>width$}");
        }
        let room = columns.saturating_sub(taken).max(BAR);
        let bar = bar(ends(parts, figures.longest(1), room), figures.key);
        writeln!(out, "{}", format!("{line}  {bar}").trim_end())?;
    }
    Ok(())
}

/// The kinds of users one behind the other.
fn bar(ends: [usize; 3], key: &[Kind]) -> String {
    let mut bar = String::new();
    let mut start = 0;
    for (end, (shade, ..)) in ends.into_iter().zip(key) {
        bar.extend(std::iter::repeat_n(*shade, end - start));
        start = end;
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::super::figures::MOVES;
    use super::*;

    #[test]
    fn bars_are_as_long_as_all_in_them() {
        let bar = |parts, longest| bar(ends(parts, longest, 10), &MOVES);
        assert_eq!(bar([50, 30, 20], 100), "░░░░░▓▓▓██");
        assert_eq!(bar([33, 33, 34], 100), "░░░▓▓▓▓███");
        assert_eq!(bar([0, 50, 0], 100), "▓▓▓▓▓");
        assert_eq!(bar([1, 1, 1], 100), "");
        assert_eq!(bar([0, 0, 0], 0), "");
        assert_eq!(bar([u64::MAX, 0, 0], u64::MAX), "░░░░░░░░░░");
    }
}
