//! `mailaffinity drain`: run the queues of dead nodes.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use indicatif::ProgressBar;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::drain::{DrainError, Drained, Duty, Queue, duties};
use crate::exit::{Failure, NAME, Status, say};
use crate::names;
use crate::nodes::{ThisNode, doubts};
use crate::report::{Log, write_status};
use mailaffinity::config::{Config, NodeConfig};
use mailaffinity::node_state::NodeState;

/// Run the queues of dead nodes that this node is to run in their place
///
/// For cron or a timer, on every node: each queue has one node that runs it, which all
/// nodes know by the same hash. Messages that cannot be delivered stay queued.
#[derive(Args)]
#[command(after_long_help = "\
Exit status:
  0   done, also if messages stay queued, or another drain is at work
  69  sendmail complained, and no message left the queue
  The others are those of mailaffinity(1).

Examples:
  For cron, on every node:
      */5 * * * * root /usr/bin/mailaffinity drain
  What waits, and who will run it:
      mailaffinity drain --dry-run")]
pub(crate) struct Drain {
    #[command(flatten)]
    this_node: ThisNode,

    /// Print which queues would be run, by whom and how many messages wait there
    #[arg(long, short = 'n')]
    dry_run: bool,

    /// Print a JSON object for each node that is down
    #[arg(long)]
    json: bool,
}

impl Drain {
    pub(crate) fn run(self, config: &Config) -> Result<ExitCode, Failure> {
        let this_node = self.this_node.of(config)?;
        let state = NodeState::load(&config.node_state).map_err(Failure::config)?;
        let doubts = doubts(config, &state);
        let duties = duties(config, &state, this_node);
        if self.dry_run {
            doubts.iter().for_each(|doubt| say(NAME, doubt));
            return self.print(duties.iter().map(|duty| what_would_be_done(duty, this_node)));
        }
        let begun = Instant::now();
        let mut log = Log::open(config);
        doubts.iter().for_each(|doubt| log.warning(doubt));
        let mut results = Vec::new();
        let mut failure = None;
        let mut is_done_by_others = false;
        for duty in &duties {
            let result = match duty {
                Duty::Ours(queue) => match self.drain(config, this_node, queue, &mut log) {
                    Ok(drained) => {
                        failure = failure.or(failure_of(queue, &drained));
                        result_of(queue, &drained)
                    }
                    // It is being done, which is no failure for cron to report.
                    Err(locked @ DrainError::Locked(_)) => {
                        let reason = locked.to_string();
                        log.info(&format!("drain of {}: {reason}", queue.node.node.name));
                        is_done_by_others = true;
                        json!({"node": queue.node.node.name, "reason": reason})
                    }
                    Err(error) => {
                        let error = Failure::from(error);
                        log.error(&format!("drain of {} failed: {error}", queue.node.node.name));
                        let result = json!({"node": queue.node.node.name, "error": error.to_string()});
                        failure = failure.or(Some(error));
                        result
                    }
                },
                other => what_would_be_done(other, this_node),
            };
            results.push(result);
        }
        let status = json!({
            "finished": Timestamp::now().to_string(),
            "exit_status": failure.as_ref().map_or(0, Failure::status),
            "seconds": begun.elapsed().as_secs_f64(),
            "queues": results,
        });
        // Whoever is at work tells in the end how it went; until then, the status ages.
        if failure.is_some() || !is_done_by_others {
            write_status(config, "drain", status);
        }
        if self.json {
            self.print(results.into_iter())?;
        }
        match failure {
            Some(failure) => Err(failure),
            None => Ok(ExitCode::SUCCESS),
        }
    }

    fn drain(
        &self,
        config: &Config,
        this_node: &NodeConfig,
        queue: &Queue<'_>,
        log: &mut Log,
    ) -> Result<Drained, DrainError> {
        let name = &queue.node.node.name;
        let waiting = queue.message_ids()?.len();
        if waiting == 0 {
            return Ok(Drained::default());
        }
        let bar = if std::io::stderr().is_terminal() {
            ProgressBar::new(waiting as u64)
        } else {
            ProgressBar::hidden()
        };
        let drained = queue.drain(config, this_node, |tried, of| {
            bar.set_length(of as u64);
            bar.set_position(tried as u64);
        })?;
        bar.finish_and_clear();
        if std::io::stderr().is_terminal() {
            say(
                NAME,
                format!("{name}: {} waited, {} are left", drained.before, drained.after),
            );
        }
        let Drained {
            before,
            after,
            ended_early,
            problems,
        } = &drained;
        let early = ended_early
            .map(|why| format!("; not all were tried: {why}"))
            .unwrap_or_default();
        log.notice(&format!(
            "drain of {name}: {before} messages before, {after} after{early}"
        ));
        for problem in problems {
            log.warning(&format!("drain of {name}: {problem}"));
        }
        Ok(drained)
    }

    fn print(&self, rows: impl Iterator<Item = Value>) -> Result<ExitCode, Failure> {
        names::print(|out| {
            for row in rows {
                if self.json {
                    writeln!(out, "{row}")?;
                    continue;
                }
                let text = |key: &str| row.get(key).and_then(Value::as_str).unwrap_or("-").to_owned();
                let waiting = row.get("waiting").map_or("-".into(), Value::to_string);
                writeln!(
                    out,
                    "{}\t{}\t{waiting}\t{}",
                    text("node"),
                    text("run_by"),
                    text("reason")
                )?;
            }
            Ok(())
        })
    }
}

fn what_would_be_done(duty: &Duty<'_>, this_node: &NodeConfig) -> Value {
    match duty {
        Duty::Ours(queue) => match queue.message_ids() {
            Ok(ids) => {
                json!({"node": queue.node.node.name, "run_by": this_node.node.name, "waiting": ids.len()})
            }
            Err(error) => json!({"node": queue.node.node.name, "reason": error.to_string()}),
        },
        Duty::Others { node, by } => json!({"node": node.node.name, "run_by": by.node.name}),
        Duty::Nobody { node, why } => json!({"node": node.node.name, "reason": why}),
    }
}

/// Where sendmail complained and no message left the queue.
fn failure_of(queue: &Queue<'_>, drained: &Drained) -> Option<Failure> {
    let problem = drained.problems.first()?;
    let name = &queue.node.node.name;
    (drained.after >= drained.before)
        .then(|| Failure::new(Status::Unavailable, format!("drain of {name}: {problem}")))
}

fn result_of(queue: &Queue<'_>, drained: &Drained) -> Value {
    json!({
        "node": queue.node.node.name,
        "before": drained.before,
        "after": drained.after,
        "ended_early": drained.ended_early,
        "problems": drained.problems,
    })
}

impl From<DrainError> for Failure {
    fn from(error: DrainError) -> Failure {
        let status = match &error {
            DrainError::Io(..) => Status::IoError,
            DrainError::Locked(_) | DrainError::Overdue { .. } => Status::TempFail,
        };
        Failure::new(status, error)
    }
}
