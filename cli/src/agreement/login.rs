//! A login through the Director's IMAP: what authentication makes of a name shows only there.

use std::collections::HashSet;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::{Question, described};
use crate::director::{self, Snapshot, User};
use crate::timed_socket::{TimedSocket, connect_unix, is_timeout};
use mailaffinity::config::{ImapSocket, Login};
use mailaffinity::deadline::Deadline;
use mailaffinity::files::regular_file;
use mailaffinity::mapping::{UsernameHash, ring_label};

/// The formats of `auth_username_format` and `director_username_hash` that are met with.
pub(crate) const USUAL_FORMATS: [&str; 8] = ["%Lu", "%u", "%Ln", "%n", "%Ld", "%d", "%Ln@%Ld", "%Uu"];

/// The Director's table has whole seconds: two logins within one look like one.
const NEXT_SECOND: Duration = Duration::from_millis(1100);

/// More than a server says on a line, or before it lets a user in.
const LONGEST_TALK: u64 = 64 << 10;

/// What is wrong, in words: the user cannot log in, or is not where the configuration says.
pub(crate) fn problem(question: &Question<'_>, login: &Login, socket: &Path) -> Option<String> {
    let tried = || -> Result<Option<String>, String> {
        let timeout = *question.config.agreement.timeout;
        let snapshot = || director::snapshot(socket, timeout).map_err(|error| error.to_string());
        let password = password(&login.password_file)
            .map_err(|error| format!("{}: {error}", login.password_file.display()))?;
        let before = snapshot()?;
        if !before.users.is_empty() {
            thread::sleep(NEXT_SECOND);
        }
        let reply = log_in(login, &password, timeout).map_err(|error| format!("{}: {error}", login.imap))?;
        Ok(verdict(question, login, &before, &snapshot()?, &reply))
    };
    let said = tried().unwrap_or_else(Some)?;
    Some(format!("test login of {}: {said}", login.user.escape_debug()))
}

fn password(file: &Path) -> io::Result<String> {
    if fs::metadata(file)?.permissions().mode() & 0o077 != 0 {
        return Err(io::Error::other(
            "others than its owner can read the password; chmod 600 it",
        ));
    }
    let text = regular_file::read_text(file)?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// The answer to the login, without its tag.
fn log_in(login: &Login, password: &str, timeout: Duration) -> io::Result<String> {
    let deadline = Deadline::after(timeout);
    let credentials = [login.user.as_str(), password];
    let reply = match &login.imap {
        ImapSocket::Unix(path) => {
            connect_unix(path, deadline).and_then(|socket| talk(socket, deadline, credentials))
        }
        ImapSocket::Tcp(address) => {
            TcpStream::connect_timeout(address, deadline.left()?).and_then(|socket| {
                let peer = socket.peer_addr()?.ip();
                if !peer.is_loopback() && peer != socket.local_addr()?.ip() {
                    return Err(io::Error::other(
                        "it is on another machine, and the password would go there in clear text: give an address of \
                         this one as login_imap",
                    ));
                }
                talk(socket, deadline, credentials)
            })
        }
    };
    reply.map_err(|error| match is_timeout(&error) {
        true => io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no answer to the login within {timeout:?}"),
        ),
        false => error,
    })
}

fn talk(
    socket: impl Read + Write + AsFd,
    deadline: Deadline,
    [user, password]: [&str; 2],
) -> io::Result<String> {
    let mut imap = BufReader::new(TimedSocket { socket, deadline }).take(LONGEST_TALK);
    line(&mut imap, b"* ")?;
    let request = format!(
        "a LOGIN {{{}+}}\r\n{user} {{{}+}}\r\n{password}\r\n",
        user.len(),
        password.len()
    );
    imap.get_mut().get_mut().write_all(request.as_bytes())?;
    let reply = line(&mut imap, b"a ")?;
    // Whether that arrives makes no difference.
    let _ = imap.get_mut().get_mut().write_all(b"b LOGOUT\r\n");
    Ok(reply)
}

/// The next line that begins with this, without it.
fn line(imap: &mut impl BufRead, begin: &[u8]) -> io::Result<String> {
    loop {
        let mut line = Vec::new();
        imap.read_until(b'\n', &mut line)?;
        match line.strip_suffix(b"\n") {
            None => {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "it ends the connection; is this IMAP?",
                ));
            }
            Some(line) => {
                if let Some(rest) = line.strip_prefix(begin) {
                    return Ok(rest.trim_ascii_end().escape_ascii().to_string());
                }
            }
        }
    }
}

fn verdict(
    question: &Question<'_>,
    login: &Login,
    before: &Snapshot,
    after: &Snapshot,
    reply: &str,
) -> Option<String> {
    let config = question.config;
    let typed = login.user.as_bytes();
    let named = config.authenticated(typed).and_then(|name| {
        let hash = config.username_hash.hash(&name)?;
        Ok((name, hash))
    });
    let (name, own) = match named {
        Ok(named) => named,
        Err(problem) => return Some(problem.to_string()),
    };
    let before: HashSet<&User> = before.users.iter().collect();
    let new: Vec<&User> = after.users.iter().filter(|user| !before.contains(user)).collect();
    if let Some(user) = new.iter().find(|user| user.username_hash == own) {
        let tag = after.tag_of(user.address).unwrap_or_default();
        let node = question.node_at(user.address);
        let expected = question.cluster.index_of_hash(own, &config.tag);
        let is_there = tag == config.tag && node.is_some() && node == expected;
        return (!is_there).then(|| {
            let expected = expected.and_then(|node| config.nodes.get(node));
            format!(
                "the Director has the user on {} with the tag \"{}\", and not on {} with the tag \"{}\"",
                ring_label(user.address),
                tag.escape_debug(),
                expected.map_or("a node".into(), described),
                config.tag.escape_debug()
            )
        });
    }
    let by_format = USUAL_FORMATS.iter().find(|format| {
        let left = UsernameHash::parse(format)
            .ok()
            .map(|format| format.expand(typed));
        let hash = left.and_then(|left| config.username_hash.hash(&left).ok());
        new.iter().any(|user| Some(user.username_hash) == hash)
    });
    if let Some(format) = by_format {
        return Some(format!(
            "the Director has the user as by auth_username_format = {format}, while the configuration has \
             auth_username_format = \"{}\"",
            config.auth_username_format.format().escape_ascii()
        ));
    }
    let (answer, why) = match reply.starts_with("OK") {
        true => ("it succeeds".to_owned(), ""),
        false => (
            format!("the answer is \"{reply}\""),
            "login_user or the password is wrong, or ",
        ),
    };
    Some(format!(
        "{answer}, and no user {} came to the Director: {why}authentication makes another name of it; compare \
         auth_username_format, auth_default_realm and auth_master_user_separator (doveconf), and user= of the passdb",
        name.escape_ascii()
    ))
}

#[cfg(test)]
mod tests {
    use mailaffinity::config::Config;
    use mailaffinity::node_state::NodeState;

    use std::cell::OnceCell;

    use super::*;

    const HOSTS: &str = "192.0.2.1\t100\t0\t\tU\t0\n192.0.2.2\t100\t0\tfar\tU\t0\n\n";

    /// The verdict where the table had the users `before`, and has those `after`.
    fn verdict_on(typed: &str, before: &str, after: &str, reply: &str) -> Option<String> {
        let text = "[[node]]\nname = \"a\"\naddress = \"192.0.2.1\"\n\
            [[node]]\nname = \"b\"\naddress = \"192.0.2.2\"\ntag = \"far\"\n\
            [agreement]\nlogin_user = \"anna\"\nlogin_password_file = \"/x\"\n";
        let config = Config::parse(text, Path::new("x")).unwrap();
        let state = NodeState::default();
        let own_domains = OnceCell::new();
        let question =
            Question::new(Path::new("x"), &config, &state, &[], &[], |_| (), &own_domains).unwrap();
        let login = Login {
            user: typed.into(),
            ..config.agreement.login.clone().unwrap()
        };
        let snapshot = |users: &str| Snapshot::read(format!("{HOSTS}{users}\n").as_bytes()).unwrap();
        verdict(&question, &login, &snapshot(before), &snapshot(after), reply)
    }

    fn user(name: &str, expires: u32, address: &str) -> String {
        let hash = UsernameHash::default().hash(name.as_bytes()).unwrap();
        format!("{hash}\t{expires}\t{address}\n")
    }

    #[track_caller]
    fn check(typed: &str, before: &str, after: &str, reply: &str, words: &str) {
        let said = verdict_on(typed, before, after, reply).unwrap();
        assert!(said.contains(words), "{said}");
    }

    #[test]
    fn a_login_is_seen_by_what_it_changes() {
        let (old, new) = (user("anna", 1, "192.0.2.1"), user("anna", 2, "192.0.2.1"));
        assert_eq!(verdict_on("Anna", "", &new, "OK"), None);
        assert_eq!(verdict_on("anna", &old, &new, "NO [UNAVAILABLE]"), None);
        check("anna", &old, &old, "OK done", "no user anna came");
        check("anna", "", "", "NO no", "login_user or the password is wrong");
        let far = user("anna", 2, "192.0.2.2");
        check("anna", &old, &far, "OK", "on 192.0.2.2 with the tag \"far\"");
        let other = user("u1001", 2, "192.0.2.1");
        check("anna", &old, &(old.clone() + &other), "OK", "another name");
        check(
            "bert@a",
            "",
            &user("bert", 1, "192.0.2.1"),
            "OK",
            "as by auth_username_format = %Ln",
        );
    }
}
