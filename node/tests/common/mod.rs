//! A `dunlin` process on a data folder of its own, killed when the test ends.

#![expect(dead_code, reason = "each test file uses a part of this")]

pub(crate) mod http;
pub(crate) mod peers;

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use dunlin_client::{Client, CollectionSpec, Fidelity, Metric, Observation, Units};

/// Longest wait for anything: far above what a loaded machine needs, so that only a hang reaches it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Returns a command of the program under test, talking to nobody unless told to.
pub(crate) fn dunlin(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dunlin"));
    command.args(args).env_remove("DUNLIN_DATA_DIR").env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// Runs a command to its end.
#[track_caller]
pub(crate) fn output(command: &mut Command) -> Output {
    command.output().expect("the program runs")
}

/// Runs a command that must succeed, and returns what it printed.
#[track_caller]
pub(crate) fn stdout(command: &mut Command) -> String {
    let output = output(command);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed with {}: {errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command that must fail, and returns its complaint.
#[track_caller]
pub(crate) fn complaint(command: &mut Command) -> String {
    let output = output(command);
    assert!(!output.status.success(), "{command:?} succeeded");
    String::from_utf8(output.stderr).unwrap()
}

/// Runs a command with `input` on its standard input.
#[track_caller]
pub(crate) fn with_input(command: &mut Command, input: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    // A program that refuses its input early closes the pipe.
    child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
    child.wait_with_output().unwrap()
}

/// Asks again until the answer is there.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A running node.
pub(crate) struct Node {
    child: Child,
    pub(crate) dir: PathBuf,
}

impl Node {
    /// Starts a node on `dir` that meets nobody and takes any free port.
    #[track_caller]
    pub(crate) fn start(dir: &Path) -> Self {
        Self::start_with(dir, &["--listen", "/ip4/127.0.0.1/tcp/0"])
    }

    /// Starts a node on `dir` with these flags.
    #[track_caller]
    pub(crate) fn start_with(dir: &Path, flags: &[&str]) -> Self {
        Self::start_as(dir, dunlin(&["run"]).args(flags))
    }

    /// Starts a node on `dir` that meets nobody and logs all of its own and of its libraries.
    #[track_caller]
    pub(crate) fn start_tracing(dir: &Path) -> Self {
        let flags = ["--listen", "/ip4/127.0.0.1/tcp/0"];
        Self::start_as(dir, dunlin(&["run"]).args(flags).env("RUST_LOG", "trace"))
    }

    /// Starts a node on `dir` that meets nobody and sends traces to a collector.
    #[track_caller]
    pub(crate) fn start_exporting(dir: &Path, collector: &str) -> Self {
        let flags = ["--listen", "/ip4/127.0.0.1/tcp/0"];
        let command = &mut dunlin(&["run"]);
        Self::start_as(dir, command.args(flags).env("OTEL_EXPORTER_OTLP_ENDPOINT", collector))
    }

    /// Starts a node on `dir` whose key a passphrase seals, which is in a file; it meets nobody and logs everything.
    #[track_caller]
    pub(crate) fn start_sealed(dir: &Path, passphrase: &Path) -> Self {
        let flags = ["--listen", "/ip4/127.0.0.1/tcp/0"];
        let command = &mut dunlin(&["run"]);
        command.args(flags).env("RUST_LOG", "trace").env("DUNLIN_PASSPHRASE_FILE", passphrase);
        Self::start_as(dir, command)
    }

    /// Starts a node on `dir` by a command that runs it, to which the flags about API and folder are added.
    #[track_caller]
    pub(crate) fn start_as(dir: &Path, command: &mut Command) -> Self {
        // A node that was killed leaves its address behind; wait for the new one.
        std::fs::remove_file(dir.join("api.address")).ok();
        let child = command
            .args(["--api", "127.0.0.1:0", "--data-dir"])
            .arg(dir)
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(log_path(dir)).unwrap())
            .spawn()
            .expect("the program runs");
        let mut node = Self { child, dir: dir.into() };
        eventually("the node is ready", || {
            if let Some(status) = node.child.try_wait().unwrap() {
                panic!("the node ended with {status}: {}", node.log());
            }
            node.client_if_ready()
        });
        node
    }

    fn client_if_ready(&self) -> Option<Client> {
        Client::for_data_dir(&self.dir).ok().filter(|client| client.status().is_ok())
    }

    pub(crate) fn client(&self) -> Client {
        Client::for_data_dir(&self.dir).unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(log_path(&self.dir)).unwrap_or_default()
    }

    /// A command that talks to this node.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = dunlin(args);
        command.arg("--data-dir").arg(&self.dir);
        command
    }

    /// Kills the node as a crash would.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks the node to end, and waits for its clean end.
    #[track_caller]
    pub(crate) fn stop(mut self) {
        self.signal(rustix::process::Signal::INT);
        let status = eventually("the node ends", || self.child.try_wait().unwrap());
        assert!(status.success(), "the node ended with {status}: {}", self.log());
    }

    /// Returns how the node ended, if it has.
    pub(crate) fn try_wait(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn log_path(dir: &Path) -> PathBuf {
    dir.with_extension("log")
}

/// A lossless collection of two channels in [0, 1].
pub(crate) fn two_channels(name: &str) -> CollectionSpec {
    CollectionSpec {
        name: name.to_owned(),
        dim: 2,
        metric: Metric::Euclidean,
        fidelity: Fidelity::Lossless,
        units: Units::Range { lower: vec![0.0; 2], upper: vec![1.0; 2] },
        threshold: None,
        error_bound: None,
        lateness_us: 0,
        channels: None,
    }
}

/// Observation number `index` of an entity that changes its level every 50 observations.
pub(crate) fn observation(entity: &str, index: u32) -> Observation {
    let level = f32::from(u16::try_from(index / 50 % 4).unwrap()) * 0.25;
    let ripple = f32::from(u16::try_from(index * 7 % 5).unwrap()) * 0.004;
    Observation {
        entity: entity.to_owned(),
        timestamp_us: i64::from(index) * 1_000_000,
        vector: vec![level + ripple, 1.0 - level - ripple],
        metadata: None,
    }
}
