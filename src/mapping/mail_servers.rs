//! The syntax of `director_mail_servers`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::address::{parse_address, ring_label};
use super::node::Node;

/// One word of `director_mail_servers`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailServer {
    /// What stands before the `@`.
    pub host: MailHost,
    /// What stands after the first `@`; empty without one.
    pub tag: String,
}

/// The host part of a word of `director_mail_servers`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MailHost {
    /// One address.
    Address(IpAddr),
    /// `first-last`: all addresses from one to the other, both included. They
    /// differ in the last 8 bits at most, IPv6 ones in the last 16.
    Range(IpAddr, IpAddr),
    /// A name that stands for all addresses it resolves to.
    Name(String),
}

/// What is wrong with a `director_mail_servers` string.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("director_mail_servers: {0}")]
pub struct MailServersError(String);

impl MailServersError {
    fn of(word: &str, problem: impl fmt::Display) -> MailServersError {
        MailServersError(format!("\"{}\": {problem}", word.escape_debug()))
    }
}

/// Reads a `director_mail_servers` string: words between spaces.
///
/// # Errors
/// On an empty list, a range that the Director refuses, and a blank other than a
/// space or a control character, behind which the Director would ignore a host
/// without a word.
pub fn parse_mail_servers(text: &str) -> Result<Vec<MailServer>, MailServersError> {
    let servers: Vec<MailServer> = text
        .split(' ')
        .filter(|word| !word.is_empty())
        .map(parse_word)
        .collect::<Result<_, _>>()?;
    if servers.is_empty() {
        return Err(MailServersError(
            "the list is empty; name at least one host".into(),
        ));
    }
    Ok(servers)
}

/// The nodes of a list of mail servers, all up, with the default vhost count.
/// `resolve` gives the addresses of a name.
///
/// # Errors
/// When a name does not resolve.
pub fn resolve_nodes<E: fmt::Display>(
    servers: &[MailServer],
    mut resolve: impl FnMut(&str) -> Result<Vec<IpAddr>, E>,
) -> Result<Vec<Node>, MailServersError> {
    let mut nodes = Vec::new();
    for server in servers {
        let mut add = |name: String, address| {
            nodes.push(Node {
                tag: server.tag.clone(),
                ..Node::new(name, address)
            });
        };
        match &server.host {
            MailHost::Address(address) => add(ring_label(*address), *address),
            MailHost::Range(first, last) => {
                for address in addresses_between(*first, *last) {
                    add(ring_label(address), address);
                }
            }
            MailHost::Name(name) => {
                let addresses = resolve(name).map_err(|error| MailServersError::of(name, error))?;
                if addresses.is_empty() {
                    return Err(MailServersError::of(name, "the name has no address"));
                }
                for address in addresses {
                    add(name.clone(), address);
                }
            }
        }
    }
    Ok(nodes)
}

fn parse_word(word: &str) -> Result<MailServer, MailServersError> {
    if word.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(MailServersError::of(word, "separate hosts by spaces only"));
    }
    let (host, tag) = word.split_once('@').unwrap_or((word, ""));
    if host.is_empty() {
        return Err(MailServersError::of(word, "there is no host before the \"@\""));
    }
    let range = host
        .split_once('-')
        .and_then(|(first, last)| Some((parse_address(first)?, parse_address(last)?)));
    let host = if let Some((first, last)) = range {
        check_range(first, last).map_err(|problem| MailServersError::of(word, problem))?;
        MailHost::Range(first, last)
    } else if let Some(address) = parse_address(host) {
        MailHost::Address(address)
    } else {
        MailHost::Name(host.to_owned())
    };
    Ok(MailServer {
        host,
        tag: tag.to_owned(),
    })
}

fn check_range(first: IpAddr, last: IpAddr) -> Result<(), &'static str> {
    let same_prefix = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => first.to_bits() >> 8 == last.to_bits() >> 8,
        (IpAddr::V6(first), IpAddr::V6(last)) => first.to_bits() >> 16 == last.to_bits() >> 16,
        _ => return Err("a range cannot go from IPv4 to IPv6"),
    };
    if first > last {
        Err("the range goes backwards; name the lower address first")
    } else if !same_prefix {
        Err("the range is too large; its ends may differ in the last 8 bits (IPv6: 16) only")
    } else {
        Ok(())
    }
}

fn addresses_between(first: IpAddr, last: IpAddr) -> Vec<IpAddr> {
    match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => (first.to_bits()..=last.to_bits())
            .map(|bits| Ipv4Addr::from_bits(bits).into())
            .collect(),
        (IpAddr::V6(first), IpAddr::V6(last)) => (first.to_bits()..=last.to_bits())
            .map(|bits| Ipv6Addr::from_bits(bits).into())
            .collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nodes(text: &str) -> Result<Vec<(String, String)>, MailServersError> {
        let nodes = resolve_nodes(&parse_mail_servers(text)?, |name| match name {
            "imap" => Ok(vec![IpAddr::from([10, 0, 0, 7]), IpAddr::from([10, 0, 0, 8])]),
            _ => Err("unknown host"),
        })?;
        Ok(nodes
            .into_iter()
            .map(|node| (ring_label(node.address), node.tag))
            .collect())
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected
            .iter()
            .map(|&(address, tag)| (address.to_owned(), tag.to_owned()))
            .collect()
    }

    #[test]
    fn addresses_ranges_names_and_tags() {
        assert_eq!(
            nodes("  10.0.0.1 10.0.0.3-10.0.0.5@east imap@a@b 2001:db8::ff-2001:db8::101").unwrap(),
            pairs(&[
                ("10.0.0.1", ""),
                ("10.0.0.3", "east"),
                ("10.0.0.4", "east"),
                ("10.0.0.5", "east"),
                ("10.0.0.7", "a@b"),
                ("10.0.0.8", "a@b"),
                ("2001:db8::ff", ""),
                ("2001:db8::100", ""),
                ("2001:db8::101", ""),
            ])
        );
    }

    #[test]
    fn what_is_refused() {
        for text in [
            "",
            "  ",
            "10.0.0.1-10.0.1.1",
            "10.0.0.2-10.0.0.1",
            "10.0.0.1-::1",
            "2001:db8::-2001:db8:0:0:0:0:1:0",
            "10.0.0.1\t10.0.0.2",
            "10.0.0.1\n",
            "@east",
            "no-such-host",
        ] {
            assert!(nodes(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[0-9a-f.:@ x\\[\\]-]{0,40}") {
            let _ = parse_mail_servers(&text);
        }
    }
}
