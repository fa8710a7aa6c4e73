//! What the table and the picture show.

use indicatif::HumanCount;

use super::moves::{Moves, Side, Users};

pub(crate) struct Figures {
    pub(crate) title: String,
    /// The kinds of users in bars.
    pub(crate) key: &'static [Kind],
    pub(crate) heads: [&'static str; 4],
    pub(crate) panels: Vec<Panel>,
}

/// What one strategy does.
pub(crate) struct Panel {
    pub(crate) heading: String,
    pub(crate) lines: Vec<Line>,
    /// The cells of all nodes together.
    pub(crate) all: [String; 4],
}

/// A shade, which is a space for what only the picture has, a colour, and what it means.
pub(crate) type Kind = (char, &'static str, &'static str);

pub(crate) struct Line {
    pub(crate) label: String,
    pub(crate) cells: [String; 4],
    pub(crate) bars: [Bar; 2],
}

/// Users of the kinds of the key, one behind the other, and what stands at the end.
pub(crate) type Bar = ([u64; 3], String);

// Distinct for the colour-blind, and in grey.
pub(crate) const MOVES: [Kind; 3] = [
    ('░', "#8fbcdb", "stay on their node"),
    ('▓', "#e69f00", "must move: their node goes, or comes back"),
    ('█', "#881c54", "move needlessly, between nodes that are up"),
];
const SHARES: [Kind; 2] = [
    ('░', "#8fbcdb", "users of the node"),
    (' ', "#c8c8c8", "what its vhost_count stands for"),
];

impl Figures {
    /// What becomes of each node's users, by each strategy: those before a change and those
    /// after it. Without a change: its users, and what its vhosts stand for.
    pub(crate) fn new(moves: &[Moves], change: Option<&str>) -> Figures {
        let all = HumanCount(moves.first().map_or(0, |moves| moves.total.users));
        match change {
            Some(change) => Figures {
                title: format!("Who of {all} users moves {change}"),
                key: &MOVES,
                heads: ["BEFORE", "AFTER", "MUST", "NEEDLESS"],
                panels: moves.iter().map(changes).collect(),
            },
            None => Figures {
                title: format!("{all} users"),
                key: &SHARES,
                heads: ["STATE", "USERS", "SHARE", "BY VHOSTS"],
                panels: moves.iter().map(shares).collect(),
            },
        }
    }

    /// How many users the longest bar has, if a line shows so many of its bars.
    pub(crate) fn longest(&self, shown: usize) -> u64 {
        let lines = self.panels.iter().flat_map(|panel| &panel.lines);
        let bars = lines.flat_map(|line| line.bars.iter().take(shown));
        bars.map(|(parts, _)| parts.iter().sum()).max().unwrap_or(0)
    }
}

fn changes(moves: &Moves) -> Panel {
    let percent = |users| percent(users, moves.total.users);
    let heading = format!(
        "{}: {} must move, {} needlessly",
        moves.strategy,
        percent(moves.total.must_move),
        percent(moves.total.move_needlessly)
    );
    let bar = |side: &Side, when| {
        let down = if side.state == Some("down") { ", down" } else { "" };
        let count = HumanCount(side.users.users);
        (side.users.parts(), format!("{count} {when}{down}"))
    };
    let cells = |users: Users, after: u64| {
        [users.users, after, users.must_move, users.move_needlessly].map(|number| number.to_string())
    };
    let lines = moves.rows().map(|row| Line {
        label: row.label(),
        cells: cells(row.before.users, row.after.users.users),
        bars: [bar(&row.before, "before"), bar(&row.after, "after")],
    });
    Panel {
        heading,
        lines: lines.collect(),
        all: cells(moves.total, moves.total.users),
    }
}

fn shares(moves: &Moves) -> Panel {
    let all = moves.total.users;
    let vhosts: u64 = moves.rows().map(|row| row.before.vhost_count).sum();
    let lines = moves.rows().map(|row| {
        let Side {
            state,
            vhost_count,
            users,
        } = &row.before;
        let share = percent(users.users, all);
        let by_vhosts = percent(*vhost_count, vhosts);
        let expected = (all as f64 * *vhost_count as f64 / vhosts.max(1) as f64) as u64;
        Line {
            label: row.label(),
            bars: [
                (users.parts(), format!("{} ({share})", HumanCount(users.users))),
                ([0, expected, 0], by_vhosts.clone()),
            ],
            cells: [
                state.unwrap_or("-").into(),
                users.users.to_string(),
                share,
                by_vhosts,
            ],
        }
    });
    Panel {
        heading: format!("by the {} strategy", moves.strategy),
        lines: lines.collect(),
        all: [
            "-".into(),
            all.to_string(),
            percent(all, all),
            percent(vhosts, vhosts),
        ],
    }
}

fn percent(part: u64, all: u64) -> String {
    format!("{:.1}%", 100.0 * part as f64 / all.max(1) as f64)
}

/// Where the parts of a bar end, of which the longest would have this length; rounded.
pub(crate) fn ends(parts: [u64; 3], longest: u64, length: usize) -> [usize; 3] {
    let mut sum = 0;
    parts.map(|part| {
        sum += part;
        (sum as f64 / longest.max(1) as f64 * length as f64).round() as usize
    })
}

/// A text of at most so many characters, which lost its middle if it was longer.
pub(crate) fn elide(text: &str, most: usize) -> String {
    let length = text.chars().count();
    if length <= most {
        return text.to_owned();
    }
    let kept = most.saturating_sub(1);
    let start = text.chars().take(kept.div_ceil(2));
    let end = text.chars().skip(length - kept / 2);
    start.chain(['…']).chain(end).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_lose_their_middle() {
        for (text, most, shown) in [
            ("node1", 5, "node1"),
            ("node1", 4, "no…1"),
            ("mail01.example.org", 9, "mail….org"),
            ("äöüäöü", 3, "ä…ü"),
            ("node1", 1, "…"),
            ("", 0, ""),
        ] {
            assert_eq!(elide(text, most), shown);
        }
    }
}
