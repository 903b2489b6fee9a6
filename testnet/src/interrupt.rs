//! Ctrl-C and SIGTERM: stop the children, then leave.

use std::{
    fs, io,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use tokio::signal::unix::{SignalKind, signal};

use crate::process::{ProcessError, Processes};

/// Exit code of a program that a user interrupted, as shells expect it.
const EXIT_CODE: i32 = 130;

/// Whether the user wants it to end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Fails once the user wants it to end. Every loop that waits calls this.
    pub(crate) fn check(&self) -> Result<(), Interrupted> {
        if self.is_raised() { Err(Interrupted) } else { Ok(()) }
    }

    /// Returns whether the user wants it to end.
    pub(crate) fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn raise(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The user wants it to end.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub(crate) struct Interrupted;

/// Returns whether a command failed because the user wanted it to end.
#[must_use]
pub fn is_interrupt(cause: &anyhow::Error) -> bool {
    cause.chain().any(|cause| {
        cause.is::<Interrupted>()
            || matches!(cause.downcast_ref(), Some(ProcessError::Interrupted(_)))
    })
}

/// What has to go when the user is in a hurry.
#[derive(Debug)]
pub(crate) struct Belongings {
    /// Processes to stop.
    pub(crate) processes: Processes,
    /// Folder to remove, once there is one.
    pub(crate) folder: Arc<OnceLock<PathBuf>>,
}

/// Listens for Ctrl-C and SIGTERM in a process that has no children of its own: one raises the flag.
pub(crate) fn listen_alone(interrupt: &Interrupt) -> io::Result<()> {
    listen(interrupt, Belongings { processes: Processes::default(), folder: Arc::default() })
}

/// Listens for Ctrl-C and SIGTERM until the process ends.
///
/// The first one raises the flag and asks the children to end, so that calls to them break off at once;
/// the command then stops in order. A second one kills, removes the folder and exits.
pub(crate) fn listen(interrupt: &Interrupt, belongings: Belongings) -> io::Result<()> {
    let interrupt = interrupt.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut ctrl_c, mut terminate) = {
        let _context = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    let wait = async move {
        for times in 1.. {
            tokio::select! {
                _ = ctrl_c.recv() => {}
                _ = terminate.recv() => {}
            }
            interrupt.raise();
            if times == 1 {
                belongings.processes.terminate_all();
                continue;
            }
            belongings.processes.kill_all();
            if let Some(folder) = belongings.folder.get() {
                // What cannot be removed now stays in the system's temporary folder.
                fs::remove_dir_all(folder).ok();
            }
            std::process::exit(EXIT_CODE);
        }
    };
    thread::Builder::new().name("signals".to_owned()).spawn(move || runtime.block_on(wait))?;
    Ok(())
}
