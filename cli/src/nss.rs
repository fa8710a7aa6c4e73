//! The services that give the system its accounts, and whether they list them.
//!
//! A service can know accounts by name and list none (sssd's `enumerate`, winbind's
//! `winbind enum users`, both off unless they are set): mail comes in for such users, and
//! no list has them.

use std::fs;
use std::time::Duration;

use crate::child::{self, ChildError, Finished};

const NSSWITCH: &str = "/etc/nsswitch.conf";

/// Files that say who has accounts: what else has some is not seen to change.
pub(crate) const FILES: [&str; 2] = [NSSWITCH, "/etc/passwd"];

/// Not by PATH, which is whoever's who started us.
const GETENT: &str = "/usr/bin/getent";

/// Services that list all accounts they know, or, as systemd's, have none that get mail.
const LISTING: [&str; 6] = ["files", "compat", "db", "systemd", "extrausers", "altfiles"];

/// The accounts of the system, or of one service alone, as passwd entries.
///
/// # Errors
/// When getent fails or is not finished in time.
pub(crate) fn getent(service: Option<&str>, timeout: Duration) -> Result<Vec<u8>, ChildError> {
    let service = service.map(|service| ["-s", service]);
    let command = [GETENT].into_iter().chain(service.into_iter().flatten());
    let command: Vec<&str> = command.chain(["passwd"]).collect();
    child::run(&command, b"", timeout).and_then(Finished::success)
}

/// The services of the system that need not list the accounts they know.
pub(crate) fn unlisting_services() -> Vec<String> {
    let mut services = services(&fs::read_to_string(NSSWITCH).unwrap_or_default());
    services.retain(|service| !LISTING.contains(&service.as_str()));
    services
}

/// What the administrator should know of those services that list nobody, a sentence for
/// each.
pub(crate) fn silent_services(services: &[String], timeout: Duration) -> Vec<String> {
    let lists_nobody = |service: &&String| getent(Some(service), timeout).is_ok_and(|list| list.is_empty());
    let silent = services.iter().filter(lists_nobody);
    silent.map(|service| sentence(service)).collect()
}

fn sentence(service: &str) -> String {
    let remedy = match service {
        "sss" => "set \"enumerate = true\" in the domain's section of sssd.conf",
        "winbind" => "set \"winbind enum users = yes\" in smb.conf",
        _ => "let it list them",
    };
    format!(
        "passwd in {NSSWITCH} has the service {service}, and \"getent -s {service} passwd\" lists nobody: users that \
         it knows by name only get no entry; {remedy}, or name a command in [users] of the configuration (USERS \
         OF A DIRECTORY in mailaffinity.toml(5))"
    )
}

/// The services of the line `passwd: files [NOTFOUND=return] sss`, as nsswitch.conf(5) has
/// it.
fn services(nsswitch: &str) -> Vec<String> {
    let lines = nsswitch
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default());
    let mut databases = lines.filter_map(|line| line.split_once(':'));
    let Some((_, line)) = databases.find(|(database, _)| database.trim() == "passwd") else {
        return Vec::new();
    };
    let parts = line
        .split('[')
        .map(|part| part.rsplit(']').next().unwrap_or_default());
    parts.flat_map(str::split_whitespace).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_of_nsswitch() {
        for (text, expected) in [
            ("", &[][..]),
            ("group: files sss\n#passwd: nis\n", &[]),
            ("passwd:\n", &[]),
            ("passwd: files systemd # sss\n", &["files", "systemd"]),
            ("# x\n passwd :files\tsss\npasswd: winbind", &["files", "sss"]),
            (
                "passwd: sss [ NOTFOUND = return SUCCESS=continue ] files[!UNAVAIL=return]winbind\n",
                &["sss", "files", "winbind"],
            ),
        ] {
            assert_eq!(services(text), expected, "{text}");
        }
    }

    #[test]
    fn each_sentence_has_a_remedy() {
        for (service, remedy) in [
            ("sss", "enumerate = true"),
            ("winbind", "winbind enum users = yes"),
            ("ldap", "let it list them"),
        ] {
            let sentence = sentence(service);
            assert!(
                sentence.contains(&format!("getent -s {service} passwd")),
                "{sentence}"
            );
            assert!(sentence.contains(remedy), "{sentence}");
        }
    }
}
