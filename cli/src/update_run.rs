//! A run of the update, what it leaves in the log, and in the status file.

use std::io::IsTerminal as _;
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::access_source::managed_block::Complaint;
use crate::access_source::rebuild::RebuildError;
use crate::exit::{Failure, NAME, say};
use crate::last_good;
use crate::node_state;
use crate::nodes::doubts;
use crate::own_domains::OwnDomains;
use crate::report::{Log, last_status, write_status};
use crate::update::{self, MapPlan, NodeChanges, Plan, UpdateError};
use crate::users::OutsideUids;
use mailaffinity::access_map::key;
use mailaffinity::config::Config;

/// How many names of a kind the log and the status file show.
const SHOWN: usize = 20;
/// How often an update starts anew when somebody edits the access source meanwhile.
const ATTEMPTS: u32 = 5;
/// How long an update waits for another one, unless it is told.
pub(crate) const LOCK_WAIT: Duration = Duration::from_secs(60);

/// One update.
pub(crate) struct UpdateRun<'r> {
    /// Where the configuration is from.
    pub(crate) path: &'r Path,
    pub(crate) config: &'r Config,
    /// Whether the nodes are checked; else they are taken as they are marked.
    pub(crate) checks: bool,
    /// Whether the list of users counts even if many are missing from it.
    pub(crate) accept_loss: bool,
    /// Whether the map is built anew even if it seems to be up to date.
    pub(crate) force: bool,
    /// How long to wait for another update.
    pub(crate) wait: Duration,
    /// Whether the log is told of a failure, and of what is doubtful in the node state; else that is
    /// left to whoever runs this.
    pub(crate) tells_problems: bool,
}

impl<'r> UpdateRun<'r> {
    /// As the command does it by default, but for its checks.
    pub(crate) fn of(path: &'r Path, config: &'r Config) -> UpdateRun<'r> {
        UpdateRun {
            path,
            config,
            checks: false,
            accept_loss: false,
            force: false,
            wait: LOCK_WAIT,
            tells_problems: true,
        }
    }

    /// # Errors
    /// What the log and the status file tell too.
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let config = self.config;
        let begun = Instant::now();
        let mut log = Log::open(config);
        let mut report = Report::after(last_status(config, "update"));
        let result = self.update(&mut log, &mut report);
        let seconds = begun.elapsed().as_secs_f64();
        let failure = result.map_err(Failure::from).err();
        match &failure {
            Some(_) if !self.tells_problems => {}
            Some(failure) => log.error(&format!("update failed after {seconds:.3} s: {failure}")),
            None if report.wrote => log.notice(&format!("update: {report}; {seconds:.3} s")),
            None => log.info(&format!("update: nothing to change; {report}; {seconds:.3} s")),
        }
        write_status(config, "update", report.status(failure.as_ref(), seconds));
        failure.map_or(Ok(()), Err)
    }

    /// sendmail, which may take its time, is not asked for its domains while others wait
    /// for the lock: before, where the last update needed them, else between.
    fn update(&self, log: &mut Log, report: &mut Report) -> Result<(), UpdateError> {
        let last = report.own_domains.take();
        report.own_domains = last.map(|last| OwnDomains::now(self.config, Some(last)));
        match self.update_locked(log, report) {
            Err(UpdateError::DomainsUnknown) => {
                report.own_domains = Some(OwnDomains::now(self.config, None));
                self.update_locked(log, report)
            }
            result => result,
        }
    }

    fn update_locked(&self, log: &mut Log, report: &mut Report) -> Result<(), UpdateError> {
        let (path, config) = (self.path, self.config);
        update::check_published(path, config)?;
        let _lock = update::lock_map(config, self.wait)?;
        match update::publish_in_force(config) {
            Ok(wrote) => report.wrote |= wrote,
            Err(error) => log.warning(&error.to_string()),
        }
        let nodes = match self.checks {
            true => {
                if let Err(error) = node_state::follow_shared(config) {
                    log.warning(&error.to_string());
                }
                update::check_nodes(config, true)
            }
            false => update::nodes_as_marked(config),
        };
        for problem in last_good::keep(path, config) {
            log.warning(&problem);
        }
        let nodes = nodes?;
        for line in nodes.lines(config) {
            log.warning(&line);
        }
        report.wrote |= nodes.before != nodes.after;
        if self.tells_problems {
            for doubt in doubts(config, &nodes.after) {
                log.warning(&doubt);
            }
        }
        let down = config.nodes.iter().map(|node| &node.node.name);
        report.nodes_down = down.filter(|name| nodes.after.is_down(name)).cloned().collect();
        for attempt in 1.. {
            match self.update_map(&nodes, log, report) {
                Err(UpdateError::Rebuild(RebuildError::SourceChanged(_))) if attempt < ATTEMPTS => {}
                result => {
                    result?;
                    break;
                }
            }
        }
        nodes
            .problem
            .map_or(Ok(()), |problem| Err(UpdateError::Checks(problem)))
    }

    fn update_map(&self, nodes: &NodeChanges, log: &mut Log, report: &mut Report) -> Result<(), UpdateError> {
        let spinner = spinner("working out the access map");
        let plan = match update::plan(
            self.config,
            &nodes.after,
            self.accept_loss,
            report.fingerprint.as_deref().filter(|_| !self.force),
            report.own_domains.as_ref(),
        )? {
            Plan::NoMap | Plan::Unchanged => return Ok(()),
            Plan::Map(plan) => plan,
        };
        report.take(&plan);
        for doubt in plan.silent_services.iter().chain(&plan.missing_names) {
            log.warning(doubt);
            say(NAME, doubt);
        }
        if plan.is_in_force() && !self.force {
            return Ok(());
        }
        spinner.set_message("building the access map");
        report.count_changes(&plan);
        let complaints = plan.carry_out(self.force)?;
        spinner.finish_and_clear();
        report.wrote = true;
        report.complaints = Remarks::new(complaints.iter().map(complaint));
        for (what, remarks) in report.remarks() {
            for line in &remarks.first {
                log.warning(&format!("{what}: {line}"));
            }
            if remarks.count > SHOWN {
                log.warning(&format!("{what}: and {} more", remarks.count - SHOWN));
            }
        }
        Ok(())
    }
}

/// A sign of life for an administrator who watches; nothing elsewhere.
fn spinner(message: &'static str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let spinner = ProgressBar::new_spinner().with_message(message);
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}

fn complaint(complaint: &Complaint) -> String {
    format!("line {}: {}", complaint.line, complaint.problem)
}

/// What an update did, and what it found. What it did not look at again is as the last
/// one found it.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Report {
    #[serde(skip)]
    wrote: bool,
    /// Whether no names are for all who may read the status.
    #[serde(skip)]
    hides_names: bool,
    fingerprint: Option<String>,
    own_domains: Option<OwnDomains>,
    nodes_down: Vec<String>,
    users: usize,
    outside_uids: OutsideUids,
    silent_services: Vec<String>,
    entries: usize,
    moved: usize,
    added: usize,
    removed: usize,
    other_names: usize,
    left_out: Remarks,
    by_hand: Remarks,
    complaints: Remarks,
    aliases: Remarks,
}

/// Lines of one kind.
#[derive(Default, Serialize, Deserialize)]
struct Remarks {
    count: usize,
    first: Vec<String>,
}

impl Remarks {
    fn new(lines: impl ExactSizeIterator<Item = String>) -> Remarks {
        Remarks {
            count: lines.len(),
            first: lines.take(SHOWN).collect(),
        }
    }
}

impl Report {
    fn after(last: Option<Map<String, Value>>) -> Report {
        let last = last.and_then(|last| serde_json::from_value(Value::Object(last)).ok());
        Report {
            moved: 0,
            added: 0,
            removed: 0,
            ..last.unwrap_or_default()
        }
    }

    fn take(&mut self, plan: &MapPlan<'_>) {
        self.fingerprint = Some(plan.fingerprint.clone());
        self.hides_names = !plan.is_public();
        self.users = plan.users;
        self.outside_uids = plan.outside_uids;
        self.silent_services.clone_from(&plan.silent_services);
        self.entries = plan.entries;
        self.other_names = plan.other_names;
        let doubts = [&plan.missing_names[..], &plan.alias_problems].concat();
        self.aliases = Remarks::new(doubts.into_iter());
        let left_out = plan.left_out.iter();
        self.left_out = Remarks::new(
            left_out.map(|left_out| format!("{}: {}", left_out.user.escape_ascii(), left_out.reason)),
        );
        self.by_hand = Remarks::new(plan.by_hand.iter().map(|own| {
            format!(
                "line {}: {} has {}, the mapping {}",
                own.line,
                key::name(&own.entry.key).escape_ascii(),
                own.entry.value.escape_ascii(),
                own.computed
            )
        }));
    }

    fn count_changes(&mut self, plan: &MapPlan<'_>) {
        for change in plan.changes() {
            *match (change.before, change.after) {
                (None, _) => &mut self.added,
                (_, None) => &mut self.removed,
                _ => &mut self.moved,
            } += 1;
        }
    }

    /// What the administrator should look at.
    fn remarks(&self) -> [(&'static str, &Remarks); 4] {
        [
            ("user left out of the access map", &self.left_out),
            ("entry by hand in the access source", &self.by_hand),
            ("access source", &self.complaints),
            ("aliases", &self.aliases),
        ]
    }

    fn status(mut self, failure: Option<&Failure>, seconds: f64) -> Value {
        if failure.is_some() {
            self.fingerprint = None;
        }
        if self.hides_names {
            let remarks = [
                &mut self.left_out,
                &mut self.by_hand,
                &mut self.complaints,
                &mut self.aliases,
            ];
            remarks.into_iter().for_each(|remarks| remarks.first.clear());
        }
        let mut status = json!({
            "finished": Timestamp::now().to_string(),
            "result": match failure {
                Some(_) => "failed",
                None if self.wrote => "changed",
                None => "unchanged",
            },
            "exit_status": failure.map_or(0, Failure::status),
            "error": failure.map(Failure::to_string),
            "seconds": seconds,
        });
        if let (Value::Object(status), Ok(Value::Object(found))) = (&mut status, serde_json::to_value(self)) {
            status.extend(found);
        }
        status
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} users, {} moved, {} new, {} gone",
            self.users, self.moved, self.added, self.removed
        )?;
        if self.left_out.count > 0 {
            write!(f, ", {} left out", self.left_out.count)?;
        }
        if self.by_hand.count > 0 {
            write!(f, ", {} by hand", self.by_hand.count)?;
        }
        let OutsideUids { below, above } = self.outside_uids;
        if below + above > 0 {
            write!(
                f,
                ", not counting {below} below uid_min and {above} above uid_max"
            )?;
        }
        match &self.nodes_down[..] {
            [] => f.write_str("; all nodes up"),
            down => write!(f, "; {} of the nodes down: {}", down.len(), down.join(", ")),
        }
    }
}
