//! The C edge: `include/mailaffinity.h`, which is made from the comments here.
//!
//! Types carry as much of C's contract as they can: a handle that may be NULL is an
//! `Option`, an output parameter that nobody has written yet a `MaybeUninit`. What is
//! left, strings and buffers, goes through [`ffi`], the one place that follows
//! pointers. No state outlives a call but in handles.

#![allow(unsafe_code)]
#![allow(unreachable_pub)] // Functions are reached by their symbols, not by Rust paths.

mod ffi;

// In the order of the header; the blank lines keep rustfmt from sorting them.

mod error;

mod hash_user_group;

mod username_hash;

mod cluster;

mod builder;

mod lookup;

mod node;

use std::ffi::{CStr, c_char};

/// The number of the ABI that this header describes, and of the library's SONAME.
/// `mailaffinity_abi_version` is that of the library.
pub const MAILAFFINITY_ABI_VERSION: u32 = 0;

/// The ABI of the library that is in use. A program can compare it with
/// `MAILAFFINITY_ABI_VERSION`, that of the header it was built with.
#[unsafe(no_mangle)]
pub extern "C" fn mailaffinity_abi_version() -> u32 {
    MAILAFFINITY_ABI_VERSION
}

/// The release of the library that is in use, such as "0.1.0". Never NULL, and valid
/// as long as the library is loaded.
#[unsafe(no_mangle)]
pub extern "C" fn mailaffinity_version() -> *const c_char {
    VERSION.as_ptr()
}

static VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(version) => version,
    Err(_) => c"",
};
