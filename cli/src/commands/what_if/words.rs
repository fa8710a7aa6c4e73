//! What bars and pictures say in words and numbers.

use super::moves::{Moves, Row};

/// So many names are listed; of more, their number.
const LISTED: usize = 3;
/// The longest name that keeps its middle, in characters.
pub(crate) const LONGEST_NAME: usize = 32;

/// "if node2 goes down", or what else happens to the nodes.
pub(crate) fn change(moves: &Moves, ellipsis: &str) -> String {
    let happens = |is: fn(&&Row) -> bool, one: &str, several: &str| {
        let names: Vec<String> = moves
            .rows()
            .filter(is)
            .map(|row| elide(row.label(), LONGEST_NAME, ellipsis))
            .collect();
        match &names[..] {
            [] => None,
            [name] => Some(format!("{name} {one}")),
            [others @ .., last] if names.len() <= LISTED => {
                Some(format!("{} and {last} {several}", others.join(", ")))
            }
            _ => Some(format!("{} nodes {several}", names.len())),
        }
    };
    let goes = |row: &&Row| row.before.is_up && !row.after.is_up;
    let comes = |row: &&Row| !row.before.is_up && row.after.is_up;
    let said = [
        happens(goes, "goes down", "go down"),
        happens(comes, "comes back", "come back"),
    ];
    let said: Vec<String> = said.into_iter().flatten().collect();
    match said.is_empty() {
        true => "if nothing changes".into(),
        false => format!("if {}", said.join(" and ")),
    }
}

/// "ring, as configured: 33.3% must move, 0.0% needlessly".
pub(crate) fn outcome(moves: &Moves) -> String {
    let total = moves.total();
    format!(
        "{}{}: {} must move, {} needlessly",
        moves.strategy,
        if moves.is_configured {
            ", as configured"
        } else {
            ""
        },
        percent(total.must_move, total.all()),
        percent(total.move_needlessly, total.all()),
    )
}

pub(crate) fn percent(part: u64, all: u64) -> String {
    format!("{:.1}%", 100.0 * share(part, all))
}

pub(crate) fn share(part: u64, all: u64) -> f64 {
    part as f64 / all.max(1) as f64
}

/// How long a part of a bar is, of which the whole would have this length; rounded.
pub(crate) fn length(part: u64, whole: u64, length: usize) -> usize {
    let whole = u128::from(whole.max(1));
    let rounded = (u128::from(part) * length as u128 + whole / 2) / whole;
    usize::try_from(rounded).unwrap_or(length).min(length)
}

/// A text of at most so many characters, which lost its middle if it was longer.
pub(crate) fn elide(text: &str, most: usize, ellipsis: &str) -> String {
    let length = text.chars().count();
    if length <= most {
        return text.to_owned();
    }
    let kept = most.saturating_sub(ellipsis.chars().count());
    let start = text.chars().take(kept.div_ceil(2));
    let end = text.chars().skip(length - kept / 2);
    start.chain(ellipsis.chars()).chain(end).collect()
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
            assert_eq!(elide(text, most, "…"), shown);
        }
    }
}
