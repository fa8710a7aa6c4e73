//! What root writes, in folders that somebody else owns, as `smmta` owns Debian's `/etc/mail`:
//! links of every kind, and a process of the owner that swaps names while updates run.
//!
//! Only root can be attacked so. What an ordinary user can try is tried as one.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown, lchown, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::process::geteuid;

use crate::site::{ADMINISTRATORS, Site, Stamp, age, assert_fails, set_mode};

/// Who owns the folder, and nothing else: Debian's `nobody`.
const OTHER: u32 = 65534;

/// What must stay as it is, and a name that nothing must get.
struct Bait {
    file: PathBuf,
    stamp: Stamp,
    nothing: PathBuf,
}

impl Bait {
    fn new(site: &Site) -> Bait {
        let folder = site.path("bait");
        fs::create_dir(&folder).unwrap();
        let file = folder.join("file");
        // All of these are read as it.
        fs::write(&file, "").unwrap();
        set_mode(&file, 0o600);
        Bait {
            stamp: Stamp::of(&file),
            file,
            nothing: folder.join("nologin"),
        }
    }

    #[track_caller]
    fn assert_untouched(&self) {
        assert_eq!(Stamp::of(&self.file), self.stamp);
        assert_eq!(fs::read_dir(self.file.parent().unwrap()).unwrap().count(), 1);
    }
}

/// Puts a link there, of another user.
fn link(to: &Path, at: &Path) {
    let _ = fs::remove_file(at);
    symlink(to, at).unwrap();
    lchown(at, Some(OTHER), Some(OTHER)).unwrap();
}

#[test]
#[ignore = "as root"]
fn links_of_others_are_not_followed_as_root() {
    let refused = |link: &Path| format!("the symbolic link {} is not followed: ", link.display());
    for (name, command, status) in [
        ("etc/access", "update", 74),
        ("etc/access.db", "update", 74),
        ("lib/nodes.toml", "down", 74),
        ("lib/status.json", "update", 0),
    ] {
        let command = match command {
            "down" => &["down", "node1"][..],
            _ => &["update"],
        };
        let site = Site::hash();
        let bait = Bait::new(&site);
        let path = site.path(name);
        let (folder, aside) = (path.parent().unwrap(), site.path("aside"));
        for target in [&bait.file, &bait.nothing] {
            // The link is another user's.
            let there = fs::rename(&path, &aside).is_ok();
            link(target, &path);
            assert_fails(&site.run(command), status, &refused(&path));
            bait.assert_untouched();

            // It is root's, as far as this is known, and its folder is not.
            lchown(&path, Some(0), Some(0)).unwrap();
            chown(folder, Some(OTHER), None).unwrap();
            assert_fails(&site.run(command), status, &refused(&path));
            chown(folder, Some(0), None).unwrap();
            bait.assert_untouched();

            // All of it is root's, but the folder that it leads to.
            let bait_folder = target.parent().unwrap();
            chown(bait_folder, Some(OTHER), None).unwrap();
            assert_fails(&site.run(command), status, &refused(&path));
            chown(bait_folder, Some(0), None).unwrap();
            bait.assert_untouched();

            // It is one by way of another.
            let second = site.path("second");
            link(target, &second);
            fs::remove_file(&path).unwrap();
            symlink(&second, &path).unwrap();
            assert_fails(&site.run(command), status, &refused(&second));
            bait.assert_untouched();

            fs::remove_file(&path).unwrap();
            if there {
                fs::rename(&aside, &path).unwrap();
            }
        }

        // The folder is one.
        fs::rename(folder, &aside).unwrap();
        link(&aside, folder);
        assert_fails(&site.run(command), status, &refused(folder));
        lchown(folder, Some(0), Some(0)).unwrap();
        site.well(command);
    }
}

#[test]
fn links_of_the_administrator_are_followed() {
    let site = Site::hash();
    fs::create_dir(site.path("real")).unwrap();
    for name in ["nodes.toml", "status.json"] {
        symlink(Path::new("../real").join(name), site.path("lib").join(name)).unwrap();
    }
    site.well(&["down", "node1"]);
    site.update();
    site.assert_agrees();
    for name in ["nodes.toml", "status.json"] {
        assert!(site.path("lib").join(name).is_symlink());
        assert!(site.path("real").join(name).is_file());
    }
    // A folder that is not there is made.
    fs::remove_dir_all(site.path("real")).unwrap();
    fs::remove_dir_all(site.path("lib")).unwrap();
    symlink("new/er", site.path("lib")).unwrap();
    site.well(&["down", "node1"]);
    assert!(site.path("new/er/nodes.toml").is_file());
}

/// Nobody has reason to put links there.
#[test]
fn locks_and_copies_are_no_links() {
    for (name, command, said) in [
        ("etc/.access.lock", "update", "cannot lock "),
        ("lib/.nodes.toml.lock", "down", "cannot lock "),
        ("lib/.status.json.lock", "update", "cannot write the status to "),
        (
            "lib/.nodes.toml.last-good.lock",
            "down",
            "cannot keep a last good copy of ",
        ),
        (
            "lib/nodes.toml.last-good",
            "down",
            "cannot keep a last good copy of ",
        ),
        (
            "mailaffinity.toml.last-good",
            "down",
            "cannot keep a last good copy of ",
        ),
    ] {
        let site = Site::hash();
        let bait = Bait::new(&site);
        let path = site.path(name);
        let command = match command {
            "down" => &["down", "node1"][..],
            _ => &["update"],
        };
        for target in [&bait.file, &bait.nothing] {
            symlink(target, &path).unwrap();
            let output = site.run(command);
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(stderr.contains(said), "{name}: {output:?}");
            assert!(stderr.contains("it is not a regular file"), "{name}: {output:?}");
            bait.assert_untouched();
            fs::remove_file(&path).unwrap();
        }
        site.well(command);
    }
}

#[test]
fn nothing_is_removed_through_what_looks_left_over() {
    let site = Site::hash();
    let bait = Bait::new(&site);
    let left = |name: &str| site.path("etc").join(format!(".access.mailaffinity-{name}"));
    symlink(bait.file.parent().unwrap(), left("link")).unwrap();
    let of_others = left("folder");
    fs::create_dir(&of_others).unwrap();
    fs::write(of_others.join("access"), "").unwrap();
    age(&of_others, 8);
    // One of another use that was given the name, with no more rights than ours.
    let keys = left("keys");
    fs::create_dir(&keys).unwrap();
    set_mode(&keys, 0o700);
    fs::write(keys.join("private.key"), "").unwrap();
    age(&keys, 8);
    let ours = left("ours");
    fs::create_dir(&ours).unwrap();
    set_mode(&ours, 0o700);
    symlink(&bait.file, ours.join("access")).unwrap();
    age(&ours.join("access"), 8);
    age(&ours, 8);
    site.update();
    bait.assert_untouched();
    assert!(left("link").is_symlink());
    assert!(of_others.join("access").exists());
    assert!(keys.join("private.key").exists());
    assert!(!ours.exists());
}

/// Runs a Perl program as another user in a folder that is this user's, while nodes go down
/// and come back, until it has ended by itself.
fn attack(folder: &str, program: &str) {
    let site = Site::hash();
    let bait = Bait::new(&site);
    let folder = site.path(folder);
    chown(&folder, Some(OTHER), Some(OTHER)).unwrap();
    let mut attacker = as_other()
        .args(["perl", "-e", program])
        .arg(&bait.file)
        .current_dir(&folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut codes = std::collections::BTreeMap::new();
    for command in [
        &["down", "node2"][..],
        &["update"],
        &["auto", "node2"],
        &["update"],
    ]
    .iter()
    .cycle()
    {
        let output = site.run(command);
        *codes.entry(output.status.code()).or_insert(0) += 1;
        bait.assert_untouched();
        if attacker.try_wait().unwrap().is_some() {
            break;
        }
    }
    let said = std::io::read_to_string(attacker.stdout.take().unwrap()).unwrap();
    // With the owner at rest, all is as ever.
    chown(&folder, Some(0), Some(0)).unwrap();
    for name in fs::read_dir(&folder).unwrap() {
        let path = name.unwrap().path();
        let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
    }
    site.write("etc/access", ADMINISTRATORS);
    site.update();
    site.assert_agrees();
    println!("{codes:?} {said}");
}

/// The start of a command line of that user.
fn as_other() -> Command {
    let mut command = Command::new("setpriv");
    command
        .args([format!("--reuid={OTHER}"), format!("--regid={OTHER}")])
        .arg("--clear-groups");
    command
}

/// Another folder takes the place of the one in which the new files are made, sooner or later,
/// with links of their names.
#[test]
#[ignore = "as root"]
fn folders_that_are_swapped_lead_nowhere_as_root() {
    attack(
        "etc",
        r#"
        my ($bait, $swapped, $round) = (@ARGV, 0, 0);
        while ($swapped < 100) {
            opendir my $folder, '.' or die;
            for my $name (grep { /^[.]access.*[.]mailaffinity-/ && !-l } readdir $folder) {
                next if $seen{$name};
                select undef, undef, undef, 0.002 * (++$round % 30) if $round % 2;
                rename $name, "aside.$round" or next;
                mkdir $name, 0777 or next;
                symlink $bait, "$name/$_" for 'access', 'access.db', 'access.db.former';
                $seen{$name} = 1;
                $swapped++;
            }
        }
        print "$swapped folders";
        "#,
    );
}

/// Links take the places of what is replaced, read and locked, for moments, thousands of times.
#[test]
#[ignore = "as root"]
fn names_that_are_swapped_lead_nowhere_as_root() {
    let names = "qw(access access.db .access.lock)";
    attack("etc", &SWAP_NAMES.replace("NAMES", names));
}

/// The same where the node state, its copy and the status are.
#[test]
#[ignore = "as root"]
fn names_of_the_state_that_are_swapped_lead_nowhere_as_root() {
    let names = "qw(nodes.toml status.json .nodes.toml.lock .status.json.lock \
        nodes.toml.last-good .nodes.toml.last-good.lock)";
    attack("lib", &SWAP_NAMES.replace("NAMES", names));
}

const SWAP_NAMES: &str = r#"
    my ($bait) = @ARGV;
    my @names = NAMES;
    my $round = 0;
    while ($round < 5000) {
        my $name = $names[++$round % @names];
        symlink $bait, 'link' or die;
        my $there = rename $name, 'real';
        rename 'link', $name or die;
        select undef, undef, undef, 0.0001 if $round % 7 == 0;
        $there ? rename 'real', $name : unlink $name;
        select undef, undef, undef, 0.001 * ($round % 5);
    }
    print "$round links";
"#;

#[test]
fn who_may_read_and_write_is_the_same_whatever_the_umask() {
    for umask in ["000", "077"] {
        let site = Site::hash();
        fs::remove_dir_all(site.path("lib")).unwrap();
        for command in [&["down", "node1"][..], &["update"]] {
            let run = site.command(command);
            let status = Command::new("sh")
                .args(["-c", "umask \"$1\"; shift; exec \"$@\"", "sh", umask])
                .arg(run.get_program())
                .args(run.get_args())
                .status()
                .unwrap();
            assert!(status.success());
        }
        for (name, mode) in [
            ("lib", 0o755),
            ("lib/nodes.toml", 0o644),
            ("lib/nodes.toml.last-good", 0o644),
            ("mailaffinity.toml.last-good", 0o644),
            ("lib/status.json", 0o644),
            ("lib/.nodes.toml.lock", 0o600),
            ("lib/.status.json.lock", 0o600),
            ("etc/.access.lock", 0o600),
        ] {
            let path = site.path(name);
            assert_eq!(Stamp::of(&path).mode & 0o7777, mode, "{name}");
        }
    }
}

/// Ends with 124 what waits for ever.
fn run_briefly(site: &Site, command: &[&str]) -> Output {
    let run = site.command(command);
    Command::new("timeout")
        .args(["60".as_ref(), run.get_program()])
        .args(run.get_args())
        .output()
        .unwrap()
}

/// Of another kind than links: pipes that nobody writes to, sockets, devices, folders, and
/// second names of a file.
#[test]
fn what_is_no_file_of_ours_keeps_nobody_waiting_and_gets_nothing() {
    let node =
        |kind| move |_: &Path, path: &Path| mknodat(CWD, path, kind, Mode::RWXU, makedev(1, 5)).unwrap();
    type Put = Box<dyn Fn(&Path, &Path)>;
    let mut kinds: Vec<Put> = vec![
        Box::new(node(FileType::Fifo)),
        Box::new(node(FileType::Socket)),
        Box::new(|_, path| fs::create_dir(path).unwrap()),
        Box::new(|bait, path| fs::hard_link(bait, path).unwrap()),
    ];
    if geteuid().is_root() {
        // That of /dev/zero.
        kinds.push(Box::new(node(FileType::CharacterDevice)));
    }
    const DOWN: &[&str] = &["down", "node1"];
    const UPDATE: &[&str] = &["update"];
    for (name, command) in [
        ("etc/access", UPDATE),
        ("etc/access.db", UPDATE),
        ("etc/.access.lock", UPDATE),
        ("lib/nodes.toml", DOWN),
        ("lib/.nodes.toml.lock", DOWN),
        ("lib/nodes.toml.last-good", DOWN),
        ("lib/.nodes.toml.last-good.lock", DOWN),
        ("lib/status.json", UPDATE),
        ("lib/.status.json.lock", UPDATE),
        ("mailaffinity.toml.last-good", DOWN),
        (".mailaffinity.toml.last-good.lock", DOWN),
    ] {
        let site = Site::hash();
        let (bait, path, aside) = (site.path("bait"), site.path(name), site.path("aside"));
        fs::write(&bait, "").unwrap();
        set_mode(&bait, 0o600);
        for (kind, put) in kinds.iter().enumerate() {
            let there = fs::rename(&path, &aside).is_ok();
            put(&bait, &path);
            let run = site.command(command);
            let briefly = Command::new("timeout")
                .args(["60".as_ref(), run.get_program()])
                .args(run.get_args())
                .output()
                .unwrap();
            assert_ne!(briefly.status.code(), Some(124), "{name} {kind} keeps it waiting");
            let after = fs::metadata(&bait).unwrap();
            assert_eq!(
                (after.len(), after.mode() & 0o7777),
                (0, 0o600),
                "{name} {kind}: {briefly:?}"
            );
            let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
            if there {
                fs::rename(&aside, &path).unwrap();
            }
        }
        site.well(command);
    }
}

/// The log has a socket, and whoever should read it does nothing.
#[test]
fn a_log_that_never_reads_stops_nothing() {
    let site = Site::hash();
    // Sockets have short paths only.
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("log");
    let _log = UnixDatagram::bind(&socket).unwrap();
    let configuration = site.configuration().access_map("hash", site.path("etc/access"));
    site.configure(configuration.set_path("syslog", &socket));
    let other = UnixDatagram::unbound().unwrap();
    other.set_nonblocking(true).unwrap();
    while other.send_to(b"more than it reads", &socket).is_ok() {}
    for down in [&["node2"][..], &[], &["node2"]] {
        let state = support::configuration::node_state(down);
        site.write("lib/nodes.toml", state.as_bytes());
        let output = run_briefly(&site, &["update"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
    site.assert_agrees();
}

/// PHP is asked as the web server's user, who looks for what root has: an environment, a
/// terminal, descriptors.
#[test]
#[ignore = "as root"]
fn what_runs_as_another_user_has_nothing_of_its_parent_as_root() {
    let site = Site::hash();
    let (found, secret) = (site.path("found"), site.path("secret"));
    fs::create_dir(&found).unwrap();
    chown(&found, Some(OTHER), Some(OTHER)).unwrap();
    fs::write(&secret, "").unwrap();
    set_mode(&secret, 0o600);
    let program = format!(
        r#"
        open my $found, '>', '{found}/new' or die;
        for my $pid ('self', getppid) {{
            open my $environment, '<', "/proc/$pid/environ" or next;
            print $found "environment of $pid\n" if join('', <$environment>) =~ /SECRET/;
        }}
        print $found "terminal\n" if open my $terminal, '+<', '/dev/tty';
        for my $number (0 .. 99) {{
            my $to = readlink "/proc/self/fd/$number" or next;
            print $found "descriptor $number of $to\n" unless $to =~ /^pipe:/ || $to eq '{found}/new';
            open my $file, '+<&=', $number or open $file, '<&=', $number or next;
            # TIOCSTI puts a byte among what was typed.
            print $found "typed\n" if defined ioctl $file, 0x5412, my $byte = 'x';
        }}
        close $found;
        rename '{found}/new', '{found}/all' or die;
        "#,
        found = found.display()
    );
    let mut php: Vec<String> = [
        "/usr/bin/setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ]
    .map(String::from)
    .into();
    php.extend(["perl", "-e", &program, "--"].map(String::from));
    let configuration = site.configuration().access_map("hash", site.path("etc/access"));
    let sendmail = vec!["/nonexistent/sendmail"];
    site.configure(
        configuration
            .set("agreement.php", php)
            .set("sendmail.command", sendmail),
    );
    site.update();
    // On a terminal of its own, and with a file open.
    let script = format!(
        "exec 7<{secret:?}; SECRET=1 {:?} --config {:?} agreement",
        *support::built::MAILAFFINITY,
        site.path("mailaffinity.toml")
    );
    let output = Command::new("script")
        .args(["--quiet", "--command", &script, "/dev/null"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let found = fs::read_to_string(found.join("all"));
    assert_eq!(found.unwrap_or_else(|error| panic!("{error}: {output:?}")), "");
}
