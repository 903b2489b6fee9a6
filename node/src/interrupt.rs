//! Ctrl-C and SIGTERM as a flag, for commands that work in a loop.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Exit code of a command that was interrupted, as shells expect it.
pub(crate) const EXIT_CODE: u8 = 130;

/// Rises when the user wants the command to end.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Begins to listen for Ctrl-C and SIGTERM. A second one ends the process at once.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        let raised = Arc::clone(&flag);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            runtime.block_on(async {
                wait().await;
                raised.store(true, Ordering::Relaxed);
                wait().await;
                std::process::exit(EXIT_CODE.into());
            });
        })?;
        Ok(Self(flag))
    }

    /// Returns whether the user wants the command to end.
    pub(crate) fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Waits for Ctrl-C or SIGTERM. Where the system refuses to tell, it waits for ever.
///
/// # Cancel safety
///
/// Safe: a signal that arrives later is seen by the next call.
pub(crate) async fn wait() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
