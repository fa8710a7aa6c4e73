//! Any text is a list of mail servers or an error.
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use mailaffinity::mapping::{parse_address, parse_mail_servers, resolve_nodes, ring_label};

fuzz_target!(|text: &str| {
    if let Ok(servers) = parse_mail_servers(text) {
        let nodes = resolve_nodes(&servers, |_| Ok::<_, String>(vec![IpAddr::from([192, 0, 2, 1])])).unwrap();
        assert!(nodes.len() >= servers.len());
        for node in nodes {
            assert_eq!(parse_address(&ring_label(node.address)), Some(node.address));
        }
    }
});
