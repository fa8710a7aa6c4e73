//! The Lua module: user/node affinity for Dovecot 2.4, HAProxy and other programs that have
//! Lua 5.4.
//!
//! `doc/man/lua-mailaffinity.3` documents it for those who write Lua.
//!
//! - `followed`: a site, followed from one call to the next, and what of it was told.
//!
//! A program such as Dovecot's auth calls it for each login. So no function raises an error,
//! whatever it is given: as Lua's own `io.open`, it returns nil and a message.

mod followed;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::rc::Rc;

use followed::{Followed, Returned};
use mailaffinity::config::{DEFAULT_PATH, NodeConfig};
use mailaffinity::mapping::ring_label;
use mailaffinity::node_state::{Mark, State};
use mailaffinity::panic;
use mailaffinity::site::{InForce, NoNode};
use mlua::{IntoLua, Lua, LuaString, Result, Table, Value, lua_module};

/// What `require` gives: the functions for the usual configuration, and a way to others.
#[doc(hidden)]
#[lua_module(name = "mailaffinity")]
pub fn module(lua: &Lua) -> Result<Table> {
    panic::silence();
    let module = functions(lua, Path::new(DEFAULT_PATH))?;
    module.raw_set("_VERSION", concat!("mailaffinity ", env!("CARGO_PKG_VERSION")))?;
    module.raw_set("open", lua.create_function(open)?)?;
    Ok(module)
}

/// The same functions for another configuration; without a path, for the usual one.
fn open(lua: &Lua, path: Value) -> Result<Returned<Table>> {
    let path = match optional_text(lua, "path", path) {
        Ok(path) => path.map(|path| path.as_bytes()),
        Err(problem) => return Ok((None, Some(problem))),
    };
    let path = match &path {
        Some(path) => Path::new(OsStr::from_bytes(path)),
        None => Path::new(DEFAULT_PATH),
    };
    if path.is_absolute() {
        Ok((Some(functions(lua, path)?), None))
    } else {
        // The folder that it would be relative to is whatever the program has changed to.
        Ok((None, Some(format!("{} is not an absolute path", path.display()))))
    }
}

fn functions(lua: &Lua, path: &Path) -> Result<Table> {
    let site = Rc::new(Followed::new(path));
    let functions = lua.create_table()?;

    for (name, of_user) in [
        (
            "node",
            (|in_force, user, tag| now_and_then(in_force, user, tag)) as OfUser,
        ),
        ("home", |in_force, user, tag| {
            Ok(Described::new(in_force, in_force.home_node(user, tag)?))
        }),
    ] {
        let asked = site.clone();
        let node = move |lua: &Lua, (user, tag): (Value, Value)| {
            let user = text(lua, "user", user);
            let arguments = user.and_then(|user| Ok((user, optional_text(lua, "tag", tag)?)));
            Ok(asked.ask(arguments, |in_force, (user, tag)| {
                let tag = tag.map(|tag| tag.as_bytes());
                node_of(in_force, of_user, &user.as_bytes(), tag.as_deref())
            }))
        };
        functions.raw_set(name, lua.create_function(node)?)?;
    }

    let asked = site.clone();
    let nodes = move |_: &Lua, (): ()| {
        let described = |in_force: &InForce| {
            let nodes = in_force.config.nodes.iter();
            nodes
                .map(|node| Described::new(in_force, node))
                .collect::<Vec<_>>()
        };
        Ok(asked.ask(Ok(()), |in_force, ()| Ok(described(in_force))))
    };
    functions.raw_set("nodes", lua.create_function(nodes)?)?;

    let username_hash = move |lua: &Lua, user: Value| {
        Ok(site.ask(text(lua, "user", user), |in_force, user| {
            let hash = in_force.config.hash_of(&user.as_bytes());
            hash.map_err(|problem| problem.to_string())
        }))
    };
    functions.raw_set("username_hash", lua.create_function(username_hash)?)?;
    Ok(functions)
}

/// A node for a user with a tag.
type OfUser = fn(&InForce, &[u8], &str) -> std::result::Result<Described, NoNode>;

/// The node that the mapping gives to a user with a tag, as the Director does, and where the user
/// moves to. The access map is not asked: it is made of the mapping, may lag behind it, and can
/// be locked for a while.
fn now_and_then(in_force: &InForce, user: &[u8], tag: &str) -> std::result::Result<Described, NoNode> {
    // In one look at the clock.
    let Some(moves) = in_force.move_of(user, tag) else {
        return Ok(Described::new(in_force, in_force.computed_node(user, tag)?));
    };
    let to = Described::new(in_force, moves.to);
    Ok(Described {
        moves: Some((moves.at.as_second(), Box::new(to))),
        ..Described::new(in_force, moves.from)
    })
}

fn node_of(
    in_force: &InForce,
    of_user: OfUser,
    user: &[u8],
    tag: Option<&[u8]>,
) -> std::result::Result<Described, String> {
    // No tag is anything but text.
    let tag = String::from_utf8_lossy(tag.unwrap_or(in_force.config.tag.as_bytes()));
    of_user(in_force, user, &tag).map_err(|problem| problem.to_string())
}

/// A string, or a number as Lua itself makes a string of it.
fn text(lua: &Lua, name: &str, value: Value) -> std::result::Result<LuaString, String> {
    let kind = value.type_name();
    let text = lua.coerce_string(value).ok().flatten();
    text.ok_or_else(|| format!("{name} is no string, but {kind}"))
}

fn optional_text(lua: &Lua, name: &str, value: Value) -> std::result::Result<Option<LuaString>, String> {
    match value {
        Value::Nil => Ok(None),
        value => text(lua, name, value).map(Some),
    }
}

/// What is known of a node, which Lua gets as a table.
struct Described {
    node: NodeConfig,
    down: Option<Mark>,
    /// When its user moves, in seconds since 1970, and where to.
    moves: Option<(i64, Box<Described>)>,
}

impl Described {
    fn new(in_force: &InForce, node: &NodeConfig) -> Described {
        let mark = in_force.state.mark_of(&node.node.name);
        Described {
            node: node.clone(),
            down: mark.filter(|mark| mark.state == State::Down).cloned(),
            moves: None,
        }
    }
}

impl IntoLua for Described {
    fn into_lua(self, lua: &Lua) -> Result<Value> {
        let Described { node, down, moves } = self;
        let table = lua.create_table_with_capacity(0, 9)?;
        table.raw_set("name", node.node.name)?;
        table.raw_set("address", ring_label(node.node.address))?;
        table.raw_set("host", node.host)?;
        table.raw_set("queue_group", node.queue_group)?;
        table.raw_set("tag", node.node.tag)?;
        table.raw_set("vhost_count", node.node.vhost_count)?;
        table.raw_set("state", if down.is_none() { "up" } else { "down" })?;
        if let Some(Mark { since, reason, .. }) = down {
            table.raw_set("since", since.map(|since| since.to_string()))?;
            table.raw_set("reason", reason)?;
        }
        if let Some((at, to)) = moves {
            table.raw_set("moves_at", at)?;
            table.raw_set("moves_to", *to)?;
        }
        table.into_lua(lua)
    }
}
