//! The PHP module, asked by PHP itself, as the web server's user: what cannot be read by
//! that user cannot be read by webmail.

use std::cmp::Reverse;
use std::ffi::OsString;
use std::fs;
use std::path::Path;

use rustix::process::geteuid;

use super::{Answer, Opinion, Question, edge};
use crate::child;

const PART: &str = "PHP: mailaffinity_node()";
const WEBMAIL: &str = "PHP: map_user_via_sendmail_access()";

/// Debian's folder of PHP's configuration, below the root: one for each version, with one
/// for each SAPI.
const CONFIGURATION: &str = "etc/php";

/// The command line's program, but for the version.
const PHP: &str = "usr/bin/php";

/// The SAPIs that serve webmail, and that of the command line, with what each is before and
/// after the version. The first that is installed counts.
const SAPIS: [(&str, &str, &str); 3] = [
    ("fpm", "usr/sbin/php-fpm", ""),
    ("apache2", "usr/lib/apache2/modules/libphp", ".so"),
    ("cli", PHP, ""),
];

/// Runs a program as Debian's web server user, which only root can.
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
const NOT_LOADED: &[u8] = b"mailaffinity is not loaded ";

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
        $node = mailaffinity_node($user)['name'] ?? null;
        $host = $line[0] === '+' ? map_user_via_sendmail_access($user) : null;
        echo json_encode(['node' => $node, 'host' => $host], $flags), "\n";
    }
} catch (MailaffinityException $exception) {
    fwrite(STDERR, $exception->getMessage());
    exit(1);
}
"#;

pub(crate) fn ask(question: &Question<'_>, access_map: &Opinion) -> [Opinion; 2] {
    let both = |opinion: fn(&'static str, String) -> Opinion, words: String| {
        [opinion(PART, words.clone()), opinion(WEBMAIL, words)]
    };
    let configured = &question.config.agreement.php;
    let command = match configured {
        Some(command) => Some(command.iter().map(OsString::from).collect()),
        None => web_servers_php(Path::new("/")),
    };
    let Some(mut command) = command else {
        return both(
            Opinion::absent,
            format!("there is no PHP with a configuration in /{CONFIGURATION}"),
        );
    };
    let program = child::name(&command);
    command.extend(OPTIONS.iter().chain(&["-r", SCRIPT]).map(OsString::from));
    let timeout = *question.config.agreement.timeout;
    let has_map = question.config.access_map.is_some();
    let mark = |place| match question.without_entry(place) {
        Some(_) if has_map => "-",
        _ => "+",
    };
    let output = child::run_apart(&command, &edge::input(question, mark), timeout)
        .and_then(|finished| Ok((messages(&finished.stderr), finished.success()?)));
    let (logged, stdout) = match output {
        Ok(output) => output,
        Err(error) => return both(Opinion::failed, format!("{program} {}", error.problem)),
    };
    if let Some(file) = stdout.strip_prefix(NOT_LOADED) {
        return match (configured, file) {
            (None, b"") => both(
                Opinion::absent,
                "the extension mailaffinity is not installed".into(),
            ),
            _ => both(
                Opinion::failed,
                format!("{program} does not load the extension mailaffinity: run \"phpenmod mailaffinity\""),
            ),
        };
    }
    let Some((facts, given)) = edge::parse(question, &stdout) else {
        return both(
            Opinion::failed,
            format!("{program} does not print an answer for each user, or something else too"),
        );
    };

    let computed = edge::opinion(PART, "PHP", question, &facts, &given);
    let host = |place, given: &edge::Given| match &given.host {
        Some(host) => question.node_of_host(place, host),
        None => Answer::NotAsked("without an entry in the access map, it is as mailaffinity_node()"),
    };
    let mut webmail = question.opinion(WEBMAIL, |place, _| edge::not_asked(question, place), &given, host);
    webmail.problems = logged.into_iter().map(with_remedy).collect();
    let as_computed = computed.answers == webmail.answers;
    webmail.explain(question, || match () {
        () if as_computed => "it is what mailaffinity_node() says".into(),
        () if question.first_different(access_map).is_some() => "it is what the access map has".into(),
        () => edge::cause("PHP", question, &facts),
    });
    [computed, webmail]
}

/// The command line's PHP with the configuration that the web server gives it on Debian. Of
/// several versions it is the newest that the SAPI has.
fn web_servers_php(root: &Path) -> Option<Vec<OsString>> {
    let versions = fs::read_dir(root.join(CONFIGURATION)).ok()?.flatten();
    let mut versions: Vec<String> = versions
        .filter_map(|version| version.file_name().into_string().ok())
        .filter(|version| root.join(format!("{PHP}{version}")).exists())
        .collect();
    versions.sort_by_key(|version| {
        let number = |part: &str| part.parse::<u32>().unwrap_or(0);
        Reverse(version.split('.').map(number).collect::<Vec<_>>())
    });
    let (version, folder) = SAPIS.iter().find_map(|(sapi, before, after)| {
        versions.iter().find_map(|version| {
            let folder = root.join(CONFIGURATION).join(version).join(sapi);
            let installed = root.join(format!("{before}{version}{after}")).exists();
            (installed && folder.join("php.ini").exists()).then_some((version, folder))
        })
    })?;
    let mut scan = OsString::from("PHP_INI_SCAN_DIR=");
    scan.push(folder.join("conf.d"));
    let as_web_server = AS_WEB_SERVER.iter().filter(|_| geteuid().is_root());
    let mut command: Vec<OsString> = as_web_server.map(OsString::from).collect();
    command.extend([
        "/usr/bin/env".into(),
        scan,
        root.join(format!("{PHP}{version}")).into_os_string(),
    ]);
    command.extend(["-c".into(), folder.into_os_string()]);
    Some(command)
}

fn with_remedy(message: String) -> String {
    let remedy = match message.starts_with("cannot read access map ") {
        _ if !message.contains("Permission denied") => return message,
        true => "let the update publish its answers: published in [access_map]",
        false => "let the web server's user read it, by setfacl -m u:www-data:r",
    };
    format!("{message} ({remedy})")
}

/// What the module logged, each message once. Whatever else PHP says is not about it.
fn messages(stderr: &[u8]) -> Vec<String> {
    let mut messages = Vec::new();
    for line in String::from_utf8_lossy(stderr).lines() {
        if let Some((_, message)) = line.split_once("mailaffinity: ") {
            let message = message.trim().replace(char::is_control, "?");
            if !messages.contains(&message) {
                messages.push(message);
            }
        }
    }
    messages
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn the_web_servers_php() {
        let root = TempDir::new().unwrap();
        let install = |path: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        };
        let found = || {
            let command = web_servers_php(root.path())?;
            let [.., scan, program, _, folder] = command.as_slice() else {
                panic!("{command:?}");
            };
            let scan = scan.to_str()?.strip_prefix("PHP_INI_SCAN_DIR=")?;
            assert_eq!(Path::new(scan), Path::new(folder).join("conf.d"));
            let below = |path: &OsString| Some(Path::new(path).strip_prefix(root.path()).ok()?.to_owned());
            Some((below(program)?, below(folder)?))
        };
        let is = |program: &str, folder: &str| Some((program.into(), folder.into()));

        assert_eq!(found(), None);
        // Each is added to those before.
        for (installed, program, folder) in [
            (
                ["etc/php/8.2/cli/php.ini", "usr/bin/php8.2"].as_slice(),
                "usr/bin/php8.2",
                "etc/php/8.2/cli",
            ),
            (
                &["etc/php/8.10/cli/php.ini", "usr/bin/php8.10"],
                "usr/bin/php8.10",
                "etc/php/8.10/cli",
            ),
            // The command line has a newer one than Apache.
            (
                &[
                    "etc/php/8.2/apache2/php.ini",
                    "usr/lib/apache2/modules/libphp8.2.so",
                ],
                "usr/bin/php8.2",
                "etc/php/8.2/apache2",
            ),
            // What packages that are gone have left.
            (
                &[
                    "etc/php/8.10/fpm/php.ini",
                    "etc/php/8.11/fpm/php.ini",
                    "usr/sbin/php-fpm8.11",
                ],
                "usr/bin/php8.2",
                "etc/php/8.2/apache2",
            ),
            (
                &["etc/php/8.4/fpm/php.ini", "usr/sbin/php-fpm8.4", "usr/bin/php8.4"],
                "usr/bin/php8.4",
                "etc/php/8.4/fpm",
            ),
        ] {
            installed.iter().copied().for_each(install);
            assert_eq!(found(), is(program, folder), "{installed:?}");
        }
    }
}
