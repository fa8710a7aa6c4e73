//! The C library, as programs that link it get it from the program loader.
//!
//! Another process asks it: a library that does not fit takes that one down only.

use super::{Opinion, Question, edge};
use crate::child;

const PART: &str = "C library";

/// Under which programs ask the loader for it.
const SONAME: &str = "libmailaffinity.so.0";

/// What the program loader says of a library that is not there (dlopen(3), glibc).
const NOT_FOUND: &str = "cannot open shared object file: No such file or directory";

pub(crate) fn ask(question: &Question<'_>) -> Opinion {
    let configured = &question.config.agreement.c_library;
    let library = configured.as_deref().unwrap_or(SONAME);
    let mut command = question.c_library_command.to_vec();
    command.push(library.into());
    let timeout = *question.config.agreement.timeout;
    let stdout = match child::run(&command, &edge::input(question, |_| ""), timeout)
        .and_then(child::Finished::success)
    {
        Ok(stdout) => stdout,
        Err(error) if configured.is_none() && error.problem.contains(&format!("{library}: {NOT_FOUND}")) => {
            return Opinion::absent(PART, format!("{library} is not installed"));
        }
        Err(error) => {
            // What it says itself, if it came to that.
            let said = error
                .problem
                .split_once("mailaffinity: ")
                .map_or(&*error.problem, |(_, said)| said);
            return Opinion::failed(PART, said);
        }
    };
    match edge::parse(question, &stdout) {
        Some((facts, given)) => {
            let who = format!("the C library {library}");
            edge::opinion(PART, &who, question, &facts, &given)
        }
        None => Opinion::failed(
            PART,
            format!("{library} does not answer as this command's release does"),
        ),
    }
}
