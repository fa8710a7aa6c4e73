//! With the feature `capi`: the C header, and the SONAME of the library.
//!
//! Cargo runs this, and the test that includes it, in the package's folder.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "capi")]
    capi::prepare()?;
    Ok(())
}

/// Without the feature nothing of this reaches a library that depends on this one, such
/// as the PHP module: Cargo would hand it our SONAME.
#[cfg(feature = "capi")]
pub(crate) mod capi {
    use super::Error;
    use std::fs;

    pub(crate) const SOURCES: &str = "src/capi";
    pub(crate) const SETTINGS: &str = "cbindgen.toml";
    pub(crate) const HEADER: &str = "include/mailaffinity.h";
    pub(crate) const SONAME: &str = "libmailaffinity.so.0";

    pub(super) fn prepare() -> Result<(), Box<dyn Error>> {
        for input in [SOURCES, SETTINGS, HEADER] {
            println!("cargo::rerun-if-changed={input}");
        }
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,{SONAME}");
        let header = header()?;
        // A current header is left alone: the tree may be read-only.
        if fs::read_to_string(HEADER).ok().as_ref() != Some(&header) {
            fs::write(HEADER, header).map_err(|error| format!("cannot update {HEADER}: {error}"))?;
        }
        Ok(())
    }

    /// The header that belongs to the sources.
    pub(crate) fn header() -> Result<String, Box<dyn Error>> {
        let mut text = Vec::new();
        cbindgen::Builder::new()
            .with_config(cbindgen::Config::from_file(SETTINGS)?)
            .with_src(format!("{SOURCES}/mod.rs"))
            .generate()?
            .write(&mut text);
        Ok(String::from_utf8(text)?)
    }
}
