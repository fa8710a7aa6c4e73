//! What tables and pictures have in common.

use super::moves::Users;
use mailaffinity::mapping::Strategy;

/// "ring: 33.3% must move, 0.0% needlessly".
pub(crate) fn outcome(strategy: Strategy, total: Users) -> String {
    let percent = |users| percent(users, total.users);
    format!(
        "{strategy}: {} must move, {} needlessly",
        percent(total.must_move),
        percent(total.move_needlessly)
    )
}

pub(crate) fn percent(part: u64, all: u64) -> String {
    format!("{:.1}%", 100.0 * part as f64 / all.max(1) as f64)
}

/// How long a part of a bar is, of which the whole would have this length; rounded.
pub(crate) fn length(part: u64, whole: u64, length: usize) -> usize {
    let whole = u128::from(whole.max(1));
    let rounded = (u128::from(part) * length as u128 + whole / 2) / whole;
    usize::try_from(rounded).unwrap_or(length).min(length)
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
