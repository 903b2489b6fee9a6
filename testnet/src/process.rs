//! Child processes that cannot outlive their purpose.
//!
//! Each child has its own process group, so that Ctrl-C in a terminal reaches this process alone, which
//! then stops them in order: SIGTERM, and SIGKILL for whoever is still there after [`GRACE`]. Dropping
//! the [`Supervisor`] kills at once. On Linux the kernel kills the children when this process dies
//! without either, even by SIGKILL.
//!
//! The kernel ties a child's life to the *thread* that started it. So one thread, which lives as long as
//! the supervisor, starts all of them, whoever asks.

use std::{
    fs, io,
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};

use crate::interrupt::{Interrupt, Interrupted};

/// How long a child may take to end after SIGTERM. A peer flushes and closes well within a second.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// How often a condition outside this process is looked at again.
pub(crate) const POLL: Duration = Duration::from_millis(20);

/// Children of one supervisor; a test network has at most 50 peers. Beyond it, starting is refused.
const PROCESSES_MAX: usize = 64;

/// Lines of a child's log that an error shows, and how much of the log is read for them. When a panic stands there, they
/// begin with that.
const PANIC: &str = " panicked at ";
const TAIL_LINES: usize = 12;
const TAIL_BYTES: u64 = 8 * 1024;

/// Starts children, and stops all of them.
#[derive(Debug)]
pub(crate) struct Supervisor {
    // Ends before the spawner does, which takes its children with it.
    processes: Processes,
    spawner: Spawner,
}

impl Supervisor {
    /// Starts the thread that starts children.
    pub(crate) fn start() -> io::Result<Self> {
        Ok(Self { spawner: Spawner::start(|| Ok(()))?, processes: Processes::default() })
    }

    /// Starts a child whose output goes to the end of the file `log`.
    pub(crate) fn spawn(
        &self,
        name: &str,
        command: Command,
        log: &Path,
    ) -> Result<Arc<Process>, ProcessError> {
        self.spawn_by(&self.spawner, name, command, log)
    }

    /// Does as [`Self::spawn`], on a spawner of the caller's: the child lives at most as long as that, and where
    /// that is.
    pub(crate) fn spawn_by(
        &self,
        spawner: &Spawner,
        name: &str,
        mut command: Command,
        log: &Path,
    ) -> Result<Arc<Process>, ProcessError> {
        let start_error = |cause| ProcessError::Start { name: name.to_owned(), cause };
        let file =
            fs::OpenOptions::new().create(true).append(true).open(log).map_err(start_error)?;
        let errors = file.try_clone().map_err(start_error)?;
        command.stdin(Stdio::null()).stdout(file).stderr(errors);
        let mut all = self.processes.lock();
        if all.len() >= PROCESSES_MAX {
            return Err(ProcessError::TooMany { limit: PROCESSES_MAX });
        }
        let child = spawner.ask(command).map_err(start_error)?;
        let process = Arc::new(Process {
            name: name.to_owned(),
            pid: child.id(),
            log: log.to_owned(),
            child: Mutex::new(child),
        });
        all.push(Arc::clone(&process));
        Ok(process)
    }

    /// Runs a child to its end and returns what it printed. It must print less than a pipe holds.
    pub(crate) fn run(
        &self,
        name: &str,
        mut command: Command,
        timeout: Duration,
        interrupt: &Interrupt,
    ) -> Result<String, ProcessError> {
        let start_error = |cause| ProcessError::Start { name: name.to_owned(), cause };
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = self.spawner.ask(command).map_err(start_error)?;
        let mut child = KillOnDrop(child);
        let deadline = Instant::now() + timeout;
        let status = loop {
            interrupt.check()?;
            if let Some(status) = child.0.try_wait().map_err(start_error)? {
                break status;
            }
            if Instant::now() >= deadline {
                let waited_s = timeout.as_secs();
                return Err(ProcessError::Late {
                    name: name.to_owned(),
                    what: "finish",
                    waited_s,
                    tail: String::new(),
                });
            }
            thread::sleep(POLL);
        };
        let output = read_pipe(child.0.stdout.take()).map_err(start_error)?;
        if status.success() {
            return Ok(output);
        }
        let tail = read_pipe(child.0.stderr.take()).map_err(start_error)?;
        Err(ProcessError::Ended { name: name.to_owned(), status, tail })
    }

    /// Returns the children, for one who stops them from another thread.
    pub(crate) fn processes(&self) -> Processes {
        self.processes.clone()
    }

    /// Stops all children, first politely. Returns how each of them ended.
    pub(crate) fn stop(&self) -> Vec<Ending> {
        // They stay listed until they are gone, for the user who interrupts a second time.
        let all = self.processes.lock().clone();
        self.processes.terminate_all();
        let deadline = Instant::now() + GRACE;
        let endings = all.iter().map(|process| {
            let status = process.wait_until(deadline).or_else(|| process.kill());
            Ending { name: process.name.clone(), status }
        });
        let endings = endings.collect();
        self.processes.lock().clear();
        endings
    }

    /// Kills one child with SIGKILL, as a crash would, and forgets it.
    pub(crate) fn crash(&self, process: &Arc<Process>) -> Option<ExitStatus> {
        self.processes.lock().retain(|other| !Arc::ptr_eq(other, process));
        process.kill()
    }

    /// Asks one child to end, kills it when it does not, and forgets it.
    pub(crate) fn end(&self, process: &Arc<Process>) -> Option<ExitStatus> {
        process.terminate();
        let status = process.wait_until(Instant::now() + GRACE).or_else(|| process.kill());
        self.processes.lock().retain(|other| !Arc::ptr_eq(other, process));
        status
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.processes.kill_all();
    }
}

/// The one thread that starts children.
#[derive(Debug)]
pub(crate) struct Spawner {
    requests: Option<mpsc::SyncSender<Request>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Spawner {
    /// Starts the thread, which first calls `enter`: children are where that brings it.
    pub(crate) fn start(
        enter: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> io::Result<Self> {
        // One request at a time: whoever asks waits for its answer.
        let (requests, inbox) = mpsc::sync_channel::<Request>(1);
        let (tell, told) = mpsc::sync_channel(1);
        let thread = thread::Builder::new().name("spawner".to_owned()).spawn(move || {
            let entered = enter();
            let is_there = entered.is_ok();
            if tell.send(entered).is_err() || !is_there {
                return;
            }
            for Request { mut command, reply } in inbox {
                // Whoever asked may have given up; its child dies with the dropped answer.
                if let Err(mpsc::SendError(Ok(mut orphan))) = reply.send(spawn_bound(&mut command))
                {
                    orphan.kill().and_then(|()| orphan.wait()).ok();
                }
            }
        })?;
        told.recv().map_err(|_| gone())??;
        Ok(Self { requests: Some(requests), thread: Some(thread) })
    }

    fn ask(&self, command: Command) -> io::Result<Child> {
        let (reply, answer) = mpsc::sync_channel(1);
        let requests = self.requests.as_ref().ok_or_else(gone)?;
        requests.send(Request { command, reply }).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was printed; there is nobody left to stop.
            thread.join().ok();
        }
    }
}

fn gone() -> io::Error {
    io::Error::other("the thread that starts children has ended")
}

/// The children of a supervisor.
#[derive(Clone, Debug, Default)]
pub(crate) struct Processes(Arc<Mutex<Vec<Arc<Process>>>>);

impl Processes {
    /// Asks all of them to end; does not wait.
    pub(crate) fn terminate_all(&self) {
        for process in self.lock().iter() {
            process.terminate();
        }
    }

    /// Kills all of them.
    pub(crate) fn kill_all(&self) {
        for process in self.lock().drain(..) {
            process.kill();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Process>>> {
        // A list of handles is whole at every moment, also after a panic elsewhere.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A child that runs, or ran.
#[derive(Debug)]
pub(crate) struct Process {
    /// What it is called in messages.
    pub(crate) name: String,
    /// Its process id.
    pub(crate) pid: u32,
    log: PathBuf,
    child: Mutex<Child>,
}

impl Process {
    /// Returns how the child ended, if it has.
    pub(crate) fn exited(&self) -> Option<ExitStatus> {
        // An error means that somebody else has reaped it: nobody does.
        self.lock().try_wait().ok().flatten()
    }

    /// Waits until `probe` returns something: `what` it is waited for stands in the error.
    ///
    /// # Errors
    ///
    /// Fails when the child ends before, when `timeout` has passed, or on interruption.
    pub(crate) fn wait_ready<T>(
        &self,
        what: &'static str,
        timeout: Duration,
        interrupt: &Interrupt,
        mut probe: impl FnMut() -> Option<T>,
    ) -> Result<T, ProcessError> {
        let deadline = Instant::now() + timeout;
        loop {
            interrupt.check()?;
            if let Some(ready) = probe() {
                return Ok(ready);
            }
            let name = || self.name.clone();
            if let Some(status) = self.exited() {
                return Err(ProcessError::Ended { name: name(), status, tail: self.log_tail() });
            }
            if Instant::now() >= deadline {
                let (waited_s, tail) = (timeout.as_secs(), self.log_tail());
                return Err(ProcessError::Late { name: name(), what, waited_s, tail });
            }
            thread::sleep(POLL);
        }
    }

    /// Returns the last lines of the child's log.
    pub(crate) fn log_tail(&self) -> String {
        tail_of(&self.log).unwrap_or_else(|cause| format!("(its log cannot be read: {cause})"))
    }

    /// Signals the child and whatever it started, unless it was reaped: its id may be another's then.
    pub(crate) fn signal(&self, signal: Signal) {
        let mut child = self.lock();
        if let (Ok(None), Some(pid)) = (child.try_wait(), pid_of(&child)) {
            // The only failure left is that it ended a moment ago.
            rustix::process::kill_process_group(pid, signal).ok();
        }
    }

    /// Asks it to end. One that was stopped goes on to hear that.
    fn terminate(&self) {
        self.signal(Signal::TERM);
        self.signal(Signal::CONT);
    }

    fn kill(&self) -> Option<ExitStatus> {
        self.signal(Signal::KILL);
        // SIGKILL cannot be refused; only a hung disk keeps a process in the kernel for longer.
        self.wait_until(Instant::now() + GRACE)
    }

    fn wait_until(&self, deadline: Instant) -> Option<ExitStatus> {
        loop {
            match self.exited() {
                None if Instant::now() < deadline => thread::sleep(POLL),
                ending => return ending,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a child ended.
#[derive(Debug)]
pub(crate) struct Ending {
    /// Its name.
    pub(crate) name: String,
    /// `None` when even SIGKILL did not end it in time.
    pub(crate) status: Option<ExitStatus>,
}

impl Ending {
    /// Returns whether it ended by itself and without complaint.
    pub(crate) fn is_clean(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// Returns how it ended, in words.
    pub(crate) fn describe(&self) -> String {
        match self.status {
            None => format!("{} did not end", self.name),
            Some(status) => format!("{} ended {}", self.name, in_words(status)),
        }
    }
}

/// Starts a child that outlives this process, in a group of its own, with its output in the file `log`. Its input is
/// a pipe that closes when this process ends.
pub(crate) fn spawn_free(mut command: Command, log: &Path) -> io::Result<Child> {
    let file = fs::OpenOptions::new().create(true).append(true).open(log)?;
    let errors = file.try_clone()?;
    command.stdin(Stdio::piped()).stdout(file).stderr(errors).process_group(0).spawn()
}

/// Returns the last lines of a log.
pub(crate) fn tail_of(log: &Path) -> io::Result<String> {
    let mut file = fs::File::open(log)?;
    let start = file.metadata()?.len().saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().collect();
    let last = lines.len().saturating_sub(TAIL_LINES);
    // What a panic says stands before its backtrace.
    let panic = lines.iter().rposition(|line| line.contains(PANIC));
    Ok(lines[panic.unwrap_or(last).min(last)..].join("\n"))
}

/// Says how a process ended.
pub(crate) fn in_words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("with exit code {code}"),
        (None, Some(signal)) => format!("by signal {signal}"),
        (None, None) => format!("with {status}"),
    }
}

/// Why a child is not what it should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProcessError {
    /// It could not be started or watched.
    #[error("cannot start {name}")]
    Start {
        name: String,
        #[source]
        cause: io::Error,
    },
    /// It ended too early.
    #[error("{name} ended {} before it should; its last words:\n{tail}", in_words(*status))]
    Ended { name: String, status: ExitStatus, tail: String },
    /// It took too long.
    #[error("{name} did not {what} within {waited_s} s; its last words:\n{tail}")]
    Late { name: String, what: &'static str, waited_s: u64, tail: String },
    /// The supervisor has enough children.
    #[error("{limit} child processes run already, which is the limit")]
    TooMany { limit: usize },
    /// The user does not want to wait.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

#[derive(Debug)]
struct Request {
    command: Command,
    reply: mpsc::SyncSender<io::Result<Child>>,
}

struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        // Fails only when the child has ended, which is what is wanted.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Starts a child in a group of its own that the kernel kills when the calling thread ends.
#[expect(unsafe_code, reason = "there is no safe way to act between fork and exec")]
fn spawn_bound(command: &mut Command) -> io::Result<Child> {
    command.process_group(0);
    #[cfg(target_os = "linux")]
    {
        let parent = rustix::process::getpid();
        let bind = move || {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // Had the parent died before this call, the signal would never come.
            if rustix::process::getppid() != Some(parent) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            Ok(())
        };
        // SAFETY: between fork and exec only async-signal-safe calls are allowed. `bind` makes two
        // system calls, prctl and getppid, and touches no lock, no heap and no thread-local state: its
        // errors carry a number or a kind, both without allocation.
        unsafe { command.pre_exec(bind) };
    }
    command.spawn()
}

fn pid_of(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

fn read_pipe(pipe: Option<impl io::Read>) -> io::Result<String> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    struct Fixture {
        supervisor: Supervisor,
        folder: tempfile::TempDir,
        interrupt: Interrupt,
    }

    impl Fixture {
        fn new() -> Self {
            Self {
                supervisor: Supervisor::start().unwrap(),
                folder: tempfile::tempdir().unwrap(),
                interrupt: Interrupt::default(),
            }
        }

        fn spawn(&self, script: &str) -> Arc<Process> {
            self.supervisor.spawn("child", shell(script), &self.folder.path().join("log")).unwrap()
        }

        /// Waits until the child's log holds `word`.
        fn wait_for(&self, child: &Process, word: &str) -> Result<(), ProcessError> {
            child.wait_ready("speak", Duration::from_secs(10), &self.interrupt, || {
                child.log_tail().contains(word).then_some(())
            })
        }
    }

    fn is_alive(pid: u32) -> bool {
        let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::test_kill_process(pid).is_ok()
    }

    #[test]
    fn stopping_asks_first() {
        let f = Fixture::new();
        let child = f.spawn("trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done");
        f.wait_for(&child, "up").unwrap();
        let endings = f.supervisor.stop();
        assert!(endings.iter().all(Ending::is_clean), "{endings:?}");
        assert!(child.log_tail().ends_with("bye"));
        assert_eq!(f.supervisor.processes.lock().len(), 0);
    }

    #[test]
    fn a_crash_reaches_the_child_and_what_it_started() {
        let f = Fixture::new();
        let child = f.spawn("sleep 1000 & echo $!; wait");
        let grandchild: u32 = child
            .wait_ready("speak", Duration::from_secs(10), &f.interrupt, || {
                child.log_tail().trim().parse().ok()
            })
            .unwrap();
        let status = f.supervisor.crash(&child).unwrap();
        assert_eq!(status.signal(), Some(9));
        assert_eq!(f.supervisor.processes.lock().len(), 0);
        assert_dead(grandchild);
    }

    #[test]
    fn dropping_the_supervisor_kills() {
        let f = Fixture::new();
        let child = f.spawn("trap '' TERM; echo up; sleep 1000");
        f.wait_for(&child, "up").unwrap();
        drop(f.supervisor);
        assert_eq!(child.exited().and_then(|status| status.signal()), Some(9));
        assert_dead(child.pid);
    }

    #[test]
    fn a_child_that_ends_early_is_noticed_with_its_last_words() {
        let f = Fixture::new();
        let child = f.spawn("echo cannot open the folder >&2; exit 3");
        let error = f.wait_for(&child, "ready").unwrap_err().to_string();
        assert!(error.starts_with("child ended with exit code 3"), "{error}");
        assert!(error.ends_with("cannot open the folder"), "{error}");
    }

    #[test]
    fn waiting_ends_at_the_deadline_and_on_interruption() {
        let f = Fixture::new();
        let child = f.spawn("sleep 1000");
        let wait = |timeout| child.wait_ready::<()>("speak", timeout, &f.interrupt, || None);
        assert!(matches!(wait(Duration::ZERO), Err(ProcessError::Late { .. })));
        f.interrupt.raise();
        assert!(matches!(wait(GRACE), Err(ProcessError::Interrupted(_))));
    }

    #[test]
    fn a_command_gives_its_output_or_its_complaint() {
        let f = Fixture::new();
        let run = |script| f.supervisor.run("tool", shell(script), GRACE, &f.interrupt);
        assert_eq!(run("echo fine").unwrap(), "fine\n");
        let error = run("echo broken >&2; exit 1").unwrap_err().to_string();
        assert!(error.ends_with("broken\n"), "{error}");
        let late = f.supervisor.run("tool", shell("sleep 1000"), Duration::ZERO, &f.interrupt);
        assert!(matches!(late, Err(ProcessError::Late { .. })));
    }

    /// The parent here is a shell that stands for this process: it starts no supervisor, so the test
    /// runs this test binary again, kills it, and looks for what it had started.
    #[cfg(target_os = "linux")]
    #[test]
    fn the_kernel_kills_children_of_a_killed_parent() {
        const ROLE: &str = "DUNLIN_TESTNET_TEST_PARENT_LOG";
        if let Some(log) = std::env::var_os(ROLE) {
            let supervisor = Supervisor::start().unwrap();
            supervisor.spawn("child", shell("echo $$; exec sleep 1000"), log.as_ref()).unwrap();
            thread::sleep(Duration::from_secs(60));
            return;
        }
        let f = Fixture::new();
        let log = f.folder.path().join("grandchild");
        let mut parent = Command::new(std::env::current_exe().unwrap());
        parent
            .args(["--exact", "process::tests::the_kernel_kills_children_of_a_killed_parent"])
            .env(ROLE, &log);
        let parent = f.supervisor.spawn("parent", parent, &f.folder.path().join("parent")).unwrap();
        let child: u32 = parent
            .wait_ready("start its child", Duration::from_secs(20), &f.interrupt, || {
                tail_of(&log).ok()?.trim().parse().ok()
            })
            .unwrap();
        assert!(is_alive(child));
        // The group is the parent's alone: its child has its own, so only the kernel can reach it.
        f.supervisor.crash(&parent).unwrap();
        assert_dead(child);
    }

    /// Waits for a process that is not our child to be gone: init reaps it when it gets to it.
    #[track_caller]
    fn assert_dead(pid: u32) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while is_alive(pid) && !is_zombie(pid) {
            assert!(Instant::now() < deadline, "process {pid} is still alive");
            thread::sleep(POLL);
        }
    }

    /// In a container whose first process does not reap, the dead stay listed.
    fn is_zombie(pid: u32) -> bool {
        fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')))
    }
}
