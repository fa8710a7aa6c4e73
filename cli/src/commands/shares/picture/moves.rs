//! What becomes of each node's users.

use std::io;

use super::super::super::what_if::percent;
use super::super::count::{Counts, NodeCount, Total};
use super::super::words::{self, grouped};
use super::{
    AXIS, Area, BOLD, Drawn, HEADING, MARGIN, MUST, NEEDLESS, NORMAL, PADDING, SMALL, STAY, chart,
    coordinates, draw, heading, key, length, name, stack, stripes, widest, width,
};

const TOP: i32 = 200;
/// A node, with a bar before and one after.
const ROW: i32 = 34;
const BAR: i32 = 12;
/// From the middle of a row to those of its bars.
const BESIDE: i32 = 7;
/// The bars of a strategy, and what is left before the next.
const CHART: i32 = 380;
const GAP: i32 = 20;
/// From the end of a bar to a number.
const TO_NUMBER: i32 = 4;

/// What becomes of each node's users, by each strategy.
pub(crate) fn moves(counts: &[Counts]) -> io::Result<String> {
    let Some(configured) = counts.first() else {
        return Ok(String::new());
    };
    let rows: Vec<&NodeCount> = configured.rows().collect();
    let names: Vec<String> = rows.iter().map(|row| name(row)).collect();
    let names_end = MARGIN + widest(&names).max(width("all users", NORMAL.pixels)) + PADDING;
    let charts = names_end + width("before, down", SMALL.pixels) + PADDING;
    let height = ROW * length(&rows);
    let numbers = TO_NUMBER + width(&moved(configured.total().users()), SMALL.pixels);
    let lefts = (charts..).step_by(usize::try_from(CHART + numbers + GAP).unwrap_or(1));
    let right = lefts.clone().nth(counts.len()).unwrap_or(charts) - GAP;
    let size = (right + MARGIN, TOP + height + AXIS + MARGIN);
    draw(size, |root| {
        let title = format!("Who moves {}", words::change(configured, "…"));
        let about = format!(
            "{} users: before, in the upper bar of each node, and after, in the lower one",
            grouped(configured.total().users())
        );
        heading(root, size, &title, &about)?;
        let [.., y] = HEADING;
        let x = key(root, (MARGIN, y), STAY, "stay on their node")?;
        let x = key(root, (x, y), MUST, "must move: their node goes, or comes back")?;
        key(
            root,
            (x, y),
            NEEDLESS,
            "move needlessly, between nodes that are up",
        )?;

        stripes(root, &rows, (TOP, ROW), (MARGIN, right))?;
        NORMAL.right().write(root, "all users", (names_end, TOP - 22))?;
        for ((row, name), y) in rows
            .iter()
            .zip(&names)
            .zip((TOP + ROW / 2..).step_by(ROW as usize))
        {
            NORMAL.right().write(root, name, (names_end, y))?;
            let is_node = row.name.is_some();
            for (when, place, y) in [
                ("before", row.before, y - BESIDE),
                ("after", row.after, y + BESIDE),
            ] {
                let down = if is_node && !place.is_up { ", down" } else { "" };
                SMALL
                    .right()
                    .write(root, &format!("{when}{down}"), (charts - PADDING, y))?;
            }
        }
        let bars = counts.iter().flat_map(Counts::rows);
        let longest = bars.map(|row| row.users_before().max(row.users_after())).max();
        counts
            .iter()
            .zip(lefts)
            .try_for_each(|(counts, left)| panel(root, counts, left, height, longest))
    })
}

/// One strategy.
fn panel(root: &Area<'_>, counts: &Counts, left: i32, height: i32, longest: Option<u64>) -> Drawn {
    let total = counts.total();
    let Total { stay, moves } = total;
    let title = format!(
        "{}: {} must move, {} needlessly",
        words::strategy(counts),
        percent(moves.must, total.users()),
        percent(moves.needless, total.users()),
    );
    BOLD.write(root, &title, (left, TOP - 80))?;
    SMALL.write(root, &words::why(counts), (left, TOP - 58))?;
    let numbers = left + CHART + TO_NUMBER;
    let mut sum = coordinates(root, (left, TOP - 30), (CHART, 16), 0, total.users())?;
    stack(&mut sum, [stay, moves.must, moves.needless], (0, 16))?;
    SMALL.write(root, &moved(moves.all()), (numbers, TOP - 22))?;
    let mut chart = chart(root, (left, TOP), (CHART, height), longest)?;
    for (row, y) in counts.rows().zip((ROW / 2..).step_by(ROW as usize)) {
        let bars = [
            (row.leave, row.users_before(), y - BESIDE),
            (row.come, row.users_after(), y + BESIDE),
        ];
        for (moves, users, y) in bars {
            let parts = [row.stay, moves.must, moves.needless];
            stack(&mut chart, parts, (y - BAR / 2, y + BAR / 2))?;
            SMALL.write(root, &grouped(users), (numbers, TOP + y))?;
        }
    }
    Ok(())
}

fn moved(users: u64) -> String {
    format!("{} move", grouped(users))
}
