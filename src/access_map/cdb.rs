//! Reads and writes the constant database format, which sendmail calls `cdb`.
//!
//! The format is D. J. Bernstein's (<https://cr.yp.to/cdb/cdb.txt>): a header
//! of 256 pairs (position, number of slots), the records, then 256 open-hashed
//! tables of slots (hash, position), all numbers 32 bits, little-endian. It is
//! read here because the crates that read it map the file into memory.

use std::io::{self, Seek, SeekFrom, Write};

use super::read_at::{Found, ReadAt, ReadError, first_of, read_exact};

const HEADER_SIZE: usize = 2048;
/// Reading more than one costs no more, and hardly any search takes more than these.
const SLOTS_AT_ONCE: usize = 16;
/// Such a value is read with its key.
const SHORT_VALUE: usize = 64;

/// The value of the first of `keys` that the database holds.
///
/// A key that occurs several times yields its first value.
///
/// # Errors
/// Those of [`Cdb::open`] and [`Cdb::get`].
pub fn lookup<S: ReadAt + ?Sized>(source: &S, keys: &[Vec<u8>]) -> Result<Found, ReadError> {
    let cdb = Cdb::open(source)?;
    first_of(keys, |key| cdb.get(key))
}

/// A database whose header was read.
#[derive(Debug)]
pub struct Cdb<S> {
    source: S,
    header: [u8; HEADER_SIZE],
}

impl<S: ReadAt> Cdb<S> {
    /// Reads the header, and checks all of it: a file that was cut short, or whose writer
    /// has not finished, is always recognised, whatever key is asked for.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] if positions lie outside the file.
    pub fn open(source: S) -> Result<Cdb<S>, ReadError> {
        let mut header = [0; HEADER_SIZE];
        read_exact(&source, &mut header, 0)?;
        for table in 0..=u8::MAX {
            let (position, slots) = table_of(&header, table);
            if position < HEADER_SIZE as u64 {
                return Err(ReadError::Damaged(
                    "the header was not filled in: the build was interrupted".into(),
                ));
            }
            // At most (2^32 - 1) * 9, far from overflow.
            if position + slots * 8 > source.size() {
                return Err(ReadError::Damaged(format!(
                    "hash table {table} lies beyond the end of the file"
                )));
            }
        }
        Ok(Cdb { source, header })
    }

    /// The first value of a key.
    ///
    /// # Errors
    /// [`ReadError::Damaged`] if positions lie outside the file.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        let hash = hash(key);
        let [low_byte, ..] = hash.to_le_bytes();
        let (table, slots) = table_of(&self.header, low_byte);
        let Some(start) = u64::from(hash >> 8).checked_rem(slots) else {
            return Ok(None);
        };
        let (mut slot, mut left) = (start, slots);
        while left > 0 {
            let count = left.min(slots - slot).min(SLOTS_AT_ONCE as u64);
            let mut chunk = [[0; 8]; SLOTS_AT_ONCE];
            let chunk = chunk.get_mut(..count as usize).unwrap_or_default();
            read_exact(&self.source, chunk.as_flattened_mut(), table + slot * 8)?;
            for (slot_hash, position) in chunk.iter().map(pair) {
                if position == 0 {
                    return Ok(None);
                }
                if slot_hash == u64::from(hash)
                    && let Some(value) = self.value_at(position, key)?
                {
                    return Ok(Some(value));
                }
            }
            left -= count;
            slot = (slot + count) % slots;
        }
        Ok(None)
    }

    /// The value of the record there, if it has this key.
    fn value_at(&self, position: u64, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        let beyond = || {
            ReadError::Damaged(format!(
                "the record at byte {position} lies beyond the end of the file"
            ))
        };
        let left = self.source.size().saturating_sub(position);
        let at_once = left.min((8 + key.len() + SHORT_VALUE) as u64);
        let mut record = vec![0; at_once as usize];
        read_exact(&self.source, &mut record, position)?;
        let (lengths, rest) = record.split_first_chunk().ok_or_else(beyond)?;
        let (key_length, value_length) = pair(lengths);
        if 8 + key_length + value_length > left {
            return Err(beyond());
        }
        if key_length != key.len() as u64 {
            return Ok(None);
        }
        let Some(start) = rest.strip_prefix(key) else {
            return Ok(None);
        };
        if let Some(value) = start.get(..value_length as usize) {
            return Ok(Some(value.to_vec()));
        }
        let mut value = vec![0; value_length as usize];
        read_exact(&self.source, &mut value, position + 8 + key_length)?;
        Ok(Some(value))
    }
}

fn hash(key: &[u8]) -> u32 {
    key.iter()
        .fold(5381, |hash: u32, byte| hash.wrapping_mul(33) ^ u32::from(*byte))
}

/// Position and number of slots of a hash table.
fn table_of(header: &[u8; HEADER_SIZE], table: u8) -> (u64, u64) {
    let (entries, _) = header.as_chunks();
    entries.get(usize::from(table)).map_or((0, 0), pair)
}

fn pair(bytes: &[u8; 8]) -> (u64, u64) {
    let both = u64::from_le_bytes(*bytes);
    (both & u64::from(u32::MAX), both >> 32)
}

/// Writes a database record by record. All that it keeps of one are eight bytes.
pub struct Writer<W> {
    out: W,
    position: u32,
    /// The hash and position of each record.
    records: Vec<(u32, u32)>,
}

impl<W: Write + Seek> Writer<W> {
    /// Begins at the beginning of `out`, which is written in small pieces.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn new(mut out: W) -> io::Result<Writer<W>> {
        out.write_all(&[0; HEADER_SIZE])?;
        Ok(Writer {
            out,
            position: HEADER_SIZE as u32,
            records: Vec::new(),
        })
    }

    /// Adds a record. Of several with one key, readers find the first.
    ///
    /// # Errors
    /// Those of `out`, and when the file grew beyond the 4 GiB that the format holds.
    pub fn add(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.records.push((hash(key), self.position));
        self.write_pair(length(key)?, length(value)?)?;
        self.write(key)?;
        self.write(value)
    }

    /// Writes the tables and the header, without which nobody reads the file.
    ///
    /// # Errors
    /// As [`add`](Writer::add).
    pub fn finish(mut self) -> io::Result<()> {
        let mut records = std::mem::take(&mut self.records);
        // Stable: what was added first is found first.
        records.sort_by_key(|(hash, _)| low_byte(*hash));
        let mut records = records.as_slice();
        let mut header = Vec::with_capacity(HEADER_SIZE);
        for table in 0..=u8::MAX {
            let count = records.partition_point(|(hash, _)| low_byte(*hash) == table);
            let (own, others) = records.split_at_checked(count).unwrap_or_default();
            records = others;
            let slots = slots_of(own);
            header.extend(
                [self.position, length(&slots)?]
                    .map(u32::to_le_bytes)
                    .as_flattened(),
            );
            for (hash, position) in slots {
                self.write_pair(hash, position)?;
            }
        }
        self.out.seek(SeekFrom::Start(0))?;
        self.out.write_all(&header)?;
        self.out.flush()
    }

    fn write_pair(&mut self, first: u32, second: u32) -> io::Result<()> {
        self.write([first, second].map(u32::to_le_bytes).as_flattened())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.position = self.position.checked_add(length(bytes)?).ok_or_else(too_large)?;
        self.out.write_all(bytes)
    }
}

fn low_byte(hash: u32) -> u8 {
    let [low_byte, ..] = hash.to_le_bytes();
    low_byte
}

/// The table of these records: two slots for each, so that every search ends at an empty one.
fn slots_of(records: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let mut slots = vec![(0, 0); records.len().saturating_mul(2)];
    for (hash, position) in records {
        let start = (*hash as usize >> 8).checked_rem(slots.len()).unwrap_or_default();
        let (before, after) = slots.split_at_mut(start);
        let free = after
            .iter_mut()
            .chain(before)
            .find(|(_, position)| *position == 0);
        if let Some(slot) = free {
            *slot = (*hash, *position);
        }
    }
    slots
}

fn length<T>(items: &[T]) -> io::Result<u32> {
    u32::try_from(items.len()).map_err(|_| too_large())
}

fn too_large() -> io::Error {
    io::Error::new(
        io::ErrorKind::FileTooLarge,
        "a cdb file has no place for more than 4 GiB",
    )
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    fn written(entries: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
        let mut file = Cursor::new(Vec::new());
        let mut writer = Writer::new(&mut file).unwrap();
        for (key, value) in entries {
            writer.add(key, value).unwrap();
        }
        writer.finish().unwrap();
        file.into_inner()
    }

    #[test]
    fn what_is_too_large_is_an_error() {
        let mut writer = Writer::new(Cursor::new(Vec::new())).unwrap();
        writer.position = u32::MAX - 10;
        writer.add(b"", b"ab").unwrap();
        let error = writer.add(b"", b"").unwrap_err();
        assert_eq!(error.to_string(), "a cdb file has no place for more than 4 GiB");
        let mut writer = Writer::new(Cursor::new(Vec::new())).unwrap();
        writer.add(b"a", b"b").unwrap();
        writer.position = u32::MAX - 10;
        assert_eq!(writer.finish().unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            entries in prop::collection::vec(("[a-d]{0,3}", prop::collection::vec(any::<u8>(), 0..9)), 0..600),
        ) {
            let entries: Vec<_> = entries.into_iter().map(|(key, value)| (key.into_bytes(), value)).collect();
            let file = written(&entries);
            let cdb = Cdb::open(&*file).map_err(|error| TestCaseError::fail(format!("{error:?}")))?;
            for key in entries.iter().map(|(key, _)| key.clone()).chain([b"e".to_vec(), b"dddd".to_vec()]) {
                let first = entries.iter().find(|(other, _)| *other == key);
                prop_assert_eq!(cdb.get(&key).unwrap(), first.map(|(_, value)| value.clone()));
            }
        }
    }
}
