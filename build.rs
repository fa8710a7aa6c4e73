//! With the feature `capi`: the SONAME of the C library.
//!
//! Without it nothing of this reaches a library that depends on this one, such as the PHP
//! module: Cargo would hand it our SONAME.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if cfg!(feature = "capi") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libmailaffinity.so.0");
    }
}
