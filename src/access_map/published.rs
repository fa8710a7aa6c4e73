//! The answers of an access map, published for those who may not read the map.
//!
//! Whoever may read a map may lock it, and sendmail then waits for as long as he likes. So
//! an update writes all that lookups could find in the map into a file of its own, a cdb
//! database, which everybody may read. It only ever replaces that file by rename: readers
//! take no lock and wait for nobody, and a lock on it stops nobody.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::cdb::Cdb;
use super::read_at::{OpenFile, ReadError};
use super::{Entry, search_order};
use crate::files::file_stamp::FileStamp;
use crate::files::regular_file;

/// Published answers. The file stays open from one lookup to the next, until another one is
/// in its place or its rights change: a lookup costs one `stat` call besides the reading.
#[derive(Debug)]
pub struct Published {
    path: PathBuf,
    opened: Mutex<Option<Arc<Opened>>>,
}

#[derive(Debug)]
struct Opened {
    stamp: FileStamp,
    answers: Cdb<OpenFile>,
}

/// Why published answers could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishedError {
    /// The file could not be opened or read.
    #[error("cannot read the published answers {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system reported.
        source: io::Error,
    },
    /// The file's contents contradict its format.
    #[error("the published answers {} are damaged: {detail}; run \"mailaffinity update --force\"", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
}

impl Published {
    /// The answers in this file, which need not be there yet.
    pub fn new(path: impl Into<PathBuf>) -> Published {
        Published {
            path: path.into(),
            opened: Mutex::default(),
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The entry that [`AccessMap::queue_group`](super::AccessMap::queue_group) finds in the map.
    ///
    /// # Errors
    /// When the file is not there, may not be read or is damaged.
    pub fn queue_group(&self, user: &[u8]) -> Result<Option<Entry>, PublishedError> {
        let keys = search_order::keys(user);
        if keys.is_empty() {
            return Ok(None);
        }
        let find = |opened: Arc<Opened>| {
            for key in keys {
                if let Some(value) = opened.answers.get(&key)? {
                    return Ok(Some(Entry { key, value }));
                }
            }
            Ok(None)
        };
        self.current().and_then(find).map_err(|error| self.named(error))
    }

    /// The value of one key, folded to lower case as a map has it.
    ///
    /// # Errors
    /// As [`queue_group`](Published::queue_group).
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, PublishedError> {
        let found = self.current().and_then(|opened| opened.answers.get(key));
        found.map_err(|error| self.named(error))
    }

    /// What is there now, opened.
    fn current(&self) -> Result<Arc<Opened>, ReadError> {
        let now = fs::metadata(&self.path).map(|now| FileStamp::of(&now));
        // Nobody panics half-way through changing it.
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(opened), Ok(now)) = (&*opened, &now)
            && opened.stamp == *now
        {
            return Ok(Arc::clone(opened));
        }
        *opened = None;
        now.map_err(ReadError::Io)?;
        Ok(Arc::clone(opened.insert(Arc::new(Opened::open(&self.path)?))))
    }

    fn named(&self, error: ReadError) -> PublishedError {
        let path = self.path.clone();
        match error {
            ReadError::Io(source) => PublishedError::Io { path, source },
            ReadError::Damaged(detail) | ReadError::Unsupported(detail) => {
                PublishedError::Damaged { path, detail }
            }
        }
    }
}

/// A copy opens the file by itself.
impl Clone for Published {
    fn clone(&self) -> Published {
        Published::new(&self.path)
    }
}

impl Opened {
    fn open(path: &Path) -> Result<Opened, ReadError> {
        let file = regular_file::open(path).map_err(ReadError::Io)?;
        let metadata = file.metadata().map_err(ReadError::Io)?;
        Ok(Opened {
            stamp: FileStamp::of(&metadata),
            answers: Cdb::open(OpenFile::new(file, metadata.len()))?,
        })
    }
}
