//! The sessions of users who now belong elsewhere: a thread that ends them.
//!
//! That is done as soon as the node state has changed. Whoever asked before comes in a moment
//! later, so it is done again each second of that time and around its end, and then once with each
//! update.

use std::collections::{BTreeMap, BTreeSet};
use std::iter;
use std::mem;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;

use super::wanted::{Retry, Wanted, next};
use crate::node_state::asks_director;
use crate::nodes::ThisNode;
use crate::report::Log;
use crate::sessions::{self, Plan, Session};
use mailaffinity::config::Config;
use mailaffinity::node_state::NodeState;

/// How long somebody who asked before a change may take to come in: as long as a login may
/// take at a node, by `login_proxy_timeout` in mailaffinity's files for Dovecot. Where users
/// move between nodes that live, the node state says when they are let in again.
const LATE: Duration = Duration::from_secs(4);
/// How often sessions are ended meanwhile. Where many are left to the end, ending them takes too long.
const PAUSE: Duration = Duration::from_secs(1);
/// How long before and after that they are ended once more.
const MARGIN: Duration = Duration::from_millis(500);
/// So many users are ended one by one: each takes a twentieth of a second, and all are to be ended
/// before users are let in elsewhere.
const MOST_SINGLES: usize = 20;
/// How often a user's sessions on a node are ended between two changes: once more than those who
/// asked before a change need. Whoever comes back there after that would do so forever.
const MOST_TIMES: u32 = 8;

/// How it went.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Ended {
    /// How many sessions are left on another node than their user's, as far as is known.
    pub(crate) wrong: usize,
    /// How many were ended when some were last,
    ended: usize,
    /// and when that was.
    ended_at: Option<String>,
    /// How long it took to look, and to end them.
    pub(crate) seconds: f64,
    /// How many were ended since the watcher began.
    #[serde(skip)]
    pub(crate) total: usize,
}

/// Ends sessions whenever that is due, until nobody is left who wants anything, or `tell` says
/// no.
pub(crate) fn end_forever(
    this_node: &ThisNode,
    wanted: &Receiver<Wanted>,
    tell: impl Fn(Option<Ended>, Option<String>) -> bool,
) {
    let Some(Some(first)) = next(wanted, Duration::MAX) else {
        return;
    };
    let mut ending = Ending::of(this_node, first);
    loop {
        if ending.wait().is_zero() {
            let (ended, problem) = ending.run();
            if !tell(ended, problem) {
                return;
            }
        }
        match next(wanted, ending.wait()) {
            Some(Some(wanted)) => ending.take(wanted),
            Some(None) => {}
            None => return,
        }
    }
}

struct Ending<'n> {
    this_node: &'n ThisNode,
    wanted: Wanted,
    /// When it is due because of a change,
    due: Vec<Instant>,
    /// and when in any case.
    regularly: Instant,
    retry: Retry,
    /// How often sessions were ended since the change, by whose they were and on which node.
    times: BTreeMap<(Vec<u8>, String), u32>,
    last: Ended,
}

impl Ending<'_> {
    fn of(this_node: &ThisNode, wanted: Wanted) -> Ending<'_> {
        let now = Instant::now();
        Ending {
            this_node,
            due: moments(now, &wanted.state),
            wanted,
            regularly: now,
            retry: Retry::default(),
            times: BTreeMap::new(),
            last: Ended::default(),
        }
    }

    /// Takes what is wanted now. It may be nothing new: then other files have changed, or users
    /// have moved.
    fn take(&mut self, wanted: Wanted) {
        let before = mem::replace(&mut self.wanted, wanted);
        let is_as_before = before.state.nodes == self.wanted.state.nodes;
        if !is_as_before || !Arc::ptr_eq(&before.config, &self.wanted.config) {
            self.due = moments(Instant::now(), &self.wanted.state);
            self.times.clear();
        }
    }

    fn wait(&self) -> Duration {
        let next = self.due.iter().fold(self.regularly, |next, due| next.min(*due));
        next.saturating_duration_since(Instant::now())
    }

    /// How it went, if there may be any to end, and what is wrong.
    fn run(&mut self) -> (Option<Ended>, Option<String>) {
        let begun = Instant::now();
        self.due.retain(|due| *due > begun);
        let config = self.wanted.config.clone();
        if !has_sessions_to_end(&config) {
            self.retry = Retry::default();
            self.regularly = begun + *config.watch.update;
            return (None, None);
        }
        let result = self.end(&config);
        self.last.seconds = begun.elapsed().as_secs_f64();
        self.retry.after(result.is_err());
        let pause = match &result {
            Ok(_) => *config.watch.update,
            Err(_) => self.retry.wait(),
        };
        self.regularly = Instant::now() + pause;
        (Some(self.last.clone()), result.unwrap_or_else(Some))
    }

    /// What could not be helped, if anything.
    fn end(&mut self, config: &Config) -> Result<Option<String>, String> {
        let cluster = config
            .cluster(&self.wanted.state)
            .map_err(|error| error.to_string())?;
        let (here, reason) = match self.this_node.find(config) {
            Ok(here) => (here, None),
            Err(failure) => (None, Some(failure)),
        };
        let sessions = match sessions::list(config, &cluster, None, here) {
            Err(error) if error.is_not_running() => Vec::new(),
            listed => listed.map_err(|error| error.to_string())?,
        };
        let wrong: Vec<&Session<'_>> = sessions.iter().filter(|session| session.is_wrong()).collect();
        self.last.wrong = wrong.len();
        let place =
            |session: &Session<'_>| Some((session.line.user.clone(), session.node_name()?.to_owned()));
        let comes_back = |session: &Session<'_>| {
            let times = place(session).and_then(|place| self.times.get(&place));
            times.is_some_and(|times| *times >= MOST_TIMES)
        };
        let is_chosen = |session: &Session<'_>| session.is_wrong() && !comes_back(session);
        let chosen = sessions.iter().map(|session| (&session.line, is_chosen(session)));
        let plan = Plan::of(chosen, MOST_SINGLES);
        let coming_back = wrong.iter().filter(|session| comes_back(session)).count();
        let begun = Instant::now();
        let ended = plan
            .carry_out(&config.dovecot, *config.dovecot.timeout)
            .map_err(|error| error.to_string())?;
        if ended > 0 {
            self.last.wrong = wrong.len().saturating_sub(ended);
            self.last.ended = ended;
            self.last.total = self.last.total.saturating_add(ended);
            self.last.ended_at = Some(Timestamp::now().to_string());
            let seconds = begun.elapsed().as_secs_f64();
            Log::open(config).notice(&format!(
                "sessions: {ended} of users who belong on other nodes were ended; {seconds:.3} s"
            ));
        }
        let left = plan.left();
        let chosen = sessions.iter().filter(|session| is_chosen(session));
        let ended: BTreeSet<_> = chosen
            .filter(|session| !left.contains(&*session.line.user))
            .filter_map(place)
            .collect();
        for place in ended {
            *self.times.entry(place).or_default() += 1;
        }
        let coming_back = (coming_back > 0).then(|| {
            format!(
                "{coming_back} sessions are on other nodes than their users', who came back there each time that they \
                 were ended: Dovecot's passdb does not go by {}; \"end_sessions = false\" in [watch] leaves them",
                config.node_state.display()
            )
        });
        let unknown = || sessions::unknown(&sessions, reason?);
        Ok(plan.complaint().or(coming_back).or_else(unknown))
    }
}

/// When sessions are to be ended because of a change that was just made.
fn moments(now: Instant, state: &NodeState) -> Vec<Instant> {
    let time = Timestamp::now();
    let under_way = state.before.as_ref().filter(|before| before.is_under_way(time));
    let late = under_way.map_or(LATE, |before| before.until.duration_since(time).unsigned_abs());
    let last = now + late.saturating_sub(MARGIN);
    let meanwhile = iter::successors(Some(now), |moment| Some(*moment + PAUSE));
    let meanwhile = meanwhile.take_while(|moment| *moment < last);
    meanwhile.chain([last, now + late + MARGIN]).collect()
}

/// Whether there may be some here, and they are this watcher's to end: a Director ends them
/// itself.
fn has_sessions_to_end(config: &Config) -> bool {
    let doveadm = config.dovecot.doveadm.first().map(Path::new);
    *config.watch.end_sessions && !asks_director(config) && doveadm.is_some_and(Path::exists)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Arc<Config> {
        let text = "[[node]]\nname = \"node1\"\naddress = \"192.0.2.1\"\n";
        Arc::new(Config::parse(text, Path::new("mailaffinity.toml")).unwrap())
    }

    fn wanted(config: &Arc<Config>, state: &str) -> Wanted {
        Wanted {
            config: config.clone(),
            state: Arc::new(NodeState::parse(&format!("#\n{state}")).unwrap()),
            down: BTreeSet::new(),
        }
    }

    /// With these nodes and what `doveadm who` says: how many sessions a run ends, and what is wrong.
    fn ended(nodes: &str, listed: &str) -> (usize, Option<String>) {
        let script = "case $* in *who*) printf '%s' \"$0\";; esac";
        let doveadm = ["/bin/sh", "-c", script, listed];
        let text = format!("{nodes}[dovecot]\ndoveadm = {doveadm:?}\n");
        let config = Config::parse(&text, Path::new("mailaffinity.toml")).unwrap();
        let this_node = ThisNode::default();
        let mut ending = Ending::of(&this_node, wanted(&Arc::new(config), ""));
        let (ended, problem) = ending.run();
        (ended.unwrap().ended, problem)
    }

    /// As where `net.ipv4.ip_nonlocal_bind` is set: a machine has all addresses of this kind.
    #[test]
    fn sessions_here_are_on_no_other_node_that_this_machine_may_be() {
        let node =
            |number: u8| format!("[[node]]\nname = \"node{number}\"\naddress = \"127.0.0.{number}\"\n");
        let nodes = [1, 2, 3].map(node).concat();
        let config = Config::parse(&nodes, Path::new("mailaffinity.toml")).unwrap();
        let cluster = config.cluster(&NodeState::default()).unwrap();
        let (mut known, mut unknown) = ("username\tuser_node\n".to_owned(), "username\n".to_owned());
        for user in (0..9).map(|number| format!("user{number}")) {
            let hash = config.hash_of(user.as_bytes()).unwrap();
            let right = &cluster.nodes()[cluster.index_of_hash(hash, "").unwrap()];
            known += &format!("{user}\t{}\n", right.name);
            unknown += &format!("{user}\n");
        }
        assert_eq!(ended(&nodes, &known), (0, None));
        let (count, problem) = ended(&nodes, &unknown);
        let said = problem.unwrap();
        assert!(
            said.starts_with("on which node 9 sessions are is not known: this machine has several"),
            "{said}"
        );
        assert!(said.ends_with("say by --node which node it is"), "{said}");
        assert_eq!(count, 0);
        // Where it is one of them, all others are wrong.
        let others = nodes
            .replace("127.0.0.2", "203.0.113.2")
            .replace("127.0.0.3", "203.0.113.3");
        let (count, problem) = ended(&others, &unknown);
        assert!(count > 0, "{problem:?}");
    }

    #[test]
    fn around_the_moment_when_users_are_let_in_again() {
        let now = Instant::now();
        let after = |state: &str| -> Vec<u128> {
            let moments = moments(now, &wanted(&config(), state).state);
            moments.iter().map(|moment| (*moment - now).as_millis()).collect()
        };
        let usual = [0, 1000, 2000, 3000, 3500, 4500];
        assert_eq!(after(""), usual);
        let at = |seconds: i64| Timestamp::from_second(Timestamp::now().as_second() + seconds).unwrap();
        let until = |seconds: i64| after(&format!("[before]\nuntil = \"{}\"\n", at(seconds)));
        let moments = until(60);
        let (first, last) = (moments.first().unwrap(), moments.last().unwrap());
        assert_eq!(*first, 0);
        assert!((50_000..=60_500).contains(last), "{last}");
        assert!(moments.is_sorted_by(|one, next| one < next && next - one <= 1000));
        assert_eq!(until(-1), usual, "they are in");
    }

    #[test]
    fn only_a_change_is_one() {
        let config = config();
        let this_node = ThisNode::default();
        let mut ending = Ending::of(&this_node, wanted(&config, ""));
        for (wanted, is_change) in [
            (wanted(&config, ""), false),
            (
                wanted(&config, "[before]\nuntil = \"2026-11-27T20:00:00Z\"\n"),
                false,
            ),
            (wanted(&config, "[node.node1]\nstate = \"down\"\n"), true),
            (wanted(&config, ""), true),
            (wanted(&Arc::new((*config).clone()), ""), true),
        ] {
            ending.due.clear();
            ending
                .times
                .insert((b"anna".to_vec(), "node1".into()), MOST_TIMES);
            ending.take(wanted);
            assert_eq!(!ending.due.is_empty(), is_change);
            assert_eq!(ending.times.is_empty(), is_change);
        }
    }
}
