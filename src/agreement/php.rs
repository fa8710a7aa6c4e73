//! The PHP module, asked by PHP itself, as the web server's user: what cannot be read by
//! that user cannot be read by webmail.

use std::ffi::OsString;

use rustix::process::geteuid;
use serde::Deserialize;

use super::{Answer, Opinion, Question, edge};
use crate::child;
use crate::users::access_map_key;

const PART: &str = "PHP: mailaffinity_node()";
const WEBMAIL: &str = "PHP: map_user_via_sendmail_access()";

/// PHP's program, and what runs it as Debian's web server user where that is possible.
const PHP: &str = "/usr/bin/php";
const AS_WEB_SERVER: [&str; 4] = ["/usr/sbin/runuser", "-u", "www-data", "--"];

/// Whatever PHP prints besides goes to standard error, where the module's messages are.
const OPTIONS: [&str; 6] = [
    "-d",
    "error_log=",
    "-d",
    "display_errors=stderr",
    "-d",
    "html_errors=0",
];

/// What the script says in place of everything else, with the folder of extensions.
const NOT_LOADED: &str = "mailaffinity is not loaded ";

#[derive(Deserialize)]
struct Given {
    node: Option<String>,
    /// `None` for a user who can have no entry: the module would rightly complain.
    host: Option<String>,
}

/// Prints what [`edge::parse`] reads. A user who can have an entry in the access map has a
/// `+` before the name, any other a `-`.
const SCRIPT: &str = r#"
if (!extension_loaded('mailaffinity')) {
    $file = ini_get('extension_dir') . '/mailaffinity.so';
    exit('mailaffinity is not loaded ' . (file_exists($file) ? $file : ''));
}
$config = ini_get('mailaffinity.config') ?: '/etc/mailaffinity.toml';
$flags = JSON_INVALID_UTF8_SUBSTITUTE | JSON_THROW_ON_ERROR;
try {
    $nodes = mailaffinity_nodes();
    echo json_encode(['version' => phpversion('mailaffinity'), 'config' => $config, 'nodes' => $nodes], $flags), "\n";
    while (($line = fgets(STDIN)) !== false) {
        $user = substr($line, 1, -1);
        $node = mailaffinity_node($user)['node'] ?? null;
        $host = $line[0] === '+' ? map_user_via_sendmail_access($user) : null;
        echo json_encode(['node' => $node, 'host' => $host], $flags), "\n";
    }
} catch (MailaffinityException $exception) {
    fwrite(STDERR, $exception->getMessage());
    exit(1);
}
"#;

pub(super) fn ask(question: &Question<'_>, access_map: &Opinion) -> [Opinion; 2] {
    let both = |opinion: fn(&'static str, String) -> Opinion, words: String| {
        [opinion(PART, words.clone()), opinion(WEBMAIL, words)]
    };
    let configured = &question.config.agreement.php;
    let mut command: Vec<OsString> = match configured {
        Some(command) => command.iter().map(OsString::from).collect(),
        None if !std::path::Path::new(PHP).exists() => {
            return both(Opinion::absent, format!("{PHP} is not installed"));
        }
        None if geteuid().is_root() => AS_WEB_SERVER.iter().chain([&PHP]).map(OsString::from).collect(),
        None => vec![PHP.into()],
    };
    let program = child::name(&command);
    command.extend(OPTIONS.iter().chain(&["-r", SCRIPT]).map(OsString::from));
    let timeout = question.config.agreement.timeout;
    let can_have_entry =
        |user: &Vec<u8>| access_map_key(user).is_ok() || question.config.access_map.is_none();
    let marked = |user: &Vec<u8>| [if can_have_entry(user) { b"+" } else { b"-" }, user.as_slice()].concat();
    let users: Vec<Vec<u8>> = question.users.iter().map(marked).collect();
    let finished = match child::run(&command, &edge::input(&users), timeout) {
        Ok(finished) => finished,
        Err(error) => return both(Opinion::failed, format!("{program} {}", error.problem)),
    };
    if let Some(file) = str::from_utf8(&finished.stdout)
        .ok()
        .and_then(|said| said.strip_prefix(NOT_LOADED))
    {
        return match (configured, file) {
            (None, "") => both(
                Opinion::absent,
                "the extension mailaffinity is not installed".into(),
            ),
            _ => both(
                Opinion::failed,
                format!("{program} does not load the extension mailaffinity: run \"phpenmod mailaffinity\""),
            ),
        };
    }
    let logged = messages(&finished.stderr);
    if !finished.status.success() {
        let said = match logged.is_empty() {
            true => finished
                .success()
                .map_or_else(|error| error.problem, |_| String::new()),
            false => logged.join("; "),
        };
        return both(Opinion::failed, format!("{program}: {said}"));
    }
    let Some((facts, given)) = edge::parse::<Given>(&finished.stdout) else {
        return both(
            Opinion::failed,
            format!("{program} prints something else than answers"),
        );
    };

    let mut computed = edge::opinion(PART, question, &given, |given| {
        edge::of_name(question, given.node.as_deref())
    });
    computed.problems = edge::differences("PHP", question, &facts);
    if computed.problems.is_empty() && question.differs(&computed) {
        computed.problems.push(edge::cause("PHP", question, &facts));
    }
    let mut webmail = edge::opinion(WEBMAIL, question, &given, |given| match &given.host {
        Some(host) => of_host(question, host),
        None => Answer::NotAsked("the name can have no entry"),
    });
    webmail.problems = logged;
    if webmail.problems.is_empty() && question.differs(&webmail) {
        let same = |other: &Opinion| other.answers == webmail.answers;
        webmail.problems.push(match () {
            () if same(&computed) => "it is what mailaffinity_node() says".into(),
            () if question.first_different(&access_map.answers).is_some() => {
                "it is what the access map has".into()
            }
            () => edge::cause("PHP", question, &facts),
        });
    }
    [computed, webmail]
}

/// The node that webmail would connect to. `fsockopen()` wants IPv6 in brackets.
fn of_host(question: &Question<'_>, host: &str) -> Answer {
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    match question
        .config
        .nodes
        .iter()
        .position(|node| node.imap_host == bare)
    {
        Some(node) => Answer::Node(node),
        None => Answer::Other(format!("host {}", host.escape_debug())),
    }
}

/// What the module logged, each message once.
fn messages(stderr: &[u8]) -> Vec<String> {
    let mut messages = Vec::new();
    for line in String::from_utf8_lossy(stderr).lines() {
        let line = line.trim().replace(char::is_control, "?");
        let message = match line.split_once("mailaffinity: ") {
            Some((_, message)) => message.to_owned(),
            None => line,
        };
        if !message.is_empty() && !messages.contains(&message) {
            messages.push(message);
        }
    }
    messages
}
