//! What `doveconf -n` prints: Dovecot's settings.
//!
//! It is read as doveconf reads its own files (`config_parse_line` in Dovecot 2.3), but for
//! what only those have: files that are included, and values that are taken from elsewhere.

/// Dovecot's own are three deep at most.
const DEEPEST: usize = 16;

/// How much of a line an error shows.
const SHOWN: usize = 100;

/// Dovecot's settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Doveconf {
    /// Dovecot's version, where the first line has it, such as "2.3.19.1".
    pub version: Option<String>,
    /// What stands in no section, and the sections.
    pub top: Section,
}

/// Settings in `kind name { … }`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Section {
    /// What it is, such as `protocol` or `passdb`.
    pub kind: String,
    /// Of which one, such as `imap`; may be empty.
    pub name: String,
    /// Keys and values, as they stand there.
    pub settings: Vec<(String, String)>,
    /// The sections in it.
    pub sections: Vec<Section>,
}

/// What cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}; give what \"doveconf -n\" prints")]
pub struct DoveconfError {
    /// The line, from 1.
    pub line: usize,
    problem: String,
}

impl Section {
    /// The value of a key. Of several, Dovecot takes the last.
    pub fn get(&self, key: &str) -> Option<&str> {
        let mut values = self.settings.iter().rev();
        values.find_map(|(own, value)| (own == key).then_some(value.as_str()))
    }
}

enum Line<'l> {
    Nothing,
    Setting(&'l str, String),
    Begin(&'l str, String),
    End,
}

impl Doveconf {
    /// Reads what doveconf printed. Bytes that are not UTF-8 become replacement characters.
    ///
    /// # Errors
    /// On a line that doveconf itself would refuse, and on what only a file of its own has.
    pub fn parse(printed: &[u8]) -> Result<Doveconf, DoveconfError> {
        let text = String::from_utf8_lossy(printed);
        let mut settings = Doveconf {
            version: text.lines().next().and_then(version),
            top: Section::default(),
        };
        // Those that are open, each in the one before it.
        let mut open: Vec<Section> = Vec::new();
        let mut continued = String::new();
        let mut last = 0;
        for (number, line) in (1..).zip(text.lines()) {
            last = number;
            let error = |problem: String| DoveconfError {
                line: number,
                problem,
            };
            let part = without_comment(line).trim_matches(is_white);
            if let Some(part) = part.strip_suffix('\\') {
                continued += part.trim_end_matches(is_white);
                continued.push(' ');
                continue;
            }
            let whole = std::mem::take(&mut continued) + part;
            let innermost = open.last_mut().unwrap_or(&mut settings.top);
            match parse_line(whole.trim_start_matches(is_white)).map_err(error)? {
                Line::Nothing => {}
                Line::Setting(key, value) => innermost.settings.push((key.to_owned(), value)),
                Line::Begin(..) if open.len() == DEEPEST => {
                    return Err(error(format!(
                        "there are more than {DEEPEST} sections in each other"
                    )));
                }
                Line::Begin(kind, name) => open.push(Section {
                    kind: kind.to_owned(),
                    name,
                    ..Section::default()
                }),
                Line::End => {
                    let ended = open.pop().ok_or_else(|| error("no section ends here".into()))?;
                    let around = open.last_mut().unwrap_or(&mut settings.top);
                    around.sections.push(ended);
                }
            }
        }
        match (open.pop(), continued.is_empty()) {
            (None, true) => Ok(settings),
            (Some(section), _) => Err(DoveconfError {
                line: last,
                problem: format!("the section {} does not end", shown(&section.kind)),
            }),
            (None, false) => Err(DoveconfError {
                line: last,
                problem: "the line goes on behind the end".into(),
            }),
        }
    }
}

/// That of the line "# 2.3.19.1 (9b53102964): /etc/dovecot/dovecot.conf".
fn version(line: &str) -> Option<String> {
    let (version, _) = line.strip_prefix("# ")?.split_once(' ')?;
    let is_version = version.starts_with(|c: char| c.is_ascii_digit()) && version.contains('.');
    is_version.then(|| version.to_owned())
}

fn is_white(c: char) -> bool {
    matches!(c, ' ' | '\t')
}

/// A `#` begins a comment, except between quotes, which need not be around the whole value.
fn without_comment(line: &str) -> &str {
    let mut bytes = line.bytes().enumerate();
    let mut quoted_by = None;
    while let Some((at, byte)) = bytes.next() {
        match (byte, quoted_by) {
            (b'\\', Some(_)) => _ = bytes.next(),
            (byte, Some(quote)) if byte == quote => quoted_by = None,
            (b'"' | b'\'', None) => quoted_by = Some(byte),
            (b'#', None) => return line.get(..at).unwrap_or(line),
            _ => {}
        }
    }
    line
}

/// Of a line without comment and blanks around it.
fn parse_line(line: &str) -> Result<Line<'_>, String> {
    if line.is_empty() {
        return Ok(Line::Nothing);
    }
    if line.contains('\0') {
        return Err("there is a NUL".into());
    }
    let end = line.find(|c| is_white(c) || c == '=').unwrap_or(line.len());
    let (key, rest) = line.split_at(end);
    let rest = rest.trim_start_matches(is_white);
    if key.starts_with("!include") {
        return Err(format!("{key} is not followed here"));
    }
    if let Some(value) = rest.strip_prefix('=') {
        return Ok(Line::Setting(key, unquoted(value.trim_start_matches(is_white))));
    }
    if key == "}" && rest.is_empty() {
        return Ok(Line::End);
    }
    let (name, brace) = match rest.strip_prefix('"') {
        // The first quote ends it, whatever is before that.
        Some(name) => name
            .split_once('"')
            .map_or((String::new(), ""), |(name, brace)| (unescaped(name), brace)),
        None if rest == "{" => (String::new(), rest),
        None => rest
            .split_once(is_white)
            .map_or((String::new(), ""), |(name, brace)| (name.to_owned(), brace)),
    };
    match brace.trim_start_matches(is_white) {
        "{" => Ok(Line::Begin(key, name)),
        _ => Err(format!(
            "\"{}\" is neither a setting nor the beginning or end of a section",
            shown(line)
        )),
    }
}

/// Quotes count only around the whole value.
fn unquoted(value: &str) -> String {
    let between = |quote| value.strip_prefix(quote)?.strip_suffix(quote);
    match between('"').or_else(|| between('\'')) {
        Some(quoted) => unescaped(quoted),
        None => value.to_owned(),
    }
}

/// Dovecot's `str_unescape`.
fn unescaped(text: &str) -> String {
    let mut unescaped = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        unescaped.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    unescaped
}

/// The beginning of something, for an error.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop, prop_assert_eq, proptest};

    fn value_of(line: &str) -> Option<String> {
        let settings = Doveconf::parse(format!("{line}\n").as_bytes()).unwrap();
        settings.top.get("key").map(str::to_owned)
    }

    // Each of these is what doveconf 2.3.19.1 made of such a line, but for the lone quote: it
    // prints one so, and takes nothing from it.
    #[test]
    fn values() {
        for (line, value) in [
            ("key = a b", "a b"),
            ("key=a", "a"),
            ("\tkey \t= a\t", "a"),
            ("key =", ""),
            ("key = a # b", "a"),
            ("key = a#b", "a"),
            ("key = # hidden, use -P to show it", ""),
            ("key = \"#%\"", "#%"),
            (
                r#"key = "  %{if;%d;eq;;%Ln;\"%Lu}  ""#,
                "  %{if;%d;eq;;%Ln;\"%Lu}  ",
            ),
            (r"key = '#\'a\\'", r"#'a\"),
            (r#"key = a"b # c"d"#, r#"a"b # c"d"#),
            (r#"key = a"b"c \" x"#, r#"a"b"c \" x"#),
            ("key = \"", "\""),
            ("key = $", "$"),
            ("key = a \\\n   b \\ # c\n c", "a b c"),
            ("key = a\nkey = b", "b"),
            ("key = a = b", "a = b"),
        ] {
            assert_eq!(value_of(line).as_deref(), Some(value), "{line}");
        }
        assert_eq!(value_of("# key = a\n\n  # x"), None);
    }

    #[test]
    fn sections() {
        let text = "# 2.3.19.1 (9b53102964): /etc/dovecot/dovecot.conf\r\n# OS: Linux\r\na = 1\r\n\
            passdb {\n  driver = pam\n}\npassdb {\n  driver = static\n}\n\
            local_name \"a \\b\" {\n  protocol imap {\n    a = 2\n  }\n}\n";
        let settings = Doveconf::parse(text.as_bytes()).unwrap();
        assert_eq!(settings.version.as_deref(), Some("2.3.19.1"));
        assert_eq!(settings.top.get("a"), Some("1"));
        let [one, two, local] = &settings.top.sections[..] else {
            panic!("{settings:?}")
        };
        assert_eq!((&*one.kind, one.get("driver")), ("passdb", Some("pam")));
        assert_eq!((&*two.name, two.get("driver")), ("", Some("static")));
        assert_eq!((&*local.kind, &*local.name), ("local_name", "a b"));
        assert_eq!(local.sections[0].name, "imap");
        assert_eq!(local.sections[0].get("a"), Some("2"));
    }

    #[test]
    fn what_is_not_doveconfs() {
        for (text, words) in [
            (
                "a = 1\n!include conf.d/*.conf",
                "line 2: !include is not followed",
            ),
            ("!include_try x", "line 1: !include_try"),
            ("}", "no section ends"),
            ("a {\nb = 1", "line 2: the section a does not end"),
            ("a {", "line 1: the section a"),
            ("a = \\", "goes on behind the end"),
            ("a b", "\"a b\" is neither"),
            ("a b c {", "neither"),
            ("a{", "neither"),
            ("a { }", "neither"),
            ("a \"b {", "neither"),
            ("-----BEGIN CERTIFICATE-----", "neither"),
            ("a = \0", "a NUL"),
        ] {
            let error = Doveconf::parse(text.as_bytes()).expect_err(text).to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
        let deep = |depth| {
            Doveconf::parse("a {\n".repeat(depth).as_bytes())
                .unwrap_err()
                .to_string()
        };
        assert!(deep(DEEPEST).contains("does not end"), "{}", deep(DEEPEST));
        assert!(
            deep(1 << 20).contains("more than 16 sections"),
            "{}",
            deep(1 << 20)
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_settings_or_an_error(printed in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Doveconf::parse(&printed);
        }

        #[test]
        fn any_lines_are_settings_or_an_error(printed in r#"([a# "'\\{}=$\n]|a = |b \{\n|\}\n){0,40}"#) {
            let _ = Doveconf::parse(printed.as_bytes());
        }

        #[test]
        fn what_is_quoted_is_read_again(value in "[^\\r\\n\0]{0,20}") {
            let quoted = value.replace('\\', r"\\").replace('"', "\\\"").replace('\'', r"\'");
            prop_assert_eq!(value_of(&format!("key = \"{quoted}\"")), Some(value));
        }
    }
}
