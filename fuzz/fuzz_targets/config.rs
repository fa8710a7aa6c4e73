//! Any text is a consistent configuration or an error that names the file.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use mailaffinity::config::{Config, check_host};

fuzz_target!(|text: &str| {
    match Config::parse(text, Path::new("/etc/mailaffinity.toml")) {
        Ok(config) => {
            assert!(!config.nodes.is_empty());
            assert!(config.nodes.iter().all(|node| check_host(&node.host).is_ok()));
        }
        Err(error) => assert!(error.to_string().starts_with("/etc/mailaffinity.toml:")),
    }
});
