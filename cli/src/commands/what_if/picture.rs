//! The same as a picture.

use indicatif::HumanCount;

use super::moves::{Moves, Row, Side};
use super::words::{LONGEST_NAME, change, elide, length, outcome, percent};

// Lengths are in pixels.
const MARGIN: usize = 20;
// Baselines.
const TITLE: usize = 38;
const ABOUT: usize = 62;
const KEY: usize = 92;
const HEADING: usize = 134;
/// From a baseline to the rows.
const BELOW: usize = 14;
/// The longest bar.
const BAR: usize = 380;
/// How high a bar is, with what is left around it.
const THICK: usize = 12;
const BESIDE: usize = 3;
/// What is left beside texts.
const GAP: usize = 8;
/// The widest digit, and a letter of a name, which has a font of one width.
const DIGIT: usize = 8;
const LETTER: usize = 8;

const INK: &str = "#202020";
const STRIPE: &str = "#f4f4f4";
/// Those who stay, must move and move needlessly: distinct for the colour-blind, and in
/// grey.
const KINDS: [(&str, &str); 3] = [
    ("#8fbcdb", "stay on their node"),
    ("#e69f00", "must move: their node goes, or comes back"),
    ("#881c54", "move needlessly, between nodes that are up"),
];

/// What becomes of each node's users, by each strategy; or, where nothing changes, each
/// node's share of them, beside the one that its vhosts stand for.
pub(crate) fn draw(moves: &[Moves], is_change: bool) -> String {
    let Some(configured) = moves.first() else {
        return String::new();
    };
    let all = configured.total().all();
    let names: Vec<String> = configured
        .rows()
        .map(|row| elide(row.label(), LONGEST_NAME, "…"))
        .collect();
    let longest_name = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let left = MARGIN + GAP + LETTER * longest_name + GAP;
    let widest_number = number(all, all, true).chars().count() * DIGIT;
    let panel = BAR + GAP + widest_number + MARGIN;
    let right = left + panel * moves.len();
    let row_height = 2 * BESIDE + (THICK + BESIDE) * if is_change { 2 } else { 1 };
    let top = BELOW + if is_change { HEADING } else { KEY };
    let bottom = top + row_height * names.len();

    let mut picture = Picture::default();
    let (title, about) = match is_change {
        true => (
            format!("Who moves {}", change(configured, "…")),
            "users; of each node, those before in the upper bar, and those after in the lower".into(),
        ),
        false => (
            "Users per node".into(),
            format!("users, by the {} strategy", configured.strategy),
        ),
    };
    let title = elide(&title, (right - MARGIN) / 12, "…");
    picture.text((MARGIN, TITLE), "font-size=\"20\" font-weight=\"bold\"", &title);
    let about = format!("{} {about}", HumanCount(all));
    picture.text((MARGIN, ABOUT), NORMAL, &about);
    let mut x = MARGIN;
    for (colour, means) in KINDS.into_iter().take(if is_change { 3 } else { 0 }) {
        picture.rect((x, KEY - THICK + 1), (THICK, THICK), colour);
        picture.text((x + THICK + GAP, KEY), NORMAL, means);
        x += THICK + GAP + means.len() * 7 + MARGIN;
    }
    if !is_change {
        picture.rect((x + THICK / 2, KEY - THICK - 1), (2, THICK + 4), INK);
        picture.text((x + THICK + GAP, KEY), NORMAL, "what its vhost_count stands for");
    }
    for y in (top..bottom).step_by(2 * row_height) {
        picture.rect((MARGIN, y), (right - 2 * MARGIN, row_height), STRIPE);
    }
    for (name, y) in names.iter().zip((top..).step_by(row_height)) {
        picture.text((left - GAP, y + row_height / 2 + 4), NAME, name);
    }

    // What the vhosts of a node stand for.
    let expected = |moves: &Moves, row: &Row| {
        let exact = u128::from(all) * u128::from(row.before.vhosts) / u128::from(moves.vhosts().max(1));
        u64::try_from(exact).unwrap_or(all)
    };
    let longest = |moves: &Moves, row: &Row| match is_change {
        true => row.before.users.all().max(row.after.users.all()),
        false => row.before.users.all().max(expected(moves, row)),
    };
    let rows = moves
        .iter()
        .flat_map(|moves| moves.rows().map(move |row| longest(moves, row)));
    let longest = rows.max().unwrap_or(0);
    for (moves, left) in moves.iter().zip((left..).step_by(panel)) {
        if is_change {
            let bold = "font-size=\"14\" font-weight=\"bold\"";
            picture.text((left, HEADING), bold, &outcome(moves));
        }
        for (row, y) in moves.rows().zip((top..).step_by(row_height)) {
            let sides: &[&Side] = match is_change {
                true => &[&row.before, &row.after],
                false => &[&row.before],
            };
            for (side, y) in sides.iter().zip((y + BESIDE + 1..).step_by(THICK + BESIDE)) {
                let mut end = picture.bar((left, y), side, longest);
                if !is_change && side.vhosts > 0 {
                    let mark = left + length(expected(moves, row), longest, BAR);
                    picture.rect((mark - 1, y - BESIDE), (2, THICK + 2 * BESIDE), INK);
                    end = end.max(mark);
                }
                let mut text = number(side.users.all(), all, !is_change);
                if row.name.is_some() && !side.is_up {
                    text = format!("{text}, down");
                }
                picture.text((end + GAP / 2, y + THICK - 2), SMALL, &text);
            }
        }
    }
    picture.svg((right, bottom + MARGIN))
}

const NORMAL: &str = "font-size=\"13\"";
const SMALL: &str = "font-size=\"11\"";
const NAME: &str = "font-size=\"13\" font-family=\"monospace\" text-anchor=\"end\"";

fn number(users: u64, all: u64, with_share: bool) -> String {
    match with_share {
        true => format!("{} ({})", HumanCount(users), percent(users, all)),
        false => HumanCount(users).to_string(),
    }
}

#[derive(Default)]
struct Picture {
    elements: String,
}

impl Picture {
    fn rect(&mut self, (x, y): (usize, usize), (width, height): (usize, usize), fill: &str) {
        self.elements +=
            &format!("<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"{fill}\"/>\n");
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

    /// The kinds of users one behind the other; returns where it ends.
    fn bar(&mut self, (left, y): (usize, usize), side: &Side, longest: u64) -> usize {
        let (mut sum, mut x) = (0, left);
        for (part, (colour, _)) in side.users.parts().into_iter().zip(KINDS) {
            sum += part;
            let end = left + length(sum, longest, BAR);
            if end > x {
                self.rect((x, y), (end - x, THICK), colour);
            }
            x = end;
        }
        x
    }

    fn svg(self, (width, height): (usize, usize)) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" fill=\"{INK}\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{}</svg>\n",
            self.elements
        )
    }
}
