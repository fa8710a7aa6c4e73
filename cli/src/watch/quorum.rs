//! What the watcher may do by corosync's word: no clock, no files, no network.
//!
//! Where corosync has no quorum, or cannot be heard, nothing. For some seconds after a cut it
//! says as before that there is one, when all questions to others fail already: so what
//! comes of failures waits for a word that is from long enough after the first of these, unless
//! most of the members have answered since, as nobody does who is cut off.

use std::time::Duration;

use super::standing::{Answer, Standing};
use crate::checks::OUT;
use crate::corosync::Word;

/// How old a word may be. Corosync is asked once a second.
const PATIENCE: Duration = Duration::from_secs(5);

/// What corosync said last. Times are those since the watcher began.
#[derive(Debug)]
pub(crate) struct Quorum {
    /// When it was asked for that, or since when it is to be heard.
    asked: Duration,
    word: Option<Word>,
    /// Since when it has said at each question that there is a quorum.
    quorate_since: Duration,
    /// Since when a Director says what may be said because this machine is cut off.
    doubted: Option<Duration>,
}

impl Quorum {
    /// Nothing was heard yet.
    pub(crate) fn new(now: Duration) -> Quorum {
        Quorum {
            asked: now,
            word: None,
            quorate_since: now,
            doubted: None,
        }
    }

    /// Takes its word; `None` if it has no quorum here, or says nothing.
    pub(crate) fn take(&mut self, asked: Duration, word: Option<Word>) {
        if self.word(asked).is_none() {
            self.quorate_since = asked;
        }
        (self.asked, self.word) = (asked, word);
    }

    /// Whether it has not been heard of for too long.
    pub(crate) fn is_silent(&self, now: Duration) -> bool {
        now.saturating_sub(self.asked) > PATIENCE
    }

    /// What may be acted on.
    pub(crate) fn word(&self, now: Duration) -> Option<&Word> {
        self.word.as_ref().filter(|_| !self.is_silent(now))
    }

    /// An answer about a node that is out of the quorum is none. So it has to answer for long
    /// enough once it is a member again.
    pub(crate) fn heard(&self, place: usize, answer: Answer) -> Answer {
        match &self.word {
            Some(word) if !is_member(word, place) => Answer {
                result: Err(OUT.into()),
                ..answer
            },
            _ => answer,
        }
    }

    /// Which of the nodes that turn up or down may do so.
    pub(crate) fn allowed(
        &self,
        turns: Vec<Option<Result<(), String>>>,
        standings: &[Standing],
        now: Duration,
    ) -> Vec<Option<Result<(), String>>> {
        let is_allowed = |place: usize, turn: &Result<(), String>| {
            let (Some(word), Some(standing)) = (self.word(now), standings.get(place)) else {
                return false;
            };
            if turn.is_ok() {
                return is_member(word, place);
            }
            let since = standing.against_since();
            let answers = standings.iter().map(|other| other.answers_while_fails(standing));
            let answers: Vec<bool> = answers.collect();
            !word.may_be_old(&answers) || self.is_new(word, since)
        };
        let turns = turns.into_iter().enumerate();
        turns
            .map(|(place, turn)| turn.filter(|turn| is_allowed(place, turn)))
            .collect()
    }

    /// Whether a Director's word may be acted on. `is_doubtful` says whether it may be so
    /// because this machine is cut off.
    pub(crate) fn allows_director(&mut self, is_doubtful: bool, now: Duration) -> bool {
        self.doubted = is_doubtful.then(|| self.doubted.unwrap_or(now));
        let is_new = |word| self.doubted.is_none_or(|since| self.is_new(word, since));
        self.word(now).is_some_and(is_new)
    }

    /// Whether there would be no quorum any more, had there been a cut then. One that has just
    /// ended may not have ended for all.
    fn is_new(&self, word: &Word, since: Duration) -> bool {
        self.asked >= since.max(self.quorate_since).saturating_add(word.age)
    }
}

fn is_member(word: &Word, place: usize) -> bool {
    word.members.get(place) == Some(&true)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::watch::standing::{take, turns};
    use mailaffinity::config::{Config, Watch};
    use mailaffinity::node_state::{By, Mark, State};
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

    const INTERVAL: u64 = 500;
    const AGE: u64 = 4600;

    fn ms(time: u64) -> Duration {
        Duration::from_millis(time)
    }

    fn word(members: &[bool]) -> Option<Word> {
        Some(Word {
            members: members.to_vec(),
            age: ms(AGE),
        })
    }

    /// A watcher, and the nodes that it has down.
    struct Watcher {
        watch: Watch,
        standings: Vec<Standing>,
        down: Vec<bool>,
        quorum: Quorum,
    }

    impl Watcher {
        fn new(nodes: usize, keys: &str) -> Watcher {
            let text = format!("[watch]\n{keys}\n[[node]]\nname = \"a\"\naddress = \"10.0.0.1\"\n");
            Watcher {
                watch: Config::parse(&text, Path::new("x")).unwrap().watch,
                standings: vec![Standing::of(None); nodes],
                down: vec![false; nodes],
                quorum: Quorum::new(Duration::ZERO),
            }
        }

        /// An answer to a question comes.
        fn answer(&mut self, node: usize, asked: u64, given: u64, is_up: bool) {
            let answer = Answer {
                asked: ms(asked),
                given: ms(given),
                result: if is_up { Ok(()) } else { Err("dead".into()) },
            };
            let answer = self.quorum.heard(node, answer);
            take(&mut self.standings, node, answer, &self.watch, |_| false);
            self.decide(given);
        }

        fn corosync(&mut self, asked: u64, word: Option<Word>) {
            self.quorum.take(ms(asked), word);
            let out = self.quorum.word(ms(asked)).map_or_else(Vec::new, Word::out);
            for (node, _) in out.into_iter().enumerate().filter(|(_, out)| *out) {
                self.set(node, true, asked);
            }
            self.decide(asked);
        }

        fn decide(&mut self, now: u64) {
            let turns = turns(&self.standings, &self.watch, |_| false, ms(now));
            let turns = self.quorum.allowed(turns, &self.standings, ms(now));
            for (node, turn) in turns.into_iter().enumerate() {
                if let Some(turn) = turn {
                    self.set(node, turn.is_err(), now);
                }
            }
        }

        fn set(&mut self, node: usize, is_down: bool, now: u64) {
            let mark = Mark {
                by: By::Checks,
                ..Mark::new(State::Down)
            };
            self.standings[node].follow(is_down.then_some(&mark), ms(now));
            self.down[node] = is_down;
        }
    }

    /// What comes of a question to a node, or to corosync.
    enum Event {
        Answer(usize, bool),
        Corosync(Option<Word>),
    }

    /// All that a watcher hears. A node that is not `there` when it is asked is said to be
    /// dead after `patience`.
    fn events(
        phases: &[u64],
        patience: u64,
        end: u64,
        there: impl Fn(usize, u64) -> bool,
        corosync: impl Fn(u64) -> Option<Word>,
    ) -> Vec<(u64, u64, Event)> {
        let mut events = Vec::new();
        for (node, phase) in phases.iter().enumerate() {
            let mut asked = *phase;
            while asked < end {
                let is_there = there(node, asked);
                let given = asked + if is_there { 1 } else { patience };
                events.push((given, asked, Event::Answer(node, is_there)));
                asked = given.max(asked + INTERVAL);
            }
        }
        for asked in (0..end).step_by(1000) {
            events.push((asked, asked, Event::Corosync(corosync(asked))));
        }
        events.sort_by_key(|(given, asked, _)| (*given, *asked));
        events
    }

    fn run(watcher: &mut Watcher, events: Vec<(u64, u64, Event)>, mut look: impl FnMut(u64, &[bool])) {
        for (given, asked, event) in events {
            match event {
                Event::Answer(node, is_up) => watcher.answer(node, asked, given, is_up),
                Event::Corosync(word) => watcher.corosync(asked, word),
            }
            look(given, &watcher.down);
        }
    }

    #[test]
    fn without_its_word_nothing_turns() {
        let mut watcher = Watcher::new(3, "fall = 1\nrise = 1\nhold_seconds = 0");
        let mut now = 0;
        let mut all = |watcher: &mut Watcher, up: [bool; 3]| {
            now += INTERVAL;
            for _ in 0..2 {
                for (node, is_up) in up.into_iter().enumerate() {
                    now += 1;
                    watcher.answer(node, now, now, is_up);
                }
            }
            now
        };
        let now = all(&mut watcher, [true, true, false]);
        assert_eq!(watcher.down, [false; 3], "nothing was heard yet");
        watcher.corosync(now, word(&[true; 3]));
        assert_eq!(watcher.down, [false, false, true]);
        let now = all(&mut watcher, [true; 3]);
        assert_eq!(watcher.down, [false; 3]);
        watcher.corosync(now, None);
        let now = all(&mut watcher, [true, false, true]);
        assert_eq!(watcher.down, [false; 3], "no quorum");
        watcher.corosync(now, word(&[true; 3]));
        assert_eq!(watcher.down, [false, true, false]);
        // It is asked again, and does not answer.
        for _ in 0..20 {
            all(&mut watcher, [true; 3]);
        }
        assert!(!watcher.down[1], "its word was new at first");
        all(&mut watcher, [true, false, true]);
        assert_eq!(watcher.down, [false; 3]);
    }

    #[test]
    fn who_is_out_is_down_until_it_is_a_member_again_and_answers() {
        let mut watcher = Watcher::new(3, "rise = 2\nhold_seconds = 2");
        let corosync = |time: u64| word(&[true, true, !(3000..9000).contains(&time)]);
        let mut turned = Vec::new();
        let mut before = vec![false; 3];
        let events = events(&[0, 100, 200], 0, 20_000, |_, _| true, corosync);
        run(&mut watcher, events, |now, down| {
            if before != down {
                turned.push((now, down.to_vec()));
                before = down.to_vec();
            }
        });
        // The first answer that counts came at 9.2 s.
        assert_eq!(
            turned,
            [
                (3000, vec![false, false, true]),
                (11_201, vec![false, false, false])
            ]
        );
    }

    #[test]
    fn a_director_has_to_wait_as_well() {
        let mut quorum = Quorum::new(Duration::ZERO);
        assert!(!quorum.allows_director(false, ms(0)), "nothing was heard yet");
        let mut at = |time: u64, is_doubtful: bool| {
            quorum.take(ms(time), word(&[true; 3]));
            quorum.allows_director(is_doubtful, ms(time))
        };
        assert!(at(1000, false));
        assert!(!at(2000, true));
        assert!(!at(2000 + AGE - 1, true));
        assert!(at(2000 + AGE, true));
        assert!(at(8000, false) && !at(9000, true), "that is another doubt");
        quorum.take(ms(10_000), None);
        assert!(!quorum.allows_director(false, ms(10_000)));
        // The quorum is back, and that of the others may come with it.
        quorum.take(ms(20_000), word(&[true; 3]));
        assert!(quorum.allows_director(false, ms(20_000)));
        assert!(!quorum.allows_director(true, ms(20_001)));
    }

    proptest! {
        /// Whenever the cut begins and ends, and whenever corosync notices: who is cut off has
        /// nobody down, also when it hears others and corosync again.
        #[test]
        fn the_cut_off_change_nothing(
            phases in prop::collection::vec(0..INTERVAL, 1..6),
            fall in 2u32..5,
            patience in 1u64..2000,
            cut in (3000u64..4500, 0u64..15_000),
            notices in 0u64..AGE - 1000,
            joins in 0u64..3000,
            is_node in any::<bool>(),
        ) {
            let mut watcher = Watcher::new(phases.len(), &format!("fall = {fall}"));
            let (begins, ends) = (cut.0, cut.0 + cut.1);
            let is_cut = |time| (begins..ends).contains(&time);
            let there = |node, time| (is_node && node == 0) || !is_cut(time);
            let corosync = |time: u64| {
                let is_lost = (begins + notices..ends + joins).contains(&time) && ends > begins + notices;
                word(&vec![true; phases.len()]).filter(|_| !is_lost)
            };
            let events = events(&phases, patience, 30_000, there, corosync);
            let mut down = None;
            run(&mut watcher, events, |now, all| {
                if all.contains(&true) {
                    down.get_or_insert(now);
                }
            });
            prop_assert_eq!(down, None);
        }

        /// Nodes that die are down: at once while most of the members answer, else when
        /// corosync has had the time to notice a cut.
        #[test]
        fn the_dead_are_down(
            phases in prop::collection::vec(0..INTERVAL, 2..6),
            fall in 1u32..4,
            patience in 0u64..500,
            dies in 3000u64..4500,
            dead in 1usize..5,
        ) {
            let (nodes, dead) = (phases.len(), dead.min(phases.len() - 1));
            let mut watcher = Watcher::new(nodes, &format!("fall = {fall}"));
            let there = |node, time| node >= dead || time < dies;
            let events = events(&phases, patience, 20_000, there, |_| word(&vec![true; nodes]));
            let mut down = Vec::new();
            run(&mut watcher, events, |now, all| {
                if down.len() < all.iter().filter(|down| **down).count() {
                    down.push(now);
                }
            });
            prop_assert_eq!(&watcher.down, &(0..nodes).map(|node| node < dead).collect::<Vec<_>>());
            let (first, last) = (*down.first().unwrap(), *down.last().unwrap());
            let counted = dies + INTERVAL * u64::from(fall) + patience;
            if 2 * (nodes - dead) > nodes {
                prop_assert!(last <= counted + 2 * INTERVAL, "{down:?}");
            } else {
                prop_assert!(first >= dies + AGE, "{down:?}");
                prop_assert!(last <= counted + AGE + 1000 + 2 * INTERVAL, "{down:?}");
            }
        }
    }
}
