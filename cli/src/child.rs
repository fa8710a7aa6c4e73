//! Runs a program that may hang, print without end or leave children behind.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio, retry_on_intr};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions};
use rustix::process::{kill_process_group, set_parent_process_death_signal, setsid};
use rustix::process::{test_kill_process_group, waitid, waitpid};

use crate::undo::{self, Begun};
use mailaffinity::deadline::Deadline;

/// More than any list of users or map has.
const LONGEST_STDOUT: u64 = 1 << 30;

/// How much of standard error is kept, and of standard output where it holds no more than
/// complaints. The rest is read and dropped.
const LONGEST_COMPLAINT: u64 = 4 << 10;

/// Where programs are that get no environment of ours: as init's.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How many lines of standard error an error message shows.
const STDERR_LINES: usize = 3;

/// How long a killed program may take to vanish. One that waits for a dead file server
/// never does.
const BURIAL: Duration = Duration::from_secs(1);

/// Where a program's input is written.
pub(crate) type Stdin = TimedPipe<ChildStdin>;

/// A program that has ended by itself.
#[derive(Debug)]
pub(crate) struct Finished {
    command: String,
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    /// The first 4 KiB.
    pub(crate) stderr: Vec<u8>,
}

/// A program that could not be run, did not end in time or failed. It displays as a
/// sentence that starts with the command.
#[derive(Debug, thiserror::Error)]
#[error("{command} {problem}")]
pub(crate) struct ChildError {
    command: String,
    /// All of the sentence but the command.
    pub(crate) problem: String,
    /// Whether that is no fault of the program, as [`is_shortage`].
    pub(crate) is_shortage: bool,
}

/// Whether this process or this machine has nothing left to begin something with.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::AGAIN | Errno::NOMEM | Errno::NOBUFS | Errno::ADDRNOTAVAIL)
    )
}

impl Finished {
    /// What the program printed on standard output.
    ///
    /// # Errors
    /// When its exit status is not 0: the status and the first lines of standard error.
    pub(crate) fn success(self) -> Result<Vec<u8>, ChildError> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        let mut problem = match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("ended with exit status {code}"),
            (None, Some(signal)) => format!("was ended by signal {signal}"),
            (None, None) => format!("ended with {}", self.status),
        };
        let complaint = one_line(&self.stderr);
        if !complaint.is_empty() {
            problem = format!("{problem}: {complaint}");
        }
        Err(ChildError {
            command: self.command,
            problem,
            is_shortage: false,
        })
    }

    /// The same for a program that says something only if something is wrong.
    ///
    /// # Errors
    /// When its exit status is not 0 or it said anything: the first lines of that.
    pub(crate) fn silent_success(self) -> Result<(), ChildError> {
        let said = [&*self.stdout, b"\n", &*self.stderr].concat();
        let complaint = one_line(&said);
        if self.status.success() && !complaint.is_empty() {
            return Err(ChildError {
                command: self.command,
                problem: format!("says: {complaint}"),
                is_shortage: false,
            });
        }
        Finished { stderr: said, ..self }.success().map(drop)
    }
}

/// Runs a command, a program and its arguments, with `stdin` as its input, which it need
/// not read. No shell sees them.
///
/// The command has ended when the program has and nobody can write to its standard
/// output and error any more. If it has not by `timeout`, it is killed with all children
/// that are still in its process group. It has a session of its own.
///
/// # Errors
/// When the program cannot be run, does not end in time, or prints more than 1 GiB. How
/// it ended is for [`Finished::success`] to judge.
pub(crate) fn run(
    command: &[impl AsRef<OsStr>],
    stdin: &[u8],
    timeout: Duration,
) -> Result<Finished, ChildError> {
    run_bounded(command, |_| (), write_all(stdin), timeout, Some(LONGEST_STDOUT))
}

/// As [`run`], for a program with fewer rights than ours: it gets none of our environment
/// and starts in the root folder.
///
/// # Errors
/// As [`run`].
pub(crate) fn run_apart(
    command: &[impl AsRef<OsStr>],
    stdin: &[u8],
    timeout: Duration,
) -> Result<Finished, ChildError> {
    let apart = |command: &mut Command| {
        command.env_clear().env("PATH", PATH).current_dir("/");
    };
    run_bounded(command, apart, write_all(stdin), timeout, Some(LONGEST_STDOUT))
}

fn write_all(stdin: &[u8]) -> impl FnOnce(&mut Stdin) -> io::Result<()> + Send + use<> {
    let stdin = stdin.to_vec();
    move |pipe| pipe.write_all(&stdin)
}

/// As [`run`] without input, for a program that prints only complaints: however much that
/// is, the first 4 KiB are kept.
///
/// # Errors
/// When the program cannot be run or does not end in time.
pub(crate) fn run_silent(command: &[impl AsRef<OsStr>], timeout: Duration) -> Result<Finished, ChildError> {
    run_bounded(command, |_| (), write_all(b""), timeout, None)
}

/// As [`run_silent`], for a program that goes on where a signal ends us: what it does must not
/// be left half done.
///
/// # Errors
/// As [`run_silent`].
pub(crate) fn run_on(command: &[impl AsRef<OsStr>], timeout: Duration) -> Result<Finished, ChildError> {
    run_with(command, |_| (), write_all(b""), timeout, None, true)
}

/// As [`run_silent`], in a folder, with what `write` writes as its input. One below `/proc/self/fd` is the one that this process
/// has open.
///
/// # Errors
/// As [`run_silent`].
pub(crate) fn run_silent_in(
    folder: &Path,
    command: &[impl AsRef<OsStr>],
    write: impl FnOnce(&mut Stdin) -> io::Result<()> + Send + 'static,
    timeout: Duration,
) -> Result<Finished, ChildError> {
    let there = |command: &mut Command| _ = command.current_dir(folder);
    run_bounded(command, there, write, timeout, None)
}

fn run_bounded(
    command: &[impl AsRef<OsStr>],
    prepare: impl FnOnce(&mut Command),
    write: impl FnOnce(&mut Stdin) -> io::Result<()> + Send + 'static,
    timeout: Duration,
    longest_stdout: Option<u64>,
) -> Result<Finished, ChildError> {
    run_with(command, prepare, write, timeout, longest_stdout, false)
}

/// `goes_on` says whether it and its process group do so where a signal ends us.
fn run_with(
    command: &[impl AsRef<OsStr>],
    prepare: impl FnOnce(&mut Command),
    write: impl FnOnce(&mut Stdin) -> io::Result<()> + Send + 'static,
    timeout: Duration,
    longest_stdout: Option<u64>,
    goes_on: bool,
) -> Result<Finished, ChildError> {
    let deadline = Deadline::after(timeout);
    let name = name(command);
    let error = |problem: String| ChildError {
        command: name.clone(),
        problem,
        is_shortage: false,
    };
    let Some((program, arguments)) = command.split_first() else {
        return Err(error("cannot be run: it names no program".into()));
    };
    let mut child = Command::new(program);
    child
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    prepare(&mut child);
    let start = || {
        let child = in_own_session(&mut child, goes_on).spawn()?;
        let group = Pid::from_child(&child);
        let undo = move || {
            if !goes_on {
                end(group);
            }
        };
        Ok((child, undo))
    };
    let (mut child, begun) = undo::begin(start).map_err(|problem: io::Error| ChildError {
        is_shortage: is_shortage(&problem),
        ..error(format!("cannot be run: {problem}"))
    })?;
    let ended = until_end(&mut child, &begun, write, longest_stdout, deadline);
    let (status, stdout, stderr) = ended.map_err(|problem| {
        kill(&mut child, &begun);
        let is_shortage = is_shortage(&problem);
        let error = error(match problem.kind() {
            io::ErrorKind::TimedOut => format!("did not end within {timeout:?} and was stopped"),
            io::ErrorKind::FileTooLarge => {
                let longest = longest_stdout.unwrap_or_default();
                format!("was stopped: it prints more than {longest} bytes")
            }
            _ => format!("was stopped: {problem}"),
        });
        ChildError { is_shortage, ..error }
    })?;
    Ok(Finished {
        command: name,
        status,
        stdout,
        stderr,
    })
}

/// A program in a session of its own cannot write to our terminal's input, and of our
/// descriptors it gets the three pipes, whatever whoever started us left open. Where it is on
/// storage that hangs, only the kernel can end it with us.
#[allow(unsafe_code)]
fn in_own_session(command: &mut Command, goes_on: bool) -> &mut Command {
    let prepare = move || {
        setsid()?;
        if !goes_on {
            set_parent_process_death_signal(Some(Signal::KILL))?;
        }
        // Kernels before 5.11 cannot do that: then it is left to whoever started us.
        // SAFETY: it takes no pointers. Nothing is closed before the program starts.
        unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int) };
        Ok(())
    };
    // SAFETY: between fork and exec, this makes some system calls and allocates nothing.
    unsafe { command.pre_exec(prepare) }
}

/// What the program prints, and its status, once all of this is complete. The threads outlive
/// the program only where a process that has left the group keeps a pipe open, and then not the
/// deadline.
fn until_end(
    child: &mut Child,
    begun: &Begun,
    write: impl FnOnce(&mut Stdin) -> io::Result<()> + Send + 'static,
    longest_stdout: Option<u64>,
    deadline: Deadline,
) -> io::Result<(ExitStatus, Vec<u8>, Vec<u8>)> {
    if let Some(pipe) = child.stdin.take() {
        let mut pipe = TimedPipe::new(pipe, deadline)?;
        // The program may end without reading all of it.
        in_thread(move || write(&mut pipe))?;
    }
    let stdout = child.stdout.take().map(|pipe| TimedPipe::new(pipe, deadline));
    let stderr = child.stderr.take().map(|pipe| TimedPipe::new(pipe, deadline));
    let (stdout, stderr) = (stdout.transpose()?, stderr.transpose()?);
    let stdout = in_thread(move || match longest_stdout {
        Some(longest) => read_all(stdout, longest),
        None => read_start(stdout, LONGEST_COMPLAINT),
    })?;
    let stderr = in_thread(move || read_start(stderr, LONGEST_COMPLAINT))?;
    let received = |pipe: Receiver<io::Result<Vec<u8>>>| {
        pipe.recv_timeout(deadline.left()?)
            .map_err(|_| io::ErrorKind::TimedOut)?
    };
    let (stdout, stderr) = (received(stdout)?, received(stderr)?);
    Ok((wait(child, begun, deadline.left()?)?, stdout, stderr))
}

/// Our end of a pipe, given up at a deadline, whoever keeps the other end open.
pub(crate) struct TimedPipe<P> {
    pipe: P,
    deadline: Deadline,
}

impl<P: AsFd> TimedPipe<P> {
    fn new(pipe: P, deadline: Deadline) -> io::Result<TimedPipe<P>> {
        ioctl_fionbio(&pipe, true)?;
        Ok(TimedPipe { pipe, deadline })
    }

    /// Does this as soon as the pipe is ready for it.
    fn when<T>(&mut self, ready: PollFlags, mut act: impl FnMut(&mut P) -> io::Result<T>) -> io::Result<T> {
        loop {
            match act(&mut self.pipe) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
            let left = Timespec::try_from(self.deadline.left()?).ok();
            let mut pipe = [PollFd::new(&self.pipe, ready)];
            retry_on_intr(|| poll(&mut pipe, left.as_ref()))?;
        }
    }
}

impl<P: AsFd + Read> Read for TimedPipe<P> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.when(PollFlags::IN, |pipe| pipe.read(buffer))
    }
}

impl<P: AsFd + Write> Write for TimedPipe<P> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.when(PollFlags::OUT, |pipe| pipe.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pipe.flush()
    }
}

fn in_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<Receiver<T>> {
    let (sender, receiver) = mpsc::channel();
    thread::Builder::new().spawn(move || {
        // At the deadline, nobody waits for it any more.
        let _ = sender.send(work());
    })?;
    Ok(receiver)
}

fn read_all(pipe: Option<impl Read>, longest: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(longest.saturating_add(1)).read_to_end(&mut bytes)?;
    }
    if bytes.len() as u64 > longest {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

fn read_start(pipe: Option<impl Read>, longest: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        pipe.by_ref().take(longest).read_to_end(&mut bytes)?;
        io::copy(&mut pipe, &mut io::sink())?;
    }
    Ok(bytes)
}

/// Waits for the program's end.
fn wait(child: &mut Child, begun: &Begun, timeout: Duration) -> io::Result<ExitStatus> {
    let deadline = Deadline::after(timeout);
    let has_ended = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    while waitid(WaitId::Pid(Pid::from_child(child)), has_ended)?.is_none() {
        deadline.pause()?;
    }
    // From now on, its number may be another one's.
    begun.over();
    child.wait()
}

/// Ends a program that has not been waited for, so that its process group is still its
/// own, with all that are in the group.
fn kill(child: &mut Child, begun: &Begun) {
    // What cannot be killed cannot be helped; the caller reports why it came to this.
    let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
    let _ = wait(child, begun, BURIAL);
}

/// The same for whoever waits for nothing else, until all of the group are gone.
fn end(group: Pid) {
    let _ = kill_process_group(group, Signal::KILL);
    let deadline = Deadline::after(BURIAL);
    while test_kill_process_group(group).is_ok() && deadline.pause().is_ok() {
        let _ = waitpid(Some(group), WaitOptions::NOHANG);
    }
}

/// A command as error messages show it.
pub(crate) fn name(command: &[impl AsRef<OsStr>]) -> String {
    if command.is_empty() {
        return "a command".into();
    }
    let words = command
        .iter()
        .map(|word| word.as_ref().as_bytes().escape_ascii().to_string());
    words.collect::<Vec<_>>().join(" ")
}

/// The first lines of what a program says, in a form fit for an error message.
fn one_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .take(STDERR_LINES)
        .collect();
    lines.join("; ").replace(char::is_control, "?")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Instant;

    use super::*;

    /// Far more than anything here takes: reached only when something hangs.
    const LONG: Duration = Duration::from_secs(60);

    /// For what does hang.
    const SHORT: Duration = Duration::from_millis(300);

    fn sh(script: &str, stdin: &[u8], timeout: Duration) -> Result<Finished, ChildError> {
        run(&["sh", "-c", script], stdin, timeout)
    }

    /// A program that writes its process id to `file`, in a script.
    fn with_id_in(file: &Path, program: &str) -> String {
        format!(
            "sh -c 'echo $$ >{file}.new; mv {file}.new {file}; exec {program}'",
            file = file.display()
        )
    }

    fn is_running(id: &str) -> bool {
        // A zombie is ended; init may take its time to bury it.
        fs::read_to_string(format!("/proc/{id}/stat"))
            .is_ok_and(|stat| !stat.rsplit(')').next().unwrap().trim_start().starts_with('Z'))
    }

    /// Signals take effect a moment after they are sent.
    fn assert_ends(id: &str) {
        let start = Instant::now();
        while is_running(id) {
            assert!(start.elapsed() < LONG, "process {id} still runs");
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn read_id(file: &Path) -> String {
        let id = fs::read_to_string(file).unwrap().trim().to_owned();
        assert!(id.parse::<u32>().is_ok(), "{id:?}");
        id
    }

    #[test]
    fn megabytes_flow_both_ways() {
        let input: Vec<u8> = (0..8_000_000u32).map(|i| (i % 251) as u8).collect();
        let finished = sh("tee /dev/stderr", &input, LONG).unwrap();
        assert_eq!(finished.stderr, input[..4096]);
        assert!(finished.success().unwrap() == input);
    }

    #[test]
    fn no_shell_sees_the_arguments() {
        let words = ["printf", "%s,", "a b", "*", "$HOME", "'", ""];
        let printed = run(&words, b"", LONG).unwrap().success().unwrap();
        assert_eq!(printed, b"a b,*,$HOME,',,");
    }

    #[test]
    fn input_may_be_left_unread() {
        let input = vec![b'x'; 1 << 20];
        for script in ["exec true", "exec <&-; echo still here >&2", "head -c 1"] {
            assert!(sh(script, &input, LONG).unwrap().success().is_ok(), "{script}");
        }
    }

    #[test]
    fn failures_are_named() {
        let error = |script| sh(script, b"", LONG).unwrap().success().unwrap_err().to_string();
        assert_eq!(error("exit 3"), "sh -c exit 3 ended with exit status 3");
        assert_eq!(
            error("printf 'one\\n\\n  two\\033[1m\\nthree\\nfour\\n' >&2; exit 65")
                .split_once("ended ")
                .unwrap()
                .1,
            "with exit status 65: one; two?[1m; three"
        );
        assert!(error("kill -TERM $$").ends_with(" was ended by signal 15"));
        let error = run(&["/nonexistent/getent", "pass\nwd"], b"", LONG).unwrap_err();
        assert_eq!(
            error.to_string(),
            "/nonexistent/getent pass\\nwd cannot be run: No such file or directory (os error 2)"
        );
        assert!(run(&["a\0b"], b"", LONG).is_err());
        assert_eq!(
            run(&[""; 0], b"", LONG).unwrap_err().to_string(),
            "a command cannot be run: it names no program"
        );
    }

    #[test]
    fn silence_is_success() {
        let silent = |script| sh(script, b"", LONG).unwrap().silent_success();
        assert!(silent("echo").is_ok());
        for (script, said) in [
            ("echo one; echo two >&2", " says: one; two"),
            (
                "echo one; echo two >&2; exit 3",
                " ended with exit status 3: one; two",
            ),
        ] {
            let error = silent(script).unwrap_err().to_string();
            assert!(error.ends_with(said), "{error}");
        }
        assert!(silent("exit 3").is_err());
    }

    #[test]
    fn at_the_deadline_the_program_and_its_children_end() {
        let folder = tempfile::tempdir().unwrap();
        let (child, grandchild) = (folder.path().join("child"), folder.path().join("grandchild"));
        let script = format!(
            "trap '' TERM HUP INT; {} & echo $$ >{}; echo half; wait",
            with_id_in(&grandchild, "sleep 1000"),
            child.display()
        );
        // On a busy machine the processes may not have come far by the deadline.
        let mut timeout = SHORT;
        while !(child.exists() && grandchild.exists()) {
            assert!(timeout < LONG);
            let error = sh(&script, b"", timeout).unwrap_err().to_string();
            assert!(
                error.ends_with(&format!(" did not end within {timeout:?} and was stopped")),
                "{error}"
            );
            timeout *= 2;
        }
        assert_ends(&read_id(&child));
        assert_ends(&read_id(&grandchild));
    }

    #[test]
    fn programs_that_close_their_output_and_go_on_are_ended() {
        let start = Instant::now();
        assert!(sh("exec sleep 1000 >&- 2>&-", b"", SHORT).is_err());
        assert!(start.elapsed() < LONG);
    }

    #[test]
    fn a_child_left_behind_in_the_group_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("id");
        let script = format!(
            "{} & while ! [ -e {} ]; do sleep 0.01; done",
            with_id_in(&file, "sleep 1000"),
            file.display()
        );
        let mut timeout = SHORT;
        while !file.exists() {
            assert!(timeout < LONG);
            sh(&script, b"", timeout).unwrap_err();
            timeout *= 2;
        }
        assert_ends(&read_id(&file));
    }

    #[test]
    fn a_grandchild_out_of_reach_holds_nothing_up() {
        let folder = tempfile::tempdir().unwrap();
        let (begun, gone) = (folder.path().join("begun"), folder.path().join("gone"));
        let script = format!(
            "setsid sh -c 'trap \"\" PIPE; touch {}; while echo; do sleep 0.01; done; touch {}' & wait",
            begun.display(),
            gone.display()
        );
        let start = Instant::now();
        let mut timeout = SHORT;
        while !begun.exists() {
            assert!(timeout < LONG);
            sh(&script, b"", timeout).unwrap_err();
            timeout *= 2;
        }
        // It left the group, and then nobody reads what it prints.
        while !gone.exists() {
            assert!(start.elapsed() < LONG);
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn nothing_of_ours_is_within_reach() {
        let left_open = fs::File::open("/").unwrap();
        rustix::io::fcntl_setfd(&left_open, rustix::io::FdFlags::empty()).unwrap();
        let printed = |finished: Result<Finished, ChildError>| {
            String::from_utf8(finished.unwrap().success().unwrap()).unwrap()
        };
        // The shell has the numbers of its session and of itself, and no terminal.
        let alone =
            "read _ _ _ _ _ session _ </proc/self/stat; [ $session = $$ ] && ! true 2>/dev/null </dev/tty";
        // The last descriptor is of the folder itself.
        let descriptors = format!("{alone} && echo alone; cd /proc/self/fd; echo *");
        assert_eq!(printed(sh(&descriptors, b"", LONG)), "alone\n0 1 2 3\n");
        let environment = printed(run_apart(&["sh", "-c", "pwd; exec env -u PWD"], b"", LONG));
        assert_eq!(environment, format!("/\nPATH={PATH}\n"));
        assert!(printed(run(&["env"], b"", LONG)).len() > environment.len());
    }

    #[test]
    fn endless_output_is_refused() {
        let error = run_bounded(&["yes"], |_| (), |_| Ok(()), LONG, Some(1 << 20)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "yes was stopped: it prints more than 1048576 bytes"
        );
        let exact = run_bounded(&["printf", "1234"], |_| (), |_| Ok(()), LONG, Some(4)).unwrap();
        assert_eq!(exact.stdout, b"1234");
        let silent = run_silent(&["sh", "-c", "head -c 9000000 /dev/zero; exit 3"], LONG).unwrap();
        assert_eq!((silent.status.code(), silent.stdout.len()), (Some(3), 4096));
        assert!(run_bounded(&["printf", "12345"], |_| (), |_| Ok(()), LONG, Some(4)).is_err());
    }

    #[test]
    fn endless_complaints_are_ended_at_the_deadline() {
        assert!(sh("exec yes >&2", b"", SHORT).is_err());
    }
}
