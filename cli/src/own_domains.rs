//! The domains whose users sendmail asks for without the domain: its class w.
//!
//! sendmail itself is asked, which can take a minute where it looks for the name of its
//! host. What it says is remembered, and it is asked again when what it has them from is
//! another, and each hour: it also takes names of DNS and of the host's interfaces.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::access_source::managed_block::digest;
use crate::report::last_status;
use crate::sendmail_cf;
use crate::test_mode;
use mailaffinity::config::Config;
use mailaffinity::files::file_stamp::{FileStamp, SETTLE};

/// Failover waits for the answer, so that it does not wait as long as sendmail does where
/// the host's name has no dot.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer is good for.
const HOUR: i64 = 3600;
/// What sendmail has its host's name from, besides the system and its configuration.
const HOSTS: &str = "/etc/hosts";

/// sendmail's own domains, as it told them once.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct OwnDomains {
    /// In lower case.
    pub domains: BTreeSet<String>,
    /// Known by this is what it had them from; not where that is a program or a map.
    origin: Option<String>,
    /// When, in seconds of Unix.
    asked: i64,
    /// Why it told none.
    #[serde(skip)]
    pub error: Option<String>,
}

impl OwnDomains {
    /// Those that the last update remembered in the status file.
    pub fn last(config: &Config) -> Option<OwnDomains> {
        serde_json::from_value(last_status(config, "update")?.remove("own_domains")?).ok()
    }

    /// Those that sendmail has now, or the configuration gives. sendmail is asked if it may
    /// have others than the `last` ones, so nobody should wait for whoever calls this.
    pub fn now(config: &Config, last: Option<OwnDomains>) -> OwnDomains {
        let lower = |domain: &str| domain.to_ascii_lowercase();
        if let Some(domains) = &config.sendmail.local_domains {
            return OwnDomains {
                domains: domains.iter().map(|domain| lower(domain)).collect(),
                ..OwnDomains::default()
            };
        }
        if test_mode::not_installed(config).is_some() {
            return OwnDomains::default();
        }
        let now = Timestamp::now().as_second();
        let mut origin = Origin::of(config);
        if let Some(last) = last
            && last.origin.is_some()
            && last.origin == origin.digest
            && (0..HOUR).contains(&now.saturating_sub(last.asked))
        {
            return last;
        }
        if !origin.is_settled {
            thread::sleep(SETTLE);
            origin = Origin::of(config);
        }
        let (domains, error) = match test_mode::ask(config, b"$=w\n", TIMEOUT) {
            Err(error) => (BTreeSet::new(), Some(error.to_string())),
            Ok(session) => {
                let domains: BTreeSet<String> = session.answers().map(lower).collect();
                // It always has a name of its own.
                let error = domains.is_empty().then(|| session.complaint());
                (domains, error)
            }
        };
        OwnDomains {
            domains,
            origin: origin.digest.filter(|_| origin.is_settled && error.is_none()),
            asked: now,
            error,
        }
    }
}

/// The files that sendmail may have its domains from, as far as they are known.
pub(crate) fn files(config: &Config) -> Vec<PathBuf> {
    let command = &config.sendmail.command;
    let class_w = sendmail_cf::Lines::read(command)
        .ok()
        .and_then(|lines| lines.class_w_files());
    let own = [sendmail_cf::path(command), HOSTS.into()];
    own.into_iter().chain(class_w.into_iter().flatten()).collect()
}

/// What sendmail has its domains from.
struct Origin {
    digest: Option<String>,
    /// Whether its files have been left alone for long enough to be complete.
    is_settled: bool,
}

impl Origin {
    fn of(config: &Config) -> Origin {
        let mut is_settled = true;
        let mut stamp = |path: &Path| {
            let stamp = fs::metadata(path).map(|metadata| FileStamp::of(&metadata)).ok();
            let is_recent = |stamp: &FileStamp| stamp.age().is_none_or(|age| age < SETTLE);
            is_settled &= !stamp.as_ref().is_some_and(is_recent);
            format!("{} {stamp:?}\n", path.display())
        };
        let command = &config.sendmail.command;
        let own = stamp(&sendmail_cf::path(command)) + &stamp(Path::new(HOSTS));
        let files = sendmail_cf::Lines::read(command)
            .ok()
            .and_then(|lines| lines.class_w_files());
        let host = rustix::system::uname();
        let digest = files.map(|files| {
            let files: String = files.iter().map(|file| stamp(file)).collect();
            digest(&[
                format!("{command:?}\n{own}{files}").as_bytes(),
                host.nodename().to_bytes(),
            ])
        });
        Origin { digest, is_settled }
    }
}
