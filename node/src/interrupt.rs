//! Ctrl-C and SIGTERM as a flag, for commands that work in a loop.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::signal::unix::{Signal, SignalKind, signal};

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
        // Before this returns: whoever is interrupted from then on must not die with work half done.
        let mut signals = {
            let _context = runtime.enter();
            Signals::listen()?
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            runtime.block_on(async {
                signals.next().await;
                raised.store(true, Ordering::Relaxed);
                signals.next().await;
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
    match Signals::listen() {
        Ok(mut signals) => signals.next().await,
        Err(_) => std::future::pending().await,
    }
}

/// Ctrl-C and SIGTERM, from the moment on at which this was made.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
