//! The library itself: which it is, and what its error numbers mean.

use std::ffi::{CStr, c_char, c_int};

use super::{MAILAFFINITY_ABI_VERSION, error, ffi};

/// What an error number means, such as "invalid configuration"; also for numbers that
/// this library does not know. Never NULL, and valid as long as the library is loaded.
/// The `detail` of a call says more.
#[unsafe(no_mangle)]
pub extern "C" fn mailaffinity_strerror(error: c_int) -> *const c_char {
    ffi::guard(c"", || error::describe(error)).as_ptr()
}

/// The ABI of the library that is in use. A program can compare it with
/// `MAILAFFINITY_ABI_VERSION`, that of the header it was built with.
#[unsafe(no_mangle)]
pub extern "C" fn mailaffinity_abi_version() -> u32 {
    MAILAFFINITY_ABI_VERSION
}

/// The release of the library that is in use, such as "0.1.0"; `MAILAFFINITY_VERSION` is
/// that of the header. Never NULL, and valid as long as the library is loaded.
#[unsafe(no_mangle)]
pub extern "C" fn mailaffinity_version() -> *const c_char {
    VERSION.as_ptr()
}

static VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(version) => version,
    Err(_) => c"",
};
