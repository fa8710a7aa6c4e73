//! The configuration of a cluster, written key by key.

use std::fmt;
use std::iter;
use std::path::Path;

use toml::{Table, Value};

/// A configuration file. Of two values for one key the last counts.
#[derive(Clone, Default)]
pub struct Configuration(Table);

impl Configuration {
    /// node1 to node3 at `network`.1 to .3, each with a queue group.
    pub fn of_three_nodes(network: &str) -> Configuration {
        Configuration::of((1..=3).map(|number| Node::numbered(number, network)))
    }

    pub fn of(nodes: impl IntoIterator<Item = Node>) -> Configuration {
        let nodes: Vec<Value> = nodes.into_iter().map(|node| node.0.into()).collect();
        // The machine's own sendmail has no say.
        let nothing = Vec::<Value>::new;
        Configuration::default()
            .set("node", nodes)
            .set("sendmail.alias_files", nothing())
            .set("sendmail.local_domains", nothing())
    }

    /// The command that is sendmail, with its domains and aliases.
    #[must_use]
    pub fn sendmail(self, command: Vec<String>) -> Configuration {
        let mut command = Table::from_iter([("command".to_owned(), Value::from(command))]);
        let mut configuration = self;
        if let Some(Value::Table(others)) = configuration.0.remove("sendmail") {
            let own = others
                .into_iter()
                .filter(|(key, _)| !["alias_files", "local_domains"].contains(&&**key));
            command.extend(own);
        }
        configuration.set("sendmail", command)
    }

    /// Sets a key, such as `checks.port`.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Configuration {
        let mut table = &mut self.0;
        let mut names: Vec<&str> = key.split('.').collect();
        let last = names.pop().expect("one name at least");
        for name in names {
            table = table
                .entry(name)
                .or_insert_with(|| Table::new().into())
                .as_table_mut()
                .expect("a table");
        }
        table.insert(last.to_owned(), value.into());
        self
    }

    /// Leaves out a section.
    #[must_use]
    pub fn without(mut self, section: &str) -> Configuration {
        self.0.remove(section);
        self
    }

    /// Sets a key whose value is a file or folder.
    #[must_use]
    pub fn set_path(self, key: &str, path: impl AsRef<Path>) -> Configuration {
        self.set(key, text(path.as_ref()))
    }

    /// Sets the keys of these lines of TOML.
    #[must_use]
    pub fn with(mut self, lines: &str) -> Configuration {
        merge(&mut self.0, lines.parse().expect("lines of TOML"));
        self
    }

    /// An access map of a kind, such as `text`, made of the file of this name.
    #[must_use]
    pub fn access_map(self, kind: &str, source: impl AsRef<Path>) -> Configuration {
        let configuration = self.set("access_map.map", format!("{kind}:{}", source.as_ref().display()));
        match kind {
            "text" => configuration.set("access_map.update_text", true),
            _ => configuration,
        }
    }

    /// A file of users.
    #[must_use]
    pub fn users(self, file: impl AsRef<Path>) -> Configuration {
        self.set("users", Table::new()).set_path("users.file", file)
    }

    /// A command that lists the users.
    #[must_use]
    pub fn users_of<const N: usize>(self, command: [&str; N]) -> Configuration {
        self.set("users", Table::new())
            .set("users.command", command.to_vec())
    }
}

/// A node state file in which these nodes are down, and nothing else is said.
pub fn node_state(down: &[&str]) -> String {
    let down = down
        .iter()
        .map(|node| format!("[node.{}]\nstate = \"down\"\n", Value::from(*node)));
    // An empty one is none.
    iter::once("# written\n".to_owned()).chain(down).collect()
}

impl fmt::Display for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A `[[node]]`.
#[derive(Clone)]
pub struct Node(Table);

impl Node {
    pub fn new(name: &str, address: &str) -> Node {
        Node(Table::new()).set("name", name).set("address", address)
    }

    /// node1 at `network`.1, with the queue group node1group, and so on.
    pub fn numbered(number: usize, network: &str) -> Node {
        let name = format!("node{number}");
        Node::new(&name, &format!("{network}.{number}")).queue_group(&format!("{name}group"))
    }

    /// Where webmail connects to.
    #[must_use]
    pub fn host(self, host: &str) -> Node {
        self.set("host", host)
    }

    #[must_use]
    pub fn queue_group(self, queue_group: &str) -> Node {
        self.set("queue_group", queue_group)
    }

    #[must_use]
    pub fn queue_path(self, path: impl AsRef<Path>) -> Node {
        self.set("queue_path", text(path.as_ref()))
    }

    #[must_use]
    pub fn tag(self, tag: &str) -> Node {
        self.set("tag", tag)
    }

    #[must_use]
    pub fn vhost_count(self, vhost_count: u32) -> Node {
        self.set("vhost_count", vhost_count)
    }

    fn set(mut self, key: &str, value: impl Into<Value>) -> Node {
        self.0.insert(key.to_owned(), value.into());
        self
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(into)), Value::Table(from)) => merge(into, from),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}
