//! Tests with mounts of their own, or more.

use std::path::Path;
use std::process::Command;

use crate::dovecot::id;
use crate::sendmail::run_well;

const INSIDE: &str = "MAILAFFINITY_TEST_NAMESPACE";

/// Runs a test, by its full name, in a mount namespace of its own, in which it may mount
/// what it likes: it is run once more in there, and `body` then.
pub fn run(test: &str, body: impl FnOnce()) {
    run_in(test, &[], body);
}

/// The same, with a network of its own too, and what the test started ends with it.
pub fn run_with_network(test: &str, body: impl FnOnce()) {
    let more = ["--net", "--pid", "--fork", "--kill-child", "--mount-proc"];
    run_in(test, &more, body);
}

fn run_in(test: &str, more: &[&str], body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let mut command = Command::new("unshare");
    if id("-u") != "0" {
        command.args(["--user", "--map-root-user"]);
    }
    let output = command
        .arg("--mount")
        .args(more)
        .arg(std::env::current_exe().expect("the test's own path"))
        .args(["--exact", test, "--nocapture", "--include-ignored"])
        .env(INSIDE, "")
        .output()
        .expect("unshare, of util-linux, runs");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && stdout.contains("test result: ok. 1 passed"),
        "this test needs a mount namespace (root, or user namespaces for all):\n{stdout}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    println!("{stdout}");
}

/// Mounts something, which goes with the namespace.
pub fn mount(arguments: &[&str], target: &Path) {
    run_well(Command::new("mount").args(arguments).arg(target), b"");
}
