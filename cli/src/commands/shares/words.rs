//! What bars and pictures say in words.

use super::count::{Counts, NodeCount};
use mailaffinity::mapping::Strategy;

/// So many names are listed; of more, their number.
const LISTED: usize = 3;
/// The longest name in a sentence, in characters.
const LONGEST: usize = 32;

/// "ring, as configured", or "ring".
pub(crate) fn strategy(counts: &Counts) -> String {
    let configured = if counts.is_configured {
        ", as configured"
    } else {
        ""
    };
    format!("{}{configured}", counts.strategy)
}

/// "if node2 goes down", or what else happens to the nodes.
pub(crate) fn change(counts: &Counts, ellipsis: &str) -> String {
    let goes = |row: &&NodeCount| row.before.is_up && !row.after.is_up;
    let comes = |row: &&NodeCount| !row.before.is_up && row.after.is_up;
    let said = [
        happens(counts.rows().filter(goes), ellipsis, "goes down", "go down"),
        happens(counts.rows().filter(comes), ellipsis, "comes back", "come back"),
    ];
    let said: Vec<String> = said.into_iter().flatten().collect();
    match said.is_empty() {
        true => "if nothing changes".into(),
        false => format!("if {}", said.join(" and ")),
    }
}

fn happens<'c>(
    rows: impl Iterator<Item = &'c NodeCount>,
    ellipsis: &str,
    one: &str,
    several: &str,
) -> Option<String> {
    let names: Vec<String> = rows.map(|row| elide(row.label(), LONGEST, ellipsis)).collect();
    let (last, others) = names.split_last()?;
    Some(match (others, others.len()) {
        (_, 0) => format!("{last} {one}"),
        (others, 1..LISTED) => format!("{} and {last} {several}", others.join(", ")),
        (_, all_but_one) => format!("{} nodes {several}", all_but_one + 1),
    })
}

/// Why the strategy moves whom it moves, in numbers.
pub(crate) fn why(counts: &Counts) -> String {
    let (before, after) = counts.vhosts();
    if counts.strategy == Strategy::Modulo {
        return match (before, after) {
            (0, _) => format!("There is no vhost before, and there are {after} after."),
            (_, 0) => format!("There are {before} vhosts before, and none after."),
            _ if before == after => {
                format!("A user's vhost is the hash modulo {before}, before and after.")
            }
            _ => format!("A user's vhost is the hash modulo {before} before, modulo {after} after."),
        };
    }
    let vhosts = counts.rows().map(|row| (row.before.vhosts, row.after.vhosts));
    let go: u64 = vhosts
        .clone()
        .map(|(before, after)| before.saturating_sub(after))
        .sum();
    let come: u64 = vhosts.map(|(before, after)| after.saturating_sub(before)).sum();
    match (go, come) {
        (0, 0) => format!("All {before} points stay on the ring, and so do their users."),
        (_, 0) => format!("Of {before} points on the ring {go} go. Only their users move."),
        (0, _) => format!("To {before} points on the ring come {come}. Only they get users."),
        (_, _) => format!("Of {before} points on the ring {go} go, and {come} come. Only their users move."),
    }
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

/// A number with a comma after each three digits.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
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

    #[test]
    fn numbers_have_commas() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (123_456, "123,456"),
            (u64::MAX, "18,446,744,073,709,551,615"),
        ] {
            assert_eq!(grouped(number), text);
        }
    }
}
