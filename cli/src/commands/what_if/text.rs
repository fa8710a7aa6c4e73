//! Tables with bars, for a terminal.

use std::io::{self, Write};

use rustix::termios::tcgetwinsize;

use super::figures::{elide, length, outcome, percent};
use super::moves::{Moves, Users};

/// The least that a bar has.
const BAR: usize = 8;
/// For those who stay, must move, and move needlessly.
const SHADES: [char; 3] = ['░', '▓', '█'];

/// Each node's users, and what becomes of them by each strategy if there is a change.
pub(crate) fn print(out: &mut impl Write, moves: &[Moves], change: Option<&str>) -> io::Result<()> {
    let columns = tcgetwinsize(io::stdout()).map_or(0, |size| usize::from(size.ws_col));
    // That of old where there is no terminal.
    let columns = if columns > 0 { columns } else { 80 };
    let rows = moves.iter().flat_map(Moves::rows);
    let longest = rows.map(|row| row.before.users.users).max().unwrap_or(0);
    if let (Some(moves), Some(change)) = (moves.first(), change) {
        let heading = format!("{} users, {change}", moves.total().users);
        writeln!(out, "{}\n", elide(&heading, columns))?;
    }
    for moves in moves {
        let (total, vhosts) = (moves.total(), moves.vhost_count());
        let numbers = |users: Users, after: u64| {
            [users.users, after, users.must_move, users.move_needlessly].map(|number| number.to_string())
        };
        let (title, heads) = match change {
            None => (
                format!("{} users, by the {} strategy", total.users, moves.strategy),
                ["STATE", "USERS", "SHARE", "BY VHOSTS"],
            ),
            Some(_) => (
                outcome(moves.strategy, total),
                ["BEFORE", "AFTER", "MUST", "NEEDLESS"],
            ),
        };
        let mut lines = vec![("NODE".to_owned(), heads.map(String::from), Users::default())];
        for row in moves.rows() {
            let users = row.before.users;
            let cells = match change {
                None => [
                    row.before.state.unwrap_or("-").to_owned(),
                    users.users.to_string(),
                    percent(users.users, total.users),
                    percent(row.before.vhost_count, vhosts),
                ],
                Some(_) => numbers(users, row.after.users.users),
            };
            lines.push((elide(row.label(), (columns / 4).max(12)), cells, users));
        }
        if change.is_some() {
            let all = numbers(total, total.users);
            lines.push(("all".to_owned(), all, Users::default()));
        }
        writeln!(out, "{title}\n")?;
        table(out, &lines, longest, columns)?;
        if change.is_some() {
            writeln!(out)?;
        }
    }
    if change.is_some() {
        let [stay, must, needlessly] = SHADES;
        writeln!(
            out,
            "{stay} stay  {must} must move: their node goes, or comes back  {needlessly} move needlessly"
        )?;
    }
    Ok(())
}

/// Rows of a name, cells, and users whose bar takes the rest of the line.
fn table<const N: usize>(
    out: &mut impl Write,
    lines: &[(String, [String; N], Users)],
    longest: u64,
    columns: usize,
) -> io::Result<()> {
    let chars = |text: &String| text.chars().count();
    let names = lines.iter().map(|(name, ..)| chars(name)).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(|column| {
        let cells = lines.iter().filter_map(|(_, cells, _)| cells.get(column));
        cells.map(chars).max().unwrap_or(0)
    });
    let room = columns.saturating_sub(names + widths.iter().map(|width| 2 + width).sum::<usize>() + 2);
    for (name, cells, users) in lines {
        let mut line = format!("{name:<names$}");
        for (cell, width) in cells.iter().zip(widths) {
            line += &format!("  {cell:>width$}");
        }
        line = format!("{line}  {}", bar(*users, longest, room.max(BAR)));
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// The three kinds of users one behind the other; the longest bar takes all cells.
fn bar(users: Users, longest: u64, cells: usize) -> String {
    let mut bar = String::new();
    let (mut sum, mut filled) = (0, 0);
    for (part, shade) in users.parts().into_iter().zip(SHADES) {
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
        let bar = |stay, must_move, move_needlessly, longest| {
            let users = Users {
                stay,
                must_move,
                move_needlessly,
                ..Users::default()
            };
            bar(users, longest, 10)
        };
        assert_eq!(bar(50, 30, 20, 100), "░░░░░▓▓▓██");
        assert_eq!(bar(33, 33, 34, 100), "░░░▓▓▓▓███");
        assert_eq!(bar(0, 50, 0, 100), "▓▓▓▓▓");
        assert_eq!(bar(1, 1, 1, 100), "");
        assert_eq!(bar(0, 0, 0, 0), "");
        assert_eq!(bar(u64::MAX, 0, 0, u64::MAX), "░░░░░░░░░░");
    }
}
