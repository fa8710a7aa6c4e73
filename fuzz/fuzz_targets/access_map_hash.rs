//! Looks a key up in any bytes taken for a Berkeley DB hash file.
//!
//! The input is the length of the key (seven bits), the key, and the file. If
//! the first bit is set, what the reader checks first is put right, so that
//! what comes after it is reached.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mailaffinity::access_map::berkeley_db;

/// Puts magic number, version, page size, type, last page and hash function
/// right. The page size comes from a byte that means nothing.
fn put_meta_page_right(file: &mut Vec<u8>) {
    let Some(choice) = file.get(7) else {
        return;
    };
    let page_size = 512_usize << (choice % 4);
    file.truncate(file.len() / page_size * page_size);
    let last_page = (file.len() / page_size).saturating_sub(1) as u32;
    let Some(meta) = file.first_chunk_mut::<512>() else {
        return;
    };
    meta[8..12].fill(0);
    meta[12..16].copy_from_slice(&0x0006_1561_u32.to_le_bytes());
    meta[16..20].copy_from_slice(&9_u32.to_le_bytes());
    meta[20..24].copy_from_slice(&(page_size as u32).to_le_bytes());
    meta[24..27].copy_from_slice(&[0, 8, 0]);
    meta[32..36].copy_from_slice(&last_page.to_le_bytes());
    meta[36..40].fill(0);
    meta[48..52].fill(0);
    meta[92..96].copy_from_slice(&0x5e68_8dd1_u32.to_le_bytes());
}

fuzz_target!(|input: &[u8]| {
    let Some((first, rest)) = input.split_first() else {
        return;
    };
    let Some((key, file)) = rest.split_at_checked(usize::from(first & 0x7f)) else {
        return;
    };
    let mut file = file.to_vec();
    if first & 0x80 != 0 {
        put_meta_page_right(&mut file);
    }
    if let Ok(Some((index, value))) = berkeley_db::lookup(&file[..], &[key.to_vec()]) {
        assert_eq!(index, 0);
        assert!(value.len() <= file.len());
    }
});
