//! Pages, manual pages and help.
//!
//! Pages show commands, configurations, programs and their output. All that can be run is
//! run here, and what cannot is compared with what the code says of itself.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use mailaffinity::config::Config;
use mailaffinity::node_state::NodeState;
use support::built::{declared_functions, library};
use support::configuration::{Configuration, Node, node_state};
use support::site::Site;

const CONFIGURATION: &str = "doc/man/mailaffinity.toml.5";
const LIBRARY: &str = "doc/man/libmailaffinity.3";
const PHP: &str = "doc/man/map_user_via_sendmail_access.3";
const SONAME: &str = "libmailaffinity.so.0";

// What is read.

/// The documents of the top and of doc/.
fn documents() -> Vec<PathBuf> {
    let in_folder = |folder: &str| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut documents: Vec<PathBuf> = in_folder(".")
        .chain(in_folder("doc"))
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    documents.sort();
    assert!(documents.len() >= 5, "{documents:?}");
    documents
}

/// The pages written by hand.
fn manual_pages() -> Vec<PathBuf> {
    let mut pages: Vec<PathBuf> = fs::read_dir("doc/man")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    pages.sort();
    assert!(pages.len() >= 3, "{pages:?}");
    pages
}

/// The pages that the commands make, in a folder of the site.
fn made_pages(site: &Site) -> Vec<PathBuf> {
    let folder = site.path("man");
    site.must(&["manual", folder.to_str().unwrap()]);
    let pages: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(pages.len() > 10, "{pages:?}");
    pages
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What stands between lines of a document that begin and end a block.
fn blocks(text: &str, begin: &str, end: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim_start() != begin {
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        let block = lines.by_ref().take_while(|line| line.trim_start() != end);
        let block = block.map(|line| format!("{}\n", line.get(indent..).unwrap_or("")));
        blocks.push(block.collect());
    }
    blocks
}

fn toml_blocks(document: &str) -> Vec<String> {
    blocks(document, "```toml", "```")
}

/// The literal blocks of a page, as they are displayed.
fn literal_blocks(page: &str) -> Vec<String> {
    let blocks = blocks(page, ".Bd -literal -offset indent", ".Ed");
    blocks.iter().map(|block| block.replace("\\e", "\\")).collect()
}

/// Runs a command that must succeed, and returns what it printed.
#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn shell(folder: &Path, script: &str) -> Output {
    let commands = Path::new(&*support::built::MAILAFFINITY).parent().unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut shell = Command::new("sh")
        .current_dir(folder)
        .env("PATH", format!("{}:{path}", commands.display()))
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    shell.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    shell.wait_with_output().unwrap()
}

// Commands and their output.

/// A command of a document, and what stands below it.
#[derive(Default)]
struct Shown {
    line: usize,
    command: String,
    output: String,
}

/// The commands after "$ " in indented blocks; "> " goes on with one, as in a shell.
fn shown_commands(document: &str) -> Vec<Shown> {
    let mut shown: Vec<Shown> = Vec::new();
    let mut indent = None;
    for (number, line) in (1..).zip(document.lines()) {
        let text = line.trim_start();
        let own_indent = line.len() - text.len();
        if own_indent >= 4 && text.starts_with("$ ") {
            indent = Some(own_indent);
            shown.push(Shown {
                line: number,
                command: text[2..].to_owned(),
                output: String::new(),
            });
            continue;
        }
        let (Some(text), Some(last)) = (
            indent.and_then(|indent| block_line(line, indent)),
            shown.last_mut(),
        ) else {
            indent = None;
            continue;
        };
        match text.strip_prefix("> ").or(text.strip_prefix(">")) {
            Some(more) if last.output.is_empty() => last.command += &format!("\n{more}"),
            _ => last.output += &format!("{text}\n"),
        }
    }
    shown
}

/// The text of a line that still belongs to a block of this indentation.
fn block_line(line: &str, indent: usize) -> Option<&str> {
    let (blanks, text) = line.split_at_checked(indent)?;
    blanks.trim().is_empty().then_some(text)
}

/// Runs all commands of a document in one shell, in an empty folder.
fn assert_prints_what_it_shows(document: &str) {
    const MARK: &str = "-- end of a command --";
    let commands = shown_commands(&read(document));
    assert!(commands.len() > 10, "{document}");
    let site = Site::new();
    let folder = site.path("commands");
    fs::create_dir(&folder).unwrap();
    let mut script = String::from("exec 2>&1\n");
    for shown in &commands {
        script += &format!("{}\necho '{MARK}'\n", shown.command);
    }
    let printed = String::from_utf8(shell(&folder, &script).stdout).unwrap();
    let outputs: Vec<&str> = printed.split(&format!("{MARK}\n")).collect();
    for (shown, output) in commands.iter().zip(&outputs) {
        assert!(
            shown.output == **output,
            "{document}:{}: $ {}\nshows\n{}\nand prints\n{output}",
            shown.line,
            shown.command,
            shown.output
        );
    }
    assert_eq!(outputs.len(), commands.len() + 1, "{document}");
}

#[test]
fn the_mapping_is_as_its_page_works_it_out() {
    assert_prints_what_it_shows("doc/mapping.md");
}

#[test]
fn the_migration_goes_as_its_page_says() {
    assert_prints_what_it_shows("doc/migration.md");
}

/// What documents, help and manual pages tell to type is a command line that there is.
#[test]
fn command_lines_are_taken() {
    let site = Site::new();
    let mut lines = BTreeSet::new();
    for document in documents() {
        let document = read(document);
        lines.extend(
            document
                .lines()
                .filter(|line| line.starts_with("    "))
                .map(|line| line.trim().trim_start_matches("$ ").to_owned()),
        );
    }
    for page in manual_pages().into_iter().chain(made_pages(&site)) {
        let page = read(page).replace("\\-", "-").replace("\\*(Aq", "'");
        let page = page.lines().map(|line| line.trim_start_matches(".Dl ").trim());
        lines.extend(page.map(|line| line.trim_start_matches("* * * * * root ").to_owned()));
    }
    let mut tried = 0;
    for line in &lines {
        if !line.starts_with("mailaffinity ") && !line.starts_with("hash_user_group ") {
            continue;
        }
        let end = line.find(['|', '>', '<', ';', '&', '#']).unwrap_or(line.len());
        let command = line[..end].trim_end();
        if command.starts_with("mailaffinity - ") || command.starts_with("hash_user_group - ") {
            continue; // a page's NAME
        }
        // What follows "--" are users, and would include the question for help.
        let command = command.split(" -- ").next().unwrap();
        let output = shell(&site.path(""), &format!("{command} --help\n"));
        assert!(output.status.success(), "{line}: {output:?}");
        tried += 1;
    }
    assert!(tried > 30, "{tried}");
}

// The configuration.

/// The key or table names of a TOML table, as an error lists them.
fn fields(of: &str) -> BTreeSet<String> {
    let error = Config::parse(&format!("{of}\nnosuch = 1\n"), Path::new("x")).unwrap_err();
    let error = error.to_string();
    let (_, list) = error
        .split_once("unknown field `nosuch`, expected ")
        .unwrap_or_else(|| panic!("{error}"));
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The head of a table in a file; `None` for the name of a key.
fn table_head(name: &str) -> Option<String> {
    let is_table = |head: &str| {
        Config::parse(&format!("{head}\nnosuch = 1\n"), Path::new("x"))
            .unwrap_err()
            .to_string()
            .contains("unknown field `nosuch`")
    };
    let heads = [format!("[{name}]"), format!("[[{name}]]")];
    heads.into_iter().find(|head| is_table(head))
}

/// A key as its page has it.
#[derive(Debug)]
struct Key {
    table: String,
    name: String,
    default: Option<String>,
    text: String,
}

fn documented_keys() -> Vec<Key> {
    let page = read(CONFIGURATION);
    let (_, description) = page.split_once(".Sh DESCRIPTION\n").unwrap();
    let (description, _) = description.split_once(".Sh ").unwrap();
    let mut keys: Vec<Key> = Vec::new();
    let mut table = String::new();
    for line in description.lines() {
        if let Some(heading) = line.strip_prefix(".Ss ") {
            let is_table = heading.starts_with('[');
            table = if is_table {
                heading.to_owned()
            } else {
                String::new()
            };
        } else if let Some(item) = line.strip_prefix(".It Ic ") {
            let item = item.replace("\\(dq", "\"");
            let (name, default) = match item.split_once(" = ") {
                Some((name, default)) => (name, Some(default.to_owned())),
                None => (&*item, None),
            };
            keys.push(Key {
                table: table.clone(),
                name: name.to_owned(),
                default,
                text: String::new(),
            });
        } else if let Some(key) = keys.last_mut() {
            key.text += &format!("{line} ");
        }
    }
    keys
}

#[test]
fn every_key_of_the_configuration_is_documented() {
    let documented = documented_keys();
    let in_page = |head: &str| -> BTreeSet<String> {
        let keys = documented.iter().filter(|key| key.table == head);
        keys.map(|key| key.name.clone()).collect()
    };
    let (tables, keys): (BTreeSet<String>, BTreeSet<String>) = fields("")
        .into_iter()
        .partition(|name| table_head(name).is_some());
    assert_eq!(in_page(""), keys);
    for table in &tables {
        let head = table_head(table).unwrap();
        assert_eq!(in_page(&head), fields(&head), "{head}");
    }
    let heads: BTreeSet<String> = tables.iter().filter_map(|table| table_head(table)).collect();
    let documented_tables = documented.iter().map(|key| key.table.clone());
    let documented_heads: BTreeSet<String> = documented_tables.filter(|table| !table.is_empty()).collect();
    assert_eq!(documented_heads, heads);
}

/// A configuration with what the tables require, and these further lines.
fn configuration(lines: impl Fn(&str) -> String) -> String {
    let required = [
        ("", ""),
        ("[access_map]", "map = \"hash:/etc/mail/access\"\n"),
        ("[checks]", "director = \"/run/x\"\n"),
        ("[[node]]", "name = \"a\"\naddress = \"192.0.2.1\"\n"),
    ];
    let others = fields("").into_iter().filter_map(|name| table_head(&name));
    let others = others.filter(|head| required.iter().all(|(table, _)| table != head));
    let mut text = String::new();
    for (head, keys) in required.map(|(head, keys)| (head.to_owned(), keys)) {
        text += &format!("{head}\n{keys}{}", lines(&head));
    }
    for head in others {
        text += &format!("{head}\n{}", lines(&head));
    }
    text
}

#[test]
fn the_documented_defaults_are_those_in_force() {
    let keys = documented_keys();
    let shown = configuration(|head| {
        let keys = keys.iter().filter(|key| key.table == head);
        keys.filter_map(|key| Some(format!("{} = {}\n", key.name, key.default.as_ref()?)))
            .collect()
    });
    let [shown, bare] =
        [shown, configuration(|_| String::new())].map(|text| Config::parse(&text, Path::new("x")).unwrap());
    assert_eq!(format!("{shown:#?}"), format!("{bare:#?}"));
}

#[test]
fn the_documented_ranges_are_those_in_force() {
    let mut checked = 0;
    for key in documented_keys() {
        let too_large = configuration(|head| match head == key.table {
            true => format!("{} = 99999999999\n", key.name),
            false => String::new(),
        });
        let Err(error) = Config::parse(&too_large, Path::new("x")) else {
            continue;
        };
        let error = error.to_string();
        let Some((_, range)) = error.split_once(" is not between ") else {
            continue;
        };
        let range = range.replace(" and ", " to ");
        assert!(key.text.contains(&format!("from {range}")), "{key:?}: {range}");
        checked += 1;
    }
    assert!(checked >= 10, "{checked}");
}

#[test]
fn examples_of_configurations_load() {
    let site = Site::new();
    let texts = documents()
        .into_iter()
        .map(|document| toml_blocks(&read(document)));
    let pages = manual_pages().into_iter().map(|page| literal_blocks(&read(page)));
    let is_toml = |text: &String| text.starts_with('[') || text.contains("\n[");
    let (configurations, states): (Vec<String>, Vec<String>) = texts
        .chain(pages)
        .flatten()
        .filter(is_toml)
        .partition(|text| text.contains("[[node]]"));
    assert!(configurations.len() >= 4 && !states.is_empty());
    for text in configurations {
        // Whatever this machine has in its place plays no part.
        let own_state = |line: &&str| !line.starts_with("node_state = ");
        let text: String = text
            .lines()
            .filter(own_state)
            .flat_map(|line| [line, "\n"])
            .collect();
        let state = format!("node_state = {:?}\n", site.path("nodes.toml"));
        fs::write(site.config(), state + &text).unwrap();
        assert!(site.must(&["nodes"]).lines().count() > 1, "{text}");
    }
    for text in states {
        let state = NodeState::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert!(state.marks().next().is_some(), "{text}");
    }
}

#[test]
fn the_status_file_is_documented() {
    let site = Site::new();
    let nodes = [
        Node::new("a", "192.0.2.1")
            .queue_group("a")
            .queue_path(site.path("queue")),
        Node::new("b", "192.0.2.2").queue_group("b"),
    ];
    site.configure(
        Configuration::of(nodes)
            .access_map("text", site.path("access"))
            .users(site.path("users")),
    );
    fs::create_dir(site.path("queue")).unwrap();
    fs::write(site.path("access"), "").unwrap();
    fs::write(site.path("users"), "anna\n").unwrap();
    fs::write(site.path("nodes.toml"), node_state(&["a"])).unwrap();
    site.must(&["update"]);
    site.must(&["drain", "--node", "b"]);
    let page = rendered(Path::new(CONFIGURATION));
    let (_, section) = page.split_once(" STATUS FILE ").unwrap();
    let words: BTreeSet<&str> = section
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .collect();
    let mut seen = 0;
    for command in ["update", "drain"] {
        let status = site.status(command);
        let queue = status["queues"][0].as_object().cloned().unwrap_or_default();
        for key in status.as_object().unwrap().keys().chain(queue.keys()) {
            assert!(words.contains(&**key), "{command}: {key}");
            seen += 1;
        }
    }
    assert!(seen > 15, "{seen}");
}

// The manual pages.

/// A page as it is read, its blanks and line ends one blank each.
fn rendered(page: &Path) -> String {
    let text = run(Command::new("mandoc")
        .args(["-T", "utf8", "-O", "width=200"])
        .arg(page));
    let mut plain: Vec<char> = Vec::new();
    // Bold and underlined letters are printed one over the other.
    for c in text.chars() {
        match c {
            '\u{8}' => drop(plain.pop()),
            c => plain.push(c),
        }
    }
    let plain: String = plain.into_iter().collect();
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn manual_pages_are_well_formed() {
    let site = Site::new();
    let version = format!("mailaffinity {}", env!("CARGO_PKG_VERSION"));
    for page in manual_pages().into_iter().chain(made_pages(&site)) {
        let output = Command::new("mandoc")
            .args(["-T", "lint", "-W", "warning"])
            .arg(&page)
            .output()
            .expect("mandoc");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        );
        let text = rendered(&page);
        assert!(text.contains(&version), "{} is not of {version}", page.display());
        for section in [" NAME ", " DESCRIPTION ", " SEE ALSO "] {
            assert!(text.contains(section), "{}: no{section}", page.display());
        }
    }
}

#[test]
fn the_main_page_has_every_command() {
    let site = Site::new();
    let pages = made_pages(&site);
    let main = rendered(&site.path("man/mailaffinity.1"));
    for section in ["EXIT STATUS 0 success 64 ", " FILES ", " EXAMPLES "] {
        assert!(main.contains(section), "{main}");
    }
    for page in &pages {
        let name = page.file_stem().unwrap().to_str().unwrap();
        let text = rendered(page);
        assert!(text.contains(" EXIT STATUS "), "{name}");
        if name.starts_with("mailaffinity-") {
            assert!(main.contains(&format!(" {name}(1) ")), "{name}");
            assert!(text.contains(" mailaffinity(1), "), "{name}");
        }
    }
}

/// Pages refer to pages: of these, or of the programs they are about.
#[test]
fn manual_pages_refer_to_pages_that_there_are() {
    let site = Site::new();
    let pages: Vec<PathBuf> = manual_pages().into_iter().chain(made_pages(&site)).collect();
    let others = [
        "corosync.conf(5)",
        "doveadm-director(1)",
        "makemap(8)",
        "sendmail(8)",
    ];
    let known: BTreeSet<String> = pages
        .iter()
        .map(|page| {
            let name = page.file_name().unwrap().to_str().unwrap();
            let (name, section) = name.rsplit_once('.').unwrap();
            format!("{name}({section})")
        })
        .chain(others.map(str::to_owned))
        .collect();
    for page in &pages {
        let text = rendered(page);
        let (_, see_also) = text.rsplit_once(" SEE ALSO ").unwrap();
        let references: Vec<&str> = see_also
            .split([' ', ','])
            .take_while(|word| word.is_empty() || word.ends_with(')'))
            .filter(|word| !word.is_empty())
            .collect();
        assert!(references.len() > 1, "{}: {see_also}", page.display());
        for reference in &references {
            assert!(known.contains(*reference), "{}: {reference}", page.display());
        }
    }
}

// C.

/// The prototypes of the page's synopsis, by name.
fn prototypes() -> Vec<(String, String)> {
    let page = read(LIBRARY);
    let mut prototypes = Vec::new();
    let (mut result, mut name) = (String::new(), String::new());
    let mut arguments: Vec<String> = Vec::new();
    for line in page.lines() {
        let Some((macro_name, rest)) = line.split_once(' ').or(Some((line, ""))) else {
            continue;
        };
        let rest = rest.trim_matches('"').to_owned();
        match macro_name {
            ".Ft" => result = rest,
            ".Fo" => name = rest,
            ".Fa" if !name.is_empty() => arguments.push(rest),
            ".Fc" => {
                let prototype = format!("{result} {name}({});", arguments.join(", "));
                prototypes.push((std::mem::take(&mut name), prototype));
                arguments.clear();
            }
            _ => {}
        }
    }
    prototypes
}

#[test]
fn every_c_function_is_documented() {
    let prototypes = prototypes();
    let documented: BTreeSet<String> = prototypes.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(documented, declared_functions());
    assert_eq!(prototypes.len(), documented.len(), "none twice");
    let page = read(LIBRARY);
    let names = page.lines().filter_map(|line| line.strip_prefix(".Nm "));
    let mut names: BTreeSet<String> = names.map(|name| name.replace(" ,", "")).collect();
    assert!(names.remove("libmailaffinity"));
    assert_eq!(names, documented);

    // A prototype that is not the header's does not compile beside it.
    let program: String = prototypes
        .iter()
        .flat_map(|(_, prototype)| [prototype, "\n"])
        .collect();
    let site = Site::new();
    let file = site.path("prototypes.c");
    fs::write(&file, format!("#include <mailaffinity.h>\n{program}")).unwrap();
    run(cc().args(["-fsyntax-only", "-Iinclude"]).arg(&file));

    let header = read("include/mailaffinity.h");
    let constants = header.lines().filter_map(|line| {
        let (name, _) = line.strip_prefix("#define ")?.split_once(' ')?;
        Some(name)
    });
    let constants: Vec<&str> = constants.collect();
    assert!(constants.len() > 10);
    for constant in constants {
        assert!(page.contains(constant), "{constant}");
    }
    let missing = documented_constants(&page)
        .into_iter()
        .find(|name| !header.contains(&**name));
    assert_eq!(missing, None);
    assert!(page.contains(SONAME) && read("build.rs").contains(SONAME));
}

fn documented_constants(page: &str) -> BTreeSet<String> {
    page.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| word.starts_with("MAILAFFINITY_"))
        .map(str::to_owned)
        .collect()
}

fn cc() -> Command {
    let mut cc = Command::new("cc");
    cc.args(["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]);
    cc
}

#[test]
fn the_c_example_prints_what_its_page_shows() {
    let page = literal_blocks(&read(LIBRARY));
    let program = page.iter().find(|block| block.starts_with("#include")).unwrap();
    let shown = page.iter().find(|block| block.starts_with("$ cc")).unwrap();
    let (call, output) = shown
        .split_once("$ ./hosts /etc/mailaffinity.toml ")
        .unwrap()
        .1
        .split_once('\n')
        .unwrap();

    // With the first example of the page it refers to.
    let site = Site::new();
    let configuration = literal_blocks(&read(CONFIGURATION));
    let configuration = configuration
        .iter()
        .find(|block| block.contains("[[node]]"))
        .unwrap();
    site.configure(configuration);

    fs::write(site.path("hosts.c"), program).unwrap();
    let library = library("libmailaffinity.so");
    symlink(&library, site.path(SONAME)).unwrap();
    run(cc()
        .arg("-Iinclude")
        .arg("-o")
        .arg(site.path("hosts"))
        .arg(site.path("hosts.c"))
        .arg(&library)
        .arg(format!("-Wl,-rpath,{}", site.path("").display())));
    let printed = run(Command::new(site.path("hosts"))
        .arg(site.config())
        .args(call.split(' ')));
    assert_eq!(printed, output);
}

/// README's lines of C and of Perl, each in a program.
#[test]
fn the_lines_of_readme_print_the_host() {
    let readme = read("README.md");
    let site = Site::new();
    let configuration = &toml_blocks(&readme)[0];
    let state = site.path("nodes.toml");
    let configuration = configuration.replace("/var/lib/mailaffinity/nodes.toml", state.to_str().unwrap());
    fs::write(site.config(), configuration).unwrap();
    let [c, perl] = ["```c", "```perl"].map(|begin| blocks(&readme, begin, "```").remove(0));
    let (_, shown) = c.split_once("/* ").unwrap();
    let shown = shown.replace(" */", "");

    let c = c.replace("cluster_load(NULL,", "cluster_load(argv[1],");
    fs::write(
        site.path("lines.c"),
        format!(
            "#include <stdio.h>\n#include <mailaffinity.h>\n\
             int main(int argc, char **argv)\n{{\n(void)argc;\n{c}return 0;\n}}\n"
        ),
    )
    .unwrap();
    let library = library("libmailaffinity.so");
    symlink(&library, site.path(SONAME)).unwrap();
    run(cc()
        .arg("-Iinclude")
        .arg("-o")
        .arg(site.path("lines"))
        .arg(site.path("lines.c"))
        .arg(&library)
        .arg(format!("-Wl,-rpath,{}", site.path("").display())));
    assert_eq!(run(Command::new(site.path("lines")).arg(site.config())), shown);

    let perl = perl.replace("->load->", "->load($ARGV[0])->");
    assert_eq!(
        run(Command::new("perl")
            .env("LD_LIBRARY_PATH", site.path(""))
            .args(["-Iperl/lib", "-we", &perl])
            .arg(site.config())),
        shown
    );
}

// PHP.

#[test]
fn every_php_function_and_directive_is_documented() {
    let stub = read("php/mailaffinity.stub.php");
    let page = rendered(Path::new(PHP));
    let signatures = stub.lines().filter_map(|line| line.strip_prefix("function "));
    let signatures: Vec<&str> = signatures.collect();
    assert!(signatures.len() >= 4);
    for signature in &signatures {
        assert!(page.contains(signature), "{signature}");
    }
    // The stub is compared with the module by a test of the module.
    let directives: Vec<(&str, &str)> = stub
        .lines()
        .filter_map(|line| {
            line.strip_prefix(" * @ini ")?
                .split_once("\": ")?
                .0
                .split_once(" = \"")
        })
        .collect();
    assert!(directives.len() >= 2);
    for (name, default) in &directives {
        assert!(
            page.contains(&format!("{name} {default} PHP_INI_SYSTEM")),
            "{name}"
        );
    }
    let source = read("php/src/ini.rs");
    assert_eq!(source.matches("c\"mailaffinity.").count(), directives.len());
    let documented: BTreeSet<&str> = page
        .split(|c: char| c.is_whitespace() || ",()".contains(c))
        .filter(|word| word.starts_with("mailaffinity_"))
        .collect();
    for word in documented {
        let call = format!("{word}(");
        assert!(
            signatures.iter().any(|signature| signature.starts_with(&call)),
            "{word}"
        );
    }
}

// Documents.

#[test]
fn links_lead_somewhere() {
    let mut followed = 0;
    for document in documents() {
        let text = read(&document);
        for target in links(&text) {
            if target.contains("://") {
                continue;
            }
            let (file, heading) = target.split_once('#').unwrap_or((&target, ""));
            let path = match file {
                "" => document.clone(),
                file => document.parent().unwrap().join(file),
            };
            assert!(path.exists(), "{}: {target}", document.display());
            assert!(
                heading.is_empty() || anchors(&read(&path)).contains(heading),
                "{}: no heading for {target}",
                document.display()
            );
            followed += 1;
        }
    }
    assert!(followed > 5, "{followed}");
}

/// The targets of `[words](target)`.
fn links(text: &str) -> Vec<String> {
    let ends = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    ends.map(|(target, _)| target.to_owned()).collect()
}

/// The headings, as links name them.
fn anchors(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter_map(|line| line.strip_prefix('#'))
        .map(|line| {
            let words = line.trim_start_matches('#').trim().to_lowercase();
            let kept = words
                .chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.collect::<String>().replace(' ', "-")
        })
        .collect()
}

#[test]
fn the_changelog_has_this_version() {
    let heading = format!("## {}", env!("CARGO_PKG_VERSION"));
    assert!(
        read("CHANGELOG.md")
            .lines()
            .any(|line| line.starts_with(&heading)),
        "{heading}"
    );
}

/// Clippy holds our own code against it, and this what it depends on.
#[test]
fn the_oldest_rust_is_the_one_that_the_documents_name() {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let metadata = run(Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--format-version=1"])
        .args(["--filter-platform", &target]));
    let metadata: serde_json::Value = serde_json::from_str(&metadata).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let version = |text: &str| -> Vec<u32> { text.split('.').map(|part| part.parse().unwrap()).collect() };
    let ours = packages.iter().find(|package| package["name"] == "mailaffinity");
    let ours = ours.unwrap()["rust_version"].as_str().unwrap();
    let mut told = 0;
    for package in packages {
        let Some(theirs) = package["rust_version"].as_str() else {
            continue;
        };
        assert!(
            version(theirs) <= version(&format!("{ours}.0")),
            "{}: {theirs}",
            package["id"]
        );
        told += 1;
    }
    assert!(told > 50, "{told}");
    assert!(read("README.md").contains(&format!("Rust ({ours} or later")));
    assert!(read("CONTRIBUTING.md").contains(&format!("Rust {ours} or later")));
}

/// A path, and for some a function of it, between backquotes.
fn named_tests(text: &str) -> Vec<&str> {
    let folders = ["tests/", "src/", "cli/", "php/tests/", "perl/t/", "fuzz/"];
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter(|word| folders.iter().any(|folder| word.starts_with(folder)))
        .collect()
}

#[test]
fn each_sentence_on_security_names_tests_that_there_are() {
    let page = read("doc/security.md");
    let mut sentences = 0;
    for item in page.split("\n- ").skip(1) {
        let item = item.split("\n\n").next().unwrap();
        let named = named_tests(item);
        assert!(!named.is_empty(), "no test of: {item}");
        for test in named {
            let (file, function) = test.split_once("::").unwrap_or((test, ""));
            let text = read(file);
            if file.ends_with(".rs") && !file.starts_with("fuzz/") {
                let lines: Vec<_> = text.lines().map(str::trim_start).collect();
                let function = lines
                    .iter()
                    .position(|line| *line == format!("fn {function}() {{"));
                let before = &lines[..function.unwrap_or(0)];
                let is_test = before.iter().rev().take(2).any(|line| *line == "#[test]");
                assert!(is_test, "{test} is no test");
            } else if !function.is_empty() {
                assert!(text.contains(&format!(" {function}(")), "{test} is no test");
            }
        }
        sentences += 1;
    }
    assert!(sentences > 20, "{sentences}");
}
