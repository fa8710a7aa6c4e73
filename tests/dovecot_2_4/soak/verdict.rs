//! What was wrong, by the logs of nodes and proxies, by what is in the mailboxes, and by what
//! clients were told.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;

use super::clients::{Done, What, delivered, handed};
use super::queues::Attempt;
use super::site::{Cluster, Marked, NODES, Node, name_of, node_at};
use super::troubles::Trouble;

/// Somebody was at work on a node: in a session, or, for a moment, by a delivery.
#[derive(Clone, Debug, PartialEq)]
struct Stay {
    user: String,
    node: usize,
    from: f64,
    to: f64,
    what: String,
}

/// When a node did not live.
type Death = (f64, f64);

/// Who was at work on two living nodes at once.
fn doubles(stays: &[Stay], deaths: &[Vec<Death>]) -> Vec<(Stay, Stay)> {
    let mut by_user: BTreeMap<&str, Vec<&Stay>> = BTreeMap::new();
    for stay in stays {
        by_user.entry(&stay.user).or_default().push(stay);
    }
    let mut found = Vec::new();
    for mut stays in by_user.into_values() {
        stays.sort_by(|one, other| one.from.total_cmp(&other.from));
        for (place, one) in stays.iter().enumerate() {
            for other in stays[place + 1..].iter().take_while(|other| other.from < one.to) {
                if one.node != other.node && lives_within(one, other, deaths) {
                    found.push(((*one).clone(), (*other).clone()));
                }
            }
        }
    }
    found
}

/// Whether both nodes lived at some time while both stays lasted.
fn lives_within(one: &Stay, other: &Stay, deaths: &[Vec<Death>]) -> bool {
    let (mut from, to) = (one.from.max(other.from), one.to.min(other.to));
    let mut deaths: Vec<Death> = [one.node, other.node]
        .iter()
        .flat_map(|node| deaths[*node].clone())
        .collect();
    deaths.sort_by(|one, other| one.0.total_cmp(&other.0));
    for (begun, ended) in deaths {
        if begun > from {
            break;
        }
        from = from.max(ended);
    }
    // A delivery takes no time.
    from < to || (from == to && other.from == other.to && from == other.from)
}

/// Whether a node did not live at some time between these.
fn is_of_death(deaths: &[Death], from: f64, to: f64) -> bool {
    deaths.iter().any(|(begun, ended)| *begun <= to && *ended >= from)
}

/// Whether a node was marked down all the time between these.
fn was_marked(marks: &[Marked], node: usize, from: f64, to: f64) -> bool {
    let before = marks.iter().rev().find(|marked| marked.seen <= from);
    let mut within = marks
        .iter()
        .filter(|marked| marked.seen > from && marked.after <= to);
    before.is_some_and(|marked| marked.down.contains(&node))
        && within.all(|marked| marked.down.contains(&node))
}

pub(crate) fn between<'l>(line: &'l str, begin: &str, end: &str) -> Option<&'l str> {
    Some(line.split_once(begin)?.1.split_once(end)?.0)
}

fn time(line: &str) -> Option<f64> {
    line.split(' ').next()?.parse().ok()
}

/// Of a line about a proxied login: the user, and the node.
fn proxied(line: &str) -> Option<(&str, usize)> {
    let (user, address) = between(line, " proxy(", ")")?.rsplit_once(',')?;
    Some((user, node_at(address.rsplit_once(':')?.0)?))
}

/// All that is known of what happened.
pub(crate) struct Known<'k> {
    pub(crate) cluster: &'k Cluster,
    pub(crate) done: &'k [Done],
    pub(crate) written: &'k [String],
    pub(crate) messages: usize,
    pub(crate) troubles: &'k [Trouble],
    pub(crate) unrest: &'k [(f64, f64)],
    pub(crate) marks: &'k [Marked],
    /// Those that entries go by.
    pub(crate) marks_of_entries: &'k [Marked],
}

/// What was wrong.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Who was at work on two living nodes at once, by the logs.
    pub(crate) doubles: Vec<String>,
    /// The same where one of the nodes lived, but so slowly that checks took it for dead: its
    /// users moved at once, and what was on its way to it was still done. Nobody can tell it from
    /// a dead one who cannot switch it off.
    pub(crate) by_mistake: usize,
    /// The same by what was written into mailboxes.
    pub(crate) doubles_in_mailboxes: Vec<String>,
    pub(crate) lost: Vec<String>,
    pub(crate) twice: Vec<String>,
    /// Twice, as the node died before it could say that it had the message.
    pub(crate) twice_by_death: usize,
    /// Logins and pages that went to a node which was marked down before they began.
    pub(crate) to_marked: Vec<String>,
    /// Who was refused while all was well.
    pub(crate) refused_in_peace: Vec<String>,
    /// What was permanently refused.
    pub(crate) bounced: Vec<String>,
    /// How many sessions the nodes had.
    pub(crate) sessions: usize,
}

impl Verdict {
    pub(crate) fn wrong(&self) -> Vec<&String> {
        let all = [
            &self.doubles,
            &self.doubles_in_mailboxes,
            &self.lost,
            &self.twice,
            &self.to_marked,
            &self.refused_in_peace,
            &self.bounced,
        ];
        all.into_iter().flatten().collect()
    }
}

/// A file in a mailbox: a message, and who wrote it when.
struct Written {
    name: String,
    user: String,
    node: usize,
    time: f64,
}

impl Known<'_> {
    pub(crate) fn verdict(&self) -> Verdict {
        let deaths = self.deaths();
        let taken_for_dead: Vec<Vec<Death>> = (0..NODES)
            .map(|node| {
                deaths[node]
                    .iter()
                    .copied()
                    .chain(self.taken_for_dead(node))
                    .collect()
            })
            .collect();
        let stays = self.stays(&deaths);
        let really = doubles(&stays, &deaths).len();
        let sessions = stays.iter().filter(|stay| stay.from < stay.to).count();
        let mailboxes = self.mailboxes();
        let describe = |(one, other): (Stay, Stay)| format!("{one:?}, {other:?}");
        let wrong = |stays: &[Stay]| -> Vec<String> {
            doubles(stays, &taken_for_dead)
                .into_iter()
                .map(describe)
                .collect()
        };
        let mut verdict = Verdict {
            doubles: wrong(&self.stays(&taken_for_dead)),
            doubles_in_mailboxes: wrong(&self.writing(&mailboxes)),
            to_marked: self.to_marked(),
            sessions,
            ..Verdict::default()
        };
        verdict.by_mistake = really - verdict.doubles.len();
        let queues = self.cluster.queues.as_ref();
        verdict.bounced = queues.map_or_else(Vec::new, |queues| queues.bounces());
        self.count(&mailboxes, &deaths, &mut verdict);
        for done in self.done {
            let Some(why) = done.what.refused() else { continue };
            let of = format!(
                "{} {:.3} to {:.3}: {:?}",
                self.cluster.users[done.user], done.from, done.to, done.what
            );
            if why.starts_with('5') {
                verdict.bounced.push(of.clone());
            }
            if !self
                .unrest
                .iter()
                .any(|(from, to)| done.from <= *to && done.to >= *from)
            {
                verdict.refused_in_peace.push(of);
            }
        }
        verdict
    }

    /// When each node did not live.
    fn deaths(&self) -> Vec<Vec<Death>> {
        let of = |node| {
            let dead = self
                .troubles
                .iter()
                .filter(move |trouble| trouble.node == node && !trouble.kind.lives());
            dead.map(|trouble| (trouble.from, trouble.to)).collect()
        };
        (0..NODES).map(of).collect()
    }

    /// When a node was marked down by checks.
    fn taken_for_dead(&self, node: usize) -> Vec<Death> {
        let mut found: Vec<Death> = Vec::new();
        let mut is_dead = false;
        for marked in self.marks {
            match (is_dead, marked.dead.contains(&node)) {
                (false, true) => found.push((marked.after, f64::INFINITY)),
                (true, false) => found.last_mut().expect("it was").1 = marked.seen,
                _ => {}
            }
            is_dead = marked.dead.contains(&node);
        }
        found
    }

    /// The node's logs, of all its lives.
    fn logs(&self) -> Vec<String> {
        let of = |node: &Node| node.logs.iter().map(|log| text(log)).collect();
        self.cluster.nodes.iter().map(of).collect()
    }

    /// When sessions ended: when the node said so, or when whoever stands before it ended them, or
    /// a login that had not come to its end. What is still on its way to the node then is nobody's
    /// any more.
    fn ends(&self, nodes: &[String]) -> HashMap<(String, usize), f64> {
        let mut ends: HashMap<(String, usize), f64> = HashMap::new();
        let mut end = |session: &str, node: usize, at: f64| {
            let known = ends.entry((session.to_owned(), node)).or_insert(at);
            *known = known.min(at);
        };
        for (node, log) in nodes.iter().enumerate() {
            for line in log.lines() {
                if let (Some(session), Some(at)) = (between(line, "><", ">: Info: Disconnected"), time(line))
                {
                    end(session, node, at);
                }
            }
        }
        let entries = self.cluster.logs_of_entries();
        for log in entries.iter().chain(nodes) {
            for line in log.lines().filter(|line| !line.contains(": Started proxying ")) {
                if let (Some((_, node)), Some(session), Some(at)) =
                    (proxied(line), between(line, "session=<", ">"), time(line))
                {
                    end(session, node, at);
                }
            }
        }
        ends
    }

    /// Sessions and deliveries by the nodes' logs. A session also ends with the node, and when
    /// webmail has hung up. Deliveries that were on their way to a node when it died are nobody's.
    fn stays(&self, deaths: &[Vec<Death>]) -> Vec<Stay> {
        let logs = self.logs();
        let ends = self.ends(&logs);
        let mut pages: HashMap<(usize, u16), Vec<&Done>> = HashMap::new();
        for done in self.done {
            if let What::Page(node, port, _) = &done.what {
                pages.entry((*node, *port)).or_default().push(done);
            }
        }
        // Who sent each message on from when to when, where that is a node.
        let mut deliveries: HashMap<String, Vec<(f64, f64, Option<usize>)>> = HashMap::new();
        for done in self.done {
            if let What::Delivery(number, ..) = &done.what {
                let of_message = deliveries.entry(delivered(*number)).or_default();
                of_message.push((done.from, done.to, None));
            }
        }
        for (name, attempt) in self.by_sendmail() {
            let of_message = deliveries.entry(name).or_default();
            of_message.push((attempt.from, attempt.to, Some(attempt.node)));
        }
        let stay = |user: &str, node, (from, to), what: &str| Stay {
            user: user.to_owned(),
            node,
            from,
            to,
            what: what.to_owned(),
        };
        let session = |node: usize, line: &str| {
            let (user, at) = (between(line, ": Logged in: user=<", ">")?, time(line)?);
            let session = between(line, "session=<", ">")?;
            let end = ends.get(&(session.to_owned(), node)).copied();
            let death = self
                .troubles
                .iter()
                .find(|trouble| trouble.node == node && trouble.kind.ends_all() && trouble.to > at);
            let port = between(line, "rport=<", ">")?.parse().ok()?;
            let entry = between(line, "lip=", ",").and_then(node_at);
            let pages = entry.and_then(|entry| pages.get(&(entry, port)));
            let page = pages.and_then(|pages| pages.iter().rev().find(|page| page.from <= at));
            let all = [end, death.map(|death| death.from), page.map(|page| page.to)];
            let to = all.into_iter().flatten().fold(f64::INFINITY, f64::min);
            (at < to).then(|| stay(user, node, (at, to), session))
        };
        let delivery = |node: usize, line: &str| {
            line.split_once(": saved mail to ")?;
            let (user, at) = (between(line, " lmtp(", ")")?, time(line)?);
            let name = between(line, "msgid=<", "@proof>")?;
            // What was on its way when the node hung, it ends when it goes on: nobody can take
            // that from it. So does a node that passes it on.
            let is_late = deliveries.get(name).is_some_and(|attempts| {
                let mut attempts = attempts.iter().filter(|(from, ..)| *from <= at);
                attempts.any(|(from, to, by)| {
                    let mut nodes = [node].into_iter().chain(*by);
                    nodes.any(|node| is_of_death(&deaths[node], *from, at.min(*to)))
                })
            });
            (!is_late).then(|| stay(user, node, (at, at), name))
        };
        let (session, delivery) = (&session, &delivery);
        let of = |(node, log): (usize, &'_ String)| -> Vec<Stay> {
            let lines = log.lines();
            lines
                .filter_map(|line| session(node, line).or_else(|| delivery(node, line)))
                .collect()
        };
        logs.iter().enumerate().flat_map(of).collect()
    }

    /// What sendmails tried, with the messages' names.
    fn by_sendmail(&self) -> Vec<(String, Attempt)> {
        let attempts = self.cluster.queues.as_ref().map(|queues| queues.attempts());
        let attempts = attempts.unwrap_or_default();
        let of = |done: &Done| {
            let What::Handed(number, Ok(id)) = &done.what else {
                return Vec::new();
            };
            let all = attempts.get(id).into_iter().flatten();
            all.map(|attempt| (handed(*number), attempt.clone())).collect()
        };
        self.done.iter().flat_map(of).collect()
    }

    fn mailboxes(&self) -> Vec<Written> {
        let mut all = Vec::new();
        for user in &self.cluster.users {
            for folder in ["new", "cur"] {
                let folder = self
                    .cluster
                    .network
                    .shared(&format!("mail/{user}/Maildir/{folder}"));
                let Ok(files) = fs::read_dir(folder) else { continue };
                for file in files {
                    let path = file.unwrap().path();
                    let file = path.file_name().unwrap().to_str().unwrap();
                    let (seconds, rest) = file.split_once(".M").unwrap();
                    let (micros, rest) = rest.split_once('P').unwrap();
                    let host = rest.split('.').nth(1).unwrap();
                    let text = text(&path).replace("Message-Id:", "Message-ID:");
                    let name = between(&text, "Message-ID: <", "@proof>").unwrap().to_owned();
                    all.push(Written {
                        name,
                        user: user.clone(),
                        node: (0..NODES).find(|node| name_of(*node) == host).unwrap(),
                        time: seconds.parse::<f64>().unwrap() + micros.parse::<f64>().unwrap() / 1e6,
                    });
                }
            }
        }
        all
    }

    /// Who wrote from when to when on which node, by the mailboxes: sessions that were told that
    /// it is written.
    fn writing(&self, mailboxes: &[Written]) -> Vec<Stay> {
        let answered: HashSet<&String> = self.written.iter().collect();
        let mut sessions: HashMap<(&str, &str, usize), Stay> = HashMap::new();
        for file in mailboxes.iter().filter(|file| answered.contains(&file.name)) {
            let session = file.name.rsplit_once('.').unwrap().0;
            let stay = sessions
                .entry((&file.user, session, file.node))
                .or_insert_with(|| Stay {
                    user: file.user.clone(),
                    node: file.node,
                    from: file.time,
                    to: file.time,
                    what: session.to_owned(),
                });
            stay.from = stay.from.min(file.time);
            stay.to = stay.to.max(file.time);
        }
        sessions.into_values().collect()
    }

    /// Messages that are not there, or more than once.
    fn count(&self, mailboxes: &[Written], deaths: &[Vec<Death>], verdict: &mut Verdict) {
        let mut copies: HashMap<&str, usize> = HashMap::new();
        for file in mailboxes {
            *copies.entry(&file.name).or_default() += 1;
        }
        let mut failed: HashSet<String> = HashSet::new();
        for done in self.done {
            let What::Delivery(number, Err(failure)) = &done.what else {
                continue;
            };
            let is_of_death = deaths
                .iter()
                .any(|deaths| is_of_death(deaths, done.from, done.to));
            if is_of_death || failure.is_unknown {
                failed.insert(delivered(*number));
            }
        }
        // A sendmail that died may have told nobody.
        for (name, attempt) in self.by_sendmail() {
            if deaths
                .iter()
                .any(|deaths| is_of_death(deaths, attempt.from, attempt.to))
            {
                failed.insert(name);
            }
        }
        let taken = self.done.iter().filter_map(|done| match &done.what {
            What::Handed(number, Ok(_)) => Some(handed(*number)),
            _ => None,
        });
        let taken: Vec<String> = taken.collect();
        let names = (0..self.messages)
            .map(delivered)
            .chain(self.written.iter().cloned())
            .chain(taken);
        for name in names {
            match copies.get(&*name).copied().unwrap_or_default() {
                0 => verdict.lost.push(name),
                1 => {}
                _ if failed.contains(&name) => verdict.twice_by_death += 1,
                _ => verdict.twice.push(name),
            }
        }
    }

    fn to_marked(&self) -> Vec<String> {
        let mut found = Vec::new();
        let numbers: HashMap<&str, usize> = self
            .cluster
            .users
            .iter()
            .enumerate()
            .map(|(number, user)| (user.as_str(), number))
            .collect();
        for (number, log) in self.cluster.logs_of_entries().iter().enumerate() {
            let mut attempts: HashMap<usize, Vec<&Done>> = HashMap::new();
            for done in self.done {
                if matches!(done.what, What::Login(at, _) if at == number) {
                    attempts.entry(done.user).or_default().push(done);
                }
            }
            for line in log.lines().filter(|line| !line.contains("): Disconnected")) {
                let (Some((user, node)), Some(at)) = (proxied(line), time(line)) else {
                    continue;
                };
                let mine = attempts.get(&numbers[user]).into_iter().flatten();
                let begun = mine
                    .map(|done| done.from)
                    .filter(|from| *from <= at)
                    .fold(0.0, f64::max);
                // Of an attempt that the proxy gives up, the client may have given up before.
                let waited =
                    between(line, "(after ", " secs").and_then(|seconds| seconds.parse::<f64>().ok());
                let begun = waited.map_or(begun, |seconds| begun.min(at - seconds - 1.0));
                if was_marked(self.marks_of_entries, node, begun, at) {
                    found.push(format!("from {begun:.3}: {line}"));
                }
            }
        }
        for done in self.done {
            if let What::Page(node, _, result) = &done.what {
                // The page has the name at once.
                if was_marked(self.marks, *node, done.from, done.from + 0.001) {
                    found.push(format!(
                        "a page at {:.3} to {}: {result:?}",
                        done.from,
                        name_of(*node)
                    ));
                }
            }
        }
        found
    }
}

fn text(path: &std::path::Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stay(node: usize, from: f64, to: f64) -> Stay {
        Stay {
            user: "anna".into(),
            node,
            from,
            to,
            what: String::new(),
        }
    }

    #[test]
    fn who_is_on_two_living_nodes() {
        let nobody_dies = vec![vec![], vec![]];
        let dies = |from, to| vec![vec![(from, to)], vec![]];
        for (one, other, deaths, is_double) in [
            (stay(0, 1.0, 3.0), stay(1, 3.0, 4.0), nobody_dies.clone(), false),
            (stay(0, 1.0, 3.0), stay(1, 2.9, 4.0), nobody_dies.clone(), true),
            (stay(0, 1.0, 3.0), stay(0, 2.0, 4.0), nobody_dies.clone(), false),
            // A delivery.
            (stay(0, 1.0, 3.0), stay(1, 2.0, 2.0), nobody_dies.clone(), true),
            (stay(0, 1.0, 3.0), stay(1, 2.0, 2.0), dies(1.5, 2.5), false),
            (stay(0, 1.0, 3.0), stay(1, 2.0, 2.0), dies(2.1, 2.5), true),
            // Sessions that a hung node still has, when it goes on.
            (stay(0, 1.0, 3.0), stay(1, 2.0, 4.0), dies(1.5, 3.0), false),
            (stay(0, 1.0, 3.0), stay(1, 2.0, 4.0), dies(1.5, 2.9), true),
            (
                stay(0, 1.0, f64::INFINITY),
                stay(1, 2.0, 4.0),
                dies(1.5, 5.0),
                false,
            ),
        ] {
            let stays = [one.clone(), other.clone()];
            assert_eq!(
                !doubles(&stays, &deaths).is_empty(),
                is_double,
                "{one:?} {other:?} {deaths:?}"
            );
        }
    }
}
