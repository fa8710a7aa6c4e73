//! A site as it stands on disk: its configuration, node state and access map or what is
//! published of it, followed while they change, and the host that a user's webmail connects to.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use jiff::Timestamp;

use crate::access_map::{Entry, Published};
use crate::config::{AccessMapConfig, Config, ConfigError, NoHash, NoNodeUp, NodeConfig};
use crate::files::followed::Followed;
use crate::mapping::{Cluster, ClusterError};
use crate::node_state::{Before, Mark, NodeState, State};

/// A configuration file, followed over the life of a process.
///
/// A broken configuration or node state never replaces a good one: the last good one stays
/// in force, be it one that was read before or the [copy](crate::files::last_good) that the
/// commands kept, whichever is newer; and each [`refresh`](Site::refresh) says so.
#[derive(Debug)]
pub struct Site {
    path: PathBuf,
    file: Followed,
    state_file: Followed,
    in_force: Option<Arc<InForce>>,
}

/// A copy has nothing in common with the first: it opens files by itself.
impl Clone for Site {
    fn clone(&self) -> Site {
        Site {
            path: self.path.clone(),
            file: self.file.clone(),
            state_file: self.state_file.clone(),
            in_force: self.in_force.as_deref().cloned().map(Arc::new),
        }
    }
}

/// The configuration and node state in force, and the cluster they make.
#[derive(Clone, Debug)]
pub struct InForce {
    /// The configuration.
    pub config: Config,
    /// Which nodes are down.
    pub state: NodeState,
    /// The mapping among the nodes that are up, for users who move from the moment on from
    /// which the node state holds.
    pub cluster: Cluster,
    /// What the mapping was before, and that moment.
    before: Option<(Before, Cluster)>,
    /// The mapping if all were, from when it is first asked for.
    home: OnceLock<Option<Cluster>>,
    published: Option<Published>,
}

/// That a user moves from a node that lives to another.
#[derive(Clone, Copy, Debug)]
pub struct Move<'f> {
    /// The node of until now.
    pub from: &'f NodeConfig,
    /// The node of then.
    pub to: &'f NodeConfig,
    /// When that is. Until then, sessions are ended on the old node; whoever can lets none begin.
    pub at: Timestamp,
}

/// Why there is no node for a user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoNode {
    /// The name has no hash.
    #[error(transparent)]
    NoHash(#[from] NoHash),
    /// None of the nodes can take a user.
    #[error(transparent)]
    NoNodeUp(#[from] NoNodeUp),
}

impl Site {
    /// The site of a configuration file, which is first read by
    /// [`refresh`](Site::refresh).
    pub fn new(path: impl Into<PathBuf>) -> Site {
        Site {
            path: path.into(),
            file: Followed::default(),
            state_file: Followed::default(),
            in_force: None,
        }
    }

    /// Reads again what has changed on disk. Costs two `stat` calls when nothing has.
    ///
    /// A file that replaces another counts at once. One that is written in place counts
    /// when it has been left alone for [`SETTLE`](crate::access_map::SETTLE): until then it may be incomplete.
    ///
    /// Returns notices: what the administrator should know about the files as they are
    /// now, the same at each call until it is mended. They name the file and the cause,
    /// never a user.
    pub fn refresh(&mut self) -> Vec<String> {
        let (path, earlier) = (&self.path, self.in_force.as_deref());
        let make = |config: Result<Config, ConfigError>| {
            InForce::new(config.map_err(|error| error.to_string())?, earlier)
        };
        let loaded = self.file.refresh(
            path,
            || make(Config::load(path)),
            |text, copy| make(Config::parse(text, copy)),
        );
        if let Some(loaded) = loaded {
            let has_same_file = |earlier: &InForce| earlier.config.node_state == loaded.config.node_state;
            if !earlier.is_some_and(has_same_file) {
                self.state_file = Followed::default();
            }
            self.in_force = Some(Arc::new(loaded));
        }
        if let Some(in_force) = &mut self.in_force {
            InForce::refresh_state(in_force, &mut self.state_file);
        }
        let mut notices = self.broken();
        let in_force = self.in_force.iter();
        notices.extend(in_force.flat_map(|in_force| in_force.unknown_nodes()));
        notices
    }

    /// What is broken, and what is in force instead.
    fn broken(&self) -> Vec<String> {
        let config = self.file.notice(
            "the last good configuration stays in force",
            "there is no good configuration to use",
        );
        let state = self
            .state_file
            .notice("the last good node state stays in force", "all nodes count as up");
        config.into_iter().chain(state).collect()
    }

    /// What is in force; `None` before a good configuration was read. Others may keep it:
    /// the next [`refresh`](Site::refresh) puts another in its place, and changes nothing of it.
    pub fn in_force(&self) -> Option<&Arc<InForce>> {
        self.in_force.as_ref()
    }

    /// A site for whoever reads it once: what is in force, and notices of what is broken.
    #[cfg(feature = "capi")]
    pub(crate) fn once(path: &Path) -> Result<(Arc<InForce>, Vec<String>), Unusable> {
        let mut site = Site::new(path);
        site.refresh();
        if let Some(problem) = site.file.unusable() {
            return Err(Unusable::Config(problem.to_owned()));
        }
        let notices = site.broken();
        let in_force = site
            .in_force
            .ok_or_else(|| Unusable::Config(notices.join("; ")))?;
        match site.state_file.unusable() {
            Some(problem) => Err(Unusable::State(problem.to_owned())),
            None => Ok((in_force, notices)),
        }
    }
}

/// What is broken, and has no last good version.
#[cfg(feature = "capi")]
pub(crate) enum Unusable {
    Config(String),
    State(String),
}

impl InForce {
    /// The earlier node state holds until it is [read again](InForce::refresh_state).
    fn new(config: Config, earlier: Option<&InForce>) -> Result<InForce, String> {
        let state = earlier.map(|earlier| earlier.state.clone()).unwrap_or_default();
        let cluster = config.cluster(&state).map_err(|error| error.to_string())?;
        let before = before(&config, &state).map_err(|error| error.to_string())?;
        let published = config
            .access_map
            .as_ref()
            .and_then(|map| map.published.as_deref());
        Ok(InForce {
            published: published.map(Published::new),
            config,
            state,
            cluster,
            before,
            home: OnceLock::new(),
        })
    }

    fn refresh_state(in_force: &mut Arc<InForce>, file: &mut Followed) {
        let path = &in_force.config.node_state;
        let make = |state: NodeState, path: &Path| {
            if state == in_force.state {
                return Ok(None);
            }
            let named = |error| format!("{}: {error}", path.display());
            let cluster = in_force.config.cluster(&state).map_err(named)?;
            let before = before(&in_force.config, &state).map_err(named)?;
            Ok(Some((state, cluster, before)))
        };
        let loaded = file.refresh(
            path,
            || make(NodeState::load(path).map_err(|error| error.to_string())?, path),
            |text, copy| {
                let state = NodeState::parse(text);
                make(
                    state.map_err(|problem| format!("{}: {problem}", copy.display()))?,
                    copy,
                )
            },
        );
        if let Some(Some((state, cluster, before))) = loaded {
            let in_force = Arc::make_mut(in_force);
            in_force.state = state;
            in_force.cluster = cluster;
            in_force.before = before;
            in_force.home = OnceLock::new();
        }
    }

    fn unknown_nodes(&self) -> impl Iterator<Item = String> + '_ {
        self.state
            .marks()
            .filter(|(name, mark)| mark.state == State::Down && self.config.nodes.index_of(name).is_none())
            .map(|(name, _)| {
                format!(
                    "{}: node \"{}\" is down but not in the configuration; correct its name or remove it",
                    self.config.node_state.display(),
                    name.escape_debug()
                )
            })
    }

    /// The node that serves a user: the one the access map names, by its published answers
    /// if there are any, unless it is down; else the computed one among those that are up. Who
    /// [moves](Move) stays on the old node until then.
    ///
    /// Notices go to `notify`: why it is not the one of the map.
    ///
    /// # Errors
    /// When no node is up, and for a user who has no hash.
    pub fn node_of(&self, user: &[u8], mut notify: impl FnMut(String)) -> Result<&NodeConfig, NoNode> {
        let user = self.config.authenticated(user)?;
        let hash = self.config.username_hash.hash(&user).map_err(NoHash::from);
        let moves = hash
            .as_ref()
            .ok()
            .and_then(|hash| self.move_of_hash(*hash, &self.config.tag));
        let computed = hash
            .map_err(NoNode::from)
            .and_then(|hash| self.node_of_hash(hash, &self.config.tag));
        match self.mapped_node(&user, &mut notify) {
            Ok(None) => {}
            // The map may have followed already.
            Ok(Some((_, node))) if moves.is_some_and(|moves| std::ptr::eq(node, moves.to)) => {}
            Ok(Some((_, node))) if !self.state.is_down(&node.node.name) => return Ok(node),
            // Users whom the Director has on a node that is down belong there.
            Ok(Some((_, node)))
                if computed
                    .as_ref()
                    .is_ok_and(|computed| std::ptr::eq(*computed, node)) => {}
            Ok(Some((path, node))) => notify(format!(
                "{}: node \"{}\" is down, but a user is mapped to it; using the computed node",
                path.display(),
                node.node.name
            )),
            Err(problem) => notify(format!("{problem}; using the computed node")),
        }
        computed
    }

    /// The node that the mapping alone gives to a user. Who [moves](Move) stays on the old
    /// node until then.
    ///
    /// # Errors
    /// When no node with the tag is up, and for a user who has no hash.
    pub fn computed_node(&self, user: &[u8], tag: &str) -> Result<&NodeConfig, NoNode> {
        self.node_of_hash(self.config.hash_of(user)?, tag)
    }

    /// The node that the mapping alone would give to a user if all were up: where the user
    /// goes when they are.
    ///
    /// # Errors
    /// When no node with the tag takes users, and for a user who has no hash.
    pub fn home_node(&self, user: &[u8], tag: &str) -> Result<&NodeConfig, NoNode> {
        let hash = self.config.hash_of(user)?;
        let all_up = || self.config.cluster(&self.state.without_marks()).ok();
        let home = self.home.get_or_init(all_up).as_ref();
        let index = home.and_then(|home| home.index_of_hash(hash, tag));
        self.node_at(index, tag)
    }

    /// Whether a user moves now, and where to.
    pub fn move_of(&self, user: &[u8], tag: &str) -> Option<Move<'_>> {
        // Mostly nobody does.
        self.before.as_ref()?;
        self.move_of_hash(self.config.hash_of(user).ok()?, tag)
    }

    fn move_of_hash(&self, hash: u32, tag: &str) -> Option<Move<'_>> {
        let (before, old) = self.before.as_ref()?;
        if !before.is_under_way(Timestamp::now()) {
            return None;
        }
        let at = |cluster: &Cluster| self.config.nodes.get(cluster.index_of_hash(hash, tag)?);
        let (from, to) = (at(old)?, at(&self.cluster)?);
        let is_dead = self
            .state
            .mark_of(&from.node.name)
            .is_some_and(Mark::is_by_checks);
        (!std::ptr::eq(from, to) && !is_dead).then_some(Move {
            from,
            to,
            at: before.until,
        })
    }

    fn node_of_hash(&self, hash: u32, tag: &str) -> Result<&NodeConfig, NoNode> {
        match self.move_of_hash(hash, tag) {
            Some(moves) => Ok(moves.from),
            None => self.node_at(self.cluster.index_of_hash(hash, tag), tag),
        }
    }

    fn node_at(&self, index: Option<usize>, tag: &str) -> Result<&NodeConfig, NoNode> {
        let index = index.ok_or_else(|| NoNodeUp(tag.to_owned()))?;
        #[expect(
            clippy::indexing_slicing,
            reason = "a cluster has the nodes of the configuration, in its order"
        )]
        Ok(&self.config.nodes[index])
    }

    /// The node that the map gives to a user, by the name that authentication leaves, and
    /// the file that says so; `Ok(None)` without a map.
    fn mapped_node(
        &self,
        user: &[u8],
        notify: impl FnMut(String),
    ) -> Result<Option<(&Path, &NodeConfig)>, String> {
        let Some(map) = &self.config.access_map else {
            return Ok(None);
        };
        let (file, entry) = self.entry_of(map, user, notify)?;
        let path = file.display();
        let entry = entry.ok_or_else(|| format!("{path}: no entry for a user"))?;
        let nodes = &self.config.nodes;
        let index = nodes.index_of_queue_group(&entry.value).ok_or_else(|| {
            let queue_group = entry.value.escape_ascii();
            format!("{path}: no node has the queue group \"{queue_group}\"")
        })?;
        #[expect(clippy::indexing_slicing, reason = "it is the place of one of these nodes")]
        Ok(Some((file, &nodes[index])))
    }

    /// The user's entry, and the file that has it or does not.
    fn entry_of<'f>(
        &'f self,
        AccessMapConfig { map, .. }: &'f AccessMapConfig,
        user: &[u8],
        mut notify: impl FnMut(String),
    ) -> Result<(&'f Path, Option<Entry>), String> {
        if let Some(published) = &self.published {
            match published.queue_group(user) {
                Ok(entry) => return Ok((published.path(), entry)),
                Err(problem) => notify(format!("{problem}; using the access map")),
            }
        }
        let entry = map.queue_group(user).map_err(|error| error.to_string())?;
        Ok((map.path(), entry))
    }
}

/// What was before, and its mapping.
fn before(config: &Config, state: &NodeState) -> Result<Option<(Before, Cluster)>, ClusterError> {
    let Some(before) = &state.before else {
        return Ok(None);
    };
    let cluster = config.cluster(&before.state())?;
    Ok(Some((before.clone(), cluster)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access_map::cdb;
    use crate::files::file_stamp::{SETTLE, StoppedClock};
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Duration;
    use tempfile::TempDir;

    const NODES: &str = r#"
[[node]]
name = "node1"
address = "10.0.0.1"
queue_group = "node1group"
host = "node1.example.org"
[[node]]
name = "node2"
address = "10.0.0.2"
queue_group = "node2group"
host = "node2.example.org"
"#;

    /// A site in a folder of its own, with a text map.
    struct Fixture {
        folder: TempDir,
        site: Site,
    }

    impl Fixture {
        fn new(map: &str) -> Fixture {
            let folder = tempfile::tempdir().unwrap();
            let site = Site::new(folder.path().join("mailaffinity.toml"));
            let fixture = Fixture { folder, site };
            fs::write(fixture.path("access"), map).unwrap();
            fixture.write_config(NODES);
            fixture
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn write_config(&self, nodes: &str) {
            let text = format!(
                "node_state = {:?}\n[access_map]\nmap = \"text:{}\"\n{nodes}",
                self.path("nodes.toml"),
                self.path("access").display()
            );
            self.replace("mailaffinity.toml", &text);
        }

        fn replace(&self, name: &str, text: &str) {
            fs::write(self.path("new"), text).unwrap();
            fs::rename(self.path("new"), self.path(name)).unwrap();
        }

        fn mark_down(&self, nodes: &[&str]) {
            let down = nodes
                .iter()
                .map(|node| format!("[node.{node}]\nstate = \"down\"\n"));
            self.replace("nodes.toml", &format!("# written\n{}", down.collect::<String>()));
        }

        /// The host of a user, and all that the administrator is told.
        fn host_of(&mut self, user: &str) -> (Option<String>, Vec<String>) {
            let mut notices = self.site.refresh();
            let host = self.site.in_force().and_then(|in_force| {
                let node = in_force.node_of(user.as_bytes(), |notice| notices.push(notice));
                let host = node.map(|node| node.host.clone());
                host.map_err(|problem| notices.push(problem.to_string())).ok()
            });
            (host, notices)
        }
    }

    /// MD5("user1") = 24c9e15e…: node2 on the ring of 10.0.0.1 and 10.0.0.2.
    const COMPUTED: &str = "node2.example.org";

    #[test]
    fn the_access_map_comes_first() {
        let mut site = Fixture::new("QGRP:user1@\tnode1group\nQGRP:user2@\tNODE2GROUP\n");
        assert_eq!(site.host_of("user1"), (Some("node1.example.org".into()), vec![]));
        assert_eq!(
            site.host_of("User2@example.org"),
            (Some("node2.example.org".into()), vec![])
        );
    }

    #[test]
    fn who_moves_between_living_nodes_changes_by_the_clock() {
        let mut site = Fixture::new("QGRP:user1@\tnode1group\nQGRP:user2@\tnode1group\n");
        // node2 comes back, or is given up by hand; user2 is node1's by hand, or in the map alone.
        let moves = |site: &Fixture, after: &str, before: &str, seconds: i64| {
            let until = Timestamp::from_second(Timestamp::now().as_second() + seconds).unwrap();
            site.replace(
                "nodes.toml",
                &format!("# written\n{after}[before]\nuntil = \"{until}\"\n{before}"),
            );
        };
        let down = |by: &str| format!("[node.node2]\nstate = \"down\"\nby = \"{by}\"\n");
        let was_down = |by: &str| down(by).replace("[node", "[before.node");
        let node1 = Some("node1.example.org".to_owned());
        moves(&site, "", &was_down("checks"), 60);
        assert_eq!(site.host_of("user1"), (node1.clone(), vec![]), "the map lags");
        let now_and_then = |site: &Fixture| {
            let in_force = site.site.in_force().unwrap();
            let moves = in_force
                .move_of(b"user1", "")
                .map(|moves| (moves.from.host.clone(), moves.to.host.clone()));
            (in_force.computed_node(b"user1", "").unwrap().host.clone(), moves)
        };
        let (one, two) = ("node1.example.org".to_owned(), COMPUTED.to_owned());
        assert_eq!(
            now_and_then(&site),
            (one.clone(), Some((one.clone(), two.clone())))
        );
        site.replace("access", "QGRP:user1@\tnode2group\nQGRP:user2@\tnode1group\n");
        assert_eq!(
            site.host_of("user1"),
            (node1.clone(), vec![]),
            "the map has followed"
        );
        assert_eq!(site.host_of("user2").0, node1);
        moves(&site, "", &was_down("checks"), 0);
        assert_eq!(site.host_of("user1"), (Some(two.clone()), vec![]));
        assert_eq!(now_and_then(&site), (two.clone(), None));
        moves(&site, &down("hand"), "", 60);
        assert_eq!(site.host_of("user1"), (Some(two.clone()), vec![]));
        assert_eq!(
            now_and_then(&site),
            (two.clone(), Some((two.clone(), one.clone())))
        );
        moves(&site, &down("checks"), "", 60);
        site.site.refresh();
        assert_eq!(now_and_then(&site), (one, None), "nobody waits for a dead node");
        moves(&site, &down("hand"), "", 999);
        site.site.refresh();
        assert_eq!(now_and_then(&site).1, None, "the clock was another one");
    }

    #[test]
    fn then_the_computed_node_and_a_notice() {
        let mut site = Fixture::new("QGRP:user1@\tother\nQGRP:user2@\tnode1group\n");
        let (host, notices) = site.host_of("user1");
        assert_eq!(host.as_deref(), Some(COMPUTED));
        assert!(
            matches!(&notices[..], [one] if one.contains("access: no node has the queue group \"other\"")),
            "{notices:?}"
        );

        let (host, notices) = site.host_of("nobody");
        assert!(host.is_some());
        assert!(
            matches!(&notices[..], [one] if one.contains("access: no entry for a user")),
            "{notices:?}"
        );

        site.mark_down(&["node1"]);
        let (host, notices) = site.host_of("user2");
        assert_eq!(host.as_deref(), Some("node2.example.org"));
        assert!(
            matches!(&notices[..], [one] if one.contains("node \"node1\" is down")),
            "{notices:?}"
        );

        fs::remove_file(site.path("access")).unwrap();
        let (host, notices) = site.host_of("user2");
        assert_eq!(host.as_deref(), Some("node2.example.org"));
        assert!(
            matches!(&notices[..], [one] if one.contains("access")),
            "{notices:?}"
        );
    }

    #[test]
    fn published_answers_come_before_the_map() {
        let mut site = Fixture::new("QGRP:user1@ node1group\n");
        let path = site.path("answers.cdb");
        let publish = |site: &Fixture, group: &str| {
            let mut writer = cdb::Writer::new(fs::File::create(site.path("new")).unwrap()).unwrap();
            writer.add(b"qgrp:user1@", group.as_bytes()).unwrap();
            writer.finish().unwrap();
            fs::rename(site.path("new"), &path).unwrap();
        };
        let (node1, node2) = ("node1.example.org".to_owned(), "node2.example.org".to_owned());
        site.write_config(&format!("published = {path:?}\n{NODES}"));

        let (host, notices) = site.host_of("user1");
        assert_eq!(host.as_ref(), Some(&node1));
        let notice = format!(
            "cannot read the published answers {}: No such file or directory (os error 2); using the access map",
            path.display()
        );
        assert_eq!(notices, [notice]);
        for (group, node) in [("node2group", &node2), ("NODE1group", &node1)] {
            publish(&site, group);
            assert_eq!(site.host_of("user1@example.org"), (Some(node.clone()), vec![]));
        }
        publish(&site, "other");
        let (host, notices) = site.host_of("user1");
        assert_eq!(host.as_deref(), Some(COMPUTED));
        let begin = format!("{}: no node has the queue group", path.display());
        assert!(notices[0].starts_with(&begin), "{notices:?}");
        let (_, notices) = site.host_of("user2");
        let begin = format!("{}: no entry for a user", path.display());
        assert!(notices[0].starts_with(&begin), "{notices:?}");

        site.replace("answers.cdb", "none of its kind");
        let (host, notices) = site.host_of("user1");
        assert_eq!(host, Some(node1));
        assert!(
            matches!(&notices[..], [one] if one.contains(" are damaged: ") && one.ends_with("; using the access map")),
            "{notices:?}"
        );
        fs::remove_file(site.path("access")).unwrap();
        let (host, notices) = site.host_of("user1");
        assert_eq!(host.as_deref(), Some(COMPUTED));
        assert!(
            matches!(&notices[..], [_, two] if two.ends_with("; using the computed node")),
            "{notices:?}"
        );
        publish(&site, "node1group");
        let (host, notices) = site.host_of("user1");
        assert_eq!((host.as_deref(), notices), (Some("node1.example.org"), vec![]));
    }

    #[test]
    fn nobody_up_no_host() {
        let mut site = Fixture::new("");
        site.mark_down(&["node1", "node2"]);
        let (host, notices) = site.host_of("user1");
        assert_eq!(host, None);
        assert!(
            notices
                .iter()
                .any(|notice| notice == "no node without a tag is up"),
            "{notices:?}"
        );
    }

    #[test]
    fn home_is_where_users_are_when_all_are_up() {
        let mut site = Fixture::new("");
        let nodes = |site: &mut Fixture| {
            site.site.refresh();
            let in_force = site.site.in_force().unwrap();
            [
                in_force.computed_node(b"user1", ""),
                in_force.home_node(b"user1", ""),
            ]
            .map(|node| node.ok().map(|node| node.node.name.clone()))
        };
        let [one, two] = ["node1", "node2"].map(|name| Some(name.to_owned()));
        assert_eq!(nodes(&mut site), [two.clone(), two.clone()]);
        site.mark_down(&["node2"]);
        assert_eq!(nodes(&mut site), [one.clone(), two.clone()]);
        site.mark_down(&["node1", "node2"]);
        assert_eq!(nodes(&mut site), [None, two]);
        // A share that the node state gives it is no mark.
        site.replace("nodes.toml", "[node.node2]\nvhost_count = 0\nstate = \"down\"\n");
        assert_eq!(nodes(&mut site), [one.clone(), one]);
    }

    #[test]
    fn users_who_were_moved_are_followed() {
        let mut site = Fixture::new("");
        let mut nodes = |state: &str| {
            site.replace("nodes.toml", state);
            site.site.refresh();
            let in_force = site.site.in_force().unwrap();
            let nodes = [
                in_force.computed_node(b"user1", ""),
                in_force.home_node(b"user1", ""),
            ];
            nodes.map(|node| node.unwrap().node.name.clone())
        };
        let moved = "[node.node1]\nmoved = \"24c9e15e=2026-11-27T22:00:00Z\"\n";
        assert_eq!(nodes(moved), ["node1", "node1"]);
        assert_eq!(
            nodes(&format!("{moved}state = \"down\"\nby = \"checks\"\n")),
            ["node2", "node1"]
        );
        assert_eq!(nodes("# back"), ["node2", "node2"]);
    }

    #[test]
    fn changes_are_followed() {
        let mut site = Fixture::new("QGRP:user1@ node1group\n");
        assert_eq!(site.host_of("user1").0.as_deref(), Some("node1.example.org"));
        site.mark_down(&["node1"]);
        assert_eq!(site.host_of("user1").0.as_deref(), Some("node2.example.org"));
        fs::remove_file(site.path("nodes.toml")).unwrap();
        assert_eq!(site.host_of("user1").0.as_deref(), Some("node1.example.org"));
        site.write_config(&NODES.replace("node1.example.org", "moved.example.org"));
        assert_eq!(site.host_of("user1").0.as_deref(), Some("moved.example.org"));
        fs::write(site.path("access"), "QGRP:user1@ node2group\n").unwrap();
        assert_eq!(site.host_of("user1").0.as_deref(), Some("node2.example.org"));
    }

    #[test]
    fn the_last_good_files_stay_in_force() {
        let mut site = Fixture::new("QGRP:user1@ node1group\n");
        site.mark_down(&["node1"]);
        assert_eq!(site.host_of("user1").0.as_deref(), Some("node2.example.org"));

        for broken in ["", "[[node", "surprise = 1\n"] {
            site.replace("mailaffinity.toml", broken);
            for _ in 0..2 {
                let (host, notices) = site.host_of("user1");
                assert_eq!(host.as_deref(), Some("node2.example.org"), "{broken:?}");
                assert!(notices[0].contains("mailaffinity.toml:"), "{notices:?}");
                assert!(
                    notices[0].ends_with("the last good configuration stays in force"),
                    "{notices:?}"
                );
            }
        }
        fs::remove_file(site.path("mailaffinity.toml")).unwrap();
        assert_eq!(site.host_of("user1").0.as_deref(), Some("node2.example.org"));

        site.write_config(NODES);
        site.replace("nodes.toml", "[node");
        let (host, notices) = site.host_of("user1");
        assert_eq!(
            host.as_deref(),
            Some("node2.example.org"),
            "node1 was down in the last good state"
        );
        assert!(notices[0].contains("nodes.toml: not a node state"), "{notices:?}");

        site.mark_down(&[]);
        assert_eq!(site.host_of("user1"), (Some("node1.example.org".into()), vec![]));
    }

    #[test]
    fn who_comes_new_has_the_last_good_copies() {
        let mut site = Fixture::new("QGRP:user1@ node2group\n");
        site.mark_down(&["node2"]);
        for name in ["mailaffinity.toml", "nodes.toml"] {
            let copy = site.path(&format!("{name}.last-good"));
            fs::copy(site.path(name), &copy).unwrap();
            fs::set_permissions(copy, Permissions::from_mode(0o644)).unwrap();
        }
        let node1 = Some("node1.example.org".to_owned());
        site.replace("nodes.toml", "[node");
        let (host, notices) = site.host_of("user1");
        assert_eq!(host, node1);
        let notice = &notices[0];
        assert!(
            notice.contains("nodes.toml: not a node state: line 1: "),
            "{notice}"
        );
        assert!(notice.contains("; the last good copy "), "{notice}");
        assert!(notice.ends_with("Z is in force"), "{notice}");

        site.site = Site::new(site.path("mailaffinity.toml"));
        site.replace("mailaffinity.toml", "[[node");
        let (host, notices) = site.host_of("user1");
        assert_eq!(host, node1);
        assert!(notices[0].contains("mailaffinity.toml:1: "), "{notices:?}");
        assert!(
            notices[0].contains("mailaffinity.toml.last-good of 2"),
            "{notices:?}"
        );
        assert!(notices[1].contains("nodes.toml.last-good of 2"), "{notices:?}");

        // One that is missing is not broken.
        site.write_config(NODES);
        fs::remove_file(site.path("nodes.toml")).unwrap();
        assert_eq!(site.host_of("user1"), (Some(COMPUTED.into()), vec![]));

        site.site = Site::new(site.path("mailaffinity.toml"));
        fs::write(site.path("mailaffinity.toml.last-good"), "[[nod").unwrap();
        site.replace("mailaffinity.toml", "[[node");
        let (host, notices) = site.host_of("user1");
        assert_eq!(host, None);
        assert!(
            notices[0].contains("its last good copy cannot be used: ")
                && notices[0].contains("mailaffinity.toml.last-good:1: ")
                && notices[0].ends_with("; there is no good configuration to use"),
            "{notices:?}"
        );
    }

    #[test]
    fn what_is_written_in_place_counts_when_it_is_left_alone() {
        let mut site = Fixture::new("QGRP:user1@ node1group\n");
        site.mark_down(&["node1"]);
        let node2 = Some("node2.example.org".to_owned());
        assert_eq!(site.host_of("user1").0, node2);
        fs::write(site.path("nodes.toml"), "# all are up\n").unwrap();
        let clock = StoppedClock::at_age(&site.path("nodes.toml"), SETTLE - Duration::from_millis(1));
        assert_eq!(site.host_of("user1").0, node2);
        drop(clock);
        let _clock = StoppedClock::at_age(&site.path("nodes.toml"), SETTLE);
        assert_eq!(site.host_of("user1"), (Some("node1.example.org".into()), vec![]));
    }

    #[test]
    fn the_tag_of_the_configuration_counts() {
        let mut site = Fixture::new("");
        let far = "[[node]]\nname = \"far\"\naddress = \"10.9.0.1\"\ntag = \"far\"\n";
        let nodes = format!("{NODES}{far}");
        site.replace("mailaffinity.toml", &format!("tag = \"far\"\n{nodes}"));
        assert_eq!(site.host_of("user1").0.as_deref(), Some("10.9.0.1"));
    }

    #[test]
    fn a_state_that_was_never_good_leaves_all_up() {
        let mut site = Fixture::new("QGRP:user1@ node1group\n");
        site.replace("nodes.toml", "[node");
        let (host, notices) = site.host_of("user1");
        assert_eq!(host.as_deref(), Some("node1.example.org"));
        assert!(notices[0].ends_with("; all nodes count as up"), "{notices:?}");
    }

    #[test]
    fn no_good_configuration_no_node() {
        let mut site = Site::new("/nonexistent/mailaffinity.toml");
        let notices = site.refresh();
        assert!(
            matches!(&notices[..], [one] if one.to_string().ends_with("there is no good configuration to use")),
            "{notices:?}"
        );
        assert!(site.in_force().is_none());
    }

    #[test]
    fn a_state_that_names_an_unknown_node_is_told() {
        let mut site = Fixture::new("QGRP:user1@ node1group\n");
        site.mark_down(&["nod1"]);
        let (host, notices) = site.host_of("user1");
        assert_eq!(host.as_deref(), Some("node1.example.org"));
        assert!(
            matches!(&notices[..], [one] if one.contains("\"nod1\" is down but not in the configuration")),
            "{notices:?}"
        );
    }
}
