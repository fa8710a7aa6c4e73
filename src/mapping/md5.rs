//! MD5 as the Director takes a number from it, of usernames and of vhosts alike.

use std::slice;

use ::md5::block_api::compress;
use ::md5::{Digest, Md5};

/// The first four bytes of the MD5 of a text, the first one most significant.
pub(super) fn md5_start(text: &[u8]) -> u32 {
    md5_start_of_folded(text, |word| word)
}

/// As [`md5_start`], of the text in ASCII lower case.
pub(super) fn md5_start_of_lowercase(text: &[u8]) -> u32 {
    md5_start_of_folded(text, lowercase)
}

/// Eight bytes in ASCII lower case. `make_ascii_lowercase` takes them one by one.
fn lowercase(word: u64) -> u64 {
    const EACH: u64 = u64::from_ne_bytes([1; 8]);
    let ascii = word & (0x7f * EACH);
    let from_a = ascii + (0x80 - u64::from(b'A')) * EACH;
    let past_z = ascii + (0x7f - u64::from(b'Z')) * EACH;
    // What is left is the highest bit of each capital; small letters differ by 0x20.
    let capitals = from_a & !past_z & !word & (0x80 * EACH);
    word | capitals >> 2
}

/// Of a text folded a word at a time.
#[expect(
    clippy::indexing_slicing,
    reason = "the rest is shorter than a word, and what fits a block with its padding has fewer words than it"
)]
fn md5_start_of_folded(text: &[u8], fold: impl Fn(u64) -> u64) -> u32 {
    let fold = |word| fold(u64::from_le_bytes(word)).to_le_bytes();
    let (words, rest) = text.as_chunks();
    // The end of the text, and the bit behind it.
    let last = rest
        .iter()
        .rev()
        .fold(0x80, |word, &byte| word << 8 | u64::from(byte));
    let last = fold(last.to_le_bytes());
    if text.len() > LONGEST_IN_ONE_BLOCK {
        let mut md5 = Md5::new();
        for &word in words {
            md5.update(fold(word));
        }
        md5.update(&last[..rest.len()]);
        let [a, b, c, d, ..] = md5.finalize().0;
        return u32::from_be_bytes([a, b, c, d]);
    }
    // Nearly all names. By whole words, so that no load must wait for several stores: the
    // processor then begins the next lookup within this one.
    let mut block = [0; 64];
    let (in_block, _) = block.as_chunks_mut();
    for (place, &word) in in_block.iter_mut().zip(words) {
        *place = fold(word);
    }
    in_block[words.len()] = last;
    in_block[7] = (8 * text.len() as u64).to_le_bytes();
    let mut state = INITIAL_STATE;
    compress(&mut state, slice::from_ref(&block));
    state[0].swap_bytes()
}

/// Beside the padding of MD5, which takes nine bytes.
const LONGEST_IN_ONE_BLOCK: usize = 64 - 9;

/// RFC 1321, section 3.3.
const INITIAL_STATE: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // printf %s TEXT | md5sum
    #[test]
    fn as_md5sum() {
        assert_eq!(md5_start(b""), 0xd41d_8cd9);
        assert_eq!(md5_start(b"user1"), 0x24c9_e15e);
        assert_eq!(md5_start_of_lowercase(b"USER1"), 0x24c9_e15e);
    }

    proptest! {
        #[test]
        fn any_length_as_the_hasher(text in prop::collection::vec(any::<u8>(), 0..200)) {
            let start = |text: &[u8]| {
                let digest = Md5::digest(text);
                u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
            };
            prop_assert_eq!(md5_start(&text), start(&text));
            prop_assert_eq!(md5_start_of_lowercase(&text), start(&text.to_ascii_lowercase()));
        }
    }
}
