//! The same as a picture.

use indicatif::HumanCount;

use super::figures::{elide, length, outcome, percent};
use super::moves::{Moves, Row, Side};

// Lengths are in pixels.
const MARGIN: usize = 20;
// Baselines.
const TITLE: usize = 38;
const KEY: usize = 66;
const HEADING: usize = 108;
/// Where the rows begin.
const TOP: usize = 122;
/// A row has two bars.
const ROW: usize = 36;
const THICK: usize = 12;
/// The longest bar.
const BAR: usize = 380;
/// What is left beside texts.
const GAP: usize = 8;
/// The widest digit, and a letter of a name, which has a font of one width.
const LETTER: usize = 8;
/// The longest name that keeps its middle, in characters.
const LONGEST_NAME: usize = 32;

// Distinct for the colour-blind, and in grey.
const MOVES: [(&str, &str); 3] = [
    ("#8fbcdb", "stay on their node"),
    ("#e69f00", "must move: their node goes, or comes back"),
    ("#881c54", "move needlessly, between nodes that are up"),
];
const SHARES: [(&str, &str); 2] = [
    ("#8fbcdb", "users of the node"),
    ("#c8c8c8", "what its vhost_count stands for"),
];

/// What becomes of each node's users, by each strategy: those before a change in the
/// upper bar of a row, those after it in the lower. Without a change, what the vhosts of
/// the node stand for is below its users.
pub(crate) fn draw(moves: &[Moves], change: Option<&str>) -> String {
    let all = moves.first().map_or(0, |moves| moves.total().users);
    let names: Vec<String> = moves
        .iter()
        .take(1)
        .flat_map(Moves::rows)
        .map(|row| elide(row.label(), LONGEST_NAME))
        .collect();
    let longest_name = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let left = MARGIN + 2 * GAP + LETTER * longest_name;
    let panel = BAR + GAP + LETTER * with_share(all, all).chars().count() + MARGIN;
    let (right, bottom) = (left + panel * moves.len(), TOP + ROW * names.len());
    let bars: Vec<Vec<[Bar; 2]>> = moves
        .iter()
        .map(|moves| {
            let vhosts = moves.vhost_count();
            let bars = moves.rows().map(|row| bars(row, change.is_some(), all, vhosts));
            bars.collect()
        })
        .collect();
    let longest = bars
        .iter()
        .flatten()
        .flatten()
        .map(|(parts, _)| parts.iter().sum())
        .max();
    let longest: u64 = longest.unwrap_or(0);

    let mut picture = Picture::default();
    let (title, key) = match change {
        Some(change) => (
            format!("Who of {} users moves {change}", HumanCount(all)),
            &MOVES[..],
        ),
        None => (format!("{} users", HumanCount(all)), &SHARES[..]),
    };
    let title = elide(&title, (right - MARGIN) / 12);
    picture.text((MARGIN, TITLE), "font-size=\"20\" font-weight=\"bold\"", &title);
    let mut x = MARGIN;
    for (colour, means) in key {
        picture.rect((x, KEY - THICK + 1), (THICK, THICK), colour);
        picture.text((x + THICK + GAP, KEY), "font-size=\"13\"", means);
        x += THICK + GAP + means.len() * 7 + MARGIN;
    }
    for y in (TOP..bottom).step_by(2 * ROW) {
        picture.rect((MARGIN, y), (right - 2 * MARGIN, ROW), "#f4f4f4");
    }
    for (name, y) in names.iter().zip((TOP..).step_by(ROW)) {
        let font = "font-size=\"13\" font-family=\"monospace\" text-anchor=\"end\"";
        picture.text((left - GAP, y + ROW / 2 + 4), font, name);
    }
    for ((moves, rows), left) in moves.iter().zip(&bars).zip((left..).step_by(panel)) {
        let heading = match change {
            Some(_) => outcome(moves.strategy, moves.total()),
            None => format!("by the {} strategy", moves.strategy),
        };
        picture.text((left, HEADING), "font-size=\"14\" font-weight=\"bold\"", &heading);
        for (row, y) in rows.iter().zip((TOP + 4..).step_by(ROW)) {
            for ((parts, label), y) in row.iter().zip([y, y + THICK + 3]) {
                let (mut sum, mut x) = (0, left);
                for (part, (colour, _)) in parts.iter().zip(key) {
                    sum += part;
                    let end = left + length(sum, longest, BAR);
                    picture.rect((x, y), (end - x, THICK), colour);
                    x = end;
                }
                picture.text((x + GAP / 2, y + THICK - 2), "font-size=\"11\"", label);
            }
        }
    }
    picture.svg((right, bottom + MARGIN))
}

/// Users of the kinds of the key, one behind the other, and what stands at the end.
type Bar = ([u64; 3], String);

fn bars(row: &Row, is_change: bool, all: u64, vhosts: u64) -> [Bar; 2] {
    let bar = |side: &Side, when| {
        let count = HumanCount(side.users.users);
        let down = if side.state == Some("down") { ", down" } else { "" };
        (side.users.parts(), format!("{count} {when}{down}"))
    };
    if is_change {
        return [bar(&row.before, "before"), bar(&row.after, "after")];
    }
    let expected = u128::from(all) * u128::from(row.before.vhost_count) / u128::from(vhosts.max(1));
    let expected = u64::try_from(expected).unwrap_or(all);
    let users = row.before.users;
    [
        (users.parts(), with_share(users.users, all)),
        ([0, expected, 0], percent(row.before.vhost_count, vhosts)),
    ]
}

fn with_share(users: u64, all: u64) -> String {
    format!("{} ({})", HumanCount(users), percent(users, all))
}

#[derive(Default)]
struct Picture {
    elements: String,
}

impl Picture {
    fn rect(&mut self, (x, y): (usize, usize), (width, height): (usize, usize), fill: &str) {
        if width > 0 {
            self.elements += &format!(
                "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"{fill}\"/>\n"
            );
        }
    }

    fn text(&mut self, (x, y): (usize, usize), font: &str, text: &str) {
        let text = text
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
            // XML has no place for these two.
            .replace(['\u{fffe}', '\u{ffff}'], "\u{fffd}");
        self.elements += &format!("<text x=\"{x}\" y=\"{y}\" {font}>{text}</text>\n");
    }

    fn svg(self, (width, height): (usize, usize)) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" fill=\"#202020\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{}</svg>\n",
            self.elements
        )
    }
}
