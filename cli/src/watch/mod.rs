//! The watcher: nodes are checked all the time, and what follows from a change, or from an
//! edit of a file that an update reads, is done at once.
//!
//! One thread decides, and writes the node state. Others ask about the nodes, look at files, and
//! do what follows, so that none of these holds up another. All that lookups need are the
//! files: whenever the watcher ends, they are as of its last word.

mod asking;
mod draining;
mod ending;
mod looking;
mod metrics;
mod problems;
mod quorum;
mod standing;
mod steps;
mod systemd;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::mem;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use jiff::{Timestamp, Unit};
use serde_json::json;

use self::asking::{Asking, Found};
pub(crate) use self::draining::Drains;
use self::ending::Ended;
use self::looking::{Changed, Look, Looking};
use self::metrics::Facts;
use self::problems::Problems;
use self::quorum::Quorum;
use self::standing::{HOUR, Standing, nobody_up, turns};
use self::steps::{Done, Program, Steps};
use self::systemd::notify;
use self::wanted::{Retry, Wanted};
use crate::checks::{self, ChecksError, Observation};
use crate::corosync::CorosyncError;
use crate::exit::{Failure, Status};
use crate::files::lock::Lock;
use crate::node_state;
use crate::nodes::doubts;
use crate::report::{Log, last_status, write_status};
use crate::shared_node_state::SharedError;
use crate::undo;
use crate::update::NodeChanges;
use crate::watcher_lock::{self, LOCK_WAIT};
use mailaffinity::config::{Check, Checks, Config, NodeConfig};
use mailaffinity::node_state::{Before, NodeState};

/// What it is called in the status file.
pub(crate) const WATCH: &str = "watch";
/// What a problem with the node state that machines share is about,
const SHARED: &str = "shared node state";
/// and when it has not been read for too long.
const PATIENCE: Duration = Duration::from_secs(5);
/// What a problem with corosync is about.
const COROSYNC: &str = "quorum";
/// What a problem with the configuration is about.
const CONFIGURATION: &str = "configuration";
/// What a problem of a node is about, before its name.
const NODE: &str = "node ";
const SECOND: Duration = Duration::from_secs(1);
/// How often the status is written when nothing happens.
const STATUS_INTERVAL: Duration = Duration::from_secs(60);
/// How much longer than a question may take nobody may be heard of.
const SILENCE: Duration = Duration::from_secs(30);

fn lock(config: &Config, wait: Duration) -> Result<Lock, Failure> {
    watcher_lock::take(config, wait).map_err(|error| match error.kind() {
        ErrorKind::WouldBlock => {
            Failure::new(Status::TempFail, format!("another watcher is at work: {error}"))
        }
        _ => error.into(),
    })
}

/// When each node fell within the last hour, by its name.
type Falls<Name> = BTreeMap<Name, Vec<Timestamp>>;

/// What the thread that decides is told.
enum Event {
    /// By those who ask, and by which configuration.
    Found(u64, Found),
    Changed(Changed),
    Done(Done),
}

/// Watches until a signal ends the process.
///
/// # Errors
/// When it cannot begin, or a thread of it has ended.
pub(crate) fn run(path: &Path, config: Config, drains: Drains) -> Result<Infallible, Failure> {
    let lock = lock(&config, LOCK_WAIT)?;
    let Ok((_, _begun)) = undo::begin(|| Ok::<_, Infallible>(((), || notify("STOPPING=1"))));
    let state = NodeState::load(&config.node_state).map_err(Failure::config)?;
    let (events, told) = mpsc::channel();
    let mut watcher = Watcher::begin(path, Arc::new(config), lock, state, drains, events)?;
    loop {
        watcher.wait(&told)?;
    }
}

struct Watcher<'p> {
    path: &'p Path,
    /// From when times of answers and falls count: an hour before it began, since falls of that
    /// hour have one too.
    begun: Instant,
    since: Timestamp,
    events: Sender<Event>,
    config: Arc<Config>,
    lock: Lock,
    /// Counts the configurations.
    generation: u64,
    asking: Asking,
    /// Of each node, if the nodes are asked one by one.
    standings: Vec<Standing>,
    /// When each of them was heard of last, or the Director.
    heard: Vec<Instant>,
    /// What people want on all machines, as far as it is known, and when that was read last.
    shared: (Option<NodeState>, Instant),
    /// Where corosync has a say.
    quorum: Option<Quorum>,
    /// As it is in force.
    state: NodeState,
    retry: Retry,
    looking: Looking,
    steps: Steps,
    state_seconds: Option<f64>,
    sessions: Option<Ended>,
    programs: Vec<Program>,
    update_seconds: Option<f64>,
    drain_seconds: Option<f64>,
    /// When the last update ended, and whether all went well.
    updated: Option<(Timestamp, bool)>,
    problems: Problems,
    is_ready: bool,
    ticked: Instant,
    /// When the status was written; `None` if it is to be written.
    written: Option<Instant>,
}

impl<'p> Watcher<'p> {
    fn begin(
        path: &'p Path,
        config: Arc<Config>,
        lock: Lock,
        state: NodeState,
        drains: Drains,
        events: Sender<Event>,
    ) -> Result<Watcher<'p>, Failure> {
        let now = Instant::now();
        let begun = now.checked_sub(HOUR).unwrap_or(now);
        let told = events.clone();
        let tell = move |changed| told.send(Event::Changed(changed)).is_ok();
        let looking = Looking::begin(path, &config, tell)?;
        let look = looking.clone();
        undo::at_hangup(move || _ = look.tell(&Look::Anew));
        let programs = last_programs(&config);
        let told = events.clone();
        let tell = move |done| told.send(Event::Done(done)).is_ok();
        let steps = Steps::begin(path, wanted(&config, &state), programs.clone(), drains, tell)?;
        let mut watcher = Watcher {
            path,
            begun,
            since: Timestamp::now(),
            asking: ask(&config, begun, 0, &events)?,
            events,
            config,
            lock,
            generation: 0,
            standings: Vec::new(),
            heard: Vec::new(),
            shared: (None, begun),
            quorum: None,
            state,
            retry: Retry::default(),
            looking,
            steps,
            state_seconds: None,
            sessions: None,
            programs,
            update_seconds: None,
            drain_seconds: None,
            updated: None,
            problems: Problems::default(),
            is_ready: false,
            ticked: now,
            written: None,
        };
        watcher.take_nodes(BTreeMap::new());
        watcher.remember_falls();
        Ok(watcher)
    }

    /// Waits for something to happen, for a second at most, and does what is to be done.
    fn wait(&mut self, told: &Receiver<Event>) -> Result<(), Failure> {
        let left = (self.ticked + SECOND).saturating_duration_since(Instant::now());
        match told.recv_timeout(left) {
            Ok(Event::Found(generation, found)) if generation == self.generation => self.take(found)?,
            Ok(Event::Found(..)) | Err(RecvTimeoutError::Timeout) => {}
            Ok(Event::Changed(changed)) => self.look(changed)?,
            Ok(Event::Done(done)) => self.note(done),
            Err(RecvTimeoutError::Disconnected) => return Err(ended()),
        }
        if self.ticked.elapsed() >= SECOND {
            self.ticked = Instant::now();
            self.configure_again()?;
            self.end_moves()?;
            self.tick();
        }
        Ok(())
    }

    /// When users have moved, what was before goes, and so do moves whose time has come, where
    /// anything may change.
    fn end_moves(&mut self) -> Result<(), Failure> {
        let (state, now) = (&self.state, Timestamp::now());
        let have_moved = |before: &Before| !before.is_under_way(now);
        let are_due = state.has_moves_to_end(now) && self.may_end_moves();
        match are_due || state.before.as_ref().is_some_and(have_moved) {
            true => self.write_state(|_| ()),
            false => Ok(()),
        }
    }

    /// Whether it may change anything but what people want: not where it may be cut off.
    fn has_a_say(&self) -> bool {
        let word = |quorum: &Quorum| quorum.word(self.begun.elapsed()).is_some();
        self.quorum.as_ref().is_none_or(word)
    }

    /// Whether users are on their way from nodes that live.
    fn users_move(&self) -> bool {
        let before = self.state.before.as_ref();
        before.is_some_and(|before| before.is_under_way(Timestamp::now()))
    }

    fn may_end_moves(&self) -> bool {
        self.has_a_say() && !self.users_move()
    }

    fn take(&mut self, found: Found) -> Result<(), Failure> {
        match found {
            Found::Unasked(index, problem) => {
                self.hear_of(index, Some(problem));
                Ok(())
            }
            Found::Answer(index, answer) => {
                self.hear_of(index, None);
                let answer = match &self.quorum {
                    Some(quorum) => quorum.heard(index, answer),
                    None => answer,
                };
                let one_may_fail = |asked| checks::one_may_fail(&self.state, asked);
                standing::take(
                    &mut self.standings,
                    index,
                    answer,
                    &self.config.watch,
                    one_may_fail,
                );
                self.decide()
            }
            Found::Director(result) => {
                self.heard.fill(Instant::now());
                let observed = result.map_err(|error| self.problem("checks", Some(error.to_string())));
                let Ok(observation) = observed else { return Ok(()) };
                self.problem("checks", None);
                self.follow_director(observation)
            }
            Found::Shared(result) => {
                self.shared.1 = Instant::now();
                self.problem(SHARED, result.as_ref().err().map(ToString::to_string));
                let Ok(shared) = result else { return Ok(()) };
                self.shared.0 = Some(shared);
                self.write_state(|_| ())
            }
            Found::Corosync(asked, result) => {
                let error = result.as_ref().err().map(ToString::to_string);
                self.problem(COROSYNC, error);
                let word = result.ok();
                let out = word.as_ref().map(|word| Observation::Out(word.out()));
                if let Some(quorum) = &mut self.quorum {
                    quorum.take(asked, word);
                }
                out.map_or(Ok(()), |out| self.change(&out))?;
                match self.standings[..] {
                    [] => Ok(()),
                    _ => self.decide(),
                }
            }
        }
    }

    /// A question about a node has come to its end; with a problem, nobody was asked.
    fn hear_of(&mut self, index: usize, problem: Option<String>) {
        if let Some(heard) = self.heard.get_mut(index) {
            *heard = Instant::now();
        }
        if let Some(node) = self.config.nodes.get(index) {
            let matter = format!("{NODE}{}, its check", node.node.name);
            self.problem(&matter, problem);
        }
    }

    fn follow_director(&mut self, observation: Observation) -> Result<(), Failure> {
        let config = self.config.clone();
        let (now, state) = (self.begun.elapsed(), &self.state);
        let (Some(quorum), Some(checks)) = (&mut self.quorum, &config.checks) else {
            return self.change(&observation);
        };
        let Some(word) = quorum.word(now) else {
            return Ok(());
        };
        let (out, is_doubtful) = (word.out(), observation.is_doubtful(&config, state, word));
        if !quorum.allows_director(is_doubtful, now) {
            return Ok(());
        }
        match observation.judged(&config, state, &checks.check, &out) {
            Ok(observation) => self.change(&observation),
            Err(error) => {
                self.problem("checks", Some(error.to_string()));
                Ok(())
            }
        }
    }

    /// Writes down which nodes have turned, and tells why others have not.
    fn decide(&mut self) -> Result<(), Failure> {
        let (config, now) = (self.config.clone(), self.begun.elapsed());
        let one_may_fail = |asked| checks::one_may_fail(&self.state, asked);
        let mut turns = turns(&self.standings, &config.watch, one_may_fail, now);
        if let Some(quorum) = &self.quorum {
            turns = quorum.allowed(turns, &self.standings, now);
        }
        // Who waits to be let in was told where: only a death comes meanwhile.
        if self.users_move() {
            turns
                .iter_mut()
                .for_each(|turn| _ = turn.take_if(|turn| turn.is_ok()));
        }
        if turns.iter().any(Option::is_some) {
            self.change(&Observation::Answers(turns))?;
        }
        let nobody = nobody_up(&self.standings, &config.watch).zip(config.checks.as_ref());
        let nobody = nobody.map(|(example, checks)| ChecksError::NobodyUp {
            asked: checks::asker(&checks.check).into(),
            example: example.into(),
        });
        self.problem("checks", nobody.map(|error| error.to_string()));
        let flapping: Vec<Option<usize>> = self
            .standings
            .iter()
            .map(|standing| {
                let is_flapping = standing.is_flapping(&config.watch, now);
                is_flapping.then(|| standing.falls(now).count())
            })
            .collect();
        for (node, falls) in config.nodes.iter().zip(flapping) {
            let problem = falls.map(|falls| format!(
                "it answers, but went down {falls} times within an hour, and stays down until that is over \
                 (falls_per_hour in [watch]); \"mailaffinity up\" takes it back"
            ));
            self.problem(&format!("{NODE}{}", node.node.name), problem);
        }
        Ok(())
    }

    /// Makes of the node state what was observed.
    fn change(&mut self, observation: &Observation) -> Result<(), Failure> {
        let (config, now) = (self.config.clone(), Timestamp::now());
        self.write_state(|state| observation.apply(&config, state, now))
    }

    /// Changes the node state as it is now, which others may have changed meanwhile, and which has
    /// all that people want on all machines.
    fn write_state(&mut self, change: impl Fn(&mut NodeState)) -> Result<(), Failure> {
        let (config, now, may_end_moves) = (self.config.clone(), Timestamp::now(), self.may_end_moves());
        let apply = |state: &mut NodeState| {
            change(state);
            if let Some(shared) = &self.shared.0 {
                *state = node_state::merged(&config, shared, state, now);
            }
            if may_end_moves {
                state.end_moves(now);
            }
        };
        let mut after = self.state.clone();
        apply(&mut after);
        let have_moved = |before: &Before| !before.is_under_way(now);
        let is_as_wanted = after == self.state && !after.before.as_ref().is_some_and(have_moved);
        if is_as_wanted || !self.retry.is_due() {
            return Ok(());
        }
        let begun = Instant::now();
        let changed = node_state::change_own(&config, apply);
        self.state_seconds = Some(begun.elapsed().as_secs_f64());
        self.retry.after(changed.is_err());
        match changed {
            Ok(state) => {
                self.problem("node state", None);
                self.take_state(state)
            }
            Err(error) => {
                self.problem("node state", Some(error.to_string()));
                Ok(())
            }
        }
    }

    /// Takes a node state that is in force.
    fn take_state(&mut self, state: NodeState) -> Result<(), Failure> {
        if state == self.state {
            return Ok(());
        }
        let changes = NodeChanges {
            before: mem::replace(&mut self.state, state),
            after: self.state.clone(),
            problem: None,
        };
        let mut log = Log::open(&self.config);
        for line in changes.lines(&self.config) {
            log.warning(&line);
        }
        let now = self.begun.elapsed();
        for (node, standing) in self.config.nodes.iter().zip(&mut self.standings) {
            standing.follow(self.state.mark_of(&node.node.name), now);
        }
        if self.is_ready {
            notify(&format!("STATUS={}", self.summary()));
        }
        self.update()
    }

    /// What is to be in force follows the node state as soon as it can.
    fn update(&mut self) -> Result<(), Failure> {
        self.written = None;
        self.steps
            .want(wanted(&self.config, &self.state))
            .map_err(|_| ended())
    }

    /// Reads what has changed. What is broken changes nothing.
    fn look(&mut self, changed: Changed) -> Result<(), Failure> {
        if changed.config {
            self.read_config()?;
        }
        if changed.config || changed.state {
            match NodeState::load(&self.config.node_state) {
                Ok(state) => {
                    self.problem("node state", None);
                    // What could not be written into a broken one can be now.
                    self.retry = Retry::default();
                    self.take_state(state)?;
                }
                Err(error) => self.problem("node state", Some(error.to_string())),
            }
        }
        if changed.config || changed.others {
            self.update()?;
        }
        // They are as they were when it began.
        if changed.config && !mem::replace(&mut self.is_ready, true) {
            notify(&format!("READY=1\nSTATUS={}", self.summary()));
        }
        Ok(())
    }

    /// Reads the configuration, and goes on with it if it is a good one. Says whether it is.
    fn read_config(&mut self) -> Result<bool, Failure> {
        let loaded = Config::load(self.path).map_err(Failure::config);
        let (is_good, problem) = match loaded.and_then(|config| self.lock_for(config)) {
            Ok(config) => {
                self.configure(Arc::new(config))?;
                (true, None)
            }
            Err(error) => (false, Some(format!("{error}; the last good one stays in force"))),
        };
        self.problem(CONFIGURATION, problem);
        Ok(is_good)
    }

    /// Tries one that was refused again: what it needs may be there now, as another watcher's lock.
    fn configure_again(&mut self) -> Result<(), Failure> {
        match self.problems.is_about(CONFIGURATION) && self.read_config()? {
            true => self.look(Changed {
                config: false,
                state: true,
                others: true,
            }),
            false => Ok(()),
        }
    }

    /// Takes the lock that a configuration has, which is returned then. Nobody is checked
    /// meanwhile: it does not wait.
    fn lock_for(&mut self, config: Config) -> Result<Config, Failure> {
        if watcher_lock::file(&config) != watcher_lock::file(&self.config) {
            self.lock = lock(&config, Duration::ZERO)?;
        }
        Ok(config)
    }

    /// Goes on with another configuration, and with what is known of nodes that it has too.
    fn configure(&mut self, config: Arc<Config>) -> Result<(), Failure> {
        let before = mem::replace(&mut self.config, config);
        self.generation = self.generation.wrapping_add(1);
        self.asking = ask(&self.config, self.begun, self.generation, &self.events)?;
        let nodes = before
            .nodes
            .iter()
            .map(|node| (node.node.name.clone(), node.node.address));
        let known = nodes.zip(mem::take(&mut self.standings)).collect();
        self.take_nodes(known);
        self.problems.retain(|matter| !matter.starts_with(NODE));
        self.looking
            .tell(&Look::For(self.config.clone()))
            .map_err(|_| ended())
    }

    /// Takes the nodes of the configuration, with how those stand that were known.
    fn take_nodes(&mut self, mut known: BTreeMap<(String, IpAddr), Standing>) {
        let now = self.begun.elapsed();
        let standing = |node: &NodeConfig| {
            let mark = self.state.mark_of(&node.node.name);
            let known = known.remove(&(node.node.name.clone(), node.node.address));
            let mut standing = known.unwrap_or_else(|| Standing::of(mark));
            standing.follow(mark, now);
            standing
        };
        let (standings, heard_of) = match self.config.checks.as_ref().map(|checks| &checks.check) {
            None => (Vec::new(), 0),
            Some(Check::Director(_)) => (Vec::new(), 1),
            Some(_) => (
                self.config.nodes.iter().map(standing).collect(),
                self.config.nodes.len(),
            ),
        };
        self.standings = standings;
        self.heard = vec![Instant::now(); heard_of];
        let quorum = self.config.checks.as_ref().and_then(|checks| checks.quorum);
        self.shared = (None, Instant::now());
        self.quorum = quorum.map(|_| Quorum::new(now));
        if quorum.is_none() {
            self.problem(COROSYNC, None);
        }
        if self.config.shared_node_state.is_none() {
            self.problem(SHARED, None);
        }
    }

    /// The falls that the last watcher left in the status file. Those to come are of a clock that
    /// was set back since: none counts for longer than an hour from now.
    fn remember_falls(&mut self) {
        let falls = last_status(&self.config, WATCH).and_then(|mut last| last.remove("falls"));
        let falls = falls.and_then(|falls| serde_json::from_value::<Falls<String>>(falls).ok());
        let (falls, now) = (falls.unwrap_or_default(), Timestamp::now());
        for (node, standing) in self.config.nodes.iter().zip(&mut self.standings) {
            let falls = falls.get(&node.node.name).into_iter().flatten();
            let ago = |fall: &Timestamp| Duration::try_from(now.duration_since(*fall)).unwrap_or_default();
            standing.remember(falls.map(ago), self.begun.elapsed());
        }
    }

    fn note(&mut self, done: Done) {
        self.written = None;
        match done {
            Done::Sessions(ended, problem) => {
                self.sessions = ended;
                self.problem("sessions", problem);
            }
            Done::Update(seconds, result) => {
                self.update_seconds = Some(seconds);
                self.updated = Some((Timestamp::now(), result.is_ok()));
                self.problem("update", result.err());
            }
            Done::UpdateLasts(time) => {
                let problem = format!("it is still at work after {time:?}; nothing else waits for it");
                self.problem("update", Some(problem));
            }
            Done::Drain(seconds, problem) => {
                self.drain_seconds = seconds;
                self.problem("drain", problem);
            }
            Done::Programs(programs) => {
                let errors = programs.iter().filter_map(|program| program.error.clone());
                let errors: Vec<String> = errors.collect();
                self.problem("on_change", (!errors.is_empty()).then(|| errors.join("; ")));
                self.programs = programs;
            }
        }
    }

    /// What is done each second. systemd starts a watcher anew that no longer asks.
    fn tick(&mut self) {
        let checks = self.config.checks.as_ref();
        let timeout = match checks {
            Some(Checks {
                check: Check::Director(_),
                timeout,
                ..
            }) => **timeout,
            _ => *self.config.watch.timeout + *self.config.watch.interval,
        };
        let doubts = doubts(&self.config, &self.state);
        self.problem("nodes", (!doubts.is_empty()).then(|| doubts.join("; ")));
        let is_silent = self.heard.iter().any(|heard| heard.elapsed() > timeout + SILENCE);
        self.problem(
            "watch",
            is_silent.then(|| "a check does not come to its end".into()),
        );
        if !is_silent {
            notify("WATCHDOG=1");
        }
        if let Some(path) = self.config.shared_node_state.clone()
            && self.shared.1.elapsed() > PATIENCE
        {
            let hangs = SharedError::new(
                &path,
                "its storage hangs; marks by hand are as they were, checks go on",
            );
            self.problem(SHARED, Some(hangs.to_string()));
        }
        let now = self.begun.elapsed();
        if self.quorum.as_ref().is_some_and(|quorum| quorum.is_silent(now)) {
            let silent = CorosyncError::Silent("corosync was not heard of for seconds".into());
            self.problem(COROSYNC, Some(silent.to_string()));
        }
        if self
            .written
            .is_none_or(|written| written.elapsed() >= STATUS_INTERVAL)
        {
            self.write_status();
            self.written = Some(Instant::now());
            self.write_metrics();
        }
    }

    fn write_status(&self) {
        let (now, clock) = (self.begun.elapsed(), Timestamp::now());
        let at = |ago| clock.checked_sub(ago).ok()?.round(Unit::Second).ok();
        let falls = self.config.nodes.iter().zip(&self.standings);
        let falls: Falls<&str> = falls
            .map(|(node, standing)| (&*node.node.name, standing.falls(now).filter_map(at).collect()))
            .filter(|(_, falls): &(_, Vec<_>)| !falls.is_empty())
            .collect();
        let status = json!({
            "since": self.since.to_string(),
            "written": Timestamp::now().to_string(),
            "nodes_down": down(&self.config, &self.state),
            "falls": falls,
            "problems": self.problems.all(),
            "state_seconds": self.state_seconds,
            "sessions": self.sessions,
            "update_seconds": self.update_seconds,
            "on_change": self.programs,
            "drain_seconds": self.drain_seconds,
        });
        write_status(&self.config, WATCH, status);
    }

    fn write_metrics(&mut self) {
        let config = self.config.clone();
        let facts = Facts {
            config: &config,
            state: &self.state,
            since: self.since,
            falls: self.standings.iter().map(|standing| standing.fallen).collect(),
            state_seconds: self.state_seconds,
            sessions: self.sessions.as_ref(),
            update_seconds: self.update_seconds,
            updated: self.updated,
            programs: &self.programs,
            drain_seconds: self.drain_seconds,
            problems: self.problems.all().len(),
        };
        let written = config
            .watch
            .metrics
            .as_deref()
            .map(|path| (path, metrics::write(path, &facts)));
        let failed = |(path, written): (&Path, io::Result<()>)| {
            let error = written.err()?;
            Some(format!("{}: {error}", path.display()))
        };
        self.problem("metrics", written.and_then(failed));
    }

    fn problem(&mut self, matter: &str, problem: Option<String>) {
        if self.problems.about(matter, problem, &self.config) {
            self.written = None;
        }
    }

    /// For people, in one line.
    fn summary(&self) -> String {
        let down = down(&self.config, &self.state);
        let up = self.config.nodes.len() - down.len();
        let down = down.into_iter().collect::<Vec<_>>().join(", ");
        match down.as_str() {
            "" => format!("{up} nodes, all up"),
            down => format!("{up} of {} nodes up; down: {down}", self.config.nodes.len()),
        }
    }
}

fn ask(config: &Arc<Config>, begun: Instant, generation: u64, events: &Sender<Event>) -> io::Result<Asking> {
    let events = events.clone();
    Asking::begin(config, begun, move |found| {
        events.send(Event::Found(generation, found)).is_ok()
    })
}

fn wanted(config: &Arc<Config>, state: &NodeState) -> Wanted {
    Wanted {
        config: config.clone(),
        state: Arc::new(state.clone()),
        down: down(config, state),
    }
}

/// The nodes of the configuration that are down.
fn down(config: &Config, state: &NodeState) -> BTreeSet<String> {
    let names = config.nodes.iter().map(|node| &node.node.name);
    names.filter(|name| state.is_down(name)).cloned().collect()
}

/// What the programs knew when the last watcher ended.
fn last_programs(config: &Config) -> Vec<Program> {
    let programs = last_status(config, WATCH).and_then(|mut last| last.remove("on_change"));
    programs
        .and_then(|programs| serde_json::from_value(programs).ok())
        .unwrap_or_default()
}

fn ended() -> Failure {
    Failure::new(Status::Unavailable, "a thread of the watcher has ended")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    /// With a configuration in this folder, and a log that is read there.
    fn with_watcher(test: impl FnOnce(Watcher<'_>, &Path, &UnixDatagram)) {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        let (path, log) = (file("mailaffinity.toml"), file("log"));
        let told = UnixDatagram::bind(&log).unwrap();
        told.set_nonblocking(true).unwrap();
        let text = format!(
            "node_state = {:?}\nstatus = {:?}\nsyslog = {log:?}\n[[node]]\nname = \"node1\"\naddress = \"192.0.2.1\"\n",
            file("nodes.toml"),
            file("status.json")
        );
        fs::write(&path, text).unwrap();
        let config = Config::load(&path).unwrap();
        let (events, _events) = mpsc::channel();
        let lock = lock(&config, Duration::ZERO).unwrap();
        let (state, drains) = (NodeState::default(), Drains::default());
        let watcher = Watcher::begin(&path, Arc::new(config), lock, state, drains, events).unwrap();
        test(watcher, &path, &told);
    }

    const NOTHING: Changed = Changed {
        config: false,
        state: false,
        others: false,
    };

    #[test]
    fn what_waits_for_a_mended_node_state_waits_no_longer() {
        with_watcher(|mut watcher, path, _| {
            for (text, is_due) in [("broken", false), ("# mended\n", true)] {
                fs::write(path.with_file_name("nodes.toml"), text).unwrap();
                watcher.retry.after(true);
                watcher
                    .look(Changed {
                        state: true,
                        ..NOTHING
                    })
                    .unwrap();
                assert_eq!(watcher.retry.is_due(), is_due, "{text}");
            }
        });
    }

    #[test]
    fn a_configuration_that_is_broken_again_is_told_at_last() {
        with_watcher(|mut watcher, path, log| {
            let good = fs::read_to_string(path).unwrap();
            let is_told = |words: &str| {
                let mut line = [0; 1000];
                let mut lines = std::iter::from_fn(|| {
                    let length = log.recv(&mut line).ok()?;
                    Some(String::from_utf8_lossy(&line[..length]).into_owned())
                });
                lines.any(|line| line.contains(words))
            };
            let look = |watcher: &mut Watcher<'_>, wrong: &str| {
                fs::write(path, format!("{wrong}{good}")).unwrap();
                watcher
                    .look(Changed {
                        config: true,
                        ..NOTHING
                    })
                    .unwrap();
            };
            look(&mut watcher, "wrong = 1\n");
            assert!(is_told("`wrong`"));
            look(&mut watcher, "");
            assert!(is_told("all is well"));
            look(&mut watcher, "wronger = 1\n");
            watcher.configure_again().unwrap();
            assert!(!is_told("`wronger`"), "nothing was told for a minute");
            watcher.problems.were_told_long_ago();
            watcher.configure_again().unwrap();
            assert!(is_told("`wronger`"));
            // What it lacks is there again, which no file says.
            fs::write(path, good).unwrap();
            watcher.configure_again().unwrap();
            assert!(is_told("all is well") && watcher.problems.all().is_empty());
        });
    }
}
