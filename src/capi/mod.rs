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

mod cluster;

mod builder;

mod lookup;

mod node;

mod site;

mod username_hash;

mod library;

mod hash_user_group;

/// That of this header and its SONAME.
pub const MAILAFFINITY_ABI_VERSION: u32 = 0;
