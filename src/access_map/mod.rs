//! Reads sendmail's access map, in which the rule set of
//! `dist/sendmail/feature/mailaffinity.m4` finds the queue group of a user.
//!
//! The map is read natively, without Berkeley DB or tinycdb: their libraries do
//! not take sendmail's lock, and a lookup that opens the file, reads two pages
//! and closes it again is as short as can be. No state is kept from one lookup
//! to the next.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[doc(hidden)]
pub mod berkeley_db;
#[doc(hidden)]
pub mod cdb;
mod error;
pub mod key;
mod published;
#[doc(hidden)]
pub mod read_at;
pub mod search_order;
mod session;
#[doc(hidden)]
pub mod text;

pub use crate::files::file_stamp::SETTLE;
pub use error::{Error, SpecError};
pub use published::{Published, PublishedError};
use read_at::Found;

/// An access map, in sendmail's own notation: `hash:/etc/mail/access`.
///
/// A map is only a name; nothing stays open between lookups, so that a map can
/// be rebuilt in place or replaced by rename at any time. See [`SETTLE`] for
/// what that means for a map in `text`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessMap {
    kind: Kind,
    spec: String,
    path: PathBuf,
    busy_timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Hash,
    Cdb,
    Text,
}

/// An entry of a map or its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<Bytes = Vec<u8>> {
    /// The key; a map has it folded to lower case.
    pub key: Bytes,
    /// The value, as it stands there.
    pub value: Bytes,
}

impl AccessMap {
    /// Takes a map in sendmail's notation, a kind and an absolute path:
    ///
    /// - `hash:/etc/mail/access`: what `makemap hash` makes; `.db` is added
    ///   unless the path ends in it, as sendmail and makemap do.
    /// - `cdb:/etc/mail/access`: what `makemap cdb` makes, with `.cdb`. A path that
    ///   ends in `.db` stays as it is: sendmail's `CDB=2` (sendmail/README) names them so.
    /// - `text:/etc/mail/access`: the source of such a map, with nothing added.
    ///
    /// A lookup waits at most `busy_timeout` for others to finish writing.
    ///
    /// # Errors
    /// Any other kind, and a path that is not absolute. The map need not exist
    /// yet.
    pub fn new(spec: &str, busy_timeout: Duration) -> Result<AccessMap, SpecError> {
        let error = |problem| {
            Err(SpecError {
                spec: spec.into(),
                problem,
            })
        };
        let Some((kind, path)) = spec.split_once(':') else {
            return error("names no kind of map");
        };
        let (kind, extension) = match kind {
            "hash" => (Kind::Hash, ".db"),
            "cdb" if path.ends_with(".db") => (Kind::Cdb, ".db"),
            "cdb" => (Kind::Cdb, ".cdb"),
            "text" => (Kind::Text, ""),
            _ => return error("names a kind of map that is not supported"),
        };
        if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
            return error("does not name a file by its absolute path");
        }
        let extension = if path.ends_with(extension) { "" } else { extension };
        Ok(AccessMap {
            kind,
            spec: spec.into(),
            path: format!("{path}{extension}").into(),
            busy_timeout,
        })
    }

    /// The file that is read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file that such a map is usually built from: the same without its extension.
    pub fn source_path(&self) -> PathBuf {
        match self.kind {
            Kind::Hash | Kind::Cdb => self.path.with_extension(""),
            Kind::Text => self.path.clone(),
        }
    }

    /// Whether makemap builds it from another file.
    pub fn is_built(&self) -> bool {
        self.kind != Kind::Text
    }

    /// The kind of map, as makemap calls it.
    pub fn kind(&self) -> &str {
        self.spec.split(':').next().unwrap_or_default()
    }

    /// The same kind of map in another file.
    pub fn in_file(&self, path: impl Into<PathBuf>) -> AccessMap {
        AccessMap {
            path: path.into(),
            ..self.clone()
        }
    }

    /// The map as it was given to [`AccessMap::new`].
    pub fn spec(&self) -> &str {
        &self.spec
    }

    /// The entry that sendmail's rule set finds for this user, in the order of
    /// [`search_order::keys`]; `None` if the map has none.
    ///
    /// All keys are looked up under one lock, so the answer is that of one
    /// state of the map.
    ///
    /// # Errors
    /// See [`Error`]. A key that was in the map before and after a rebuild is
    /// never reported as missing in between.
    pub fn queue_group(&self, user: &[u8]) -> Result<Option<Entry>, Error> {
        let mut keys = search_order::keys(user);
        let found = self.first_of(&keys)?;
        Ok(found.map(|(index, value)| Entry {
            key: keys.swap_remove(index),
            value,
        }))
    }

    /// The value of one key, tag included (`QGRP:user@`), folded to lower case.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let found = self.first_of(&[key.to_ascii_lowercase()])?;
        Ok(found.map(|(_, value)| value))
    }

    fn first_of(&self, keys: &[Vec<u8>]) -> Result<Found, Error> {
        if keys.is_empty() {
            return Ok(None);
        }
        // Who builds a map locks it; who edits a text does not.
        let is_locked = self.is_built();
        session::read(&self.path, self.busy_timeout, is_locked, |file| match self.kind {
            Kind::Hash => berkeley_db::lookup(file, keys),
            Kind::Cdb => cdb::lookup(file, keys),
            Kind::Text => text::lookup(file, keys),
        })
    }
}

impl fmt::Display for AccessMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.spec)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[track_caller]
    fn check(spec: &str, path: &str) {
        let map = AccessMap::new(spec, Duration::ZERO).unwrap();
        assert_eq!(map.path(), Path::new(path));
        assert_eq!(map.to_string(), spec);
    }

    #[track_caller]
    fn check_refused(spec: &str, problem: &str) {
        let error = AccessMap::new(spec, Duration::ZERO).unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    }

    #[test]
    fn extensions_are_added_as_sendmail_does() {
        check("hash:/etc/mail/access", "/etc/mail/access.db");
        check("hash:/etc/mail/access.db", "/etc/mail/access.db");
        check("hash:/etc/mail/access.cdb", "/etc/mail/access.cdb.db");
        check("cdb:/etc/mail/access", "/etc/mail/access.cdb");
        check("cdb:/etc/mail/access.cdb", "/etc/mail/access.cdb");
        check("cdb:/etc/mail/access.db", "/etc/mail/access.db");
        check("text:/etc/mail/access", "/etc/mail/access");
        check("text:/a:b c", "/a:b c");
    }

    #[test]
    fn other_notations_are_refused() {
        for kind in ["btree", "dbm", "implicit", "HASH", " hash", ""] {
            check_refused(&format!("{kind}:/etc/mail/access"), "not supported");
        }
        check_refused("/etc/mail/access", "no kind");
        for path in ["", "access", "./access", "/etc/mail/", "/", "/a\0b", " /a"] {
            check_refused(&format!("hash:{path}"), "absolute path");
        }
    }

    #[test]
    fn users_without_keys_need_no_map() {
        let map = AccessMap::new("hash:/nonexistent/access", Duration::ZERO).unwrap();
        assert_eq!(map.queue_group(b"").unwrap(), None);
        assert_eq!(map.queue_group(b"@example.org").unwrap(), None);
        let error = map.queue_group(b"anna").unwrap_err();
        assert!(matches!(&error, Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound));
        assert!(error.to_string().contains("/nonexistent/access.db"), "{error}");
    }
}
