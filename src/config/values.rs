//! The values of the configuration: each type knows what it can be, and reads itself.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::access_map::{AccessMap, SpecError};
use crate::mapping::{UsernameHash, parse_address};

/// Types that are read as one type, and made of it by a function that may refuse it.
macro_rules! checked {
    ($($(#[$doc:meta])* $name:ident($inner:ty as $target:ty) = $parse:ident($read:ty);)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name(pub(super) $inner);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                let read = <$read>::deserialize(deserializer)?;
                $parse(read).map($name).map_err(D::Error::custom)
            }
        }

        impl Deref for $name {
            type Target = $target;

            fn deref(&self) -> &$target {
                &self.0
            }
        }

        impl From<$name> for $inner {
            fn from(value: $name) -> $inner {
                value.0
            }
        }
    )+};
}

checked! {
    /// A path that does not depend on the current folder.
    AbsolutePath(PathBuf as Path) = absolute_path(PathBuf);
    /// A file that the textfile collector of Prometheus' node_exporter reads.
    MetricsFile(PathBuf as Path) = metrics_file(PathBuf);
    /// The directory of a queue group, as sendmail's `Path=` takes it.
    QueuePath(PathBuf as Path) = queue_path(PathBuf);
    /// A program, by its absolute path, and its arguments.
    CommandLine(Vec<String> as [String]) = command_line(Vec<String>);
    /// Options of makemap that do not change what a line means: whoever builds the map by
    /// hand without them must get the same one.
    MakemapOptions(Vec<String> as [String]) = makemap_options(Vec<String>);
    /// A library as the program loader looks it up: by its path, or by its name alone.
    LibraryName(String as str) = library_name(String);
    /// A time in sendmail's notation, such as `1h30m`.
    Interval(String as str) = interval(String);
    /// Flags of sendmail's queue groups.
    QueueFlags(String as str) = queue_flags(String);
    /// What sendmail takes as a queue group's name.
    QueueGroupName(String as str) = queue_group_name(String);
    /// An access map in sendmail's notation.
    MapSpec(String as str) = map_spec(String);
    /// An address in any spelling that Dovecot takes.
    Address(IpAddr as IpAddr) = address(String);
    /// A tag as it can stand in `director_mail_servers`, possibly empty.
    Tag(String as str) = tag(String);
    /// The name of a node.
    NodeName(String as str) = word(String);
    /// A host that passes [`check_host`].
    Host(String as str) = host(String);
}

/// Types of numbers from `MIN` to `MAX`; `DEFAULT` where none is given.
macro_rules! bounded {
    ($($(#[$doc:meta])* $name:ident($inner:ty) = $make:expr;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name<const MIN: u32, const MAX: u32, const DEFAULT: u32>($inner);

        impl<const MIN: u32, const MAX: u32, const DEFAULT: u32> Default for $name<MIN, MAX, DEFAULT> {
            fn default() -> Self {
                $name($make(DEFAULT))
            }
        }

        impl<'de, const MIN: u32, const MAX: u32, const DEFAULT: u32> Deserialize<'de>
            for $name<MIN, MAX, DEFAULT>
        {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let number = u64::deserialize(deserializer)?;
                u32::try_from(number)
                    .ok()
                    .filter(|number| (MIN..=MAX).contains(number))
                    .map(|number| $name($make(number)))
                    .ok_or_else(|| D::Error::custom(format!("{number} is not between {MIN} and {MAX}")))
            }
        }

        impl<const MIN: u32, const MAX: u32, const DEFAULT: u32> Deref for $name<MIN, MAX, DEFAULT> {
            type Target = $inner;

            fn deref(&self) -> &$inner {
                &self.0
            }
        }
    )+};
}

bounded! {
    /// A number from `MIN` to `MAX`; `DEFAULT` where none is given.
    Number(u32) = u32::from;
    /// As many seconds.
    Seconds(Duration) = |seconds| Duration::from_secs(u64::from(seconds));
    /// As many milliseconds.
    Millis(Duration) = |millis| Duration::from_millis(u64::from(millis));
}

/// Yes or no; `DEFAULT` where neither is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Switch<const DEFAULT: bool>(bool);

impl<const DEFAULT: bool> Default for Switch<DEFAULT> {
    fn default() -> Self {
        Switch(DEFAULT)
    }
}

impl<const DEFAULT: bool> Deref for Switch<DEFAULT> {
    type Target = bool;

    fn deref(&self) -> &bool {
        &self.0
    }
}

impl<'de> Deserialize<'de> for UsernameHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<UsernameHash, D::Error> {
        UsernameHash::parse(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// Where IMAP is spoken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImapSocket {
    /// At an address with a port.
    Tcp(SocketAddr),
    /// At a Unix socket.
    Unix(PathBuf),
}

impl Default for ImapSocket {
    fn default() -> ImapSocket {
        ImapSocket::Tcp((Ipv4Addr::LOCALHOST, 143).into())
    }
}

impl fmt::Display for ImapSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImapSocket::Tcp(address) => address.fmt(f),
            ImapSocket::Unix(path) => path.display().fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for ImapSocket {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ImapSocket, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.starts_with('/') {
            return Ok(ImapSocket::Unix(text.into()));
        }
        text.parse().map(ImapSocket::Tcp).map_err(|_| {
            D::Error::custom(format!(
                "\"{}\" is neither an address with a port, such as 127.0.0.1:143, nor the absolute path of a socket",
                text.escape_debug()
            ))
        })
    }
}

fn absolute_path(path: PathBuf) -> Result<PathBuf, &'static str> {
    match path.is_absolute() {
        true => Ok(path),
        false => Err("the path must be absolute: programs read it from different directories"),
    }
}

fn metrics_file(path: PathBuf) -> Result<PathBuf, &'static str> {
    match path.extension() {
        Some(extension) if extension == "prom" => absolute_path(path),
        _ => Err("the name must end in .prom: node_exporter reads no other files"),
    }
}

fn queue_path(path: PathBuf) -> Result<PathBuf, String> {
    let path = absolute_path(path)?;
    let text = path.to_string_lossy();
    all_of(text.strip_suffix('*').unwrap_or(&text), "/-._+:@=")?;
    Ok(path)
}

fn command_line(command: Vec<String>) -> Result<Vec<String>, &'static str> {
    if command.first().is_none_or(|program| !program.starts_with('/')) {
        return Err("a command is a list of the program, by its absolute path, and its arguments");
    }
    if command.iter().any(|word| word.contains('\0')) {
        return Err("an argument has a NUL character");
    }
    Ok(command)
}

fn makemap_options(options: Vec<String>) -> Result<Vec<String>, String> {
    let mut rest = options.iter();
    while let Some(option) = rest.next() {
        let complete = match option.as_str() {
            "-N" | "-s" | "-v" => true,
            "-C" | "-c" => rest.next().is_some(),
            _ => false,
        };
        if !complete {
            return Err(format!(
                "\"{}\" is not taken here; makemap's options -N, -s, -v, -C FILE and -c SIZE are",
                option.escape_debug()
            ));
        }
    }
    Ok(options)
}

fn library_name(library: String) -> Result<String, &'static str> {
    let is_name = !library.is_empty() && !library.starts_with('-') && !library.contains(['/', '\0']);
    if !is_name && !library.starts_with('/') {
        return Err(
            "a library is given by its absolute path, or by its name alone, such as libmailaffinity.so.0",
        );
    }
    Ok(library)
}

fn interval(text: String) -> Result<String, String> {
    let interval = word(text)?;
    let mut parts = interval.split_inclusive(|c: char| !c.is_ascii_digit());
    if !parts.all(|part| part.len() > 1 && part.ends_with(['s', 'm', 'h', 'd', 'w'])) {
        return Err(format!(
            "\"{}\" is not an interval of sendmail, such as 30s or 1h30m",
            interval.escape_debug()
        ));
    }
    Ok(interval)
}

fn queue_flags(flags: String) -> Result<String, String> {
    all_of(&flags, "")?;
    Ok(flags)
}

/// A rule set can only choose a name that is a single token.
fn queue_group_name(text: String) -> Result<String, String> {
    let name = word(text)?;
    all_of(&name, "-_")?;
    Ok(name)
}

fn map_spec(spec: String) -> Result<String, SpecError> {
    AccessMap::new(&spec, Duration::ZERO).map(|_| spec)
}

fn address(text: String) -> Result<IpAddr, String> {
    parse_address(&text).ok_or_else(|| {
        format!(
            "\"{}\" is not an IP address; give the one under which the Director knows the node",
            text.escape_debug()
        )
    })
}

fn tag(text: String) -> Result<String, String> {
    match text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        true => Err(format!(
            "\"{}\" has a blank or control character",
            text.escape_debug()
        )),
        false => Ok(text),
    }
}

fn word(text: String) -> Result<String, String> {
    match text.is_empty() {
        true => Err("it must not be empty".into()),
        false => tag(text),
    }
}

fn host(text: String) -> Result<String, String> {
    check_host(&text)?;
    Ok(text)
}

/// Checks that a text has only ASCII letters, digits and these characters.
fn all_of(text: &str, others: &str) -> Result<(), String> {
    match text
        .chars()
        .find(|c| !c.is_ascii_alphanumeric() && !others.contains(*c))
    {
        None => Ok(()),
        Some(bad) => Err(format!(
            "\"{}\" has \"{}\", which sendmail would not take here",
            text.escape_debug(),
            bad.escape_debug()
        )),
    }
}

/// Checks that a host is what an IMAP client can connect to: a bare host name or
/// address, without a port, blanks or control characters.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn check_host(host: &str) -> Result<(), String> {
    let is_label = |label: &str| {
        let sound = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        (1..=63).contains(&label.len())
            && label.bytes().all(sound)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_name = host.len() <= 253 && host.split('.').all(is_label);
    if is_name || host.parse::<Ipv6Addr>().is_ok() {
        Ok(())
    } else {
        Err(format!(
            "\"{}\" is not a bare host name or address (without port, blanks or brackets)",
            host.escape_debug()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::check_host;

    #[test]
    fn hosts() {
        for host in ["node1", "node1.example.org", "192.0.2.1", "2001:db8::1", "a_b-c"] {
            assert_eq!(check_host(host), Ok(()), "{host}");
        }
        for host in [
            "",
            " node1",
            "node1\n",
            "node1:143",
            "[::1]",
            "a b",
            "a\0",
            "tls://x",
            "ä",
            ".",
            "a..b",
            "a.",
            "-",
            "-a",
            "a-",
        ] {
            assert!(check_host(host).is_err(), "{host:?}");
        }
    }
}
