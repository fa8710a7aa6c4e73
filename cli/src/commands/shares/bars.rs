//! Bars on the terminal.

use std::env;
use std::io::{self, Write};

use rustix::termios::tcgetwinsize;

use super::super::what_if::percent;
use super::count::{Counts, Moves, NodeCount, Total};
use super::words;

/// The width where there is no terminal.
const COLUMNS: usize = 80;
/// The least that a bar has.
const BAR: usize = 8;

/// What a terminal shows.
#[derive(Clone, Copy)]
pub(crate) struct Screen {
    columns: usize,
    is_utf8: bool,
}

impl Screen {
    pub(crate) fn of_stdout() -> Screen {
        let columns = tcgetwinsize(io::stdout()).map_or(0, |size| usize::from(size.ws_col));
        Screen {
            columns: if columns > 0 { columns } else { COLUMNS },
            is_utf8: is_utf8(|name| env::var(name).ok()),
        }
    }

    fn ellipsis(self) -> &'static str {
        if self.is_utf8 { "…" } else { "~" }
    }

    /// What is left for a bar when the columns beside it take so many.
    fn bar_beside(self, columns: usize) -> usize {
        self.columns.saturating_sub(columns).max(BAR)
    }

    /// How wide the names are shown.
    fn name_column(self, counts: &[Counts]) -> usize {
        let rows = counts.iter().flat_map(Counts::rows);
        let longest = rows.map(|row| row.label().chars().count()).max().unwrap_or(0);
        longest.clamp("modulo".len(), (self.columns / 4).max(12))
    }
}

/// Whether the locale has UTF-8.
fn is_utf8(variable: impl Fn(&str) -> Option<String>) -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .find_map(|name| variable(name).filter(|value| !value.is_empty()));
    let locale = locale.unwrap_or_default().to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

/// A bar for each node's share of the users, beside the one that its vhosts stand for.
pub(crate) fn print_shares(out: &mut impl Write, counts: &Counts, screen: Screen) -> io::Result<()> {
    let all = counts.total().users();
    let (vhosts, _) = counts.vhosts();
    let name_column = screen.name_column(std::slice::from_ref(counts));
    let users_column = digits(all).max("USERS".len());
    let is_some_down = counts.rows().any(NodeCount::is_down);
    let state_column = if is_some_down { "  down".len() } else { 0 };
    // Two blanks between columns; "100.0%" and "BY VHOSTS" take 6 and 9.
    let bar_column = screen.bar_beside(name_column + 2 + 2 + users_column + 2 + 6 + 2 + 9 + state_column);
    // Users and vhosts on one scale, where all are `all * vhosts`.
    let scale = |users: u64, of: u64| u128::from(users) * u128::from(of.max(1));
    let longest = counts
        .rows()
        .map(|row| scale(row.users_before(), vhosts).max(scale(row.before.vhosts, all)))
        .max()
        .unwrap_or(0);
    let line = if screen.is_utf8 { '│' } else { '|' };
    writeln!(
        out,
        "{all} users, by the {} strategy; {line} is the share by vhost_count",
        counts.strategy
    )?;
    writeln!(out)?;
    writeln!(
        out,
        "{:<name_column$}  {:<bar_column$}  {:>users_column$}  {:>6}  {:>9}",
        "NODE", "", "USERS", "SHARE", "BY VHOSTS"
    )?;
    for row in counts.rows() {
        let users = row.users_before();
        let mark = (row.before.vhosts > 0).then(|| scale(row.before.vhosts, all));
        let text = format!(
            "{:<name_column$}  {:<bar_column$}  {users:>users_column$}  {:>6}  {:>9}{}",
            words::elide(row.label(), name_column, screen.ellipsis()),
            marked_bar(scale(users, vhosts), mark, longest, bar_column, screen),
            percent(users, all),
            percent(row.before.vhosts, vhosts),
            if row.is_down() { "  down" } else { "" },
        );
        writeln!(out, "{}", text.trim_end())?;
    }
    Ok(())
}

/// What becomes of all users and of each node's, by each strategy.
pub(crate) fn print_moves(out: &mut impl Write, counts: &[Counts], screen: Screen) -> io::Result<()> {
    let Some(configured) = counts.first() else {
        return Ok(());
    };
    let all = configured.total().users();
    let name_column = screen.name_column(counts);
    let heading = format!("{all} users, {}", words::change(configured, screen.ellipsis()));
    writeln!(
        out,
        "{}",
        words::elide(&heading, screen.columns, screen.ellipsis())
    )?;
    writeln!(out)?;
    writeln!(
        out,
        "{:<name_column$}  {:>6}  {:>6}  {:>8}",
        "", "STAY", "MUST", "NEEDLESS"
    )?;
    for counts in counts {
        let total = counts.total();
        let bar_column = screen.bar_beside(name_column + 2 + 6 + 2 + 6 + 2 + 8 + 2);
        let line = format!(
            "{:<name_column$}  {:>6}  {:>6}  {:>8}  {}",
            counts.strategy,
            percent(total.stay, all),
            percent(total.moves.must, all),
            percent(total.moves.needless, all),
            stacked_bar(total, all, bar_column, screen),
        );
        writeln!(out, "{}", line.trim_end())?;
    }
    let [stay, must, needless] = shades(screen);
    writeln!(out)?;
    writeln!(
        out,
        "{stay} stay  {must} must move: their node goes, or comes back  {needless} move needlessly"
    )?;

    let longest = counts
        .iter()
        .flat_map(Counts::rows)
        .map(NodeCount::users_before)
        .max();
    let longest = longest.unwrap_or(0);
    for counts in counts {
        writeln!(out)?;
        writeln!(out, "{}", words::strategy(counts))?;
        writeln!(out, "{}", words::why(counts))?;
        writeln!(out)?;
        print_moves_of_nodes(out, counts, name_column, longest, screen)?;
    }
    Ok(())
}

fn print_moves_of_nodes(
    out: &mut impl Write,
    counts: &Counts,
    name_column: usize,
    longest: u64,
    screen: Screen,
) -> io::Result<()> {
    let total = counts.total();
    let number = digits(total.users()).max("NEEDLESS".len());
    let bar_column = screen.bar_beside(name_column + 4 * (2 + number) + 2);
    let mut line = |name: &str, cells: [String; 4], bar: String| {
        let [before, after, must, needless] = cells;
        let line = format!(
            "{name:<name_column$}  {before:>number$}  {after:>number$}  {must:>number$}  {needless:>number$}  {bar}"
        );
        writeln!(out, "{}", line.trim_end())
    };
    let heads = ["BEFORE", "AFTER", "MUST", "NEEDLESS"].map(String::from);
    line("NODE", heads, String::new())?;
    for row in counts.rows() {
        let numbers = [
            row.users_before(),
            row.users_after(),
            row.leave.must,
            row.leave.needless,
        ];
        let leave = Total {
            stay: row.stay,
            moves: row.leave,
        };
        let name = words::elide(row.label(), name_column, screen.ellipsis());
        line(
            &name,
            numbers.map(|number| number.to_string()),
            stacked_bar(leave, longest, bar_column, screen),
        )?;
    }
    let Moves { must, needless } = total.moves;
    let numbers = [total.users(), total.users(), must, needless];
    line("all", numbers.map(|number| number.to_string()), String::new())
}

/// Those who stay, must move, and move needlessly.
fn shades(screen: Screen) -> [char; 3] {
    if screen.is_utf8 {
        ['░', '▓', '█']
    } else {
        ['.', '=', '#']
    }
}

/// The three kinds of users one behind the other; the longest bar takes all cells.
fn stacked_bar(total: Total, longest: u64, cells: usize, screen: Screen) -> String {
    let mut bar = String::new();
    let (mut users, mut filled) = (0u64, 0);
    let parts = [total.stay, total.moves.must, total.moves.needless];
    for (part, shade) in parts.into_iter().zip(shades(screen)) {
        users += part;
        let end = part_of(cells, users.into(), longest.into());
        bar.extend(std::iter::repeat_n(shade, end - filled));
        filled = end;
    }
    bar
}

/// A bar with a line where the mark is; the longest bar or mark takes all cells.
fn marked_bar(value: u128, mark: Option<u128>, longest: u128, cells: usize, screen: Screen) -> String {
    let (full, partial, line) = match screen.is_utf8 {
        true => (
            '█',
            [
                None,
                Some('▏'),
                Some('▎'),
                Some('▍'),
                Some('▌'),
                Some('▋'),
                Some('▊'),
                Some('▉'),
            ],
            '│',
        ),
        false => (
            '#',
            [None, None, None, None, Some('#'), Some('#'), Some('#'), Some('#')],
            '|',
        ),
    };
    let eighths = part_of(8 * cells, value, longest);
    let mut bar: Vec<char> = std::iter::repeat_n(full, eighths / 8).collect();
    bar.extend(partial.get(eighths % 8).copied().flatten());
    if let Some(mark) = mark {
        let cell = part_of(cells, mark, longest).saturating_sub(1);
        if cell >= bar.len() {
            bar.resize(cell + 1, ' ');
        }
        if let Some(cell) = bar.get_mut(cell) {
            *cell = line;
        }
    }
    bar.into_iter().collect()
}

/// How many of these cells a part of the whole takes, rounded.
fn part_of(cells: usize, part: u128, whole: u128) -> usize {
    let whole = whole.max(1);
    let cells_of_part = (part * cells as u128 + whole / 2) / whole;
    usize::try_from(cells_of_part).unwrap_or(cells).min(cells)
}

fn digits(number: u64) -> usize {
    number.to_string().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const UTF8: Screen = Screen {
        columns: 80,
        is_utf8: true,
    };
    const ASCII: Screen = Screen {
        columns: 80,
        is_utf8: false,
    };

    #[test]
    fn bars_end_at_an_eighth_of_a_cell() {
        for (value, utf8, ascii) in [
            (0, "", ""),
            (1, "▏", ""),
            (4, "▌", "#"),
            (8, "█", "#"),
            (31, "███▉", "####"),
            (32, "████", "####"),
        ] {
            assert_eq!(marked_bar(value, None, 32, 4, UTF8), utf8);
            assert_eq!(marked_bar(value, None, 32, 4, ASCII), ascii);
        }
        assert_eq!(marked_bar(0, None, 0, 4, UTF8), "");
    }

    #[test]
    fn marks_are_in_bars_and_beyond_them() {
        assert_eq!(marked_bar(32, Some(16), 32, 4, UTF8), "█│██");
        assert_eq!(marked_bar(8, Some(32), 32, 4, UTF8), "█  │");
        assert_eq!(marked_bar(8, Some(32), 32, 4, ASCII), "#  |");
        assert_eq!(marked_bar(0, Some(0), 32, 4, ASCII), "|");
    }

    #[test]
    fn stacked_bars_are_as_long_as_all_in_them() {
        let bar = |stay, must, needless, longest| {
            let moves = Moves { must, needless };
            stacked_bar(Total { stay, moves }, longest, 10, ASCII)
        };
        assert_eq!(bar(50, 30, 20, 100), ".....===##");
        assert_eq!(bar(33, 33, 34, 100), "...====###");
        assert_eq!(bar(0, 50, 0, 100), "=====");
        assert_eq!(bar(1, 1, 1, 100), "");
        assert_eq!(bar(0, 0, 0, 0), "");
        assert_eq!(bar(u64::MAX, 0, 0, u64::MAX), "..........");
    }

    #[test]
    fn the_locale_is_the_first_that_is_set() {
        let is_utf8 = |set: &[(&str, &str)]| {
            is_utf8(|name| {
                let found = set.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| value.to_string())
            })
        };
        assert!(is_utf8(&[("LANG", "de_AT.UTF-8")]));
        assert!(is_utf8(&[("LC_ALL", ""), ("LC_CTYPE", "C.utf8"), ("LANG", "C")]));
        assert!(!is_utf8(&[("LC_ALL", "C"), ("LANG", "de_AT.UTF-8")]));
        assert!(!is_utf8(&[("LANG", "de_AT@euro")]));
        assert!(!is_utf8(&[]));
    }
}
