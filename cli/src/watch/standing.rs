//! What the answers about nodes make of them, as they come in: no clock, no files, no network.

use std::collections::VecDeque;
use std::time::Duration;

use mailaffinity::config::Watch;
use mailaffinity::node_state::{Mark, State};

/// How far back falls count.
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
/// How long nobody else may answer until a node comes back that fell too often, longer by as much
/// with each fall. Nodes that are too busy to answer are taken for dead in turns, and each turn is
/// work for those that are left.
const PATIENCE: Duration = Duration::from_secs(10);
/// The moment from which a move holds is a whole second.
const MOMENT: Duration = Duration::from_secs(1);

/// An answer about a node. Times are those since one that the watcher has chosen.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// When it was asked for.
    pub(crate) asked: Duration,
    /// When it came.
    pub(crate) given: Duration,
    /// Whether the node is up, or why not.
    pub(crate) result: Result<(), String>,
}

/// How a node stands: as it is marked, and what speaks against that.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    is_down: bool,
    is_by_hand: bool,
    /// How many answers in a row say otherwise, and count,
    against: u32,
    /// when the first of them was asked for,
    since: Duration,
    /// and when it was given.
    told: Duration,
    /// How many failures in a row there were, whether they count or not,
    failures: u32,
    /// and when the first of them was told.
    failing_since: Duration,
    /// When the last of all failures was told.
    failed: Option<Duration>,
    /// When the first success came of those that it has not failed since.
    well_since: Duration,
    /// When it came back, if checks let it.
    risen: Option<Duration>,
    last: Option<Answer>,
    /// When checks found it down, as far as that counts,
    falls: VecDeque<Duration>,
    /// and how often since the watcher began.
    pub(crate) fallen: u64,
}

impl Standing {
    pub(crate) fn of(mark: Option<&Mark>) -> Standing {
        Standing {
            is_down: mark.is_some_and(|mark| mark.state == State::Down),
            is_by_hand: mark.is_some_and(Mark::is_by_hand),
            against: 0,
            since: Duration::ZERO,
            told: Duration::ZERO,
            failures: 0,
            failing_since: Duration::ZERO,
            failed: None,
            well_since: Duration::ZERO,
            risen: None,
            last: None,
            falls: VecDeque::new(),
            fallen: 0,
        }
    }

    /// Takes the mark that the node has now, whoever gave it. If the node is no longer what it
    /// was, answers are counted anew.
    pub(crate) fn follow(&mut self, mark: Option<&Mark>, now: Duration) {
        let Standing {
            is_down, is_by_hand, ..
        } = Standing::of(mark);
        if is_down != self.is_down {
            self.against = 0;
            self.risen = (!is_down && !is_by_hand && !self.is_by_hand).then_some(now);
            if is_down && !is_by_hand {
                self.fallen = self.fallen.saturating_add(1);
                self.falls.push_back(now);
                self.falls.retain(|fall| is_recent(*fall, now));
            }
        }
        (self.is_down, self.is_by_hand) = (is_down, is_by_hand);
    }

    fn take(&mut self, answer: Answer, counts: bool) {
        if answer.result.is_ok() != self.is_down || !counts {
            self.against = 0;
        } else {
            if self.against == 0 {
                (self.since, self.told) = (answer.asked, answer.given);
            }
            self.against = self.against.saturating_add(1);
        }
        match answer.result {
            Ok(()) => {
                if self.failures > 0 {
                    self.well_since = answer.given;
                }
                self.failures = 0;
            }
            Err(_) => {
                if self.failures == 0 {
                    self.failing_since = answer.given;
                }
                self.failures = self.failures.saturating_add(1);
                self.failed = Some(answer.given);
            }
        }
        self.last = Some(answer);
    }

    /// How long ago it fell, each time within the last hour.
    pub(crate) fn falls(&self, now: Duration) -> impl Iterator<Item = Duration> {
        let recent = self.falls.iter().filter(move |fall| is_recent(**fall, now));
        recent.map(move |fall| now.saturating_sub(*fall))
    }

    /// Takes falls that somebody else has seen, so long ago each.
    pub(crate) fn remember(&mut self, falls: impl Iterator<Item = Duration>, now: Duration) {
        let recent = falls.filter(|ago| *ago < HOUR);
        self.falls.extend(recent.map(|ago| now.saturating_sub(ago)));
    }

    /// Whether it would be up again, had it not fallen too often.
    pub(crate) fn is_flapping(&self, watch: &Watch, now: Duration) -> bool {
        self.has_risen(watch) && self.falls_too_many(watch, now) > 0
    }

    /// How many of its falls are more than it may have.
    fn falls_too_many(&self, watch: &Watch, now: Duration) -> u32 {
        let falls = u32::try_from(self.falls(now).count()).unwrap_or(u32::MAX);
        falls.saturating_add(1).saturating_sub(*watch.falls_per_hour)
    }

    fn is_asked(&self) -> bool {
        !self.is_by_hand
    }

    fn has_risen(&self, watch: &Watch) -> bool {
        self.is_asked() && self.is_down && self.against >= *watch.rise
    }

    /// Why it is down, though it is marked up.
    fn has_fallen(&self, watch: &Watch) -> Option<&str> {
        let fallen = self.is_asked() && !self.is_down && self.against >= *watch.fall;
        self.failure().filter(|_| fallen)
    }

    fn failure(&self) -> Option<&str> {
        self.last.as_ref()?.result.as_ref().err().map(String::as_str)
    }

    /// Whether it is up by its mark and by its last answer.
    fn answers(&self) -> bool {
        let answers = |answer: &Answer| answer.result.is_ok();
        self.is_asked() && !self.is_down && self.last.as_ref().is_some_and(answers)
    }

    /// When the first answer came that speaks against how it is marked.
    pub(crate) fn against_since(&self) -> Duration {
        self.told
    }

    /// Whether this one has answered since another one failed first, and already did when that
    /// was asked last. When a cut begins the former is not so, and the latter when it ends.
    pub(crate) fn answers_while_fails(&self, failing: &Standing) -> bool {
        let answers = |last: &Answer| last.result.is_ok() && last.asked >= failing.told;
        let before = |last: &Answer| self.well_since <= last.asked;
        self.last.as_ref().is_some_and(answers) && failing.last.as_ref().is_some_and(before)
    }

    /// Whether that is as lately as it is asked.
    fn has_answered_lately(&self, now: Duration, interval: Duration) -> bool {
        let is_late = |last: &Answer| {
            let usual = interval.max(last.given.saturating_sub(last.asked));
            now.saturating_sub(last.given) <= usual.saturating_mul(3) / 2
        };
        self.answers() && self.last.as_ref().is_some_and(is_late)
    }

    /// Whether it has users whom it serves, as far as is known, or did so lately.
    fn serves(&self, watch: &Watch, now: Duration, lately: Duration) -> bool {
        let did = self.failures < *watch.fall || now.saturating_sub(self.failing_since) < lately;
        self.is_asked() && !self.is_down && did
    }

    /// Whether this one came back while that one failed already, whose users are on their way
    /// to this one since, or were when it was asked then.
    fn relieves(&self, failing: &Standing, watch: &Watch, asked: Duration) -> bool {
        let on_their_way = |risen: Duration| asked < risen + *watch.move_time + MOMENT;
        let was_failing = |risen: Duration| failing.failures > 0 && failing.failing_since < risen;
        self.risen
            .is_some_and(|risen| was_failing(risen) && on_their_way(risen))
    }
}

fn is_recent(fall: Duration, now: Duration) -> bool {
    now.saturating_sub(fall) < HOUR
}

/// Takes an answer about the node at this place. `one_may_fail` says whether this may be all
/// nodes that are asked, given how many these are.
///
/// Where all fail at once, it is whoever asks that has failed. That shows at one node before it
/// shows at the next, and is over at one before it is at the next. So a failure only counts if
/// another node that is up has answered lately, and not failed since the first of those that
/// count. Nor does it say much while the node has users who leave it for one that came back since
/// nobody answered: it may be just too busy.
pub(crate) fn take(
    standings: &mut [Standing],
    place: usize,
    answer: Answer,
    watch: &Watch,
    one_may_fail: impl Fn(usize) -> bool,
) {
    let Some(standing) = standings.get(place) else {
        return;
    };
    let first = match standing.against {
        0 => answer.asked,
        _ => standing.since,
    };
    let is_witness = |other: &Standing| {
        other.has_answered_lately(answer.given, *watch.interval)
            && other.failed.is_none_or(|failed| failed < first)
            && !other.relieves(standing, watch, answer.asked)
    };
    let mut others = standings.iter().enumerate().filter(|(other, _)| *other != place);
    let counts = answer.result.is_ok()
        || others.any(|(_, other)| is_witness(other))
        || one_may_fail(asked(standings).count());
    if let Some(standing) = standings.get_mut(place) {
        standing.take(answer, counts);
    }
}

fn asked(standings: &[Standing]) -> impl Iterator<Item = &Standing> {
    standings.iter().filter(|standing| standing.is_asked())
}

/// Which nodes go up or down now, in their order, and why.
///
/// Nobody who comes back has to wait while there is nobody else, nor for long if it has fallen too
/// often.
pub(crate) fn turns(
    standings: &[Standing],
    watch: &Watch,
    one_may_fail: impl Fn(usize) -> bool,
    now: Duration,
) -> Vec<Option<Result<(), String>>> {
    let others_are_up = standings.iter().any(Standing::answers) || one_may_fail(asked(standings).count());
    let anybody_serves = |lately| {
        standings
            .iter()
            .any(|standing| standing.serves(watch, now, lately))
    };
    let turn = |standing: &Standing| {
        if let Some(reason) = standing.has_fallen(watch) {
            return others_are_up.then(|| Err(reason.to_owned()));
        }
        let is_new = now.saturating_sub(standing.since) < *watch.hold;
        let too_many = standing.falls_too_many(watch, now);
        let waits = is_new && anybody_serves(Duration::ZERO)
            || too_many > 0 && anybody_serves(PATIENCE.saturating_mul(too_many));
        (standing.has_risen(watch) && !waits).then_some(Ok(()))
    };
    standings.iter().map(turn).collect()
}

/// Why nobody of all that are asked is up, as one has it that is marked up.
pub(crate) fn nobody_up<'s>(standings: &'s [Standing], watch: &Watch) -> Option<&'s str> {
    let fails = |standing: &Standing| standing.failures >= if standing.is_down { 1 } else { *watch.fall };
    if !asked(standings).all(fails) {
        return None;
    }
    asked(standings)
        .filter(|standing| !standing.is_down)
        .find_map(Standing::failure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mailaffinity::config::Config;
    use mailaffinity::node_state::By;
    use proptest::prelude::{Just, Strategy, any, prop, prop_assert, prop_oneof, proptest};
    use std::path::Path;

    const MS: Duration = Duration::from_millis(1);

    fn watch(keys: &str) -> Watch {
        let text = format!("[watch]\n{keys}\n[[node]]\nname = \"a\"\naddress = \"10.0.0.1\"\n");
        Config::parse(&text, Path::new("x")).unwrap().watch
    }

    fn mark(state: State, by: By) -> Option<Mark> {
        Some(Mark {
            by,
            ..Mark::new(state)
        })
    }

    fn down() -> Option<Mark> {
        mark(State::Down, By::Checks)
    }

    /// Nodes, and the marks that the turns give them.
    struct Cluster {
        watch: Watch,
        standings: Vec<Standing>,
        marks: Vec<Option<Mark>>,
        now: Duration,
    }

    impl Cluster {
        fn new(marks: &[Option<Mark>], keys: &str) -> Cluster {
            Cluster {
                watch: watch(keys),
                standings: marks.iter().map(|mark| Standing::of(mark.as_ref())).collect(),
                marks: marks.to_vec(),
                now: 1000 * MS,
            }
        }

        /// The node answers, and what follows is done, but for a mark that cannot be written.
        fn answer(&mut self, node: usize, is_up: bool) -> Vec<(usize, bool)> {
            self.take(node, is_up, Duration::ZERO);
            self.turn()
        }

        /// The answer was asked for so long ago.
        fn take(&mut self, node: usize, is_up: bool, ago: Duration) {
            let answer = Answer {
                asked: self.now.saturating_sub(ago),
                given: self.now,
                result: if is_up { Ok(()) } else { Err("dead".into()) },
            };
            let one_may_fail = self.one_may_fail();
            take(&mut self.standings, node, answer, &self.watch, one_may_fail);
        }

        fn one_may_fail(&self) -> impl Fn(usize) -> bool + use<> {
            let held_up = self.marks.iter().flatten().any(|mark| mark.state == State::Up);
            move |asked| asked == 1 && held_up
        }

        fn turns(&self) -> Vec<Option<Result<(), String>>> {
            turns(&self.standings, &self.watch, self.one_may_fail(), self.now)
        }

        fn turn(&mut self) -> Vec<(usize, bool)> {
            let mut turned = Vec::new();
            for (node, turn) in self.turns().into_iter().enumerate() {
                let Some(turn) = turn else { continue };
                turned.push((node, turn.is_ok()));
                self.set(node, if turn.is_ok() { None } else { down() });
            }
            turned
        }

        fn set(&mut self, node: usize, mark: Option<Mark>) {
            self.standings[node].follow(mark.as_ref(), self.now);
            self.marks[node] = mark;
        }

        /// All answer `times` times, each 500 ms after the last one.
        fn all(&mut self, up: &[bool], times: usize) -> Vec<(usize, bool)> {
            let mut turned = Vec::new();
            for _ in 0..times {
                self.now += 500 * MS;
                for (node, is_up) in up.iter().enumerate() {
                    turned.extend(self.answer(node, *is_up));
                }
            }
            turned
        }
    }

    #[test]
    fn a_node_falls_and_rises() {
        let mut cluster = Cluster::new(&[None, None, None], "fall = 2\nrise = 3\nhold_seconds = 5");
        assert_eq!(cluster.all(&[true, false, true], 1), []);
        assert_eq!(cluster.all(&[true, true, true], 1), [], "one failure is none");
        assert_eq!(cluster.all(&[true, false, true], 1), []);
        assert_eq!(cluster.all(&[true, false, true], 1), [(1, false)]);
        assert_eq!(cluster.all(&[true, false, true], 9), []);
        assert_eq!(cluster.all(&[true, true, true], 9), []);
        assert_eq!(cluster.all(&[true, false, true], 1), [], "it is counted anew");
        // Five seconds after the first of these.
        assert_eq!(cluster.all(&[true, true, true], 10), []);
        assert_eq!(cluster.all(&[true, true, true], 1), [(1, true)]);
        let mut cluster = Cluster::new(&[None, down()], "rise = 3\nhold_seconds = 0");
        assert_eq!(cluster.all(&[true, true], 2), []);
        assert_eq!(cluster.all(&[true, true], 1), [(1, true)]);
    }

    #[test]
    fn who_cannot_ask_changes_nothing() {
        let mut cluster = Cluster::new(&[None, None, None], "");
        cluster.all(&[true, true, true], 1);
        // At each node on its own clock.
        for node in [0, 1, 2, 0, 1, 2, 0, 1, 2] {
            cluster.now += 100 * MS;
            assert_eq!(cluster.answer(node, false), []);
        }
        assert_eq!(nobody_up(&cluster.standings, &cluster.watch), Some("dead"));
        // Not for long: what failed before says nothing of the others.
        cluster.now += 100 * MS;
        assert_eq!(cluster.answer(0, true), []);
        assert_eq!(nobody_up(&cluster.standings, &cluster.watch), None);
        assert_eq!(cluster.answer(1, false), []);
        assert_eq!(cluster.all(&[true, false, true], 1), [(1, false)]);
        // The last one that is up.
        assert_eq!(cluster.all(&[false, false, false], 9), []);
        assert_eq!(nobody_up(&cluster.standings, &cluster.watch), Some("dead"));
    }

    /// At a cut that begins and ends at any moments of their clocks.
    #[test]
    fn a_cut_changes_nothing_whenever_it_comes() {
        let phases = [0u32, 150, 350];
        for (begins, lasts) in (0..25).flat_map(|begin| (0..60).map(move |last| (begin * 20, last * 40))) {
            let mut cluster = Cluster::new(&[None, None, None], "");
            let (begins, ends) = (3000 + begins, 3000 + begins + lasts);
            // What is asked during the cut fails after 500 ms, and the next is asked then.
            let mut answers: Vec<(u32, u32, usize, bool)> = Vec::new();
            for (node, phase) in phases.iter().enumerate() {
                let mut asked = 1000 + phase;
                while asked < 8000 {
                    let fails = (begins..ends).contains(&asked);
                    let given = asked + if fails { 500 } else { 1 };
                    answers.push((given, asked, node, !fails));
                    asked = given.max(asked + 500);
                }
            }
            answers.sort_unstable();
            for (given, asked, node, is_up) in answers {
                cluster.now = given * MS;
                cluster.take(node, is_up, (given - asked) * MS);
                assert_eq!(cluster.turn(), [], "from {begins} to {ends}");
            }
        }
    }

    /// They may hang at this very moment.
    #[test]
    fn who_has_not_answered_lately_is_no_witness() {
        let mut cluster = Cluster::new(&[None, None], "");
        cluster.all(&[true, true], 1);
        cluster.now += 5000 * MS;
        for _ in 0..5 {
            cluster.now += 100 * MS;
            assert_eq!(cluster.answer(0, false), []);
        }
        assert_eq!(cluster.answer(1, true), []);
        assert_eq!(cluster.answer(0, false), []);
        assert_eq!(cluster.answer(0, false), [(0, false)]);
        // One that takes its time is asked less often.
        let mut cluster = Cluster::new(&[None, None], "");
        for node in [1, 0, 0] {
            cluster.now += 2000 * MS;
            cluster.take(node, node == 1, 4000 * MS);
        }
        assert_eq!(cluster.turn(), [(0, false)]);
    }

    #[test]
    fn the_last_one_is_replaced_without_a_wait() {
        let mut cluster = Cluster::new(&[None, down()], "hold_seconds = 3600\nfalls_per_hour = 1");
        assert_eq!(cluster.all(&[true, true], 9), [], "it is to wait");
        assert_eq!(cluster.all(&[false, true], 1), [], "one failure is none");
        assert_eq!(cluster.all(&[false, true], 1), [(1, true)]);
        // It may have been too busy only, until the other's users have left it six seconds later.
        assert_eq!(cluster.all(&[false, true], 12), []);
        assert_eq!(cluster.all(&[false, true], 1), [(0, false)]);
    }

    #[test]
    fn who_is_relieved_is_counted_anew() {
        let mut cluster = Cluster::new(&[None, None], "");
        cluster.all(&[true, true], 1);
        assert_eq!(cluster.all(&[false, true], 2), [(0, false)]);
        // All users are the other's, and it is busy.
        assert_eq!(cluster.all(&[true, false], 3), [(0, true)]);
        assert_eq!(cluster.all(&[true, false], 12), []);
        assert_eq!(cluster.all(&[true, true], 30), []);
        // Who was well when another came back does not wait.
        assert_eq!(cluster.all(&[false, true], 2), [(0, false)]);
        assert_eq!(cluster.all(&[true, true], 20), []);
        assert_eq!(cluster.all(&[true, true], 1), [(0, true)]);
        assert_eq!(cluster.all(&[true, false], 2), [(1, false)]);
    }

    #[test]
    fn who_fell_too_often_waits_a_while_for_the_last_one() {
        let mut cluster = Cluster::new(&[None, None], "hold_seconds = 0\nfalls_per_hour = 1");
        assert_eq!(cluster.all(&[true, false], 2), [(1, false)]);
        assert_eq!(cluster.all(&[false, true], 20), []);
        assert_eq!(cluster.all(&[true, true], 1), [], "the last one is back");
        assert_eq!(cluster.all(&[false, true], 20), []);
        assert_eq!(cluster.all(&[false, true], 1), [(1, true)]);
    }

    /// Each node lets in so many users in half a second, and greets too late while many more
    /// wait. Who moves has to be let in anew.
    #[test]
    fn nodes_that_are_busy_do_not_take_turns() {
        for (users, at_once, late) in [(300, 20, 60), (400, 50, 150), (400, 20, 40), (1000, 20, 40)] {
            let mut cluster = Cluster::new(&[None, None], "");
            let mut waiting = [0u32; 2];
            cluster.all(&[true, true], 20);
            let mut turned = Vec::new();
            for round in 0..200 {
                cluster.now += 500 * MS;
                for node in 0..2 {
                    // It fails for a second, and all that follows does of itself.
                    let is_up = waiting[node] <= late && !(node == 0 && round < 2);
                    for (node, is_up) in cluster.answer(node, is_up) {
                        turned.push(round);
                        let moved = if is_up { node } else { 1 - node };
                        waiting = [0, 0];
                        waiting[moved] = users / 2;
                    }
                    waiting[node] = waiting[node].saturating_sub(at_once);
                }
            }
            assert!(
                turned.iter().all(|round| *round < 60),
                "{users} users: {turned:?}"
            );
        }
    }

    #[test]
    fn marks_by_hand_stay() {
        let by_hand = |state| mark(state, By::Hand);
        let mut cluster = Cluster::new(&[None, by_hand(State::Down), by_hand(State::Up)], "");
        assert_eq!(cluster.all(&[true, true, false], 9), []);
        // The only one that is left to the checks, beside one that is held up.
        assert_eq!(cluster.all(&[false, true, false], 2), [(0, false)]);
        // Without that, nobody would be left.
        let mut cluster = Cluster::new(&[None, by_hand(State::Down)], "");
        assert_eq!(cluster.all(&[false, true], 9), []);
        assert_eq!(nobody_up(&cluster.standings, &cluster.watch), Some("dead"));
        // Left to the checks again, it counts from then on.
        cluster.set(1, None);
        assert_eq!(cluster.all(&[false, true], 1), []);
        assert_eq!(cluster.all(&[false, true], 1), [(0, false)]);
    }

    #[test]
    fn a_mark_that_cannot_be_written_is_tried_again() {
        let mut cluster = Cluster::new(&[None, None], "");
        for _ in 0..3 {
            cluster.now += 500 * MS;
            for (node, is_up) in [(0, true), (1, false)] {
                cluster.take(node, is_up, Duration::ZERO);
            }
        }
        for _ in 0..3 {
            assert_eq!(cluster.turns(), [None, Some(Err("dead".into()))]);
        }
    }

    #[test]
    fn a_flapping_node_stays_down() {
        let mut cluster = Cluster::new(&[None, None], "hold_seconds = 0\nfalls_per_hour = 3");
        for fall in 1..=3 {
            assert_eq!(cluster.all(&[true, false], 2), [(1, false)]);
            assert_eq!(cluster.standings[1].falls(cluster.now).count(), fall);
            if fall < 3 {
                assert_eq!(cluster.all(&[true, true], 3), [(1, true)]);
            }
        }
        assert!(!cluster.standings[1].is_flapping(&cluster.watch, cluster.now));
        assert_eq!(cluster.all(&[true, true], 100), []);
        assert!(cluster.standings[1].is_flapping(&cluster.watch, cluster.now));
        cluster.now += HOUR;
        assert_eq!(cluster.all(&[true, true], 1), [(1, true)]);
        assert!(!cluster.standings[1].is_flapping(&cluster.watch, cluster.now));
    }

    #[test]
    fn falls_of_an_earlier_watcher_count_for_an_hour() {
        let mut cluster = Cluster::new(&[None, down()], "hold_seconds = 0\nfalls_per_hour = 2");
        cluster.now += HOUR;
        let minutes = |minutes: u32| 60_000 * minutes * MS;
        let ages = [minutes(61), minutes(59), minutes(0)];
        cluster.standings[1].remember(ages.into_iter(), cluster.now);
        let falls: Vec<Duration> = cluster.standings[1].falls(cluster.now).collect();
        assert_eq!(falls, [minutes(59), minutes(0)]);
        assert_eq!(cluster.all(&[true, true], 3), [], "it has fallen too often");
        cluster.now += minutes(1);
        assert_eq!(cluster.all(&[true, true], 1), [(1, true)]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Wait(u64),
        Answer(prop::sample::Index, bool),
        Mark(prop::sample::Index, Option<Mark>),
    }

    fn step() -> impl Strategy<Value = Step> {
        let marks = [
            None,
            down(),
            mark(State::Up, By::Hand),
            mark(State::Down, By::Hand),
        ];
        prop_oneof![
            3 => (0u64..2000).prop_map(Step::Wait),
            12 => (any::<prop::sample::Index>(), any::<bool>()).prop_map(|(node, up)| Step::Answer(node, up)),
            1 => (any::<prop::sample::Index>(), prop::sample::select(marks.to_vec()))
                .prop_map(|(node, mark)| Step::Mark(node, mark)),
        ]
    }

    proptest! {
        #[test]
        fn whatever_comes(
            nodes in 1usize..5,
            keys in (1u32..4, 1u32..4, 0u32..4, 1u32..4),
            steps in prop::collection::vec(step(), 0..300),
            by_hand in prop_oneof![Just(true), Just(false)],
        ) {
            let (fall, rise, hold, falls) = keys;
            let keys = format!("fall = {fall}\nrise = {rise}\nhold_seconds = {hold}\nfalls_per_hour = {falls}");
            let mut cluster = Cluster::new(&vec![None; nodes], &keys);
            // Of each node, its answers since its last mark.
            let mut answers = vec![Vec::new(); nodes];
            let mut last = vec![false; nodes];
            // When each began to fail, and when checks let it come back.
            let (mut failing_since, mut back) = (vec![None; nodes], vec![None; nodes]);
            // Whether its last answer counted, if it was a failure: another one was up, and had users.
            let mut counted = vec![false; nodes];
            for step in steps {
                let before = cluster.marks.clone();
                let turned = match step {
                    Step::Wait(time) => {
                        cluster.now += time as u32 * MS;
                        cluster.turn()
                    }
                    Step::Answer(node, is_up) => {
                        let node = node.index(nodes);
                        answers[node].push((cluster.now, is_up));
                        last[node] = is_up;
                        failing_since[node] = (!is_up).then(|| failing_since[node].unwrap_or(cluster.now));
                        let has_users = |back: Duration| {
                            failing_since[node] >= Some(back) || cluster.now >= back + 6000 * MS
                        };
                        let is_witness = |other: usize| {
                            cluster.marks[other].is_none() && last[other] && back[other].is_none_or(has_users)
                        };
                        counted[node] = cluster.one_may_fail()(asked(&cluster.standings).count())
                            || (0..nodes).any(|other| other != node && is_witness(other));
                        cluster.answer(node, is_up)
                    }
                    Step::Mark(node, mark) if by_hand => {
                        let node = node.index(nodes);
                        let is_down = |mark: &Option<Mark>| mark.as_ref().is_some_and(|mark| mark.state == State::Down);
                        if is_down(&mark) != is_down(&cluster.marks[node]) {
                            answers[node].clear();
                            let is_left_to_checks = cluster.marks[node] == down() && mark.is_none();
                            back[node] = is_left_to_checks.then_some(cluster.now);
                        }
                        cluster.set(node, mark);
                        Vec::new()
                    }
                    Step::Mark(..) => Vec::new(),
                };
                for (node, is_up) in &turned {
                    let node = *node;
                    prop_assert!(!before[node].as_ref().is_some_and(Mark::is_by_hand));
                    prop_assert!(*is_up == before[node].is_some(), "no turn without a change");
                    let needed = if *is_up { rise } else { fall } as usize;
                    let row: Vec<_> = answers[node].iter().rev().take_while(|(_, up)| up == is_up).collect();
                    prop_assert!(row.len() >= needed, "{row:?}");
                    let others_answer = (0..nodes).any(|other| {
                        other != node && before[other].is_none() && last[other]
                    });
                    let held_up = before.iter().flatten().any(|mark| mark.state == State::Up);
                    prop_assert!(*is_up || others_answer || held_up);
                    prop_assert!(*is_up || counted[node]);
                    back[node] = is_up.then_some(cluster.now);
                    if *is_up && others_answer {
                        let begun = row.last().unwrap().0;
                        prop_assert!(cluster.now - begun >= Duration::from_secs(hold.into()));
                        prop_assert!(cluster.standings[node].falls(cluster.now).count() < falls as usize);
                    }
                    answers[node].clear();
                }
                // Who was up by the checks' word is not the last to go by it.
                let is_up = |marks: &[Option<Mark>]| marks.iter().any(Option::is_none);
                let held_up = cluster.marks.iter().flatten().any(|mark| mark.state == State::Up);
                if !turned.is_empty() && is_up(&before) && !held_up {
                    prop_assert!(is_up(&cluster.marks));
                }
            }
        }
    }
}
