//! What happens to nodes, one after the other or several at once, by dice.

use std::collections::BTreeSet;
use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use super::clients::Clients;
use super::dice::Dice;
use super::site::{Cluster, NODES, name_of, now};

/// Far more than anything here takes: reached only when something hangs.
const DEADLINE: Duration = Duration::from_secs(90);
/// Of what is sent to a slow node: logins still succeed, most of them late.
const SLOW: u32 = 200_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// All its processes end, and its kernel refuses whoever comes.
    Killed,
    /// All of it is gone, and nobody answers.
    Off,
    /// It stands still, and goes on later as if nothing had been.
    Hung,
    /// Its network is gone, and comes back.
    CutOff,
    /// What is sent to it is slow.
    Slow,
    /// An administrator takes it out of service.
    ByHand,
}

impl Kind {
    pub(crate) const ALL: [Kind; 6] = [
        Kind::Killed,
        Kind::Off,
        Kind::Hung,
        Kind::CutOff,
        Kind::Slow,
        Kind::ByHand,
    ];

    /// Those that no node lives through.
    pub(crate) const DEADLY: [Kind; 4] = [Kind::Killed, Kind::Off, Kind::Hung, Kind::CutOff];

    pub(crate) fn begin(self, cluster: &mut Cluster, node: usize) {
        let machine = cluster.nodes[node].machine();
        match self {
            Kind::Killed => machine.kill(),
            Kind::Off => cluster.switch_off(node),
            Kind::Hung => machine.hang(),
            Kind::CutOff => machine.cut_off(),
            Kind::Slow => machine.slow_down(SLOW),
            Kind::ByHand => cluster.administer(&["down", &name_of(node), "--reason", "new disks"]),
        }
    }

    pub(crate) fn end(self, cluster: &mut Cluster, node: usize) {
        let machine = || cluster.nodes[node].machine();
        match self {
            Kind::Killed => cluster.nodes[node].start_again(),
            Kind::Off => cluster.switch_on(node),
            Kind::Hung => machine().go_on(),
            Kind::CutOff => machine().connect(),
            Kind::Slow => machine().speed_up(),
            Kind::ByHand => cluster.administer(&["auto", &name_of(node)]),
        }
    }

    /// Whether a node with such trouble is alive, so that nobody may be at work elsewhere.
    pub(crate) fn lives(self) -> bool {
        !Kind::DEADLY.contains(&self)
    }

    /// Whether whoever was there when it began is there no more.
    pub(crate) fn ends_all(self) -> bool {
        matches!(self, Kind::Killed | Kind::Off)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Kind::Killed => "killed",
            Kind::Off => "switched off",
            Kind::Hung => "hung",
            Kind::CutOff => "cut off",
            Kind::Slow => "slow",
            Kind::ByHand => "marked down by hand",
        })
    }
}

/// A node in trouble from one moment to another.
#[derive(Clone, Debug)]
pub(crate) struct Trouble {
    pub(crate) kind: Kind,
    pub(crate) node: usize,
    pub(crate) from: f64,
    pub(crate) to: f64,
}

/// A cluster on which troubles come.
pub(crate) struct Storm<'c> {
    pub(crate) cluster: &'c mut Cluster,
    clients: &'c Clients<'c>,
    dice: Dice,
    /// What may come.
    kinds: &'c [Kind],
    /// Of each node.
    present: [Option<Trouble>; NODES],
    pub(crate) past: Vec<Trouble>,
    /// From the first trouble until all are well again.
    pub(crate) unrest: Vec<(f64, f64)>,
    since: Option<f64>,
}

impl<'c> Storm<'c> {
    pub(crate) fn new(
        cluster: &'c mut Cluster,
        clients: &'c Clients<'c>,
        kinds: &'c [Kind],
        seed: u64,
    ) -> Storm<'c> {
        Storm {
            cluster,
            clients,
            dice: Dice::new(seed),
            kinds,
            present: [const { None }; NODES],
            past: Vec::new(),
            unrest: Vec::new(),
            since: None,
        }
    }

    /// Waits until everybody is in.
    pub(crate) fn begins(&mut self) {
        self.since = Some(now());
        self.settle();
    }

    /// Troubles at random for so long, and then none.
    pub(crate) fn rage(&mut self, duration: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < duration {
            let node = self.dice.below(NODES);
            if self.present[node].is_some() {
                self.end(node);
            } else if self.may_fail(node) {
                let kind = self.kinds[self.dice.below(self.kinds.len())];
                self.begin(node, kind);
            }
            // Often all come to rest in between, and often they have no time to.
            match self.dice.below(3) {
                0 => thread::sleep(Duration::from_secs(2).mul_f64(self.dice.part())),
                1 => thread::sleep(Duration::from_secs(6).mul_f64(self.dice.part())),
                _ => self.settle(),
            }
        }
        self.calm();
    }

    /// One trouble of each kind, one after the other.
    pub(crate) fn blow(&mut self) {
        for kind in self.kinds {
            let node = self.dice.below(NODES);
            self.begin(node, *kind);
            match kind {
                Kind::Slow => thread::sleep(Duration::from_secs(4)),
                _ => self.settle(),
            }
            self.end(node);
            self.settle();
        }
    }

    /// All troubles end.
    fn calm(&mut self) {
        for node in 0..NODES {
            if self.present[node].is_some() {
                self.end(node);
            }
        }
        self.settle();
    }

    /// Whether another one is well, and in service.
    fn may_fail(&self, node: usize) -> bool {
        let down = self.cluster.down();
        (0..NODES).any(|other| other != node && self.present[other].is_none() && !down.contains(&other))
    }

    fn begin(&mut self, node: usize, kind: Kind) {
        let from = now();
        self.since.get_or_insert(from);
        kind.begin(self.cluster, node);
        eprintln!("{from:.3} {} is {kind}", name_of(node));
        let trouble = Trouble {
            kind,
            node,
            from,
            to: f64::INFINITY,
        };
        self.present[node] = Some(trouble);
    }

    fn end(&mut self, node: usize) {
        let trouble = self.present[node].take().expect("trouble");
        let from = now();
        self.since.get_or_insert(from);
        trouble.kind.end(self.cluster, node);
        let to = now();
        eprintln!("{to:.3} {} is no longer {}", name_of(node), trouble.kind);
        self.past.push(Trouble { to, ..trouble });
    }

    /// Waits until the nodes in service are those without trouble, and everybody is in at home;
    /// a slow node may be in service or not, and its users on their way.
    fn settle(&mut self) {
        let has = |kind: Kind| {
            let of_kind = self
                .present
                .iter()
                .flatten()
                .filter(move |trouble| trouble.kind == kind);
            of_kind.map(|trouble| trouble.node)
        };
        if has(Kind::Slow).next().is_some() {
            return;
        }
        let in_trouble: BTreeSet<usize> = self
            .present
            .iter()
            .flatten()
            .map(|trouble| trouble.node)
            .collect();
        let begun = Instant::now();
        loop {
            let down = self.cluster.down();
            let astray = match down == in_trouble {
                true => self.clients.astray(&self.cluster.homes()),
                false => Vec::new(),
            };
            if down == in_trouble && astray.is_empty() {
                break;
            }
            assert!(
                begun.elapsed() < DEADLINE,
                "not all are well: {down:?} are down, {in_trouble:?} are to be; {astray:?}"
            );
            thread::sleep(Duration::from_millis(20));
        }
        if let Some(since) = self.since.take() {
            eprintln!("{:.3} all are at home", now());
            self.unrest.push((since, now()));
        }
    }
}
