//! What sendmail makes of names before it asks for their queue groups: its own domains go,
//! and aliases stand for users.
//!
//! sendmail asks the rule set `queuegroup` for a recipient of class w by the name without
//! the domain, and for an alias with one target by the alias (seen with 8.17).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;

use crate::aliases::{self, Target, is_plain};
use crate::own_domains::OwnDomains;
use crate::sendmail_cf;
use crate::test_mode;
use crate::users::UserList;
use mailaffinity::config::Config;
use mailaffinity::files::file_stamp::{FileStamp, SETTLE};
use mailaffinity::files::regular_file;

/// More than alias files and lists in them have.
const LONGEST_FILE: u64 = 1 << 26;
/// sendmail's option `MaxAliasRecursion`.
const LONGEST_CHAIN: usize = 10;

/// sendmail's own domains and its aliases.
#[derive(Debug, Default)]
pub struct MailNames {
    /// sendmail's own, in lower case.
    domains: BTreeSet<Vec<u8>>,
    /// By their names in lower case, without a domain.
    aliases: BTreeMap<Vec<u8>, Target>,
    /// What is wrong with lines, by file and line.
    pub problems: Vec<String>,
    /// What could not be found out, a sentence each: names may be missing.
    pub missing: Vec<String>,
}

/// An alias that has no entry of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unplaced {
    /// Its name.
    pub alias: Vec<u8>,
    /// Why.
    pub reason: &'static str,
}

impl MailNames {
    /// Reads the alias files that sendmail has by the configuration. What cannot be found
    /// out is a part of the answer; `None` where sendmail has to tell its domains first,
    /// since a user or an alias is a full address.
    pub fn read(
        config: &Config,
        users: &UserList<'_>,
        own_domains: Option<&OwnDomains>,
    ) -> Option<MailNames> {
        let mut names = MailNames::default();
        let mut found = Vec::new();
        for path in names.alias_files(config) {
            // Of two in one file the last counts, as for newaliases.
            let mut in_file = names.read_aliases(&path);
            in_file.reverse();
            found.extend(in_file);
        }
        let is_needed = has_addresses(users) || found.iter().any(is_address);
        match own_domains {
            None if is_needed => return None,
            Some(OwnDomains {
                error: Some(error), ..
            }) if is_needed => names.missing.push(format!(
                "some names are full addresses, and sendmail does not tell which domains are its own \
                 (local_domains in [sendmail] can name them): {error}"
            )),
            _ => {}
        }
        let domains = own_domains.iter().flat_map(|own| &own.domains);
        names.domains = domains.map(|domain| domain.clone().into_bytes()).collect();
        for (name, target) in found {
            let name = names.without_own_domain(&name).to_ascii_lowercase();
            if !name.contains(&b'@') {
                names.aliases.entry(name).or_insert(target);
            }
        }
        Some(names)
    }

    /// All that entries depend on, for a digest.
    pub fn described(&self) -> String {
        format!("{self:?}")
    }

    /// What sendmail asks for in place of an address in one of its domains: the part
    /// before the `@`.
    pub fn local_part<'n>(&self, address: &'n [u8]) -> Option<&'n [u8]> {
        let at = address.iter().position(|byte| *byte == b'@')?;
        let (local, domain) = address.split_at_checked(at)?;
        let domain = domain.get(1..)?.to_ascii_lowercase();
        (!local.is_empty() && self.domains.contains(&domain)).then_some(local)
    }

    fn without_own_domain<'n>(&self, name: &'n [u8]) -> &'n [u8] {
        self.local_part(name).unwrap_or(name)
    }

    /// Calls `each` for each alias with the name that it leads to in the end, or why none.
    /// Names are in lower case, in order.
    pub fn for_each_alias(&self, mut each: impl FnMut(&[u8], Result<&[u8], &'static str>)) {
        for (alias, target) in &self.aliases {
            each(alias, self.end_of(target));
        }
    }

    fn end_of<'n>(&'n self, mut target: &'n Target) -> Result<&'n [u8], &'static str> {
        for _ in 0..LONGEST_CHAIN {
            match target {
                Target::Name(name) => {
                    let name = self.without_own_domain(name);
                    match self.alias_of(name) {
                        Some(next) => target = next,
                        None => return Ok(name),
                    }
                }
                Target::Final(name) => return Ok(self.without_own_domain(name)),
                Target::Several => {
                    return Err("it has several targets, which sendmail splits by their own queue groups");
                }
                Target::NoMailbox => return Err("it leads to a program or file"),
                Target::Include(_) | Target::Other => return Err("it leads to something else than one name"),
            }
        }
        Err("it leads to itself, or through too many others")
    }

    /// The alias for a name: `user+detail`, `user+*` or `user`, as sendmail looks for it.
    fn alias_of(&self, name: &[u8]) -> Option<&Target> {
        let name = name.to_ascii_lowercase();
        let plus = name.iter().skip(1).position(|byte| *byte == b'+');
        let user = plus.and_then(|plus| name.get(..plus.saturating_add(1)));
        self.aliases
            .get(&name)
            .or_else(|| self.aliases.get(&[user?, b"+*"].concat()))
            .or_else(|| self.aliases.get(user?))
    }

    fn read_aliases(&mut self, path: &Path) -> Vec<(Vec<u8>, Target)> {
        let text = match read_settled(path) {
            Ok(text) => text,
            Err(error) => {
                self.missing
                    .push(format!("{}: cannot read the aliases: {error}", path.display()));
                return Vec::new();
            }
        };
        let (aliases, bad) = aliases::parse(&text);
        let bad = bad
            .iter()
            .map(|bad| format!("{}:{}: {}", path.display(), bad.line, bad.problem));
        self.problems.extend(bad);
        let mut found = Vec::new();
        for alias in aliases {
            if !is_plain(&alias.name) {
                self.problems.push(format!(
                    "{}:{}: the alias {} gets no entry: its name has quotes or other characters that sendmail reads \
                     in a way of its own",
                    path.display(),
                    alias.line,
                    alias.name.escape_ascii()
                ));
                continue;
            }
            let target = match aliases::target(&alias.value) {
                Target::Include(list) if list.is_relative() => {
                    let (path, list) = (path.display(), list.display());
                    self.problems.push(format!(
                        "{path}:{}: sendmail looks for the file {list} in its queue directory, where it may read \
                         none: give its whole path",
                        alias.line
                    ));
                    Target::Other
                }
                Target::Include(list) => match read_settled(&list) {
                    Ok(text) => aliases::included(&text),
                    Err(error) => {
                        let (path, list) = (path.display(), list.display());
                        self.missing
                            .push(format!("{path}:{}: cannot read {list}: {error}", alias.line));
                        Target::Other
                    }
                },
                target => target,
            };
            found.push((alias.name, target));
        }
        found
    }

    /// The alias files, with what is wrong with where they are named.
    pub(crate) fn alias_files(&mut self, config: &Config) -> Vec<PathBuf> {
        if let Some(files) = &config.sendmail.alias_files {
            return files.iter().map(|file| file.to_path_buf()).collect();
        }
        let command = &config.sendmail.command;
        let cf = sendmail_cf::path(command);
        match sendmail_cf::Lines::read(command) {
            Ok(lines) => {
                let (files, others) = lines.alias_files();
                self.problems.extend(others.iter().map(|other| {
                    format!(
                        "{}: AliasFile {other}: only aliases in files are read",
                        cf.display()
                    )
                }));
                files
            }
            Err(_) if test_mode::not_installed(config).is_some() => Vec::new(),
            Err(error) => {
                let problem = format!("{}: cannot read sendmail's configuration: {error}", cf.display());
                self.missing.push(problem);
                Vec::new()
            }
        }
    }
}

fn has_addresses(users: &UserList<'_>) -> bool {
    let mut has_addresses = false;
    // Whoever lists the users next says what is wrong with them.
    let mut find = || users.for_each(|user| has_addresses |= user.contains(&b'@'));
    if users.text().contains(&b'@') {
        let _ = find();
    }
    has_addresses
}

fn is_address((name, target): &(Vec<u8>, Target)) -> bool {
    name.contains(&b'@') || matches!(target, Target::Name(name) | Target::Final(name) if name.contains(&b'@'))
}

/// Reads a file that nobody is writing: an editor may have emptied it to fill it again.
fn read_settled(path: &Path) -> io::Result<Vec<u8>> {
    let age = |file: Metadata| FileStamp::of(&file).age().unwrap_or(SETTLE);
    if let Some(rest) = SETTLE.checked_sub(age(fs::metadata(path)?)) {
        thread::sleep(rest);
    }
    regular_file::read(path, LONGEST_FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(domains: &[&str], aliases: &[(&str, &str)]) -> MailNames {
        MailNames {
            domains: domains.iter().map(|domain| domain.as_bytes().to_vec()).collect(),
            aliases: aliases
                .iter()
                .map(|(name, value)| (name.as_bytes().to_vec(), aliases::target(value.as_bytes())))
                .collect(),
            problems: Vec::new(),
            missing: Vec::new(),
        }
    }

    #[test]
    fn own_domains_go() {
        let names = names(&["example.org"], &[]);
        assert_eq!(names.local_part(b"anna@Example.org"), Some(&b"anna"[..]));
        for other in ["anna", "anna@sub.example.org", "@example.org", "anna@"] {
            assert_eq!(names.local_part(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn chains_end_at_a_name() {
        let names = names(
            &["example.org"],
            &[
                ("back", "\\back"),
                ("chain", "Info@example.org"),
                ("detail", "anna+box"),
                ("info", "anna"),
                ("info+*", "bert"),
                ("info+x", "carla"),
                ("loop", "loop2"),
                ("loop2", "loop"),
                ("many", "anna,bert"),
                ("other", "info+y"),
                ("prog", "|/bin/true"),
                ("remote", "anna@elsewhere.example"),
                ("x", "info+x"),
            ],
        );
        let mut found = Vec::new();
        names.for_each_alias(|alias, end| {
            let end = end.map_or("-".into(), |end| end.escape_ascii().to_string());
            found.push(format!("{} {end}", alias.escape_ascii()));
        });
        assert_eq!(
            found,
            [
                "back back",
                "chain anna",
                "detail anna+box",
                "info anna",
                "info+* bert",
                "info+x carla",
                "loop -",
                "loop2 -",
                "many -",
                "other bert",
                "prog -",
                "remote anna@elsewhere.example",
                "x carla",
            ]
        );
    }
}
