//! Reads Berkeley DB hash files, which sendmail calls `hash`.
//!
//! The layout is that of Berkeley DB's hash access method, versions 8 (DB 4.2
//! to 4.5) and 9 (DB 4.6 to 5.3), as its headers `db_page.h` and `hash.h`
//! describe it: a meta page, one page for each bucket, which further pages may
//! continue, and chains of overflow pages for items that are large for a page.
//! Either byte order and all page sizes are read.

use std::cell::Cell;

use super::read_at::{Found, ReadAt, ReadError, first_of, read_exact};

const HASH_MAGIC: u32 = 0x0006_1561;
const META_SIZE: usize = 512;
const PAGE_SIZES: std::ops::RangeInclusive<u32> = 512..=65536;
const PAGE_HEADER_SIZE: usize = 26;

const TYPE_HASH_UNSORTED: u8 = 2;
const TYPE_OVERFLOW: u8 = 7;
const TYPE_HASH_META: u8 = 8;
const TYPE_HASH: u8 = 13;

const ITEM_INLINE: u8 = 1;
const ITEM_DUPLICATES: u8 = 2;
const ITEM_OVERFLOW: u8 = 3;
const ITEM_DUPLICATES_TREE: u8 = 4;

/// The value of the first of `keys` that the map holds.
///
/// Each key is tried as it is, then with a trailing NUL, for maps made with
/// `makemap -N`, in which all keys have one: unless those on the first page that was read
/// have none. A key with duplicates yields its first value. Each key costs
/// one page read, plus what its bucket's further pages and its large items
/// need.
///
/// A map without a single entry is reported as damaged: makemap starts with
/// such a file and writes its entries at the end, so that it cannot be told
/// from one whose build was interrupted.
///
/// # Errors
/// [`ReadError::Unsupported`] for other kinds of database, [`ReadError::Damaged`]
/// if a page contradicts the format.
pub fn lookup<S: ReadAt + ?Sized>(source: &S, keys: &[Vec<u8>]) -> Result<Found, ReadError> {
    let map = Map {
        source,
        meta: Meta::read(source)?,
        has_nuls: Cell::new(None),
    };
    let found = first_of(keys, |key| match (key, map.has_nuls.get()) {
        ([.., 0], Some(false)) => Ok(None),
        _ => map.get(key),
    })?;
    if found.is_none() {
        map.refuse_empty()?;
    }
    Ok(found)
}

fn damaged(page: u32, what: &str) -> ReadError {
    ReadError::Damaged(format!("page {page} {what}"))
}

fn foreign(kind: &str) -> ReadError {
    ReadError::Unsupported(format!("{kind}; build it with makemap hash"))
}

#[derive(Clone, Copy)]
enum ByteOrder {
    Little,
    Big,
}

impl ByteOrder {
    fn u16(self, bytes: &[u8], at: usize) -> Option<u16> {
        let bytes = *bytes.get(at..)?.first_chunk()?;
        Some(match self {
            ByteOrder::Little => u16::from_le_bytes(bytes),
            ByteOrder::Big => u16::from_be_bytes(bytes),
        })
    }

    fn u32(self, bytes: &[u8], at: usize) -> Option<u32> {
        let bytes = *bytes.get(at..)?.first_chunk()?;
        Some(match self {
            ByteOrder::Little => u32::from_le_bytes(bytes),
            ByteOrder::Big => u32::from_be_bytes(bytes),
        })
    }
}

/// What the meta page says.
struct Meta {
    order: ByteOrder,
    page_size: u32,
    last_page: u32,
    max_bucket: u32,
    high_mask: u32,
    low_mask: u32,
    /// By doublings of the table: what to add to a bucket's number to get the
    /// number of its page.
    spares: [u32; 32],
    /// Whether the table may have been created with more than two buckets.
    presized: bool,
}

impl Meta {
    fn read<S: ReadAt + ?Sized>(source: &S) -> Result<Meta, ReadError> {
        let mut bytes = [0; META_SIZE];
        read_exact(source, &mut bytes, 0)?;
        let order = byte_order(&bytes)?;
        // All offsets lie within the 512 bytes.
        let u32_at = |at| order.u32(&bytes, at).unwrap_or_default();
        let u8_at = |at| bytes.get::<usize>(at).copied().unwrap_or_default();

        let version = u32_at(16);
        if !matches!(version, 8 | 9) {
            return Err(ReadError::Unsupported(format!(
                "a Berkeley DB hash file of version {version}, and only versions 8 and 9 \
                 are read; build it again with makemap linked with Berkeley DB 4.2 to 5.3"
            )));
        }
        let (meta_flags, parts) = (u8_at(26), u32_at(36));
        let kinds = [
            (u8_at(24) != 0, "an encrypted database"),
            (meta_flags & 1 != 0, "a database with page checksums"),
            (meta_flags != 0 || parts != 0, "a partitioned database"),
            // Duplicates, and sorted duplicates, make no difference here.
            (u32_at(48) & !0b101 != 0, "a file of several databases"),
        ];
        if let Some((_, kind)) = kinds.iter().find(|(is_one, _)| *is_one) {
            return Err(foreign(kind));
        }
        if u8_at(25) != TYPE_HASH_META || u32_at(8) != 0 {
            return Err(damaged(0, "is not the meta page of a hash database"));
        }
        // The hash of a fixed string, stored so that readers can tell whether
        // the writer used their hash function.
        if u32_at(92) != hash(b"%$sniglet^&\0") {
            return Err(foreign("a database with a hash function of its own"));
        }

        let (spares, _) = bytes.get(96..224).unwrap_or_default().as_chunks::<4>();
        let meta = Meta {
            order,
            page_size: u32_at(20),
            last_page: u32_at(32),
            max_bucket: u32_at(72),
            high_mask: u32_at(76),
            low_mask: u32_at(80),
            spares: std::array::from_fn(|i| {
                spares
                    .get(i)
                    .and_then(|spare| order.u32(spare, 0))
                    .unwrap_or_default()
            }),
            presized: u32_at(84) != 0,
        };
        meta.check(source.size())?;
        Ok(meta)
    }

    fn check(&self, size: u64) -> Result<(), ReadError> {
        if !PAGE_SIZES.contains(&self.page_size) || !self.page_size.is_power_of_two() {
            return Err(damaged(0, &format!("gives {} as page size", self.page_size)));
        }
        let buckets = u64::from(self.high_mask) + 1;
        if !buckets.is_power_of_two()
            || self.low_mask != self.high_mask >> 1
            || self.low_mask > self.max_bucket
            || self.max_bucket > self.high_mask
            || self.max_bucket >= self.last_page
        {
            return Err(damaged(0, "contradicts itself about the number of buckets"));
        }
        // makemap writes the meta page first and last. In between its size is
        // not the file's, unless the whole map fits into makemap's cache.
        let expected = (u64::from(self.last_page) + 1) * u64::from(self.page_size);
        if size != expected {
            return Err(ReadError::Damaged(format!(
                "the file has {size} bytes, but {expected} by its meta page: its build was \
                 interrupted, or it was copied in part"
            )));
        }
        Ok(())
    }

    /// The bucket that `key` belongs to, and the bucket's first page.
    fn bucket_of(&self, key: &[u8]) -> Result<(u32, u32), ReadError> {
        let hash = hash(key);
        let mut bucket = hash & self.high_mask;
        if bucket > self.max_bucket {
            bucket = hash & self.low_mask;
        }
        self.first_page(bucket).map(|page| (bucket, page))
    }

    fn first_page(&self, bucket: u32) -> Result<u32, ReadError> {
        let doubling = (u64::from(bucket) + 1).next_power_of_two().trailing_zeros() as usize;
        self.spares
            .get(doubling)
            .map(|spare| bucket.wrapping_add(*spare))
            .filter(|page| (1..=self.last_page).contains(page))
            .ok_or_else(|| damaged(0, &format!("places bucket {bucket} outside the file")))
    }
}

/// Recognises the byte order, and other kinds of database.
fn byte_order(meta: &[u8; META_SIZE]) -> Result<ByteOrder, ReadError> {
    let orders = [ByteOrder::Little, ByteOrder::Big];
    let order_of = |at, magic| {
        orders
            .into_iter()
            .find(|order| order.u32(meta, at) == Some(magic))
    };
    let kinds = [
        (12, 0x0005_3162, "a Berkeley DB btree file"),
        (12, 0x0004_2253, "a Berkeley DB queue file"),
        (12, 0x0007_4582, "a Berkeley DB heap file"),
        (0, HASH_MAGIC, "a Berkeley DB 1.85 file"),
        (0, 0x0005_3162, "a Berkeley DB 1.85 file"),
    ];
    order_of(12, HASH_MAGIC).ok_or_else(|| {
        let kind = kinds
            .iter()
            .find(|(at, magic, _)| order_of(*at, *magic).is_some());
        foreign(kind.map_or("not a Berkeley DB hash file", |(_, _, kind)| kind))
    })
}

/// The hash function of Berkeley DB's hash access method since version 5: the
/// 32-bit Fowler/Noll/Vo hash with the offset basis 0.
fn hash(key: &[u8]) -> u32 {
    key.iter().fold(0, |hash: u32, byte| {
        hash.wrapping_mul(16_777_619) ^ u32::from(*byte)
    })
}

/// A page of the file, other than the meta page.
struct Page {
    bytes: Vec<u8>,
    order: ByteOrder,
    number: u32,
    previous: u32,
    next: u32,
    /// Number of items; on overflow pages, number of references.
    entries: u16,
    /// Lowest offset of an item; on overflow pages, number of bytes.
    length: u16,
    kind: u8,
}

/// Where an item's bytes are.
enum Item<'p> {
    Inline(&'p [u8]),
    Overflow { first_page: u32, length: u32 },
}

impl Page {
    /// Whether the page was allocated, but never written.
    fn is_unwritten(&self) -> bool {
        self.bytes.iter().take(PAGE_HEADER_SIZE).all(|byte| *byte == 0)
    }

    /// The items two by two: each begins at its offset, and ends where the one before begins.
    fn pairs(&self) -> impl Iterator<Item = Result<(&[u8], &[u8]), ReadError>> {
        let lowest = PAGE_HEADER_SIZE + 2 * usize::from(self.entries);
        let offsets = self.bytes.get(PAGE_HEADER_SIZE..lowest).unwrap_or_default();
        let mut end = self.bytes.len();
        offsets.as_chunks::<4>().0.iter().map(move |offsets| {
            let offset = |at| self.order.u16(offsets, at).map_or(0, usize::from);
            let (first, second) = (offset(0), offset(2));
            let items = || {
                let first_item = self.bytes.get(first..end)?;
                let second_item = self.bytes.get(second..first)?;
                (lowest <= second && second < first && first < end).then_some((first_item, second_item))
            };
            let items = items().ok_or_else(|| damaged(self.number, "has an item outside its bounds"))?;
            end = second;
            Ok(items)
        })
    }

    #[inline]
    fn parse<'p>(&self, item: &'p [u8]) -> Result<Item<'p>, ReadError> {
        let order = self.order;
        match item.split_first() {
            Some((&ITEM_INLINE, bytes)) => Ok(Item::Inline(bytes)),
            Some((&ITEM_DUPLICATES, bytes)) => {
                // Each duplicate stands between two copies of its length.
                let first = || {
                    let length = usize::from(order.u16(bytes, 0)?);
                    bytes.get(2..)?.get(..length)
                };
                first()
                    .map(Item::Inline)
                    .ok_or_else(|| damaged(self.number, "has a bad duplicate"))
            }
            Some((&ITEM_OVERFLOW, _)) => {
                let overflow = || {
                    Some(Item::Overflow {
                        first_page: order.u32(item, 4)?,
                        length: order.u32(item, 8)?,
                    })
                };
                overflow().ok_or_else(|| damaged(self.number, "has a short reference to overflow pages"))
            }
            Some((&ITEM_DUPLICATES_TREE, _)) => Err(foreign("a database with very many values for one key")),
            _ => Err(damaged(self.number, "has an item of an unknown kind")),
        }
    }
}

struct Map<'s, S: ?Sized> {
    source: &'s S,
    meta: Meta,
    /// Whether keys end in a NUL, as far as was seen.
    has_nuls: Cell<Option<bool>>,
}

impl<S: ReadAt + ?Sized> Map<'_, S> {
    fn page(&self, number: u32) -> Result<Page, ReadError> {
        let Meta {
            order,
            page_size,
            last_page,
            ..
        } = self.meta;
        if number == 0 || number > last_page {
            return Err(damaged(number, "is referred to, but lies outside the file"));
        }
        let mut bytes = vec![0; page_size as usize];
        read_exact(self.source, &mut bytes, u64::from(number) * u64::from(page_size))?;
        let page = || {
            Some(Page {
                order,
                number: order.u32(&bytes, 8)?,
                previous: order.u32(&bytes, 12)?,
                next: order.u32(&bytes, 16)?,
                entries: order.u16(&bytes, 20)?,
                length: order.u16(&bytes, 22)?,
                kind: *bytes.get(25)?,
                bytes,
            })
        };
        page().ok_or_else(|| damaged(number, "is too short"))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        let (bucket, mut number) = self.meta.bucket_of(key)?;
        let mut previous = 0;
        // Each page knows the page before it, so that no chain is a loop; but
        // the file may be changing.
        for _ in 0..self.meta.last_page {
            let page = self.page(number)?;
            if previous == 0 && page.is_unwritten() {
                // Bucket pages beyond the first two get written when they
                // come into use.
                return if bucket < 2 || self.meta.presized {
                    Ok(None)
                } else {
                    Err(damaged(number, "was never written: the build was interrupted"))
                };
            }
            if page.number != number
                || page.previous != previous
                || !matches!(page.kind, TYPE_HASH | TYPE_HASH_UNSORTED)
                || page.entries % 2 != 0
            {
                return Err(damaged(number, "is not the page of a bucket that belongs here"));
            }
            if let Some(value) = self.find_on(&page, key)? {
                return Ok(Some(value));
            }
            if page.next == 0 {
                return Ok(None);
            }
            (previous, number) = (number, page.next);
        }
        Err(damaged(number, "belongs to a chain of pages without end"))
    }

    /// Refuses a table as it is created: two buckets, both empty.
    fn refuse_empty(&self) -> Result<(), ReadError> {
        if self.meta.max_bucket > 1 {
            return Ok(());
        }
        for bucket in 0..=self.meta.max_bucket {
            let page = self.page(self.meta.first_page(bucket)?)?;
            if page.entries != 0 || page.next != 0 {
                return Ok(());
            }
        }
        Err(ReadError::Damaged(
            "the map has no entries: its build was interrupted, or its source was empty".into(),
        ))
    }

    /// Looks for `key` on a page of its bucket. Keys and values alternate; the
    /// pages of a bucket are not sorted among themselves, so all are searched from
    /// the start.
    fn find_on(&self, page: &Page, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        for items in page.pairs() {
            let (name, value) = items?;
            if self.has_nuls.get().is_none() {
                self.has_nuls.set(Some(name.ends_with(b"\0")));
            }
            let is_key = match page.parse(name)? {
                Item::Inline(name) => name == key,
                Item::Overflow { first_page, length } => {
                    length as usize == key.len() && self.large_item(first_page, length)? == key
                }
            };
            if is_key {
                return match page.parse(value)? {
                    Item::Inline(value) => Ok(Some(value.to_vec())),
                    Item::Overflow { first_page, length } => self.large_item(first_page, length).map(Some),
                };
            }
        }
        Ok(None)
    }

    fn large_item(&self, first_page: u32, length: u32) -> Result<Vec<u8>, ReadError> {
        let mut number = first_page;
        let mut left = length as usize;
        let mut whole = Vec::new();
        for _ in 0..self.meta.last_page {
            let page = self.page(number)?;
            let part = page
                .bytes
                .get(PAGE_HEADER_SIZE..)
                .and_then(|bytes| bytes.get(..usize::from(page.length)))
                .filter(|part| !part.is_empty() && part.len() <= left);
            let Some(part) = part else {
                return Err(damaged(number, "holds a part of a wrong size"));
            };
            if page.number != number || page.kind != TYPE_OVERFLOW {
                return Err(damaged(number, "is not an overflow page"));
            }
            left -= part.len();
            whole.extend_from_slice(part);
            if left == 0 {
                return Ok(whole);
            }
            number = page.next;
        }
        Err(damaged(number, "belongs to a chain of pages without end"))
    }
}
