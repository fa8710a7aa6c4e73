//! The cluster: nodes, proxies that users come in at, and the test's own machine, which has
//! webmail and sendmail's access map. Where lookups are made, a watcher is at work.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use mailaffinity::config::Config;
use mailaffinity::node_state::{Before, Mark, NodeState};
use support::built::MAILAFFINITY;
use support::configuration::{Configuration, Node as NodeConfig, node_state};
use support::machines::{Machine, NETWORK, Network, SHARED, address};
use support::maps;
use support::sendmail::{program, wait_for};

use super::director::Front;
use super::queues::Queues;

pub(crate) const NODES: usize = 3;
pub(crate) const PROXIES: usize = 2;
const FIRST_PROXY: u8 = 11;
/// The nodes' configuration of mailaffinity.
const FOLLOWERS: &str = "followers.toml";
/// Of a watcher.
const WATCH_LOG: &str = "/var/log/watch";

/// What dist/dovecot's files leave to the site; and times to microseconds, in logs that name the
/// client's port.
const SITE: &str = "
passdb static {
  result_success = continue-ok
}
login_trusted_networks = 10.24.0.0/24
log_timestamp = \"%s.%{usecs} \"
login_log_format_elements = user=<%{user}> lip=%{local_ip} session=<%{session}> rport=<%{remote_port}>
";

/// Seconds since the epoch, as in the logs.
pub(crate) fn now() -> f64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.expect("a time of today").as_secs_f64()
}

pub(crate) fn name_of(node: usize) -> String {
    format!("node{}", node + 1)
}

/// The node at this address, by its place.
pub(crate) fn node_at(address_of_node: &str) -> Option<usize> {
    (0..NODES).find(|node| address_of(*node).to_string() == address_of_node)
}

pub(crate) fn address_of(node: usize) -> IpAddr {
    address(number(node))
}

fn number(node: usize) -> u8 {
    u8::try_from(node + 1).expect("a few nodes")
}

/// What can be chosen.
pub(crate) struct Plan {
    pub(crate) users: usize,
    /// How long a node that comes back must answer.
    pub(crate) hold_seconds: u32,
    /// How long a node may take to greet: longer where one machine is the whole cluster, and busy.
    pub(crate) timeout_ms: u32,
    /// Whether there are sendmails too.
    pub(crate) queues: bool,
    /// Whether mail programs come in at a Director of Dovecot 2.3, whose word then counts for all.
    pub(crate) director: bool,
}

/// How a node stands that is a machine, or was one.
pub(crate) struct Node {
    machine: Option<Machine>,
    /// Of all its lives.
    pub(crate) logs: Vec<PathBuf>,
    queues: Option<Arc<Queues>>,
}

impl Node {
    pub(crate) fn machine(&self) -> &Machine {
        self.machine.as_ref().expect("the machine is on")
    }
}

/// The cluster. All of it ends with this.
pub(crate) struct Cluster {
    pub(crate) network: Network,
    pub(crate) nodes: Vec<Node>,
    pub(crate) proxies: Vec<Machine>,
    pub(crate) director: Option<Front>,
    pub(crate) users: Vec<String>,
    pub(crate) config: Arc<Config>,
    pub(crate) queues: Option<Arc<Queues>>,
    own_watcher: Option<Child>,
}

impl Cluster {
    /// Starts the cluster, and waits until its watchers are at work.
    pub(crate) fn start(plan: Plan) -> Cluster {
        let network = Network::new();
        let users: Vec<String> = (0..plan.users).map(|number| format!("user{number}")).collect();
        let map = maps::named(network.shared("access"));
        let queues = plan.queues.then(|| Arc::new(Queues::start(&map)));
        let node = |node| {
            let config = NodeConfig::numbered(node + 1, NETWORK);
            match &queues {
                Some(queues) => config.queue_path(queues.path(node)),
                None => config,
            }
        };
        let mut director = plan.director.then(Front::start);
        let configuration = Configuration::of((0..NODES).map(node));
        let configuration = match &director {
            Some(director) => configuration.set_path("checks.director", director.socket()),
            None => configuration.set("checks.probe", "imap"),
        };
        let configuration = configuration
            .set("watch.hold_seconds", plan.hold_seconds)
            .set("watch.timeout_ms", plan.timeout_ms)
            // There are more in minutes than else in weeks.
            .set("watch.falls_per_hour", 1000)
            .set("drain.after_seconds", 1);
        // A node that is cut off finds all others dead, so they ask nobody: they follow the common
        // node state, and end the sessions that they sent on to others.
        let followers = configuration.clone().without("checks");
        network.configure(&followers);
        fs::copy(network.shared("mailaffinity.toml"), network.shared(FOLLOWERS)).unwrap();
        // Nor can they ask a Director, which is no machine of theirs.
        if director.is_none() {
            network.configure(&configuration);
        }
        network.mark(&node_state(&[]));
        let nodes = (0..NODES)
            .map(|node| {
                let mut node = Node {
                    machine: Some(network.start(&name_of(node), number(node))),
                    logs: Vec::new(),
                    queues: queues.clone(),
                };
                node.begin();
                node
            })
            .collect();
        if let Some(director) = &mut director {
            director.keep();
        }
        let proxies: Vec<Machine> = (0..PROXIES)
            .map(|proxy| {
                let number = FIRST_PROXY + u8::try_from(proxy).expect("a few proxies");
                let proxy = network.start(&format!("proxy{}", proxy + 1), number);
                proxy.start_dovecot(&format!(
                    "{SITE}!include /usr/share/mailaffinity/mailaffinity-proxy.conf\n"
                ));
                proxy
            })
            .collect();
        let mut cluster = Cluster {
            config: Arc::new(
                Config::parse(&configuration.to_string(), "mailaffinity.toml".as_ref()).unwrap(),
            ),
            network,
            nodes,
            proxies,
            director,
            users,
            queues,
            own_watcher: None,
        };
        cluster.watch(&configuration);
        cluster
    }

    fn watch(&mut self, configuration: &Configuration) {
        let network = &self.network;
        let path = |name: &str| network.shared(name);
        let list: String = self.users.iter().map(|user| format!("{user}\n")).collect();
        fs::write(path("users"), list).unwrap();
        fs::write(path("access"), "").unwrap();
        let configuration = configuration
            .clone()
            .access_map(maps::kind(), maps::named(path("access")))
            .set_path("access_map.makemap", program(&["makemap"], "sendmail-bin"))
            .users(path("users"));
        let here = format!(
            "node_state = {:?}\nstatus = {:?}\nsyslog = {:?}\n{configuration}",
            path("nodes.toml"),
            path("status.json"),
            path("nobody-listens"),
        );
        fs::write(self.web_config(), here).unwrap();
        let stderr = File::create(path("watch")).unwrap();
        let mut own = self.mailaffinity();
        self.own_watcher = Some(
            own.arg("watch")
                .stdin(Stdio::null())
                .stderr(stderr)
                .spawn()
                .unwrap(),
        );
        for proxy in &self.proxies {
            watch(proxy, "/etc/mailaffinity.toml");
        }
        wait_for("the access map", || maps::file(path("access")).exists());
        for proxy in &self.proxies {
            let status = proxy.path("/var/lib/mailaffinity/status.json");
            wait_for("the watchers", || status.exists());
        }
    }

    /// What the watchers said on standard error, all of which must still be at work.
    pub(crate) fn watchers_said(&mut self) -> String {
        let own = self.own_watcher.as_mut().expect("a watcher");
        let ended = own.try_wait().unwrap();
        assert!(ended.is_none(), "webmail's watcher has ended: {ended:?}");
        for machine in self.proxies.iter().chain(self.nodes.iter().map(Node::machine)) {
            machine.run("pidof", &["mailaffinity"]);
        }
        let logs = self.proxies.iter().map(|proxy| proxy.path(WATCH_LOG));
        let logs = logs.chain([self.network.shared("watch")]);
        logs.map(|log| fs::read_to_string(log).unwrap()).collect()
    }

    pub(crate) fn stop_watching(&mut self) {
        if let Some(mut own) = self.own_watcher.take() {
            own.kill().unwrap();
            own.wait().unwrap();
        }
        for machine in self.proxies.iter().chain(self.nodes.iter().map(Node::machine)) {
            machine.run("sh", &["-c", "kill -KILL $(pidof mailaffinity)"]);
        }
    }

    /// The command, on webmail's machine.
    pub(crate) fn mailaffinity(&self) -> Command {
        let mut command = Command::new(&*MAILAFFINITY);
        command.arg("--config").arg(self.web_config());
        command
    }

    /// The configuration there.
    pub(crate) fn web_config(&self) -> PathBuf {
        self.network.shared("web.toml")
    }

    pub(crate) fn proxy_addresses(&self) -> Vec<IpAddr> {
        self.proxies.iter().map(Machine::address).collect()
    }

    /// Where mail programs come in.
    pub(crate) fn entries(&self) -> Vec<IpAddr> {
        match &self.director {
            Some(director) => vec![director.address()],
            None => self.proxy_addresses(),
        }
    }

    /// What was logged there.
    pub(crate) fn logs_of_entries(&self) -> Vec<String> {
        match &self.director {
            Some(director) => vec![director.log()],
            None => self.proxies.iter().map(Machine::log).collect(),
        }
    }

    pub(crate) fn marks(&self) -> Marks {
        Marks(self.network.shared("nodes.toml"))
    }

    /// The nodes that are down.
    pub(crate) fn down(&self) -> BTreeSet<usize> {
        self.marks().down()
    }

    /// The node of each user, by the node state as it is.
    pub(crate) fn homes(&self) -> Vec<usize> {
        let cluster = self.config.cluster(&self.marks().state()).unwrap();
        self.users
            .iter()
            .map(|user| {
                let hash = self.config.hash_of(user.as_bytes()).unwrap();
                cluster.index_of_hash(hash, "").unwrap()
            })
            .collect()
    }

    /// Runs a command as an administrator does, on the first proxy.
    pub(crate) fn administer(&self, arguments: &[&str]) {
        self.proxies[0].run(&MAILAFFINITY, arguments);
    }

    /// The machine is off. That it could have been told to is no matter: it is not.
    pub(crate) fn switch_off(&mut self, node: usize) {
        drop(self.nodes[node].machine.take().expect("it is on"));
    }

    pub(crate) fn switch_on(&mut self, node: usize) {
        let machine = self.network.start(&name_of(node), number(node));
        self.nodes[node].machine = Some(machine);
        self.nodes[node].begin();
    }
}

/// The node state.
pub(crate) struct Marks(PathBuf);

impl Marks {
    fn state(&self) -> NodeState {
        NodeState::load(&self.0).unwrap()
    }

    fn down(&self) -> BTreeSet<usize> {
        let state = self.state();
        (0..NODES).filter(|node| state.is_down(&name_of(*node))).collect()
    }

    /// How the nodes were marked, until all is over.
    pub(crate) fn follow(&self, is_over: &AtomicBool) -> Vec<Marked> {
        let mut all: Vec<Marked> = Vec::new();
        let mut after = now();
        while !is_over.load(Ordering::SeqCst) {
            let state = self.state();
            let before = state
                .before
                .as_ref()
                .filter(|before| before.is_under_way(Timestamp::now()));
            let before = before.map(Before::state);
            let is_dead = |node: &usize| state.mark_of(&name_of(*node)).is_some_and(Mark::is_by_checks);
            // Nobody waits to move from a dead one.
            let is_down = |node: &usize| {
                let name = name_of(*node);
                let is_under_way = before.as_ref().is_some_and(|before| !before.is_down(&name));
                state.is_down(&name) && (is_dead(node) || !is_under_way)
            };
            let seen = now();
            let marked = Marked {
                after,
                seen,
                down: (0..NODES).filter(is_down).collect(),
                dead: (0..NODES).filter(is_dead).collect(),
            };
            after = seen;
            if all
                .last()
                .is_none_or(|last| last.down != marked.down || last.dead != marked.dead)
            {
                eprintln!("{seen:.3} down: {:?}, by checks: {:?}", marked.down, marked.dead);
                all.push(marked);
            }
            thread::sleep(Duration::from_millis(5));
        }
        all
    }
}

/// How nodes were marked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Marked {
    /// They were so later than this,
    pub(crate) after: f64,
    /// and at this time.
    pub(crate) seen: f64,
    /// The nodes that were down for all of their users,
    pub(crate) down: BTreeSet<usize>,
    /// and those of them that checks took for dead.
    pub(crate) dead: BTreeSet<usize>,
}

impl Node {
    fn begin(&mut self) {
        let machine = self.machine();
        let name = machine.name();
        let (file, log) = (
            "/usr/share/mailaffinity/mailaffinity-node.conf",
            machine.log_file(),
        );
        machine.start_dovecot(&format!(
            "{SITE}!include {file}\nimap_id_send {{\n  name = {name}\n}}\n"
        ));
        self.logs.push(log);
        self.go_on();
    }

    /// Starts what needs a Dovecot.
    fn go_on(&self) {
        let machine = self.machine();
        if let Some(queues) = &self.queues {
            queues.run(machine, usize::from(machine.number()) - 1);
        }
        watch(machine, &format!("{SHARED}/{FOLLOWERS}"));
    }

    /// What was killed begins again.
    pub(crate) fn start_again(&self) {
        self.machine().start_again();
        self.go_on();
    }
}

/// Starts a watcher on a machine. It is the machine's child: nobody else would wait for it when
/// that ends.
fn watch(machine: &Machine, config: &str) {
    let line = format!(
        "{} --config {config} watch </dev/null >{WATCH_LOG} 2>&1 &",
        *MAILAFFINITY
    );
    machine.start("sh", &["-c", &line]);
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if thread::panicking() {
            let logs = self.proxies.iter().map(|proxy| proxy.path(WATCH_LOG));
            let state = self.network.shared("nodes.toml");
            for log in logs.chain([self.network.shared("watch"), state]) {
                eprintln!("{}", fs::read_to_string(log).unwrap_or_default());
            }
        }
        if let Some(own) = &mut self.own_watcher {
            let _ = own.kill();
            let _ = own.wait();
        }
    }
}
