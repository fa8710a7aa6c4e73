//! What root writes, in folders that somebody else owns, as `smmta` owns Debian's `/etc/mail`:
//! links of every kind, and a process of the owner that swaps names while updates run.
//!
//! Only root can be attacked so. What an ordinary user can try is tried as one.

use std::fs;
use std::os::unix::fs::{chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::site::{ADMINISTRATORS, Site, Stamp, assert_fails, set_mode};

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
    // One of another use that was given the name, with no more rights than ours.
    let keys = left("keys");
    fs::create_dir(&keys).unwrap();
    set_mode(&keys, 0o700);
    fs::write(keys.join("private.key"), "").unwrap();
    let ours = left("ours");
    fs::create_dir(&ours).unwrap();
    set_mode(&ours, 0o700);
    symlink(&bait.file, ours.join("access")).unwrap();
    site.update();
    bait.assert_untouched();
    assert!(left("link").is_symlink());
    assert!(of_others.join("access").exists());
    assert!(keys.join("private.key").exists());
    assert!(!ours.exists());
}

/// Runs a Perl program as another user in a folder that is this user's, and updates until it
/// has ended by itself.
fn attack(program: &str) {
    let site = Site::hash();
    let bait = Bait::new(&site);
    let etc = site.path("etc");
    chown(&etc, Some(OTHER), Some(OTHER)).unwrap();
    let ids = [format!("--reuid={OTHER}"), format!("--regid={OTHER}")];
    let mut attacker = Command::new("setpriv")
        .args(ids)
        .args(["--clear-groups", "perl", "-e", program])
        .arg(&bait.file)
        .current_dir(&etc)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut codes = std::collections::BTreeMap::new();
    for run in 0.. {
        let state = support::configuration::node_state([&[][..], &["node2"]][run % 2]);
        site.write("lib/nodes.toml", state.as_bytes());
        let output = site.run(&["update"]);
        *codes.entry(output.status.code()).or_insert(0) += 1;
        bait.assert_untouched();
        if attacker.try_wait().unwrap().is_some() {
            break;
        }
    }
    let said = std::io::read_to_string(attacker.stdout.take().unwrap()).unwrap();
    // With the owner at rest, all is as ever.
    chown(&etc, Some(0), Some(0)).unwrap();
    for name in fs::read_dir(&etc).unwrap() {
        let path = name.unwrap().path();
        let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
    }
    site.write("etc/access", ADMINISTRATORS);
    site.update();
    site.assert_agrees();
    println!("{codes:?} {said}");
}

/// Another folder takes the place of the one in which the new files are made, sooner or later,
/// with links of their names.
#[test]
#[ignore = "as root"]
fn folders_that_are_swapped_lead_nowhere_as_root() {
    attack(
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
    attack(
        r#"
        my ($bait) = @ARGV;
        my $round = 0;
        while ($round < 5000) {
            my $name = ('access', 'access.db', '.access.lock')[++$round % 3];
            symlink $bait, 'link' or die;
            my $there = rename $name, 'real';
            rename 'link', $name or die;
            select undef, undef, undef, 0.0001 if $round % 7 == 0;
            $there ? rename 'real', $name : unlink $name;
            select undef, undef, undef, 0.001 * ($round % 5);
        }
        print "$round links";
        "#,
    );
}
