//! The example of a configuration that `make install` installs. (`tests/install.sh` tries
//! the installing itself.)

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use mailaffinity::config::Config;

const EXAMPLE: &str = "dist/mailaffinity.toml.example";

#[test]
fn the_example_is_valid() {
    let config = Config::load(Path::new(EXAMPLE)).unwrap();
    assert!(config.access_map.is_some() && config.checks.is_some());
}

/// A refused key is answered with the list of those that are taken.
#[test]
fn the_example_has_every_key() {
    let sections = sections();
    let headers: BTreeSet<&str> = sections.iter().map(|(header, _)| header.as_str()).collect();
    for header in headers {
        let (_, body) = sections.iter().find(|(name, _)| name == header).unwrap();
        let error = load(&format!("{header}\nno_key = 1\n")).unwrap_err();
        let (_, keys) = error.split_once("expected ").unwrap();
        for key in keys.split('`').skip(1).step_by(2) {
            let is_section = sections
                .iter()
                .any(|(name, _)| name.trim_matches(['[', ']']) == key);
            let shown = |line: &String| line.trim_start_matches('#').starts_with(&format!("{key} = "));
            assert!(is_section || body.iter().any(shown), "{header} {key}");
        }
    }
}

/// Each line that is commented out would be taken: beside the others, or in place of the
/// probe where it is another way to check.
#[test]
fn what_the_example_comments_out_is_valid() {
    let text = fs::read_to_string(EXAMPLE).unwrap();
    let commented_out = |line: &str| line.starts_with('#') && !line.starts_with("# ") && line.len() > 1;
    let lines: Vec<&str> = text.lines().collect();
    let mut tried = 0;
    for (number, line) in lines.iter().enumerate().filter(|(_, line)| commented_out(line)) {
        let mut with_it: Vec<&str> = lines.clone();
        with_it[number] = &line[1..];
        let beside = load(&with_it.join("\n"));
        with_it.retain(|line| !line.starts_with("probe = "));
        let instead = load(&with_it.join("\n"));
        assert!(
            beside.is_ok() || instead.is_ok(),
            "{line}: {}",
            beside.unwrap_err()
        );
        tried += 1;
    }
    assert!(tried > 20, "only {tried} lines are commented out");
}

/// The headers of the sections, and the lines of each.
fn sections() -> Vec<(String, Vec<String>)> {
    let mut sections = vec![(String::new(), Vec::new())];
    for line in fs::read_to_string(EXAMPLE).unwrap().lines() {
        if line.starts_with('[') {
            sections.push((line.to_owned(), Vec::new()));
        } else {
            sections.last_mut().unwrap().1.push(line.to_owned());
        }
    }
    sections
}

fn load(text: &str) -> Result<Config, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, text).unwrap();
    Config::load(file.path()).map_err(|error| error.to_string())
}
