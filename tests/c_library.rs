//! The C library as its users meet it: header, symbols, SONAME, pkg-config file, and the
//! programs in `tests/c/`, which say what each function does.
//!
//! Every program is built through pkg-config against a prefix laid out as an installed
//! one.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use mailaffinity::files::last_good;
use support::built::{declared_functions, library};
use support::captures::{LOOKUPS, captures};
use support::sendmail::run_well;

const HEADER: &str = "include/mailaffinity.h";
const SONAME: &str = "libmailaffinity.so.0";

// Header, symbols and SONAME.

#[test]
fn the_header_belongs_to_the_sources() {
    let header = header();
    if fs::read_to_string(HEADER).unwrap() != header {
        fs::write(HEADER, header).unwrap();
        panic!("{HEADER} was out of date, and is written anew: commit it");
    }
}

/// What cbindgen makes of the sources, with short comments in one line, and none that C90
/// does not have.
fn header() -> String {
    let mut config = cbindgen::Config::from_file("cbindgen.toml").unwrap();
    config.after_includes = Some(format!(
        "\n\n/**\n * That of this header.\n */\n#define MAILAFFINITY_VERSION \"{}\"",
        env!("CARGO_PKG_VERSION")
    ));
    let mut made = Vec::new();
    cbindgen::Builder::new()
        .with_config(config)
        .with_src("src/capi/mod.rs")
        .generate()
        .unwrap()
        .write(&mut made);
    let made = String::from_utf8(made).unwrap();
    let made = made
        .replace(" // __cplusplus", "")
        .replace(" // extern \"C\"", "");
    let mut header = String::new();
    for paragraph in made.split("\n\n") {
        let lines: Vec<&str> = paragraph
            .lines()
            .map(str::trim_end)
            .skip_while(|line| line.is_empty())
            .collect();
        let (comment, rest) = match lines[..] {
            ["/**", comment, " */", ref rest @ ..] => (comment.strip_prefix(" *").unwrap(), rest),
            _ => ("", &lines[..]),
        };
        let define = rest[0]
            .strip_prefix("#define ")
            .and_then(|define| define.split_once(' '));
        if let Some((name, value)) = define {
            if ["MAILAFFINITY_VERSION", "MAILAFFINITY_OK", "MAILAFFINITY_RING"].contains(&name) {
                header += "\n";
            }
            assert!(!comment.is_empty(), "more than a line on {name}");
            header += &format!("#define {name:<36} {value:<7} /**<{comment} */\n");
            continue;
        }
        header += "\n";
        if !comment.is_empty() {
            header += &format!("/**{comment} */\n");
        }
        header += &(rest.join("\n") + "\n");
    }
    header.trim_start().to_owned()
}

fn exported() -> BTreeSet<String> {
    let listed = run(tool("nm")
        .args(["-D", "--defined-only"])
        .arg(library("libmailaffinity.so")));
    listed
        .lines()
        .map(|line| line.rsplit(' ').next().unwrap().to_owned())
        .collect()
}

#[test]
fn the_library_exports_what_the_header_declares() {
    assert_eq!(exported(), declared_functions());
}

/// Of this file Debian works out which package a program needs, and since when.
#[test]
fn the_symbols_file_has_what_the_library_exports() {
    let file = fs::read_to_string("dist/debian/libmailaffinity0.symbols").unwrap();
    let mut lines = file.lines();
    let head = format!("{SONAME} libmailaffinity{} ", SONAME.rsplit('.').next().unwrap());
    assert!(lines.next().unwrap().starts_with(&head), "{file}");
    let symbols: BTreeSet<String> = lines
        .filter(|line| !line.starts_with('*'))
        .map(|line| line.trim_start().split_once("@Base ").unwrap().0.to_owned())
        .collect();
    assert_eq!(symbols, exported());
}

#[test]
fn the_soname_has_the_number_of_the_abi() {
    let dynamic = run(tool("readelf").arg("-d").arg(library("libmailaffinity.so")));
    let soname = dynamic.lines().find(|line| line.contains("(SONAME)")).unwrap();
    assert!(soname.ends_with(&format!("[{SONAME}]")), "{soname}");
    let header = fs::read_to_string(HEADER).unwrap();
    let (_, abi) = header.split_once("#define MAILAFFINITY_ABI_VERSION ").unwrap();
    assert_eq!(
        SONAME.strip_prefix("libmailaffinity.so."),
        abi.split_whitespace().next()
    );
}

#[test]
fn every_function_of_the_header_is_called_by_a_program() {
    let programs: String = ["hashes.c", "clusters.c", "configuration.c", "site.c"]
        .map(|program| fs::read_to_string(Path::new("tests/c").join(program)).unwrap())
        .concat();
    for function in declared_functions() {
        assert!(programs.contains(&format!("{function}(")), "{function}");
    }
}

// Programs.

#[test]
fn hashes() {
    check(&SHARED.build("hashes.c"));
}

#[test]
fn clusters() {
    check(&SHARED.build("clusters.c"));
}

#[test]
fn configurations() {
    let program = SHARED.build("configuration.c");
    run(Command::new(&program).arg(configuration_folder()));
    run(valgrind(&program).arg(configuration_folder()));
}

#[test]
fn sites() {
    let program = SHARED.build("site.c");
    for mut command in [Command::new(&program), valgrind(&program)] {
        run(command.arg(fresh_folder("site")));
    }
}

#[test]
fn threads() {
    check(&SHARED.build("threads.c"));
}

#[test]
fn ansi() {
    check(&SHARED.build("ansi.c"));
}

#[test]
fn cplusplus() {
    check(&SHARED.build("cplusplus.cpp"));
}

#[test]
fn static_library() {
    let prefix = Prefix::install("static", Linkage::Static);
    for program in ["hashes.c", "threads.c"] {
        let program = prefix.build(program);
        let dynamic = run(tool("readelf").arg("-d").arg(&program));
        assert!(!dynamic.contains("[libmailaffinity"), "{dynamic}");
        check(&program);
    }
}

/// What the Director answered, byte for byte, in every state it was asked in.
#[test]
fn captured_answers_agree() {
    let program = SHARED.build("director.c");
    let mut checked = 0;
    for (name, capture) in captures() {
        let expected: Vec<&str> = capture.lines().filter(|line| !line.starts_with("# ")).collect();
        let output = run_well(&mut Command::new(&program), capture.as_bytes());
        let answers = String::from_utf8(output.stdout).unwrap();
        for (answer, expected) in answers.lines().zip(&expected) {
            assert_eq!(answer, *expected, "{name}");
        }
        assert_eq!(answers.lines().count(), expected.len(), "{name}");
        checked += expected.len();
    }
    assert_eq!(checked, LOOKUPS);
    run(valgrind(&program).stdin(File::open("tests/director/ring-tags.tsv").unwrap()));
}

/// Runs a program by itself and in Valgrind.
fn check(program: &Path) {
    run(&mut Command::new(program));
    run(&mut valgrind(program));
}

/// What `tests/c/configuration.c` reads.
fn configuration_folder() -> PathBuf {
    const NODES: &str = r#"
[[node]]
name = "node1"
address = "10.0.0.1"
vhost_count = 50
tag = "east"
queue_group = "node1group"
host = "node1.example.org"
[[node]]
name = "node2"
address = "2001:db8::2"
tag = "east"
[[node]]
name = "node3"
address = "10.0.0.3"
"#;
    let folder = fresh_folder("configuration");
    let state = |name: &str| format!("node_state = {:?}\n", folder.join(name));
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    write(
        "mailaffinity.toml",
        &format!("tag = \"east\"\n{}{NODES}", state("nodes.toml")),
    );
    write(
        "nodes.toml",
        "[node.node2]\nstate = \"down\"\nsince = \"2026-11-23T20:45:00Z\"\n",
    );
    write("unknown-key.toml", &format!("\nnodestate = 1\n{NODES}"));
    write("deep.toml", &format!("x = {}", "[".repeat(100_000)));
    write("no-nodes.toml", "strategy = \"ring\"\n");
    write("broken-state.toml", &(state("broken-nodes.toml") + NODES));
    write("broken-nodes.toml", "[node.node1");
    write("kept.toml", "[[node");
    // As a program leaves it that begins to write in place.
    write("kept-nodes.toml", "");
    for (name, text) in [
        ("kept.toml", state("kept-nodes.toml") + NODES),
        ("kept-nodes.toml", "[node.node2]\nstate = \"down\"\n".to_owned()),
    ] {
        let copy = last_good::path_for(&folder.join(name));
        fs::write(&copy, text).unwrap();
        fs::set_permissions(copy, Permissions::from_mode(0o644)).unwrap();
    }
    folder
}

// The pkg-config file.

#[test]
fn private_libraries_are_those_of_rust() {
    let mut empty_library = tool("rustc");
    empty_library
        .args(["--crate-type", "staticlib", "--print", "native-static-libs", "-o"])
        .arg(fresh_folder("rustc").join("libempty.a"))
        .arg("-")
        .stdin(Stdio::null());
    let output = empty_library.output().unwrap();
    let messages = String::from_utf8(output.stderr).unwrap();
    let (_, needed) = messages
        .split_once("native-static-libs: ")
        .unwrap_or_else(|| panic!("{messages}"));
    let pkg_config_file = fs::read_to_string("dist/mailaffinity.pc.in").unwrap();
    let private = pkg_config_file
        .lines()
        .find_map(|line| line.strip_prefix("Libs.private: "));
    assert_eq!(private, needed.lines().next().map(str::trim));
}

/// A prefix as `make install` would leave it, with one of the libraries.
struct Prefix {
    root: PathBuf,
    linkage: Linkage,
}

#[derive(PartialEq)]
enum Linkage {
    Shared,
    Static,
}

static SHARED: LazyLock<Prefix> = LazyLock::new(|| Prefix::install("shared", Linkage::Shared));

impl Prefix {
    fn install(name: &str, linkage: Linkage) -> Prefix {
        let root = fresh_folder(name);
        let [include, lib] = ["include", "lib"].map(|name| root.join(name));
        fs::create_dir_all(lib.join("pkgconfig")).unwrap();
        fs::create_dir(&include).unwrap();
        fs::copy(HEADER, include.join("mailaffinity.h")).unwrap();
        match linkage {
            Linkage::Shared => {
                symlink(library("libmailaffinity.so"), lib.join(SONAME)).unwrap();
                symlink(SONAME, lib.join("libmailaffinity.so")).unwrap();
            }
            Linkage::Static => symlink(library("libmailaffinity.a"), lib.join("libmailaffinity.a")).unwrap(),
        }
        let pkg_config_file = fs::read_to_string("dist/mailaffinity.pc.in")
            .unwrap()
            .replace("@PREFIX@", root.to_str().unwrap())
            .replace("@LIBDIR@", "${prefix}/lib")
            .replace("@INCLUDEDIR@", "${prefix}/include")
            .replace("@VERSION@", env!("CARGO_PKG_VERSION"));
        assert!(!pkg_config_file.contains('@'), "{pkg_config_file}");
        fs::write(lib.join("pkgconfig/mailaffinity.pc"), pkg_config_file).unwrap();
        Prefix { root, linkage }
    }

    fn pkg_config(&self, question: &str) -> Vec<String> {
        let mut pkg_config = tool("pkg-config");
        pkg_config.env("PKG_CONFIG_LIBDIR", self.root.join("lib/pkgconfig"));
        if self.linkage == Linkage::Static {
            pkg_config.arg("--static");
        }
        let answer = run(pkg_config.args([question, "mailaffinity"]));
        answer.split_whitespace().map(str::to_owned).collect()
    }

    /// Compiles one of the programs in `tests/c`.
    fn build(&self, program: &str) -> PathBuf {
        let source = Path::new("tests/c").join(program);
        let path = self.root.join(program).with_extension("");
        let (compiler, standard) = match program {
            "cplusplus.cpp" => ("c++", "-std=c++17"),
            "ansi.c" => ("cc", "-ansi"),
            _ => ("cc", "-std=c99"),
        };
        run(tool(compiler)
            .args([
                standard,
                "-Wall",
                "-Wextra",
                "-pedantic-errors",
                "-Werror",
                "-g",
                "-pthread",
            ])
            .arg(format!("-DEXPECTED_VERSION=\"{}\"", env!("CARGO_PKG_VERSION")))
            .args(self.pkg_config("--cflags"))
            .arg("-o")
            .arg(&path)
            .arg(source)
            .args(self.pkg_config("--libs"))
            .arg(format!("-Wl,-rpath,{}", self.root.join("lib").display())));
        path
    }
}

fn fresh_folder(name: &str) -> PathBuf {
    let folder = support::built::tmp().join("c_library").join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder).unwrap();
    }
    fs::create_dir_all(&folder).unwrap();
    folder
}

// Commands.

/// A command whose messages are in English.
fn tool(name: &str) -> Command {
    let mut command = Command::new(name);
    command.env("LC_ALL", "C.UTF-8");
    command
}

/// A program in Valgrind: any error or leak is a failure.
fn valgrind(program: &Path) -> Command {
    let mut command = tool("valgrind");
    command
        .args(["--quiet", "--error-exitcode=99", "--leak-check=full"])
        .args(["--show-leak-kinds=all", "--errors-for-leak-kinds=all"])
        .arg(program);
    command
}

/// Runs a command that must succeed, and returns what it printed.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| {
        panic!(
            "{command:?}: {error}; these tests need a C and a C++ compiler, binutils, pkg-config and valgrind"
        )
    });
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}
