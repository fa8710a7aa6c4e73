//! Any bytes are sessions or not, and each that is chosen ends.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mailaffinity_cli::sessions::{Kick, parse, plan};

fuzz_target!(|text: &[u8]| {
    let Some(lines) = parse(text) else {
        return;
    };
    assert_eq!(lines.len(), text.split(|byte| *byte == b'\n').count() - 2);
    let is_chosen = |user: &[u8]| user.len().is_multiple_of(2);
    let kicks = plan(lines.iter().map(|line| (line, is_chosen(&line.user))), 20);
    for line in lines.iter().filter(|line| is_chosen(&line.user)) {
        assert!(kicks.iter().any(|(kick, _)| match kick {
            Kick::Group(group) => line.groups.contains(group),
            Kick::User(_, user) => line.user == *user,
        }));
    }
});
