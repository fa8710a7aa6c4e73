//! Tables with bars, for a terminal.

use std::env;
use std::io::{self, Write};

use rustix::termios::tcgetwinsize;

use super::moves::{Moves, Users};
use super::words::{self, elide, length, percent};

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

    /// For those who stay, must move, and move needlessly.
    fn shades(self) -> [char; 3] {
        if self.is_utf8 {
            ['░', '▓', '█']
        } else {
            ['.', '=', '#']
        }
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

/// Each node's share of the users, beside the one that its vhosts stand for.
pub(crate) fn shares(out: &mut impl Write, moves: &[Moves], screen: Screen) -> io::Result<()> {
    for moves in moves {
        let all = moves.total().all();
        writeln!(out, "{all} users, by the {} strategy\n", moves.strategy)?;
        let rows = moves.rows().map(|row| {
            let users = row.before.users;
            let cells = [
                row.name.as_ref().map_or("-", |_| row.before.state()).to_owned(),
                users.all().to_string(),
                percent(users.all(), all),
                percent(row.before.vhosts, moves.vhosts()),
            ];
            (row.label(), cells, users)
        });
        let longest = longest(std::slice::from_ref(moves));
        let heads = ["STATE", "USERS", "SHARE", "BY VHOSTS"];
        table(out, heads, &rows.collect::<Vec<_>>(), longest, screen)?;
    }
    Ok(())
}

/// What becomes of each node's users, by each strategy.
pub(crate) fn moves(out: &mut impl Write, moves: &[Moves], screen: Screen) -> io::Result<()> {
    if let Some(configured) = moves.first() {
        let change = words::change(configured, screen.ellipsis());
        let heading = format!("{} users, {change}", configured.total().all());
        writeln!(out, "{}", elide(&heading, screen.columns, screen.ellipsis()))?;
    }
    let longest = longest(moves);
    for moves in moves {
        writeln!(out, "\n{}\n", words::outcome(moves))?;
        let total = moves.total();
        let cells = |users: Users, after: u64| {
            let numbers = [users.all(), after, users.must_move, users.move_needlessly];
            numbers.map(|number| number.to_string())
        };
        let rows = moves.rows().map(|row| {
            let users = row.before.users;
            (row.label(), cells(users, row.after.users.all()), users)
        });
        let all = ("all", cells(total, total.all()), Users::default());
        let heads = ["BEFORE", "AFTER", "MUST", "NEEDLESS"];
        table(
            out,
            heads,
            &rows.chain([all]).collect::<Vec<_>>(),
            longest,
            screen,
        )?;
    }
    let [stay, must, needlessly] = screen.shades();
    writeln!(
        out,
        "\n{stay} stay  {must} must move: their node goes, or comes back  {needlessly} move needlessly"
    )
}

/// The users of the longest bar.
fn longest(moves: &[Moves]) -> u64 {
    let rows = moves.iter().flat_map(Moves::rows);
    rows.map(|row| row.before.users.all()).max().unwrap_or(0)
}

/// Rows of a name, cells, and users whose bar takes the rest of the line.
fn table<const N: usize>(
    out: &mut impl Write,
    heads: [&str; N],
    rows: &[(&str, [String; N], Users)],
    longest: u64,
    screen: Screen,
) -> io::Result<()> {
    let chars = |text: &str| text.chars().count();
    let longest_name = rows.iter().map(|(name, ..)| chars(name)).max();
    let name_column = longest_name.unwrap_or(0).clamp(4, (screen.columns / 4).max(12));
    let heads = ("NODE", heads.map(String::from), Users::default());
    let lines = || std::iter::once(&heads).chain(rows);
    let widths: [usize; N] = std::array::from_fn(|column| {
        let cells = lines().filter_map(|(_, cells, _)| cells.get(column));
        cells.map(|cell| chars(cell)).max().unwrap_or(0)
    });
    for (name, cells, users) in lines() {
        let name = elide(name, name_column, screen.ellipsis());
        let mut line = format!("{name:<name_column$}");
        for (cell, width) in cells.iter().zip(widths) {
            line += &format!("  {cell:>width$}");
        }
        let cells = screen.columns.saturating_sub(chars(&line) + 2).max(BAR);
        line = format!("{line}  {}", bar(*users, longest, cells, screen));
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// The three kinds of users one behind the other; the longest bar takes all cells.
fn bar(users: Users, longest: u64, cells: usize, screen: Screen) -> String {
    let mut bar = String::new();
    let (mut sum, mut filled) = (0, 0);
    for (part, shade) in users.parts().into_iter().zip(screen.shades()) {
        sum += part;
        let end = length(sum, longest, cells);
        bar.extend(std::iter::repeat_n(shade, end - filled));
        filled = end;
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_all_in_them() {
        let screen = Screen {
            columns: 80,
            is_utf8: false,
        };
        let bar = |stay, must_move, move_needlessly, longest| {
            let users = Users {
                stay,
                must_move,
                move_needlessly,
            };
            bar(users, longest, 10, screen)
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
