//! Reads the constant database format, which sendmail calls `cdb`.
//!
//! The format is D. J. Bernstein's (<https://cr.yp.to/cdb/cdb.txt>): a header
//! of 256 pairs (position, number of slots), the records, then 256 open-hashed
//! tables of slots (hash, position), all numbers 32 bits, little-endian. It is
//! read here because the crates that read it map the file into memory.

use super::read_at::{Found, ReadAt, ReadError, first_of, read_exact};

const HEADER_SIZE: usize = 2048;

/// The value of the first of `keys` that the database holds.
///
/// A key that occurs several times yields its first value. The whole header is
/// checked first: a file that was cut short, or whose writer has not finished,
/// is always recognised, whatever key is asked for.
///
/// # Errors
/// [`ReadError::Damaged`] if positions lie outside the file.
pub fn lookup<S: ReadAt + ?Sized>(source: &S, keys: &[Vec<u8>]) -> Result<Found, ReadError> {
    let mut header = [0; HEADER_SIZE];
    read_exact(source, &mut header, 0)?;
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
    let mut record_key = Vec::new();
    first_of(keys, |key| find(source, &header, key, &mut record_key))
}

fn find<S: ReadAt + ?Sized>(
    source: &S,
    header: &[u8; HEADER_SIZE],
    key: &[u8],
    record_key: &mut Vec<u8>,
) -> Result<Option<Vec<u8>>, ReadError> {
    let hash = hash(key);
    let [low_byte, ..] = hash.to_le_bytes();
    let (table, slots) = table_of(header, low_byte);
    let Some(start) = u64::from(hash >> 8).checked_rem(slots) else {
        return Ok(None);
    };
    for slot in (start..slots).chain(0..start) {
        let (slot_hash, position) = pair_at(source, table + slot * 8)?;
        if position == 0 {
            return Ok(None);
        }
        if slot_hash != u64::from(hash) {
            continue;
        }
        let (key_length, value_length) = pair_at(source, position)?;
        let key_start = position + 8;
        let value_start = key_start + key_length;
        if value_start + value_length > source.size() {
            return Err(ReadError::Damaged(format!(
                "the record at byte {position} lies beyond the end of the file"
            )));
        }
        if key_length != key.len() as u64 {
            continue;
        }
        record_key.resize(key.len(), 0);
        read_exact(source, record_key, key_start)?;
        if record_key == key {
            let mut value = vec![0; value_length as usize];
            read_exact(source, &mut value, value_start)?;
            return Ok(Some(value));
        }
    }
    Ok(None)
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

fn pair_at<S: ReadAt + ?Sized>(source: &S, position: u64) -> Result<(u64, u64), ReadError> {
    let mut bytes = [0; 8];
    read_exact(source, &mut bytes, position)?;
    Ok(pair(&bytes))
}

fn pair(bytes: &[u8; 8]) -> (u64, u64) {
    let both = u64::from_le_bytes(*bytes);
    (both & u64::from(u32::MAX), both >> 32)
}
