//! Machines of a mail cluster, each with a Debian 13 and its Dovecot 2.4, on one network.
//!
//! A machine is namespaces of its own: network, mounts, processes, name. It has the Debian
//! system that `make dovecot-2.4` makes, to change as it likes, with the Lua module and
//! Dovecot's files of this checkout as `make install-lua` installs them. What a cluster has
//! in common is in [`SHARED`], as on a file system that all mount: mail, the configuration of
//! mailaffinity and its node state, certificates, names. The test is a machine of that
//! network too, at [`test_address`], and its folder for files ([`built::tmp`]) is on all by its
//! own path.
//!
//! Only root can have them: a test starts as
//!
//! ```ignore
//! #[test]
//! #[ignore = "as root"]
//! fn something_as_root() {
//!     namespace::run_with_network("module::something_as_root", || {
//!         let network = Network::new();
//!         network.configure(Configuration::of_three_nodes(NETWORK));
//!         let node = network.start("node1", 1);
//!         node.start_dovecot("mail_max_userip_connections = 5\n");
//!         ...
//! ```

use std::env;
use std::fmt::Display;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::built;
use crate::dovecot::Dovecot;
use crate::namespace::mount;
use crate::sendmail::run_well;

/// Machine N is at `NETWORK`.N.
pub const NETWORK: &str = "10.24.0";

/// Where each machine has what all have in common.
pub const SHARED: &str = "/srv/cluster";

/// Of all machines and users.
pub const DOMAIN: &str = "example.org";

/// Of every user, where [`AUTHENTICATION`] says who may log in.
pub const PASSWORD: &str = "secret";

/// What is in place of Debian's conf.d/10-auth.conf, which has PAM and the system's users:
/// everybody has a password and a mailbox.
pub const AUTHENTICATION: &str = "
passdb static {
  password = secret
}
userdb static {
}
";

/// Far more than anything here takes: reached only when something hangs.
const DEADLINE: Duration = Duration::from_secs(60);

const POLL_INTERVAL: Duration = Duration::from_millis(20);

const NUMBER_OF_TEST: u8 = 254;
const NUMBER_OF_RELAY: u8 = 253;
/// Of the bridge, whose other ends the machines' links are.
const BRIDGE: &str = "cluster";
const CONFIGURATION: &str = "/etc/dovecot/local.conf";
const LOG: &str = "/var/log/dovecot.log";

/// The address of a machine.
pub fn address(number: u8) -> IpAddr {
    Ipv4Addr::new(10, 24, 0, number).into()
}

/// Its other address.
pub fn address_6(number: u8) -> IpAddr {
    Ipv6Addr::new(0xfd00, 0x24, 0, 0, 0, 0, 0, number.into()).into()
}

/// Where the test itself is.
pub fn test_address() -> IpAddr {
    address(NUMBER_OF_TEST)
}

/// The network, and what its machines have in common.
pub struct Network {
    folder: PathBuf,
}

impl Network {
    /// A network without machines, to be made in a namespace of the test's own
    /// ([`run_with_network`](crate::namespace::run_with_network)), which it ends with.
    pub fn new() -> Network {
        let folder = built::tmp();
        // Quick, and gone with the namespace.
        mount(&["-t", "tmpfs", "-o", "mode=755", "tmpfs"], &folder);
        let network = Network { folder };
        for folder in ["installed/etc", "shared/tls", "shared/mail"] {
            fs::create_dir_all(network.folder.join(folder)).expect("a folder");
        }
        fs::set_permissions(network.shared("mail"), Permissions::from_mode(0o777)).expect("change a mode");
        let names = "127.0.0.1 localhost\n::1 localhost\n";
        fs::write(network.shared("hosts"), names).expect("write the names");
        for name in ["mailaffinity.toml", "hosts"] {
            let link = network.folder.join("installed/etc").join(name);
            symlink(Path::new(SHARED).join(name), link).expect("a link");
        }
        network.install();
        network.certify("ca", &[]);
        ip(&["link", "set", "lo", "up"]);
        ip(&["link", "add", BRIDGE, "type", "bridge", "mcast_snooping", "0"]);
        let (four, six) = (test_address(), address_6(NUMBER_OF_TEST));
        ip(&["address", "add", &format!("{four}/24"), "dev", BRIDGE]);
        ip(&["address", "add", &format!("{six}/64"), "dev", BRIDGE, "nodad"]);
        ip(&["link", "set", BRIDGE, "up"]);
        network
    }

    /// The Lua module, and what goes with it, as the package for Debian has them.
    fn install(&self) {
        let mut make = Command::new("make");
        make.args(["--silent", "install-lua", "PREFIX=/usr"])
            .arg(format!("LIBDIR=/usr/lib/{}-linux-gnu", env::consts::ARCH))
            .arg(format!("DESTDIR={}", self.folder.join("installed").display()))
            .env("CARGO", built::cargo())
            .env_remove("MAKEFLAGS")
            .current_dir(built::root());
        run_well(&mut make, b"");
    }

    /// Makes a key and a certificate for a machine with these names, signed by that of `ca`.
    fn certify(&self, machine: &str, names: &[String]) {
        let file = |name: &str, kind: &str| self.shared("tls").join(format!("{name}.{kind}"));
        let mut openssl = Command::new("openssl");
        openssl
            .args(["req", "-x509", "-nodes", "-days", "2", "-newkey", "ec"])
            .args(["-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj"])
            .arg(format!("/CN={machine}"))
            .arg("-keyout")
            .arg(file(machine, "key"))
            .arg("-out")
            .arg(file(machine, "pem"));
        if !names.is_empty() {
            openssl.arg("-CA").arg(file("ca", "pem"));
            openssl.arg("-CAkey").arg(file("ca", "key"));
            openssl
                .arg("-addext")
                .arg(format!("subjectAltName={}", names.join(",")));
            openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
        }
        run_well(&mut openssl, b"");
    }

    /// What machines have as `name` in [`SHARED`].
    pub fn shared(&self, name: &str) -> PathBuf {
        self.folder.join("shared").join(name)
    }

    /// Replaces a file in [`SHARED`] in one step.
    pub fn replace(&self, name: &str, text: impl Display) {
        let new = self.shared(&format!("{name}.new"));
        fs::write(&new, text.to_string()).expect("write a file");
        fs::rename(new, self.shared(name)).expect("rename a file");
    }

    /// Gives all machines this configuration of mailaffinity, with a common node state
    /// ([`mark`](Network::mark)).
    pub fn configure(&self, configuration: impl Display) {
        let node_state = Path::new(SHARED).join("nodes.toml");
        let text = format!("node_state = {node_state:?}\n{configuration}");
        self.replace("mailaffinity.toml", text);
    }

    /// Replaces the node state.
    pub fn mark(&self, node_state: &str) {
        self.replace("nodes.toml", node_state);
    }

    /// Starts a machine, on which nothing runs yet. Its name in [`DOMAIN`] is `name`. One of
    /// this name and number may have been there before.
    pub fn start(&self, name: &str, number: u8) -> Machine {
        let host = format!("{name}.{DOMAIN}");
        let (four, six) = (address(number), address_6(number));
        self.certify(
            name,
            &[format!("DNS:{host}"), format!("IP:{four}"), format!("IP:{six}")],
        );
        let hosts = OpenOptions::new().append(true).open(self.shared("hosts"));
        writeln!(
            hosts.expect("the file of names"),
            "{four} {host} {name}\n{six} {host} {name}"
        )
        .expect("write the names");

        let root = self.root_of(name);
        let (init, pid) = boot(&root, &host);
        // As before, if there was one: the others remember it.
        let hardware = format!("02:00:00:00:00:{number:02x}");
        let end = ["name", "eth0", "address", &hardware, "netns", &pid];
        ip(&[&["link", "add", name, "type", "veth", "peer"], &end[..]].concat());
        ip(&["link", "set", name, "master", BRIDGE, "up"]);
        let inside = |arguments: &[&str]| {
            let net = ["--target", &pid, "--net", "ip"];
            run_well(Command::new("nsenter").args(net).args(arguments), b"");
        };
        inside(&["address", "add", &format!("{four}/24"), "dev", "eth0"]);
        inside(&["address", "add", &format!("{six}/64"), "dev", "eth0", "nodad"]);
        inside(&["link", "set", "eth0", "up"]);
        let machine = Machine {
            name: name.to_owned(),
            number,
            root,
            init,
            pid,
        };
        machine.write("/etc/dovecot/conf.d/10-auth.conf", AUTHENTICATION);
        machine
    }

    /// Starts the machine that Dovecot's submission relays to: without one, nobody can log in
    /// there. What it takes is discarded.
    pub fn start_relay(&self) -> Machine {
        let relay = self.start("relay", NUMBER_OF_RELAY);
        let main = format!(
            "compatibility_level = 3.9
mynetworks = {NETWORK}.0/24
mydestination =
default_transport = discard
maillog_file = /var/log/postfix.log
"
        );
        relay.write("/etc/postfix/main.cf", &main);
        relay.start("postfix", &["start"]);
        relay
    }

    /// The Debian system, what is installed in it, and what the machine changes.
    fn root_of(&self, name: &str) -> PathBuf {
        let debian = built::beside("dovecot-2.4");
        assert!(
            debian.join("packages").exists(),
            "there is no Debian 13 in {debian:?}: \"make dovecot-2.4\" makes one, as root"
        );
        // Another one of this name may have been there.
        let machine = TempDir::with_prefix_in(name, &self.folder)
            .expect("a folder")
            .keep();
        fs::set_permissions(&machine, Permissions::from_mode(0o755)).expect("change a mode");
        let [root, upper, work] = ["root", "upper", "work"].map(|folder| machine.join(folder));
        for folder in [&root, &upper, &work] {
            fs::create_dir_all(folder).expect("a folder");
        }
        // Longer paths than this one would be more than mount takes.
        let layers = format!(
            "lowerdir={}:{},upperdir={},workdir={}",
            self.folder.join("installed").display(),
            debian.display(),
            upper.display(),
            work.display()
        );
        mount(&["-t", "overlay", "-o", &layers, "overlay"], &root);
        let bind = |folder: &Path, place: &Path| {
            let place = root.join(place.strip_prefix("/").expect("an absolute path"));
            fs::create_dir_all(&place).expect("a folder");
            mount(&["--bind", folder.to_str().expect("a path in UTF-8")], &place);
        };
        bind(&self.shared(""), SHARED.as_ref());
        bind(&self.folder, &self.folder);
        root
    }
}

/// Starts a machine's first process, which does nothing. Its number is what namespaces are
/// entered by.
fn boot(root: &Path, host: &str) -> (Child, String) {
    let mut init = Command::new(built::root().join("tests/root.sh"))
        .arg("run")
        .arg(root)
        // With the command mailaffinity.
        .arg(built::profile_folder())
        .envs([("network", "--net"), ("hostname", host)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("run tests/root.sh");
    let mut stdin = init.stdin.take().expect("a pipe");
    stdin
        .write_all(b"echo runs\nexec sleep infinity </dev/null >/dev/null 2>&1\n")
        .expect("sh reads");
    drop(stdin);
    let mut line = String::new();
    let stdout = init.stdout.take().expect("a pipe");
    BufReader::new(stdout).read_line(&mut line).expect("sh writes");
    assert_eq!(line, "runs\n", "no machine in {root:?}");
    // tests/root.sh, unshare, and it.
    let child_of = |pid: String| {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        children.expect("the kernel lists children").trim().to_owned()
    };
    let pid = child_of(child_of(init.id().to_string()));
    (init, pid)
}

/// A machine. It is gone when it is dropped.
pub struct Machine {
    name: String,
    number: u8,
    root: PathBuf,
    init: Child,
    pid: String,
}

impl Machine {
    /// What the test calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn number(&self) -> u8 {
        self.number
    }

    pub fn address(&self) -> IpAddr {
        address(self.number)
    }

    pub fn address_6(&self) -> IpAddr {
        address_6(self.number)
    }

    /// A file of the machine, for the test. The path is absolute.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Writes a file of the machine, which is no link: that would lead the test elsewhere.
    pub fn write(&self, path: &str, text: &str) {
        fs::write(self.path(path), text).expect("write a file of a machine");
    }

    /// A program, to be run as the machine's root.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args([
                "--target", &self.pid, "--mount", "--uts", "--ipc", "--net", "--pid",
            ])
            .args(["--root", "--wd", "env", "-i", "LC_ALL=C.UTF-8"])
            .arg("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .arg(program);
        command
    }

    /// Runs a program as the machine's root, which must succeed.
    #[track_caller]
    pub fn run(&self, program: &str, arguments: &[&str]) -> Output {
        run_well(self.command(program).args(arguments), b"")
    }

    /// Runs a program that leaves a daemon behind, which must succeed.
    #[track_caller]
    pub fn start(&self, program: &str, arguments: &[&str]) {
        // The daemon may keep it open: no pipe.
        let path = self.path("/tmp/output");
        let output = File::create(&path).expect("a file");
        let mut command = self.command(program);
        command.args(arguments).stdin(Stdio::null());
        command
            .stdout(output.try_clone().expect("share the file"))
            .stderr(output);
        let status = command.status().expect("run nsenter");
        let said = fs::read_to_string(path).expect("text");
        assert!(status.success(), "{}: {program}: {said}{}", self.name, self.log());
    }

    /// Runs doveadm, which must succeed: what it prints.
    #[track_caller]
    pub fn doveadm(&self, arguments: &[&str]) -> String {
        String::from_utf8(self.run("doveadm", arguments).stdout).expect("text")
    }

    /// Starts Dovecot. Debian's configuration is in force, and local.conf, which has what
    /// every test needs and then these lines.
    #[track_caller]
    pub fn start_dovecot(&self, lines: &str) {
        self.configure(lines);
        self.start("dovecot", &[]);
    }

    /// Starts a Dovecot 2.3 that is on this machine's network, and otherwise where the test is,
    /// with these settings, given a folder for files.
    pub fn start_dovecot_2_3(&self, settings: impl FnOnce(&Path) -> String) -> Dovecot {
        let there = |command: Command| {
            let mut nsenter = Command::new("nsenter");
            nsenter.args(["--target", &self.pid, "--net"]);
            nsenter.arg(command.get_program()).args(command.get_args());
            let changed = command.get_envs();
            nsenter.envs(changed.filter_map(|(key, value)| Some((key, value?))));
            if let Some(folder) = command.get_current_dir() {
                nsenter.current_dir(folder);
            }
            nsenter
        };
        Dovecot::start_2_3(there, settings)
    }

    /// Changes the lines of [`start_dovecot`](Machine::start_dovecot).
    pub fn configure(&self, lines: &str) {
        let name = &self.name;
        let relay = address(NUMBER_OF_RELAY);
        self.write(
            CONFIGURATION,
            &format!(
                "log_path = {LOG}
auth_allow_cleartext = yes
ssl_server_cert_file = {SHARED}/tls/{name}.pem
ssl_server_key_file = {SHARED}/tls/{name}.key
ssl_client_ca_file = {SHARED}/tls/ca.pem
mail_driver = maildir
mail_home = {SHARED}/mail/%{{user}}
mail_path = ~/Maildir
mail_inbox_path = ~/Maildir
mail_uid = mail
mail_gid = mail
first_valid_uid = 1
submission_relay_host = {relay}
service lmtp {{
  inet_listener lmtp {{
    port = 24
  }}
}}
{lines}"
            ),
        );
    }

    /// Where Dovecot logs. It outlives the machine.
    pub fn log_file(&self) -> PathBuf {
        self.path(LOG)
    }

    /// What Dovecot logged so far.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.log_file()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until Dovecot has logged these words.
    #[track_caller]
    pub fn wait_for_log(&self, words: &str) {
        let begun = Instant::now();
        while !self.log().contains(words) {
            assert!(
                begun.elapsed() < DEADLINE,
                "{}: no {words:?}: {}",
                self.name,
                self.log()
            );
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Ends all its processes but the first, as when all services crash: the kernel goes on, and
    /// refuses connections.
    pub fn kill(&self) {
        self.run("sh", &["-c", "kill -KILL -1"]);
    }

    /// Starts Dovecot again, which was killed.
    #[track_caller]
    pub fn start_again(&self) {
        // The killed one is still there, for nobody has waited for it.
        self.run("rm", &["-f", "/run/dovecot/master.pid"]);
        self.start("dovecot", &[]);
    }

    /// Lets all its processes stand still, as on a machine that hangs: the kernel goes on to
    /// accept connections.
    pub fn hang(&self) {
        self.run("sh", &["-c", "kill -STOP -1"]);
    }

    /// Lets them go on.
    pub fn go_on(&self) {
        self.run("sh", &["-c", "kill -CONT -1"]);
    }

    /// Cuts it off from the network: nothing answers, and nobody is told.
    pub fn cut_off(&self) {
        ip(&["link", "set", &self.name, "down"]);
    }

    /// Ends that.
    pub fn connect(&self) {
        ip(&["link", "set", &self.name, "up"]);
    }

    /// Slows down what is sent to it to so many bits a second; more than that waits for up to two
    /// seconds, or is lost.
    pub fn slow_down(&self, rate: u32) {
        let rate = rate.to_string();
        let limits = ["rate", &rate, "burst", "3000", "latency", "2s"];
        run_well(
            Command::new("tc")
                .args(["qdisc", "add", "dev", &self.name, "root", "tbf"])
                .args(limits),
            b"",
        );
    }

    /// Ends that.
    pub fn speed_up(&self) {
        run_well(
            Command::new("tc").args(["qdisc", "delete", "dev", &self.name, "root"]),
            b"",
        );
    }
}

impl Drop for Machine {
    /// All its processes die with the first, and its link goes.
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}: {}", self.name, self.log());
        }
        let _ = Command::new("kill").args(["-KILL", &self.pid]).status();
        let _ = self.init.wait();
        // The kernel would do so some time later.
        let _ = Command::new("ip").args(["link", "delete", &self.name]).output();
    }
}

#[track_caller]
fn ip(arguments: &[&str]) {
    run_well(Command::new("ip").args(arguments), b"");
}
