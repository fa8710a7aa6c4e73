//! Any bytes are Dovecot's settings or an error, and what is taken over of them loads, and has
//! nothing that the settings do not have.
#![no_main]

use std::net::IpAddr;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use mailaffinity::config::Config;
use mailaffinity_cli::director_settings::take;
use mailaffinity_cli::doveconf::Doveconf;

fuzz_target!(|printed: &[u8]| {
    let Ok(settings) = Doveconf::parse(printed) else {
        return;
    };
    let resolve = |name: &str| match name.len() {
        1..=3 => Ok(vec![IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2])]),
        _ => Err("unknown host"),
    };
    if let Ok(taken) = take(&settings, None, resolve) {
        let config = Config::parse(&taken.configuration, Path::new("taken")).unwrap();
        let hash = settings.top.get("director_username_hash").unwrap_or("%Lu");
        assert_eq!(config.username_hash.format(), hash.as_bytes());
        assert!(config.access_map.is_none() && config.checks.is_none());
    }
});
