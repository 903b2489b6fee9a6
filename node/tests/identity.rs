//! `dunlin identity`: a passphrase around the node's key, and a key that follows another.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::{Arc, Mutex},
};

use common::{Node, complaint, dunlin, eventually, stdout};
use rustix::{
    fs::{Mode, OFlags},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, tcgetattr},
};
use serde_json::Value;

/// A command about the node in a folder.
fn identity(dir: &Path, args: &[&str]) -> Command {
    let mut command = dunlin(&["identity", "--json"]);
    command.args(args).arg("--data-dir").arg(dir);
    command
}

#[track_caller]
fn shown(command: &mut Command) -> Value {
    serde_json::from_str(&stdout(command)).unwrap()
}

/// Writes a passphrase where only its owner reads it.
fn secret(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

#[test]
fn a_protected_key_opens_with_its_passphrase_and_no_other() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("node");
    let plain = shown(&mut identity(&dir, &["show"]));
    assert_eq!(plain["protected"], false);
    let right = secret(temp.path(), "right", "correct horse\n");
    let wrong = secret(temp.path(), "wrong", "battery staple\n");
    let mut protect = identity(&dir, &["protect"]);
    let protected = shown(protect.env("DUNLIN_NEW_PASSPHRASE_FILE", &right));
    assert_eq!((&protected["protected"], &protected["peer"]), (&Value::Bool(true), &plain["peer"]));
    let mode = fs::metadata(dir.join("identity.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let none = complaint(&mut identity(&dir, &["show"]));
    assert!(none.contains("DUNLIN_PASSPHRASE_FILE"), "{none}");
    let refused = complaint(identity(&dir, &["show"]).env("DUNLIN_PASSPHRASE_FILE", &wrong));
    assert!(refused.contains("not its passphrase"), "{refused}");
    fs::set_permissions(&right, fs::Permissions::from_mode(0o644)).unwrap();
    let exposed = complaint(identity(&dir, &["show"]).env("DUNLIN_PASSPHRASE_FILE", &right));
    assert!(exposed.contains("chmod 600"), "{exposed}");
    fs::set_permissions(&right, fs::Permissions::from_mode(0o600)).unwrap();
    let open = shown(identity(&dir, &["unprotect"]).env("DUNLIN_PASSPHRASE_FILE", &right));
    assert_eq!((&open["protected"], &open["peer"]), (&Value::Bool(false), &plain["peer"]));
    Node::start(&dir).stop();
}

#[test]
fn a_node_starts_with_the_passphrase_of_its_key_alone_and_never_says_it() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("node");
    let peer = shown(&mut identity(&dir, &["show"]))["peer"].clone();
    let right = secret(temp.path(), "right", "kumquat zyzzyva\n");
    let wrong = secret(temp.path(), "wrong", "battery staple\n");
    shown(identity(&dir, &["protect"]).env("DUNLIN_NEW_PASSPHRASE_FILE", &right));
    let sealed = fs::read(dir.join("identity.key")).unwrap();
    for command in ["run", "bootstrap"] {
        // There is no terminal to ask on.
        let start = || {
            let mut start = dunlin(&[command, "--data-dir"]);
            start.arg(&dir).env("RUST_LOG", "trace");
            start
        };
        let none = complaint(&mut start());
        assert!(none.contains("name a file with it in DUNLIN_PASSPHRASE_FILE"), "{none}");
        let refused = complaint(start().env("DUNLIN_PASSPHRASE_FILE", &wrong));
        assert!(refused.contains("this is not its passphrase"), "{refused}");
        assert!(!refused.contains("battery") && !refused.contains("kumquat"), "{refused}");
        let absent = complaint(start().env("DUNLIN_PASSPHRASE_FILE", temp.path().join("absent")));
        assert!(absent.contains("absent"), "{absent}");
    }
    let node = Node::start_sealed(&dir, &right);
    assert_eq!(node.client().status().unwrap().peer, peer.as_str().unwrap());
    let log = node.log();
    node.stop();
    assert!(log.len() > 1_000, "it logs everything");
    for secret in ["kumquat", "zyzzyva"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    // It is sealed as it was: no copy in the clear, and nothing of it elsewhere in the folder.
    assert_eq!(fs::read(dir.join("identity.key")).unwrap(), sealed);
}

/// A program on a terminal of its own, below a shell that outlives it: once the leader of a session ends, the kernel sets
/// its terminal back to what it was at first, whatever the program left.
struct Terminal {
    near: File,
    far: File,
    shell: Child,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    #[track_caller]
    fn run(command: &Command) -> Self {
        let near = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&near).unwrap();
        unlockpt(&near).unwrap();
        let name = ptsname(&near, Vec::new()).unwrap();
        let far = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        let (near, far) = (File::from(near), File::from(far));
        let end = || far.try_clone().unwrap();
        // Ctrl-C is for all that run on the terminal, and the shell is to stay.
        let script = "trap : INT; \"$@\"; echo \"ended with $?.\"; read end";
        let shell = Command::new("setsid")
            .args(["--ctty", "sh", "-c", script, "sh"])
            .arg(command.get_program())
            .args(command.get_args())
            .env_remove("DUNLIN_DATA_DIR")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        let shown = Arc::<Mutex<Vec<u8>>>::default();
        let (mut reading, seen) = (near.try_clone().unwrap(), Arc::clone(&shown));
        // It ends with the terminal.
        std::thread::spawn(move || {
            let mut part = [0; 1024];
            while let Ok(count @ 1..) = reading.read(&mut part) {
                seen.lock().unwrap().extend_from_slice(&part[..count]);
            }
        });
        Self { near, far, shell, shown }
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().unwrap()).into_owned()
    }

    /// Waits for a question, and types.
    #[track_caller]
    fn answer(&mut self, question: &str, keys: &str) {
        eventually(question, || self.shown().ends_with(question).then_some(()));
        self.near.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits for the program's end; returns its exit code, and all that was to be seen.
    #[track_caller]
    fn end(&mut self) -> (i32, String) {
        let (text, code) = eventually("it ends", || {
            let shown = self.shown();
            let code = shown.split_once("ended with ")?.1.split_once('.')?.0.parse().ok()?;
            Some((shown, code))
        });
        let modes = tcgetattr(&self.far).unwrap().local_modes;
        let usual = LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
        assert!(modes.contains(usual), "the terminal was left with {modes:?}: {text}");
        (code, text)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.shell.kill().ok();
        self.shell.wait().ok();
    }
}

#[test]
fn a_passphrase_that_is_asked_for_on_the_terminal_is_not_shown_and_ctrl_c_leaves_that_as_it_was() {
    if let Err(cause) = Command::new("setsid").arg("--version").output() {
        eprintln!("skipped: `setsid` cannot be run: {cause}");
        return;
    }
    const OLD: &str = "passphrase of the node's key: ";
    const NEW: &str = "new passphrase: ";
    const AGAIN: &str = "the same again: ";
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("node");
    let peer = shown(&mut identity(&dir, &["show"]))["peer"].as_str().unwrap().to_owned();
    let on_terminal = |args: &[&str], answers: &[(&str, &str)]| {
        let mut terminal = Terminal::run(&identity(&dir, args));
        for (question, keys) in answers {
            terminal.answer(question, keys);
        }
        let (code, text) = terminal.end();
        for word in ["kumquat", "zyzzyv", "battery", "staple"] {
            assert!(!text.contains(word), "{word} is in {text}");
        }
        (code, text)
    };

    let (code, text) =
        on_terminal(&["protect"], &[(NEW, "kumquat zyzzyva\r"), (AGAIN, "battery staple\r")]);
    assert!(code != 0 && text.contains("nothing was changed"), "{text}");
    assert_eq!(shown(&mut identity(&dir, &["show"]))["protected"], false);

    // Erased in between: a letter of two bytes, and then all that was typed.
    let keys = "battery\u{15}kumquat zyzzyv\u{e9}\u{7f}a\r";
    let (code, text) = on_terminal(&["protect"], &[(NEW, keys), (AGAIN, "kumquat zyzzyva\r")]);
    assert!(code == 0 && text.contains(&peer), "{text}");

    let (code, text) = on_terminal(&["show"], &[(OLD, "battery staple\r")]);
    assert!(code != 0 && text.contains("this is not its passphrase"), "{text}");
    let (code, text) = on_terminal(&["show"], &[(OLD, "kumquat zyzzyva\r")]);
    assert!(code == 0 && text.contains(&peer), "{text}");

    for command in [&["show"][..], &["unprotect"]] {
        let (code, text) = on_terminal(command, &[(OLD, "kumquat\u{3}")]);
        assert!(code != 0 && text.contains("interrupted") && !text.contains(&peer), "{text}");
    }
    let (code, text) = on_terminal(&["unprotect"], &[(OLD, "kumquat zyzzyva\r")]);
    assert!(code == 0 && text.contains("false"), "{text}");
}

#[test]
fn a_rotated_key_keeps_its_lineage_and_the_old_one_is_retired_for_good() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("node");
    let first = shown(&mut identity(&dir, &["show"]));
    let old_file = fs::read(dir.join("identity.key")).unwrap();
    let unsure = complaint(&mut identity(&dir, &["rotate"]));
    assert!(unsure.contains("--yes"), "{unsure}");
    let second = shown(&mut identity(&dir, &["rotate", "--yes"]));
    assert_ne!(second["peer"], first["peer"]);
    let third = shown(&mut identity(&dir, &["rotate", "--yes"]));
    let lineage = third["lineage"].as_array().unwrap();
    assert_eq!((&lineage[0]["old"], &lineage[1]["new"]), (&first["peer"], &third["peer"]));
    // Others check the file by itself, and notice when it was changed.
    let file = dir.join("lineage.cbor");
    let verified = shown(identity(temp.path(), &["verify"]).arg(&file));
    assert_eq!(verified.as_array().unwrap().len(), 2);
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let changed = temp.path().join("changed");
    fs::write(&changed, bytes).unwrap();
    complaint(identity(temp.path(), &["verify"]).arg(&changed));

    // The node runs with its new key, and with the old one it knows itself revoked.
    let node = Node::start(&dir);
    assert_eq!(node.client().status().unwrap().peer, third["peer"].as_str().unwrap());
    assert!(node.client().status().unwrap().problems.is_empty());
    node.stop();
    fs::write(dir.join("identity.key"), old_file).unwrap();
    let node = Node::start(&dir);
    common::eventually("it says that its key is revoked", || {
        let problems = node.client().status().unwrap().problems;
        problems.iter().any(|problem| problem.contains("revoked for ever")).then_some(())
    });
}

#[test]
fn a_node_that_runs_keeps_its_key() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("node");
    let node = Node::start(&dir);
    let busy = complaint(&mut identity(&dir, &["rotate", "--yes"]));
    assert!(busy.contains("runs") || busy.contains("process"), "{busy}");
    node.stop();
}
