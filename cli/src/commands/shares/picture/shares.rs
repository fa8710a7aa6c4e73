//! Each node's share.

use std::io;
use std::iter;

use plotters::prelude::*;

use super::super::super::what_if::percent;
use super::super::count::{Counts, NodeCount};
use super::super::words::grouped;
use super::{
    AXIS, HEADING, INK, MARGIN, NORMAL, PADDING, SMALL, bar, chart, draw, heading, key, length, name,
    stripes, widest,
};

const USERS: RGBColor = RGBColor(0x5a, 0xa0, 0xd2);

/// Each node's share of the users, beside the one that its vhosts stand for.
pub(crate) fn shares(counts: &Counts) -> io::Result<String> {
    const TOP: i32 = 130;
    const ROW: i32 = 24;
    const BAR: i32 = 14;
    const CHART: i32 = 480;
    /// From the end of the chart to the ends of the columns.
    const COLUMNS: [i32; 3] = [100, 170, NUMBERS];
    const NUMBERS: i32 = 250;
    let rows: Vec<&NodeCount> = counts.rows().collect();
    let names: Vec<String> = rows
        .iter()
        .map(|row| match row.is_down() {
            true => format!("{} (down)", name(row)),
            false => name(row),
        })
        .collect();
    let left = MARGIN + widest(&names) + PADDING;
    let chart_end = left + CHART;
    let right = chart_end + NUMBERS;
    let height = ROW * length(&rows);
    let size = (right + MARGIN, TOP + height + AXIS + MARGIN);
    draw(size, |root| {
        let all = counts.total().users();
        let (vhosts, _) = counts.vhosts();
        let by_vhosts = |row: &NodeCount| {
            let exact = u128::from(all) * u128::from(row.before.vhosts);
            u64::try_from(exact / u128::from(vhosts.max(1))).unwrap_or(all)
        };
        let about = format!("{} users, by the {} strategy", grouped(all), counts.strategy);
        heading(root, size, "Users per node", &about)?;
        let [.., key_line] = HEADING;
        let x = key(root, (MARGIN, key_line), USERS, "users of the node")?;
        let tick = [(x + 6, key_line - 8), (x + 6, key_line + 8)];
        root.draw(&PathElement::new(tick, INK.stroke_width(2)))?;
        NORMAL.write(root, "what its vhost_count stands for", (x + 14, key_line))?;
        for (title, column) in ["users", "share", "by vhosts"].into_iter().zip(COLUMNS) {
            SMALL.right().write(root, title, (chart_end + column, TOP - 14))?;
        }
        stripes(root, &rows, (TOP, ROW), (MARGIN, right))?;
        let longest = rows.iter().map(|row| row.users_before().max(by_vhosts(row)));
        let mut chart = chart(root, (left, TOP), (CHART, height), longest.max())?;
        for ((row, name), y) in rows.iter().zip(&names).zip((0..).step_by(ROW as usize)) {
            let users = row.users_before();
            let (top, bottom) = (y + (ROW - BAR) / 2, y + (ROW + BAR) / 2);
            bar(&mut chart, (0, users), (top, bottom), USERS)?;
            if row.before.vhosts > 0 {
                let tick = [top - 3, bottom + 3].map(|y| (by_vhosts(row), f64::from(y)));
                chart.draw_series(iter::once(PathElement::new(tick, INK.stroke_width(2))))?;
            }
            let y = TOP + y + ROW / 2;
            NORMAL.right().write(root, name, (left - PADDING, y))?;
            let numbers = [
                grouped(users),
                percent(users, all),
                percent(row.before.vhosts, vhosts),
            ];
            for (number, column) in numbers.iter().zip(COLUMNS) {
                NORMAL.right().write(root, number, (chart_end + column, y))?;
            }
        }
        Ok(())
    })
}
