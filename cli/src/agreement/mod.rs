//! Whether all parts of the mail system give the same node for every user, and if not,
//! why.
//!
//! What the configuration and node state say is compared with the Director, sendmail's
//! access map, sendmail's rule set, the C library, the PHP module and Dovecots without a
//! Director, each of which is asked for every user. Nothing is changed.

mod access_map;
mod c_library;
mod director;
mod dovecot;
mod edge;
mod login;
mod php;
mod sendmail;

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use crate::entries::{self, NoEntry};
use crate::own_domains::OwnDomains;
use crate::update::{self, Plan, UpdateError};
use mailaffinity::config::{Config, NoHash, NoNodeUp, NodeConfig};
use mailaffinity::mapping::{Cluster, ClusterError};
use mailaffinity::node_state::NodeState;

pub use edge::{Facts, NodeFacts};

/// What each part is asked, and the answer that it should give.
#[derive(Debug)]
pub struct Question<'q> {
    config_path: &'q Path,
    config: &'q Config,
    state: &'q NodeState,
    cluster: Cluster,
    /// Those who have a hash, as they are typed.
    typed: Vec<&'q [u8]>,
    /// The same, as authentication leaves them.
    users: Vec<Vec<u8>>,
    c_library_command: &'q [OsString],
    /// Takes a sentence for whoever waits for the answers.
    tell: fn(&str),
    /// The place in the configuration of each user's node.
    expected: Vec<usize>,
    /// Why a user has no entry in the access map; `None` for one who has.
    without_entry: Vec<Option<&'static str>>,
    /// The others, for whom no part is asked: the Director ends itself, or drops who asks.
    without_hash: Vec<(&'q [u8], NoHash)>,
    own_domains: &'q OnceCell<OwnDomains>,
    /// What an update would do, once that was worked out.
    plan: OnceCell<Result<Plan<'q>, UpdateError>>,
}

/// Why nothing can be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QuestionError {
    /// The node state makes no cluster.
    #[error(transparent)]
    Cluster(ClusterError),
    /// No node with the tag of the configuration is up.
    #[error("{0}: there is no answer to compare with")]
    NobodyUp(NoNodeUp),
}

/// What a part says of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// This node, by its place in the configuration.
    Node(usize),
    /// Something that is no node of the configuration, in words.
    Other(String),
    /// The part cannot be asked for this user, for a reason in words.
    NotAsked(&'static str),
}

/// What a part of the mail system says.
#[derive(Debug)]
pub struct Opinion {
    /// What is asked, such as "Director".
    pub part: Cow<'static, str>,
    /// For each user; none where the part could not be asked at all.
    pub answers: Vec<Answer>,
    /// What is wrong, each in one sentence with what to do. Without a problem and without
    /// a difference the part agrees.
    pub problems: Vec<String>,
    /// What is no problem, and good to know.
    pub remarks: Vec<String>,
    /// Why the part was not asked, where that is no problem: it is not on this machine.
    pub absent: Option<String>,
    /// Whether the problem is one that an update cannot be behind, so that it would be of no
    /// use to ask again.
    pub lasts: bool,
}

/// A user for whom a part gives another answer than the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference<'a> {
    /// The user.
    pub user: &'a [u8],
    /// The node of the configuration and node state.
    pub expected: &'a str,
    /// What the part says: the name of another node, or something else in words.
    pub answer: &'a str,
}

impl<'q> Question<'q> {
    /// The question for these users. `config_path` is where `config` is from, and `state`
    /// is its node state. `c_library_command` asks a C library: a program and its
    /// arguments, to which the library is added. It is given the users, a line each, and
    /// prints [`Facts`], then an object with the `node` of each user, as lines of JSON. `tell`
    /// takes a sentence where an answer takes its time. `own_domains` are sendmail's, once it
    /// was asked for them.
    ///
    /// # Errors
    /// When the configuration and node state have no answer themselves.
    pub fn new(
        config_path: &'q Path,
        config: &'q Config,
        state: &'q NodeState,
        typed: &'q [Vec<u8>],
        c_library_command: &'q [OsString],
        tell: fn(&str),
        own_domains: &'q OnceCell<OwnDomains>,
    ) -> Result<Question<'q>, QuestionError> {
        let cluster = config.cluster(state).map_err(QuestionError::Cluster)?;
        let (mut with_hash, mut users, mut expected) = (Vec::new(), Vec::new(), Vec::new());
        let mut without_hash = Vec::new();
        for name in typed {
            let user = config.authenticated(name);
            match user.and_then(|user| Ok((config.username_hash.hash(&user)?, user))) {
                Ok((hash, user)) => {
                    let node = cluster.index_of_hash(hash, &config.tag);
                    expected.push(node.ok_or_else(|| QuestionError::NobodyUp(NoNodeUp(config.tag.clone())))?);
                    users.push(user.into_owned());
                    with_hash.push(name.as_slice());
                }
                Err(problem) => without_hash.push((name.as_slice(), problem)),
            }
        }
        let typed = with_hash;
        let mut key = Vec::new();
        let without_entry = typed.iter().map(|typed| {
            key.clear();
            match entries::of_user(config, &cluster, typed, &mut key) {
                Ok(_) => None,
                Err(NoEntry::NoQueueGroup(_)) => Some("the node has no queue_group"),
                Err(_) => Some("the name can have no entry in the access map"),
            }
        });
        Ok(Question {
            without_entry: without_entry.collect(),
            without_hash,
            config_path,
            config,
            state,
            expected,
            cluster,
            typed,
            users,
            c_library_command,
            tell,
            own_domains,
            plan: OnceCell::new(),
        })
    }

    /// What an update would do about the access map.
    fn plan(&self) -> &Result<Plan<'q>, UpdateError> {
        self.plan
            .get_or_init(|| update::plan_unlocked(self.config, self.state, true, self.own_domains))
    }

    /// Asks every part, one after the other. Each has the time that the configuration gives
    /// it (`[agreement]`).
    pub fn ask(&self) -> Vec<Opinion> {
        let access_map = access_map::ask(self);
        let sendmail = sendmail::ask(self, &access_map);
        let [node, host] = php::ask(self, &access_map);
        let mut opinions = vec![
            director::ask(self),
            access_map,
            sendmail,
            c_library::ask(self),
            node,
            host,
        ];
        opinions.extend(dovecot::ask(self));
        opinions
    }

    /// The users for whom an opinion has another answer, in the order of the users.
    pub fn differences<'a>(&'a self, opinion: &'a Opinion) -> impl Iterator<Item = Difference<'a>> {
        let expected = self.typed.iter().zip(&self.expected);
        expected
            .zip(&opinion.answers)
            .filter(|((_, expected), answer)| answer.differs(**expected))
            .map(|((user, expected), answer)| Difference {
                user,
                expected: self.name(*expected),
                answer: match answer {
                    Answer::Node(node) => self.name(*node),
                    Answer::Other(words) => words,
                    Answer::NotAsked(why) => why,
                },
            })
    }

    /// Why an opinion lacks users: each reason, how many they are, and one of them.
    pub fn not_asked(&self, opinion: &Opinion) -> BTreeMap<String, (usize, &'q [u8])> {
        let mut reasons = BTreeMap::new();
        let mut add = |why: String, user| reasons.entry(why).or_insert((0, user)).0 += 1;
        for (user, answer) in self.typed.iter().zip(&opinion.answers) {
            if let Answer::NotAsked(why) = answer {
                add((*why).into(), *user);
            }
        }
        if opinion.absent.is_none() {
            let without_hash = self.without_hash.iter();
            without_hash.for_each(|(user, why)| add(format!("no part has a node for it: {why}"), *user));
        }
        reasons
    }

    fn name(&self, node: usize) -> &'q str {
        self.config
            .nodes
            .get(node)
            .map_or("", |node| node.node.name.as_str())
    }

    /// The node with this address and the tag of the configuration, as the node state has
    /// it.
    fn node_at(&self, address: IpAddr) -> Option<usize> {
        self.cluster
            .nodes()
            .iter()
            .position(|node| node.address == address && node.tag == self.config.tag)
    }

    /// The node that is connected to for a user by this host: the user's own, if it has this
    /// host, which others may share. PHP's `fsockopen()` wants IPv6 in brackets.
    fn node_of_host(&self, user: usize, host: &str) -> Answer {
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        let nodes = &self.config.nodes;
        let has_host = |node: &usize| nodes.get(*node).is_some_and(|node| node.host == bare);
        let expected = self.expected.get(user).copied().filter(has_host);
        match expected.or_else(|| (0..nodes.len()).find(has_host)) {
            Some(node) => Answer::Node(node),
            None => Answer::Other(format!("host {}", host.escape_debug())),
        }
    }

    /// The first user whose answer differs, after the place among the users.
    fn first_different(&self, opinion: &Opinion) -> Option<(usize, &[u8])> {
        let mut answers = opinion.answers.iter().zip(&self.expected);
        let place = answers.position(|(answer, expected)| answer.differs(*expected))?;
        Some((place, self.users.get(place)?))
    }

    /// The opinion of a part that is asked for all users but those that `not_asked` has a
    /// reason for, and has `given` something for each. Both closures get the user's place.
    fn opinion<T>(
        &self,
        part: impl Into<Cow<'static, str>>,
        not_asked: impl Fn(usize, &[u8]) -> Option<&'static str>,
        given: impl IntoIterator<Item = T>,
        answer: impl Fn(usize, T) -> Answer,
    ) -> Opinion {
        let mut given = given.into_iter();
        let users = self.users.iter().enumerate();
        let answers = users.map(|(place, user)| match not_asked(place, user) {
            Some(why) => Answer::NotAsked(why),
            None => given
                .next()
                .map_or(Answer::Other("no answer".into()), |given| answer(place, given)),
        });
        Opinion {
            answers: answers.collect(),
            ..Opinion::new(part)
        }
    }

    /// Why the user at this place has no entry in the access map.
    fn without_entry(&self, place: usize) -> Option<&'static str> {
        self.without_entry.get(place).copied().flatten()
    }
}

impl Answer {
    fn differs(&self, expected: usize) -> bool {
        match self {
            Answer::Node(node) => *node != expected,
            Answer::Other(_) => true,
            Answer::NotAsked(_) => false,
        }
    }
}

impl Opinion {
    fn new(part: impl Into<Cow<'static, str>>) -> Opinion {
        Opinion {
            part: part.into(),
            answers: Vec::new(),
            problems: Vec::new(),
            remarks: Vec::new(),
            absent: None,
            lasts: false,
        }
    }

    fn absent(part: impl Into<Cow<'static, str>>, why: impl fmt::Display) -> Opinion {
        Opinion {
            absent: Some(why.to_string()),
            ..Opinion::new(part)
        }
    }

    fn failed(part: impl Into<Cow<'static, str>>, problem: impl fmt::Display) -> Opinion {
        Opinion {
            problems: vec![problem.to_string()],
            ..Opinion::new(part)
        }
    }

    /// That of the list of users, where it may lack some.
    pub fn of_list(remarks: Vec<String>) -> Option<Opinion> {
        (!remarks.is_empty()).then(|| Opinion {
            remarks,
            ..Opinion::absent("user list", "it may lack some")
        })
    }

    /// As [`Opinion::failed`], where it is of no use to ask again.
    fn failed_for_good(part: impl Into<Cow<'static, str>>, problem: impl fmt::Display) -> Opinion {
        Opinion {
            lasts: true,
            ..Opinion::failed(part, problem)
        }
    }

    /// Gives the cause of different answers, where no problem gives it.
    fn explain(&mut self, question: &Question<'_>, cause: impl FnOnce() -> String) {
        if self.problems.is_empty() && question.first_different(self).is_some() {
            self.problems.push(cause());
        }
    }

    /// For how many users the part was asked.
    pub fn asked(&self) -> usize {
        let asked = |answer: &&Answer| !matches!(answer, Answer::NotAsked(_));
        self.answers.iter().filter(asked).count()
    }
}

/// How a node is called in a sentence: its name and address.
fn described(node: &NodeConfig) -> String {
    let address = mailaffinity::mapping::ring_label(node.node.address);
    match node.node.name == address {
        true => address,
        false => format!("{} ({address})", node.node.name),
    }
}
