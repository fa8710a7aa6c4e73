//! Dovecots without a Director, by `doveadm auth lookup`, which prints the host that a login
//! would be proxied to.
//!
//! No password is needed, and nobody logs in. Where the passdb gives `proxy_maybe`, the host is
//! printed for users who are at home there too, since no address of the machine is given
//! (`lip`; seen on 2.4.1).

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use super::{Answer, Opinion, Question};
use crate::child::{self, ChildError};
use mailaffinity::deadline::Deadline;
use mailaffinity::mapping::{parse_address, ring_label};

const PART: &str = "Dovecot";

/// The service whose settings let `mailaffinity-node.conf` answer where the site's own passdbs
/// look nobody up without a password, as PAM does.
const LOOKUP: [&str; 5] = ["auth", "lookup", "-x", "service=mailaffinity", "--"];

/// So many bytes of names at once: ssh makes one argument of all, which the kernel takes up to
/// 128 KiB of.
const NAMES: usize = 32 << 10;

/// EX_NOUSER: some names are nobody's.
const NO_USER: i32 = 67;

/// What Dovecot says of a user.
#[derive(Debug, PartialEq, Eq)]
enum Reply {
    /// The fields `host` and `hostip`, as far as there are such.
    Sent {
        host: Option<String>,
        address: Option<String>,
    },
    /// It takes nobody of this name.
    Nobody,
}

/// An opinion for each that the configuration names.
pub(crate) fn ask(question: &Question<'_>) -> Vec<Opinion> {
    let commands = &question.config.agreement.dovecot;
    let part = |command: &[String]| match commands.len() {
        1 => PART.to_owned(),
        _ => format!("{PART}: {}", command.join(" ")),
    };
    commands
        .iter()
        .map(|command| ask_one(question, part(command), command))
        .collect()
}

fn ask_one(question: &Question<'_>, part: String, command: &[String]) -> Opinion {
    let typed = question.typed.iter().enumerate();
    let asked = typed.filter(|(place, _)| not_asked(question, *place).is_none());
    let asked: Vec<&str> = asked.filter_map(|(_, user)| str::from_utf8(user).ok()).collect();
    let replies = match look_up(command, &asked, *question.config.agreement.timeout) {
        Ok(replies) => replies,
        // Its own sentence has all names.
        Err(error) => {
            let problem = format!("{} {}", child::name(command), error.problem);
            return Opinion::failed(part, problem);
        }
    };
    let given = asked.iter().map(|user| replies.get(*user));
    let mut opinion = question.opinion(
        part,
        |place, _| not_asked(question, place),
        given,
        |place, reply| answer(question, place, reply),
    );
    if !replies.is_empty() && replies.values().all(|reply| *reply == Reply::Nobody) {
        opinion.problems.push(
            "it takes none of these names: is it the Dovecot that they log in to, and does its passdb look users up \
             without a password (protocol mailaffinity)?"
                .into(),
        );
    }
    opinion.explain(question, || {
        "compare its /etc/mailaffinity.toml and node state with these here, and the tag of its lua_settings; its log \
         says why there is no host"
            .into()
    });
    opinion
}

/// Names go to a command line, and by ssh to a shell. Those of the characters that Dovecot
/// takes unless auth_username_chars says otherwise are nothing else to any shell.
fn not_asked(question: &Question<'_>, place: usize) -> Option<&'static str> {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-@+".contains(byte);
    match question.typed.get(place)? {
        [] => Some("the name is empty"),
        name if name.iter().all(is_plain) => None,
        _ => Some("the name has characters that Dovecot's auth_username_chars does not have"),
    }
}

fn look_up(
    command: &[String],
    users: &[&str],
    timeout: Duration,
) -> Result<HashMap<String, Reply>, ChildError> {
    let deadline = Deadline::after(timeout);
    let mut replies = HashMap::new();
    let mut users = users.iter().peekable();
    while users.peek().is_some() {
        let mut command: Vec<&str> = command.iter().map(String::as_str).chain(LOOKUP).collect();
        // For each name that it cannot ask for, doveadm tries for seconds (2.4.1): so one is first.
        let most = if replies.is_empty() { 1 } else { NAMES };
        let mut bytes = 0;
        while let Some(user) = users.next_if(|_| bytes < most) {
            bytes = user.len().saturating_add(1).saturating_add(bytes);
            command.push(user);
        }
        let finished = child::run(&command, b"", deadline.left().unwrap_or(Duration::ZERO))?;
        let printed = match finished.status.code() {
            Some(NO_USER) => finished.stdout,
            _ => finished.success()?,
        };
        replies.extend(parse(&String::from_utf8_lossy(&printed)));
    }
    Ok(replies)
}

/// Reads "passdb: NAME" with fields below it, such as "  host      : node1", and "passdb
/// lookup: user NAME doesn't exist". Other fields are not looked at: there may be a password.
fn parse(printed: &str) -> HashMap<String, Reply> {
    let mut replies = HashMap::new();
    let mut lines = printed.lines().peekable();
    while let Some(line) = lines.next() {
        let nobody = line
            .strip_prefix("passdb lookup: user ")
            .and_then(|line| line.strip_suffix(" doesn't exist"));
        if let Some(name) = nobody {
            replies.insert(name.to_owned(), Reply::Nobody);
        } else if let Some(name) = line.strip_prefix("passdb: ") {
            let (mut host, mut address) = (None, None);
            while let Some(field) = lines.next_if(|line| line.starts_with("  ")) {
                let (key, value) = field.split_once(':').unwrap_or((field, ""));
                let value = value.strip_prefix(' ').unwrap_or(value);
                match key.trim() {
                    "host" => host = Some(value.to_owned()),
                    "hostip" => address = Some(value.to_owned()),
                    _ => {}
                }
            }
            replies.insert(name.to_owned(), Reply::Sent { host, address });
        }
    }
    replies
}

fn answer(question: &Question<'_>, place: usize, reply: Option<&Reply>) -> Answer {
    let (host, address) = match reply {
        Some(Reply::Sent { host, address }) => (host.as_deref(), address.as_deref()),
        Some(Reply::Nobody) => return Answer::NotAsked("Dovecot takes no such name"),
        None => return Answer::Other("no answer".into()),
    };
    match (address.or(host).and_then(parse_address), host) {
        (Some(address), _) => of_address(question, address),
        (None, Some(host)) => question.node_of_host(place, host),
        (None, None) => Answer::Other("no host".into()),
    }
}

fn of_address(question: &Question<'_>, address: IpAddr) -> Answer {
    let node = question.node_at(address);
    node.map_or_else(|| Answer::Other(ring_label(address)), Answer::Node)
}

#[cfg(test)]
mod tests {
    use std::cell::OnceCell;
    use std::path::Path;

    use mailaffinity::config::Config;
    use mailaffinity::node_state::NodeState;

    use super::*;

    // As 2.4.1 prints it: the password of a user is there too.
    const PRINTED: &str = "passdb: anna
  user      : anna
  {PLAIN.b64}: aG9zdA==
  host      : node1.example.org
  hostip    : 192.0.2.1
  proxy     : yes

passdb lookup: user bert doesn't exist

passdb: Carla@a
  user      : carla@a
  host      : node2.example.org

passdb: dieter
  user      : dieter
";

    fn sent(host: Option<&str>, address: Option<&str>) -> Reply {
        Reply::Sent {
            host: host.map(str::to_owned),
            address: address.map(str::to_owned),
        }
    }

    #[test]
    fn replies() {
        let replies = parse(PRINTED);
        assert_eq!(replies.len(), 4, "{replies:?}");
        assert_eq!(
            replies["anna"],
            sent(Some("node1.example.org"), Some("192.0.2.1"))
        );
        assert_eq!(replies["bert"], Reply::Nobody);
        assert_eq!(replies["Carla@a"], sent(Some("node2.example.org"), None));
        assert_eq!(replies["dieter"], sent(None, None));
        for (end, _) in PRINTED.char_indices() {
            assert!(parse(&PRINTED[..end]).len() <= 4);
        }
    }

    #[test]
    fn answers() {
        let text = "[[node]]\nname = \"a\"\naddress = \"192.0.2.1\"\nhost = \"node1.example.org\"\n\
            [[node]]\nname = \"b\"\naddress = \"192.0.2.2\"\nhost = \"node2.example.org\"\n\
            [[node]]\nname = \"c\"\naddress = \"192.0.2.3\"\ntag = \"far\"\n";
        let config = Config::parse(text, Path::new("x")).unwrap();
        let state = NodeState::default();
        let own_domains = OnceCell::new();
        let typed = ["anna", "a b", "$(reboot)", "-x", "u+v@a.b_c", "\u{e4}", ""]
            .map(|user| user.as_bytes().to_vec());
        let question =
            Question::new(Path::new("x"), &config, &state, &typed, &[], |_| {}, &own_domains).unwrap();
        for (reply, expected) in [
            (sent(Some("192.0.2.2"), None), Answer::Node(1)),
            (
                sent(Some("node2.example.org"), Some("192.0.2.1")),
                Answer::Node(0),
            ),
            (sent(Some("node2.example.org"), None), Answer::Node(1)),
            (sent(Some("192.0.2.3"), None), Answer::Other("192.0.2.3".into())),
            (sent(Some("other"), None), Answer::Other("host other".into())),
            (sent(None, None), Answer::Other("no host".into())),
        ] {
            assert_eq!(answer(&question, 0, Some(&reply)), expected, "{reply:?}");
        }
        assert_eq!(answer(&question, 0, None), Answer::Other("no answer".into()));
        let asked: Vec<bool> = (0..typed.len())
            .map(|place| not_asked(&question, place).is_none())
            .collect();
        assert_eq!(asked, [true, false, false, true, true, false, false]);
    }

    /// Each command line is short enough, and all names are on one of them.
    #[test]
    fn many_names_are_asked_for_in_portions() {
        let script = r#"shift 5; echo "$*" | wc -c >>"$0"; for user; do printf 'passdb: %s\n  host: %s\n\n' "$user" "$#"; done"#;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sizes");
        let command = ["/bin/sh", "-c", script, file.to_str().unwrap()].map(str::to_owned);
        let users: Vec<String> = (0..9000)
            .map(|number| format!("user{number}@example.org"))
            .collect();
        let users: Vec<&str> = users.iter().map(String::as_str).collect();
        let replies = look_up(&command, &users, Duration::from_secs(60)).unwrap();
        assert_eq!(replies.len(), users.len());
        let sizes = std::fs::read_to_string(file).unwrap();
        let sizes: Vec<usize> = sizes.lines().map(|size| size.trim().parse().unwrap()).collect();
        assert!(
            sizes.len() > 1 && sizes.iter().all(|size| *size < NAMES + 100),
            "{sizes:?}"
        );
        let late = look_up(&command, &users, Duration::ZERO).unwrap_err().to_string();
        assert!(late.contains("did not end within"), "{late}");
    }
}
