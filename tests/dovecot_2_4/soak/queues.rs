//! Mail that comes to sendmail. One on the test's own machine takes it, and has the access map;
//! each node has one that runs the queue of its own group and delivers to the Dovecot there. All
//! are as `dist/sendmail/cluster.mc` has them, on queues that all share.

use std::collections::HashMap;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use support::machines::Machine;
use support::sendmail::{Cluster, run_well};

use super::site::{NODES, name_of, now};
use super::verdict::between;

/// The sendmail that takes mail.
const OWN: &str = "own";
/// Where a node delivers, as doc/dovecot.md has it.
const DELIVERY: &str = "FEATURE(`local_lmtp', `[IPC]', `FILE /run/dovecot/lmtp-home')dnl\n";
/// From which on sendmail logs when it begins to try a message.
const LOG_LEVEL: &str = "define(`confLOG_LEVEL', `77')dnl\n";
/// In place of Debian's one, which is Postfix's.
const SENDMAIL: &str = "/usr/sbin/sendmail";

/// The sendmails, their queues, and what the nodes logged.
pub(crate) struct Queues {
    sendmails: Cluster,
    logged: Arc<Mutex<Vec<Logged>>>,
}

struct Logged {
    at: f64,
    node: usize,
    line: String,
}

impl Logged {
    /// The process, the queue identifier, and what a sendmail says of a message.
    fn of_message(&self) -> Option<(&str, &str, &str)> {
        let (process, rest) = self.line.split_once("sendmail[")?.1.split_once("]: ")?;
        let (id, said) = rest.split_once(": ")?;
        Some((process, id, said))
    }
}

/// A sendmail of a node had a message in its hands.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) node: usize,
    pub(crate) from: f64,
    /// When it said what came of it or, if it died before, when another one began.
    pub(crate) to: f64,
    process: String,
}

impl Queues {
    /// Starts the sendmail that takes mail. `map` is the access map, as sendmail names it.
    pub(crate) fn start(map: &Path) -> Queues {
        let nodes: Vec<String> = (0..NODES).map(name_of).collect();
        let names: Vec<&str> = nodes.iter().map(String::as_str).chain([OWN]).collect();
        let mut sendmails = Cluster::with_queue_groups(&names, |folder, own| {
            let line = |name: &String| {
                let runners = if name == own { "4, Interval=1s" } else { "0" };
                let (group, folder) = (Cluster::group(name), folder.display());
                format!(
                    "QUEUE_GROUP(`{group}', `Flags=f, Path={folder}/queue/{name}, Runners={runners}')dnl\n"
                )
            };
            nodes.iter().map(line).collect()
        });
        let [its_own, map] = [&*sendmails.access_map(), map].map(|map| map.display().to_string());
        let map = (&*its_own, &*map);
        let mailer = "MAILER(`local')";
        let delivers = format!("{LOG_LEVEL}{DELIVERY}{mailer}");
        for node in &nodes {
            sendmails.reconfigure(node, &[map, (mailer, &delivers)]);
        }
        sendmails.reconfigure(OWN, &[map]);
        sendmails.start(OWN, &[]);
        let queues = Queues {
            sendmails,
            logged: Arc::default(),
        };
        (0..NODES).for_each(|node| queues.listen(node));
        queues
    }

    /// The queue of a node.
    pub(crate) fn path(&self, node: usize) -> PathBuf {
        self.sendmails.queues().join(name_of(node))
    }

    fn log_socket(&self, node: usize) -> PathBuf {
        self.sendmails.folder().join(format!("log-{}", name_of(node)))
    }

    fn listen(&self, node: usize) {
        let socket = UnixDatagram::bind(self.log_socket(node)).unwrap();
        let logged = Arc::clone(&self.logged);
        thread::spawn(move || {
            let mut line = [0; 1 << 12];
            while let Ok(length) = socket.recv(&mut line) {
                let line = String::from_utf8_lossy(&line[..length]).into_owned();
                logged.lock().unwrap().push(Logged {
                    at: now(),
                    node,
                    line,
                });
            }
        });
    }

    /// Starts the sendmail of a node, which begins, or begins again.
    pub(crate) fn run(&self, machine: &Machine, node: usize) {
        let words = self.sendmails.words(machine.name());
        let script = format!(
            "#!/bin/sh\nLD_LIBRARY_PATH={} exec {} \"$@\"\n",
            self.libraries(machine, &words).display(),
            words.join(" ")
        );
        machine.write(SENDMAIL, &script);
        let socket = self.log_socket(node);
        machine.run(
            "ln",
            &["-sf", socket.to_str().expect("a path in UTF-8"), "/dev/log"],
        );
        machine.start(SENDMAIL, &["-q1s"]);
    }

    /// Libraries that this machine's sendmail needs, and the other's Debian has not.
    fn libraries(&self, machine: &Machine, words: &[String]) -> PathBuf {
        let folder = self.sendmails.folder().join("libraries");
        fs::create_dir_all(&folder).unwrap();
        let program = words.iter().find(|word| word.ends_with("/sendmail"));
        let output = run_well(Command::new("ldd").arg(program.expect("its path")), b"");
        let text = String::from_utf8(output.stdout).unwrap();
        let paths = text.lines().filter_map(|line| line.split(' ').nth(2));
        for path in paths.filter(|path| path.starts_with('/') && !machine.path(path).exists()) {
            let name = Path::new(path).file_name().expect("a file");
            fs::copy(path, folder.join(name)).unwrap();
        }
        folder
    }

    /// Hands a message to sendmail: its queue identifier, or why it was not taken.
    pub(crate) fn take(&self, user: &str, message_id: &str) -> Result<String, String> {
        self.sendmails.try_send(OWN, &[user], message_id)
    }

    /// How many messages wait.
    pub(crate) fn waiting(&self) -> usize {
        let nodes = (0..NODES).map(|node| Cluster::group(&name_of(node)));
        let groups = nodes.chain(["default".to_owned()]);
        groups.map(|group| self.sendmails.queued(&group).len()).sum()
    }

    /// What the sendmails of nodes tried, by queue identifiers.
    pub(crate) fn attempts(&self) -> HashMap<String, Vec<Attempt>> {
        let mut all: HashMap<String, Vec<Attempt>> = HashMap::new();
        for logged in self.logged.lock().unwrap().iter() {
            let Some((process, id, said)) = logged.of_message() else {
                continue;
            };
            let of_message = all.entry(id.to_owned()).or_default();
            let begins = said.starts_with("dowork, ");
            if let Some(last) = of_message.last_mut().filter(|last| last.to.is_infinite())
                && (begins
                    || (said.starts_with("to=") && (last.node, &*last.process) == (logged.node, process)))
            {
                last.to = logged.at;
            }
            if begins {
                of_message.push(Attempt {
                    node: logged.node,
                    from: logged.at,
                    to: f64::INFINITY,
                    process: process.to_owned(),
                });
            }
        }
        all
    }

    /// What sendmail found undeliverable, as it logs it.
    pub(crate) fn bounces(&self) -> Vec<String> {
        let logged = self.logged.lock().unwrap();
        let bounces = logged.iter().filter(|logged| {
            logged
                .of_message()
                .is_some_and(|(_, _, said)| said.starts_with("to=") && said.contains(" dsn=5."))
        });
        bounces.map(|logged| logged.line.clone()).collect()
    }

    /// Of each drain, how many messages left the queue of a node that was down.
    pub(crate) fn drained(&self) -> Vec<usize> {
        let logged = self.logged.lock().unwrap();
        let of = |logged: &Logged| {
            let (_, said) = logged.line.split_once(": drain of ")?;
            let before: usize = between(said, ": ", " messages before")?.parse().ok()?;
            let after: usize = between(said, "before, ", " after")?.parse().ok()?;
            Some(before.saturating_sub(after))
        };
        logged.iter().filter_map(of).collect()
    }
}
