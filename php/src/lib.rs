//! The PHP module: user/node affinity for SquirrelMail and other PHP programs.
//!
//! `mailaffinity.stub.php` documents it for those who write PHP.
//!
//! - `kept`: the configurations, node states and access maps, followed from one
//!   request to the next.
//! - `site`: questions to them.
//! - `log`, `limit_file`: what the administrator is told, through PHP's error
//!   log.
//! - `ini`: the two directives of `php.ini`.
//! - `exception`, `info`: `MailaffinityException`, and the table in `phpinfo()`.

mod exception;
mod ffi;
mod info;
mod ini;
mod kept;
mod limit_file;
mod log;
mod site;

use std::borrow::Cow;

use exception::exception;
use ext_php_rs::binary_slice::BinarySlice;
use ext_php_rs::boxed::ZBox;
use ext_php_rs::flags::DataType;
use ext_php_rs::prelude::{ModuleBuilder, PhpResult, php_function, php_module, wrap_function};
use ext_php_rs::types::{ZendHashTable, Zval};
use mailaffinity::config::NodeConfig;
use mailaffinity::mapping::ring_label;
use mailaffinity::node_state::{Mark, State};
use mailaffinity::panic;

/// The host that webmail connects to for a user: SquirrelMail's mapping function
/// (`$imapServerAddress = 'map:map_user_via_sendmail_access';`).
///
/// The node that the access map names, unless it is down; else the computed one
/// among those that are up; else `mailaffinity.fallback`.
///
/// SquirrelMail calls it before authentication with whatever was posted, which may be an
/// array, and PHP makes integers of array keys in digits. So it takes any value, never
/// throws and prints nothing, and what it returns is always a host name or address that
/// `fsockopen()` takes, IPv6 in brackets. What the administrator should know goes to PHP's
/// error log.
#[php_function]
pub fn map_user_via_sendmail_access(username: &Zval) -> String {
    let (host, mut problems) = match text_of(username) {
        Ok(username) => {
            let answer = site::ask(|in_force, notify| {
                let node = in_force.node_of(&username, &mut *notify);
                node.map(|node| node.host.clone())
                    .map_err(|problem| notify(problem.to_string()))
                    .ok()
            });
            (answer.value.flatten(), answer.problems)
        }
        Err(kind) => (None, vec![format!("a username is {kind}, and no text")]),
    };
    let host = host.unwrap_or_else(|| {
        let (host, problem) = ini::fallback_host();
        problems.extend(problem);
        problems.push(format!(
            "there is no node for a user; using the fallback host {host}"
        ));
        host
    });
    log::tell(&problems);
    // PHP would take what follows the first colon for the port.
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host
    }
}

/// A scalar as PHP's own functions convert it to a string; of anything else, what it is. An
/// object that could be converted is not: that would run a program's code, which can throw.
fn text_of(value: &Zval) -> Result<Cow<'_, [u8]>, &'static str> {
    if let Some(text) = value.zend_str() {
        Ok(text.as_bytes().into())
    } else if let Some(number) = value.long() {
        Ok(number.to_string().into_bytes().into())
    } else if let Some(number) = value.double() {
        // Of which PHP 8.5 warns, on the page or by what a program has for warnings.
        if number.is_nan() {
            return Ok(b"NAN".as_slice().into());
        }
        // SAFETY: it takes any number, and gives a new string, never null.
        let text = unsafe { ZBox::from_raw(ffi::zend_double_to_str(number)) };
        Ok(text.as_bytes().to_vec().into())
    } else if let Some(is_true) = value.bool() {
        Ok(if is_true { b"1".as_slice() } else { b"" }.into())
    } else {
        Err(match value.get_type() {
            DataType::Null => "null",
            DataType::Array => "an array",
            DataType::Resource => "a resource",
            _ => "an object",
        })
    }
}

/// The node that the mapping gives to a user among those that are up. The access
/// map is not asked.
///
/// Without a tag, that of the configuration counts. Null when no node with the
/// tag is up.
#[php_function]
pub fn mailaffinity_node(
    username: BinarySlice<u8>,
    tag: Option<BinarySlice<u8>>,
) -> PhpResult<Option<ZBox<ZendHashTable>>> {
    let node = site::ask_or_throw(|in_force| {
        let tag = match &tag {
            // No tag is anything but text.
            Some(tag) => str::from_utf8(tag).ok()?,
            None => &in_force.config.tag,
        };
        in_force.computed_node(&username, tag).ok().cloned()
    })?;
    node.as_ref().map(node_array).transpose()
}

/// The 32-bit hash of a user, by the configuration's `username_hash`, of the name that
/// authentication leaves.
#[php_function]
pub fn mailaffinity_username_hash(username: BinarySlice<u8>) -> PhpResult<i64> {
    let hash = site::ask_or_throw(|in_force| in_force.config.hash_of(&username))?;
    hash.map(i64::from)
        .map_err(|problem| exception(problem.to_string()))
}

/// All nodes, in the order of the configuration, and whether they are up.
#[php_function]
pub fn mailaffinity_nodes() -> PhpResult<Vec<ZBox<ZendHashTable>>> {
    let nodes = site::ask_or_throw(|in_force| {
        let with_state = |node: &NodeConfig| {
            let mark = in_force.state.mark_of(&node.node.name);
            (
                node.clone(),
                mark.filter(|mark| mark.state == State::Down).cloned(),
            )
        };
        in_force.config.nodes.iter().map(with_state).collect::<Vec<_>>()
    })?;
    nodes
        .iter()
        .map(|(node, down)| node_and_state_array(node, down.as_ref()))
        .collect()
}

fn node_array(node: &NodeConfig) -> PhpResult<ZBox<ZendHashTable>> {
    let mut array = ZendHashTable::new();
    array.insert("name", node.node.name.as_str())?;
    array.insert("address", ring_label(node.node.address))?;
    array.insert("host", node.host.as_str())?;
    array.insert("queue_group", node.queue_group.as_deref())?;
    array.insert("tag", node.node.tag.as_str())?;
    Ok(array)
}

fn node_and_state_array(node: &NodeConfig, down: Option<&Mark>) -> PhpResult<ZBox<ZendHashTable>> {
    let mut array = node_array(node)?;
    array.insert("vhost_count", i64::from(node.node.vhost_count))?;
    array.insert("state", if down.is_none() { "up" } else { "down" })?;
    let since = down.and_then(|down| down.since);
    array.insert("since", since.map(|since| since.to_string()))?;
    array.insert("reason", down.map(|down| down.reason.as_str()))?;
    Ok(array)
}

#[doc(hidden)]
#[php_module]
#[php(startup = startup)]
pub fn module(module: ModuleBuilder) -> ModuleBuilder {
    module
        .name("mailaffinity")
        .globals(&kept::KEPT)
        .info_function(info::print)
        .function(wrap_function!(map_user_via_sendmail_access))
        .function(wrap_function!(mailaffinity_node))
        .function(wrap_function!(mailaffinity_username_hash))
        .function(wrap_function!(mailaffinity_nodes))
}

fn startup(_type: i32, module_number: i32) -> i32 {
    const SUCCESS: i32 = 0;
    const FAILURE: i32 = -1;

    panic::silence();
    ini::register(module_number);
    // A bug in it shows again when somebody asks.
    let _ = panic::guarded(|| kept::read_at_start(ini::config_path()));
    match exception::register() {
        Ok(()) => SUCCESS,
        Err(_) => FAILURE,
    }
}
