//! What the format readers read from, and what they report.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// Bytes at positions: a map file, or a slice in memory.
///
/// The format readers use nothing else, so that they never map a file into
/// memory: a mapped file that another process truncates kills its reader.
pub trait ReadAt {
    /// The number of bytes, as of when the source was opened.
    fn size(&self) -> u64;

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// What the system reports for a failed read, and `UnexpectedEof`.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for [u8] {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|offset| self.get(offset..))
            .unwrap_or_default();
        io::Read::read_exact(&mut &*rest, buffer)
    }
}

impl<S: ReadAt + ?Sized> ReadAt for &S {
    fn size(&self) -> u64 {
        (**self).size()
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_exact_at(buffer, offset)
    }
}

/// An opened file.
#[derive(Debug)]
pub struct OpenFile {
    pub(super) file: File,
    size: u64,
}

impl OpenFile {
    pub(super) fn new(file: File, size: u64) -> OpenFile {
        OpenFile { file, size }
    }
}

impl ReadAt for OpenFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}

/// Why a map could not be read; the file's name is added by the caller.
#[derive(Debug)]
pub enum ReadError {
    /// The system failed to read.
    Io(io::Error),
    /// The contents contradict the format.
    Damaged(String),
    /// A valid file, of a kind that is not read here.
    Unsupported(String),
}

/// The value found, and which of the keys asked for it belongs to.
pub type Found = Option<(usize, Vec<u8>)>;

/// Fills `buffer` from `offset` on.
pub(super) fn read_exact<S: ReadAt + ?Sized>(
    source: &S,
    buffer: &mut [u8],
    offset: u64,
) -> Result<(), ReadError> {
    let read = source.read_exact_at(buffer, offset);
    read.map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => ReadError::Damaged(format!(
            "the file ends at byte {}, inside a record",
            source.size()
        )),
        _ => ReadError::Io(error),
    })
}

/// Asks `find` for each key in turn: as it is, then with the trailing NUL that
/// `makemap -N` stores with keys and values.
pub(super) fn first_of(
    keys: &[Vec<u8>],
    mut find: impl FnMut(&[u8]) -> Result<Option<Vec<u8>>, ReadError>,
) -> Result<Found, ReadError> {
    let mut terminated = Vec::new();
    for (index, key) in keys.iter().enumerate() {
        if let Some(value) = find(key)? {
            return Ok(Some((index, value)));
        }
        terminated.clear();
        terminated.extend_from_slice(key);
        terminated.push(0);
        if let Some(mut value) = find(&terminated)? {
            value.pop_if(|last| *last == 0);
            return Ok(Some((index, value)));
        }
    }
    Ok(None)
}
