//! Real sendmails for a test: one to ask, or the nodes of a cluster.
//!
//! [`Sendmail`] is a copy of the installed program with a configuration file of its
//! own. A [`Cluster`] has one for each node, on one set of queues and one access
//! map, and delivers to files that a test can count. All of it is in a private
//! folder, works as root and as an ordinary user, asks no DNS, and ends when it is
//! dropped.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::{self, BufRead, BufReader, Seek, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::maps;

/// Far more than anything here takes: reached only when something hangs.
const DEADLINE: Duration = Duration::from_secs(60);

const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The domain whose users the cluster has: every name in it is a local user.
pub const DOMAIN: &str = "users.example.org";

/// sendmail's own m4 files.
const CF: &str = "/usr/share/sendmail/cf";

/// A copy of sendmail and its configuration, in a folder.
pub struct Sendmail {
    folder: PathBuf,
}

impl Sendmail {
    /// Installs sendmail in `folder`, configured by the text of an `.mc` file.
    ///
    /// A copy, since the installed one is setgid, and the loader preloads nothing
    /// into such programs. What is preloaded gives the host a qualified name: without
    /// one, sendmail sleeps for a minute at its start.
    pub fn install(folder: &Path, mc: &str) -> Sendmail {
        let sendmail = Sendmail {
            folder: folder.to_owned(),
        };
        fs::copy(program(&["sendmail"], "sendmail-bin"), sendmail.program()).expect("copy sendmail");
        fs::set_permissions(sendmail.program(), Permissions::from_mode(0o700)).expect("change its mode");
        sendmail.name_host("host.example.org");
        fs::write(sendmail.cf(), cf(mc)).expect("write the configuration");
        sendmail
    }

    /// Gives the host another name, as sendmail sees it.
    fn name_host(&self, name: &str) {
        let source = format!(
            "#include <string.h>
int gethostname(char *name, size_t size) {{ strncpy(name, \"{name}\", size); return 0; }}
"
        );
        run_well(
            Command::new(program(&["cc"], "gcc"))
                .args(["-shared", "-fPIC", "-x", "c", "-o"])
                .arg(self.host_name())
                .arg("-"),
            source.as_bytes(),
        );
    }

    /// The command that runs it, with its configuration. Arguments can follow.
    fn words(&self) -> Vec<OsString> {
        let mut preload = OsString::from("LD_PRELOAD=");
        preload.push(self.host_name());
        vec![
            program(&["env"], "coreutils").into(),
            preload,
            self.program().into(),
            "-C".into(),
            self.cf().into(),
        ]
    }

    /// The same, to run.
    pub fn command(&self) -> Command {
        let words = self.words();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command
    }

    /// The queue group that the rule set `queuegroup` gives to each of the addresses,
    /// in sendmail's address test mode.
    pub fn rule_set_groups(&self, addresses: &[impl AsRef<str>]) -> Vec<Option<String>> {
        let input: String = addresses
            .iter()
            .map(|address| format!("queuegroup {}\n", address.as_ref()))
            .collect();
        // Its status tells of lookups that failed.
        let output = run(self.command().arg("-bt"), input.as_bytes());
        let groups = groups(&output);
        assert_eq!(groups.len(), addresses.len(), "{output:?}");
        groups
    }

    /// The same for one address, which sendmail may find too long to ask.
    pub fn rule_set_group(&self, address: &str) -> Option<String> {
        let input = format!("queuegroup {address}\n");
        let output = run(self.command().arg("-bt"), input.as_bytes());
        let text = String::from_utf8_lossy(&output.stdout);
        let mut groups = groups(&output);
        assert!(
            groups.len() == 1 || text.contains("too long (255 bytes max)"),
            "{output:?}"
        );
        groups.pop()?
    }

    fn program(&self) -> PathBuf {
        self.folder.join("sendmail")
    }

    fn host_name(&self) -> PathBuf {
        self.folder.join("host_name.so")
    }

    fn cf(&self) -> PathBuf {
        self.folder.join("sendmail.cf")
    }
}

/// What the rule set returns each time, where it is a group.
fn groups(output: &Output) -> Vec<Option<String>> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .filter_map(|line| line.strip_prefix("queuegroup ")?.trim().strip_prefix("returns:"))
        .map(|value| value.trim().strip_prefix("$# ").map(str::to_owned))
        .collect()
}

/// What m4 makes of an `.mc` file.
///
/// # Panics
/// When m4 or sendmail's files complain.
pub fn cf(mc: &str) -> Vec<u8> {
    let output = m4(mc);
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "m4: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// m4, as an administrator runs it.
pub fn m4(mc: &str) -> Output {
    assert!(
        Path::new(CF).is_dir(),
        "this test needs {CF}: install sendmail-cf"
    );
    let m4 = program(&["m4"], "m4");
    run(Command::new(m4).arg(format!("-D_CF_DIR_={CF}/")), mc.as_bytes())
}

/// The name by which `FEATURE()` finds `dist/sendmail/feature/mailaffinity.m4`
/// without installing it: sendmail's m4 files take a name as relative to their own
/// `feature/`.
pub fn feature() -> String {
    let directory = Path::new(CF).join("feature");
    let directory = directory
        .canonicalize()
        .unwrap_or_else(|error| panic!("{directory:?}: {error}. Install sendmail-cf"));
    let up = "/..".repeat(directory.components().count());
    let here = crate::built::root().display();
    format!(".{up}{here}/dist/sendmail/feature/mailaffinity")
}

/// Nodes of a cluster that share queues and an access map.
///
/// The configuration is `dist/sendmail/cluster.mc`, moved into the private folder.
/// Node `NAME` owns the queue group `NAMEgroup`. A daemon queues all mail and runs
/// no queue, unless it is started otherwise.
pub struct Cluster {
    nodes: BTreeMap<String, Node>,
    folder: TempDir,
}

struct Node {
    sendmail: Sendmail,
    mc: String,
    port: Option<u16>,
}

/// A message in a queue.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Queued {
    /// sendmail's queue identifier: the file's name without its `qf`.
    pub id: String,
    pub message_id: String,
    /// As they are in the file, without the flags.
    pub recipients: Vec<String>,
}

/// A call of the local mailer that succeeded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Delivered {
    pub recipient: String,
    pub message_id: String,
    /// The node that delivered.
    pub node: String,
}

impl Cluster {
    /// Makes the folder and the nodes, none of which runs. The access map is empty.
    pub fn new(nodes: &[&str]) -> Cluster {
        Cluster::with_queue_groups(nodes, |folder, node| {
            let line = |name: &&str| {
                let runners = match *name == node {
                    true => "4, Interval=1m",
                    false => "0",
                };
                let (group, folder) = (Cluster::group(name), folder.display());
                format!(
                    "QUEUE_GROUP(`{group}', `Flags=f, Path={folder}/queue/{name}, Runners={runners}')dnl\n"
                )
            };
            nodes.iter().map(line).collect()
        })
    }

    /// The same with other `QUEUE_GROUP` lines: those that this gives for the folder and
    /// a node.
    pub fn with_queue_groups(nodes: &[&str], lines: impl Fn(&Path, &str) -> String) -> Cluster {
        // Not in the system's temporary directory: sendmail calls files unsafe that
        // are below a directory which others can write.
        let folder =
            TempDir::with_prefix_in("sendmail", crate::built::tmp()).expect("a directory under target/");
        let mut cluster = Cluster {
            nodes: BTreeMap::new(),
            folder,
        };
        for directory in [
            "tempfail",
            "refuse",
            "hold",
            "held",
            "delivering",
            "delivered",
            "queue",
        ] {
            cluster.make_directory(directory);
        }
        cluster.make_directory("queue/default");
        for (name, text) in [
            ("aliases", "postmaster: root\nmailer-daemon: postmaster\n"),
            ("service.switch", "hosts files\naliases files\npasswd files\n"),
            ("local-host-names", DOMAIN),
        ] {
            fs::write(cluster.path(name), text).expect("write a file");
        }
        cluster.make_access_map("");
        for node in nodes {
            cluster.make_directory(&format!("queue/{node}"));
            cluster.make_directory(node);
            fs::write(cluster.path(node).join("deliver"), DELIVER).expect("write the mailer");
            let mc = cluster.mc(node, &lines(cluster.folder(), node));
            let sendmail = Sendmail::install(&cluster.path(node), &mc);
            let node = (*node).to_owned();
            let port = None;
            cluster.nodes.insert(node, Node { sendmail, mc, port });
        }
        if let Some(node) = nodes.first() {
            run_well(cluster.command(node).arg("-bi"), b"");
        }
        cluster
    }

    /// The group of a node.
    pub fn group(node: &str) -> String {
        format!("{node}group")
    }

    /// The private folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where all queue directories are.
    pub fn queues(&self) -> PathBuf {
        self.path("queue")
    }

    /// The access map, as sendmail names it: without `.db`.
    pub fn access_map(&self) -> PathBuf {
        self.path("access")
    }

    /// Replaces the access map by rename.
    pub fn make_access_map(&self, source: &str) {
        let [new, map] = ["new-access", "access"].map(|name| maps::file(self.path(name)));
        let makemap = program(&["makemap"], "sendmail-bin");
        run_well(
            Command::new(makemap).arg(maps::kind()).arg(&new),
            source.as_bytes(),
        );
        fs::rename(new, map).expect("replace the map");
    }

    /// The access map that gives users to groups.
    pub fn make_queue_groups<'a>(&self, groups: impl IntoIterator<Item = (&'a str, &'a str)>) {
        let source: String = groups
            .into_iter()
            .map(|(user, group)| format!("QGRP:{user}@\t{group}\n"))
            .collect();
        self.make_access_map(&source);
    }

    /// Gives a node the configuration that it would have if each first text were the
    /// second one in its `.mc` file.
    pub fn reconfigure(&self, node: &str, changes: &[(&str, &str)]) {
        let Node { sendmail, mc, .. } = self.nodes.get(node).expect("a node");
        let mut changed = mc.clone();
        for (text, other) in changes {
            assert!(changed.contains(text), "{text} is not in {mc}");
            changed = changed.replace(text, other);
        }
        fs::write(sendmail.cf(), cf(&changed)).expect("write the configuration");
    }

    /// Starts a node's daemon, and waits until it takes mail. Arguments such as
    /// `-q1m` or `-ODeliveryMode=background` change what it does.
    pub fn start(&mut self, node: &str, arguments: &[&str]) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("its number").port();
        drop(listener);
        let log = self.path(node).join("daemon.log");
        let output = File::create(&log).expect("create a file for the daemon's output");
        // Not -bd: a daemon in the background would hide that it ends.
        let mut daemon = self
            .command(node)
            .arg("-bD")
            .arg(format!(
                "-ODaemonPortOptions=Family=inet,Addr=127.0.0.1,Port={port}"
            ))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("share the file"))
            .stderr(output)
            .spawn()
            .expect("start sendmail");
        let begun = Instant::now();
        while Smtp::connect(port).is_err() {
            let ended = daemon.try_wait().expect("wait for sendmail");
            assert!(
                ended.is_none() && begun.elapsed() < DEADLINE,
                "{node} does not take mail: {ended:?} {:?}",
                fs::read_to_string(&log)
            );
            thread::sleep(POLL_INTERVAL);
        }
        // Nobody else waits for it.
        thread::spawn(move || daemon.wait());
        self.node_mut(node).port = Some(port);
    }

    /// Ends all that runs on a node, at once, as its death would.
    pub fn kill(&mut self, node: &str) {
        kill_all(&self.path(node));
        self.node_mut(node).port = None;
    }

    /// Gives a node a message, by SMTP. A recipient without a domain is one of
    /// [`DOMAIN`].
    pub fn send(&self, node: &str, recipients: &[impl AsRef<str>], message_id: &str) {
        if let Err(refusal) = self.try_send(node, recipients, message_id) {
            panic!("{node} refuses {message_id}: {refusal}");
        }
    }

    /// The same, where the node may refuse. The queue identifier, or what it says then.
    pub fn try_send(
        &self,
        node: &str,
        recipients: &[impl AsRef<str>],
        message_id: &str,
    ) -> Result<String, String> {
        self.try_send_from(node, "sender", recipients, message_id)
    }

    /// The same, from a user of [`DOMAIN`].
    pub fn try_send_from(
        &self,
        node: &str,
        sender: &str,
        recipients: &[impl AsRef<str>],
        message_id: &str,
    ) -> Result<String, String> {
        let port = self.node(node).port.expect("a node that runs");
        let mut smtp = Smtp::connect(port).map_err(|error| error.to_string())?;
        smtp.say("EHLO localhost")?;
        smtp.say(&format!("MAIL FROM:<{sender}@{DOMAIN}>"))?;
        for recipient in recipients {
            let recipient = recipient.as_ref();
            match recipient.contains('@') {
                true => smtp.say(&format!("RCPT TO:<{recipient}>"))?,
                false => smtp.say(&format!("RCPT TO:<{recipient}@{DOMAIN}>"))?,
            };
        }
        smtp.say("DATA")?;
        let taken = smtp.say(&format!(
            "Message-Id: <{message_id}>\r\nSubject: test\r\n\r\ntext\r\n."
        ))?;
        // It is taken, whatever is said now.
        let _ = smtp.say("QUIT");
        let id = taken.split(' ').nth(2);
        Ok(id.expect("250, 2.0.0, and the identifier").to_owned())
    }

    /// The messages in a group's queue, by recipients. The default group is
    /// `default`.
    pub fn queued(&self, group: &str) -> Vec<Queued> {
        let directory = self.queues().join(group.strip_suffix("group").unwrap_or(group));
        let mut queued: Vec<Queued> = fs::read_dir(directory)
            .expect("list the queue")
            .filter_map(|entry| {
                let entry = entry.expect("list the queue");
                let id = entry.file_name().into_string().expect("a name in UTF-8");
                let id = id.strip_prefix("qf")?.to_owned();
                // It may be gone since.
                let text = fs::read(entry.path()).ok()?;
                // Macros are stored as single bytes above 127.
                let text = String::from_utf8_lossy(&text);
                Some(Queued {
                    id,
                    message_id: text.lines().find_map(message_id).unwrap_or_default(),
                    recipients: text.lines().filter_map(queued_recipient).collect(),
                })
            })
            .collect();
        queued.sort_by(|a, b| (&a.recipients, &a.id).cmp(&(&b.recipients, &b.id)));
        queued
    }

    /// The recipients of all that is in a group's queue, without their domain, in
    /// order.
    pub fn queued_users(&self, group: &str) -> Vec<String> {
        let domain = format!("@{DOMAIN}");
        let queued = self.queued(group);
        let mut users: Vec<String> = queued
            .into_iter()
            .flat_map(|queued| queued.recipients)
            .map(|user| user.strip_suffix(&domain).unwrap_or(&user).to_owned())
            .collect();
        users.sort();
        users
    }

    /// The command that runs a group's queue once on a node, and waits until that is
    /// done. Arguments such as `-qI...` can follow.
    pub fn queue_run(&self, node: &str, group: &str) -> Command {
        let mut command = self.command(node);
        command.arg("-qf").arg(format!("-qG{group}")).stdin(Stdio::null());
        command
    }

    /// Runs a group's queue once on a node.
    pub fn run_queue(&self, node: &str, group: &str) -> Output {
        run_well(&mut self.queue_run(node, group), b"")
    }

    /// What the local mailer has delivered, in order.
    pub fn delivered(&self) -> Vec<Delivered> {
        let mut delivered: Vec<Delivered> = fs::read_dir(self.path("delivered"))
            .expect("list what is delivered")
            .map(|entry| {
                let path = entry.expect("list what is delivered").path();
                let text = fs::read_to_string(path).expect("read a file");
                let [recipient, message_id, node] = text.trim_end().split('\t').collect::<Vec<_>>()[..]
                else {
                    panic!("the mailer wrote {text:?}");
                };
                Delivered {
                    recipient: recipient.into(),
                    message_id: message_id.into(),
                    node: node.into(),
                }
            })
            .collect();
        delivered.sort();
        delivered
    }

    /// The recipients of all that is delivered, in order.
    pub fn delivered_users(&self) -> Vec<String> {
        let delivered = self.delivered().into_iter();
        delivered.map(|delivered| delivered.recipient).collect()
    }

    /// Lets deliveries fail for now, by one node or to one user, or no longer.
    pub fn fail(&self, node_or_user: &str, fail: bool) {
        self.set_flag("tempfail", node_or_user, fail);
    }

    /// Lets deliveries to a user fail for good, or no longer.
    pub fn refuse(&self, user: &str, refuse: bool) {
        self.set_flag("refuse", user, refuse);
    }

    /// Lets deliveries by one node or to one user stand still, or no longer.
    pub fn hold(&self, node_or_user: &str, hold: bool) {
        self.set_flag("hold", node_or_user, hold);
    }

    /// The nodes and users for whom a delivery stands still, in order.
    pub fn held(&self) -> Vec<String> {
        let mut held: Vec<String> = fs::read_dir(self.path("held"))
            .expect("list what is held")
            .map(|entry| {
                let name = entry.expect("list what is held").file_name();
                name.into_string().expect("a name in UTF-8")
            })
            .collect();
        held.sort();
        held
    }

    /// Waits until a delivery stands still.
    pub fn wait_until_held(&self, node_or_user: &str) {
        self.wait_until_so_many_held(node_or_user, 1);
    }

    /// Waits until so many deliveries stand still.
    pub fn wait_until_so_many_held(&self, node_or_user: &str, count: usize) {
        let held = self.path("held").join(node_or_user);
        wait_for(&format!("{count} deliveries held for {node_or_user}"), || {
            fs::read_to_string(&held).is_ok_and(|processes| processes.lines().count() >= count)
        });
    }

    /// What the rule set `queuegroup` answers for each user.
    pub fn rule_set_groups(&self, users: &[impl AsRef<str>]) -> Vec<Option<String>> {
        let node = self.nodes.values().next().expect("a node");
        node.sendmail.rule_set_groups(users)
    }

    /// The command that runs a node's sendmail, as a configuration has it. Arguments can
    /// follow.
    pub fn words(&self, node: &str) -> Vec<String> {
        let words = self.node(node).sendmail.words().into_iter();
        words.map(|word| word.into_string().expect("UTF-8")).collect()
    }

    /// Gives a node's host another name, as sendmail sees it.
    pub fn name_host(&self, node: &str, name: &str) {
        self.node(node).sendmail.name_host(name);
    }

    /// The same, to run.
    pub fn command(&self, node: &str) -> Command {
        self.node(node).sendmail.command()
    }

    fn node(&self, node: &str) -> &Node {
        &self.nodes[node]
    }

    fn node_mut(&mut self, node: &str) -> &mut Node {
        self.nodes.get_mut(node).expect("a node")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn make_directory(&self, name: &str) {
        fs::create_dir(self.path(name)).expect("make a directory");
        fs::set_permissions(self.path(name), Permissions::from_mode(0o700)).expect("change its mode");
    }

    fn set_flag(&self, kind: &str, name: &str, on: bool) {
        let flag = self.path(kind).join(name);
        match on {
            true => fs::write(flag, "").expect("make a flag"),
            false => fs::remove_file(flag).expect("remove a flag"),
        }
    }

    /// The example for a node, moved into the folder.
    fn mc(&self, node: &str, queue_groups: &str) -> String {
        let folder = self.folder.path().to_str().expect("a path in UTF-8");
        let mut text = String::new();
        for line in CLUSTER_MC.lines().filter(|line| !line.starts_with("QUEUE_GROUP")) {
            if line.starts_with("MAILER(`local')") {
                text += queue_groups;
                text += &self.private_settings(folder, node);
            }
            let line = line
                .replace("FEATURE(`mailaffinity'", &format!("FEATURE(`{}'", feature()))
                .replace("/mnt/gfs2/mqueue/", &format!("{folder}/queue/"))
                .replace(
                    "hash -T<TMPF> /etc/mail/access",
                    &format!("{} -T<TMPF> {folder}/access", maps::kind()),
                );
            text += &line;
            text.push('\n');
        }
        text
    }

    /// What keeps a node in the folder, away from the network, and at work on a
    /// loaded machine.
    fn private_settings(&self, folder: &str, node: &str) -> String {
        let mut text = String::new();
        for (name, value) in [
            ("confCW_FILE", format!("{folder}/local-host-names")),
            ("ALIAS_FILE", format!("{folder}/aliases")),
            ("HELP_FILE", format!("{folder}/helpfile")),
            ("STATUS_FILE", format!("{folder}/{node}/statistics")),
            ("confPID_FILE", format!("{folder}/{node}/pid")),
            ("confCONTROL_SOCKET_NAME", format!("{folder}/{node}/control")),
            ("confSERVICE_SWITCH_FILE", format!("{folder}/service.switch")),
            ("confDEAD_LETTER_DROP", format!("{folder}/{node}/dead.letter")),
            ("confFORWARD_PATH", format!("{folder}/forward.$u")),
            // An ordinary user may not do all that a test needs, unless trusted.
            ("confTRUSTED_USER", user()),
            ("confDOMAIN_NAME", format!("{node}.example.org")),
            ("confDONT_PROBE_INTERFACES", "True".into()),
            ("confTO_IDENT", "0".into()),
            // A low load average is nothing to depend on.
            ("confQUEUE_LA", "1000".into()),
            ("confREFUSE_LA", "1000".into()),
            ("confDELAY_LA", "0".into()),
            // The target directory, and those above it, may be ones that a group can
            // write. sendmail has an option of their own for maps.
            (
                "confDONT_BLAME_SENDMAIL",
                "GroupWritableDirPathSafe,MapInUnsafeDirPath".into(),
            ),
            ("LOCAL_MAILER_PATH", "/bin/sh".into()),
            (
                "LOCAL_MAILER_ARGS",
                format!("sh {folder}/{node}/deliver {folder} {node} $u"),
            ),
        ] {
            text += &format!("define(`{name}', `{value}')dnl\n");
        }
        // Without w, users need no account.
        text += "MODIFY_MAILER_FLAGS(`LOCAL', `-w')dnl\nFEATURE(`nocanonify')dnl\n";
        text += "FEATURE(`accept_unresolvable_domains')dnl\n";
        text
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        kill_all(self.folder.path());
    }
}

const CLUSTER_MC: &str = include_str!("../../dist/sendmail/cluster.mc");

/// The local mailer. Its arguments: the folder, the node, the recipient. It reads
/// all of the message, and a delivery is seen as a whole or not at all.
const DELIVER: &str = r#"set -eu
id=$(sed -n 's/^Message-Id: <\(.*\)>$/\1/ip' | { head -n 1; cat >/dev/null; })
for name in "$2" "$3"; do
    if [ -e "$1/hold/$name" ]; then
        echo $$ >>"$1/held/$name"
        while [ -e "$1/hold/$name" ]; do sleep 0.02; done
        rm -f "$1/held/$name"
    fi
    [ ! -e "$1/tempfail/$name" ] || exit 75
    [ ! -e "$1/refuse/$name" ] || exit 67
done
file=$(mktemp "$1/delivering/$$.XXXXXXXXXX")
printf '%s\t%s\t%s\n' "$3" "$id" "$2" >"$file"
mv "$file" "$1/delivered/"
"#;

fn message_id(line: &str) -> Option<String> {
    let id = line.split_once("Message-Id: <")?.1;
    Some(id.trim_end_matches('>').to_owned())
}

/// A line of a queue file that is a recipient: `RPFD:<user@example.org>`.
fn queued_recipient(line: &str) -> Option<String> {
    let (_, recipient) = line.strip_prefix('R')?.split_once(':')?;
    Some(recipient.trim_start_matches('<').trim_end_matches('>').to_owned())
}

/// A conversation with a node.
struct Smtp(BufReader<TcpStream>);

impl Smtp {
    fn connect(port: u16) -> io::Result<Smtp> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        let mut smtp = Smtp(BufReader::new(stream));
        let greeting = smtp.reply()?;
        match greeting.starts_with("220 ") {
            true => Ok(smtp),
            false => Err(io::Error::other(greeting)),
        }
    }

    /// Gives a command or a text. The reply; or it, or what is wrong, where it is not taken.
    fn say(&mut self, command: &str) -> Result<String, String> {
        let reply = self
            .0
            .get_mut()
            .write_all(format!("{command}\r\n").as_bytes())
            .and_then(|()| self.reply())
            .map_err(|error| format!("{command}: {error}"))?;
        match reply.starts_with(['2', '3']) {
            true => Ok(reply),
            false => Err(reply),
        }
    }

    /// The last line of a reply.
    fn reply(&mut self) -> io::Result<String> {
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(line);
            }
        }
    }
}

/// Waits until something is so.
pub fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < DEADLINE, "waited for {what}");
        thread::sleep(POLL_INTERVAL);
    }
}

/// Ends all processes whose program, or whose arguments, are below `folder`.
/// sendmail's own lead sessions of their own, and rewrite their arguments.
fn kill_all(folder: &Path) {
    let begun = Instant::now();
    loop {
        let found = processes(folder);
        if found.is_empty() || begun.elapsed() > DEADLINE {
            return;
        }
        // The shell's own: the program of this name is not everywhere.
        let _ = Command::new("sh")
            .args(["-c", "kill -9 \"$@\"", "kill"])
            .args(found)
            .stderr(Stdio::null())
            .status();
        thread::sleep(POLL_INTERVAL);
    }
}

pub fn processes(folder: &Path) -> Vec<String> {
    let below = format!("{}/", folder.display());
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let id = entry.file_name().into_string().ok()?;
            id.bytes()
                .all(|byte| byte.is_ascii_digit())
                .then_some(())
                .filter(|()| id != std::process::id().to_string())?;
            let by_program = fs::read_link(entry.path().join("exe")).is_ok_and(|exe| exe.starts_with(folder));
            let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let by_arguments = String::from_utf8_lossy(&arguments).contains(&below);
            (by_program || by_arguments).then_some(id)
        })
        .collect()
}

/// The name of the user that runs the test.
fn user() -> String {
    let output = run_well(Command::new("id").arg("-un"), b"");
    let name = String::from_utf8(output.stdout).expect("a name in UTF-8");
    name.trim_end().to_owned()
}

/// The first of the programs that is installed.
pub fn program(names: &[&str], package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/bin".into()])
        .flat_map(|directory| names.iter().map(move |name| directory.join(name)))
        .find(|program| program.is_file())
        .unwrap_or_else(|| panic!("these tests need {names:?}: install {package}"))
}

/// Runs a program with `input` as its standard input, which may be large.
pub fn run(command: &mut Command, input: &[u8]) -> Output {
    let mut file = tempfile::tempfile_in(crate::built::tmp()).expect("a file for input");
    file.write_all(input).expect("write the input");
    file.rewind().expect("rewind the input");
    command
        .stdin(Stdio::from(file))
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

pub fn run_well(command: &mut Command, input: &[u8]) -> Output {
    let output = run(command, input);
    assert!(output.status.success(), "{command:?}: {output:?}");
    output
}
