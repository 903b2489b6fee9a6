//! What the rest of the node may ask the publisher, and what it shows.

use std::sync::{Mutex, PoisonError};

use dunlin_archive::{
    ipns::Name,
    naming::{Standing, Statement},
    providing::{self, TooMany},
};
use dunlin_wire::Cid;
use tokio::sync::{Notify, mpsc, oneshot};

/// Wishes that may wait for the publisher; who has another one waits.
const COMMANDS_MAX: usize = 16;

/// Callers that may wait for a publication; more are told to come again.
const WAITING_MAX: usize = 16;

/// Where an answer goes.
type Reply<T> = oneshot::Sender<Result<T, PublishError>>;

/// A wish.
#[derive(Debug)]
pub(crate) enum Command {
    /// Publish everything now.
    Publish { reply: Reply<Published> },
    /// Provide these, too.
    Provide { cids: Vec<Cid>, reply: Reply<()> },
}

/// What the node's name stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Published {
    /// The name.
    pub(crate) name: Name,
    /// What the newest record says.
    pub(crate) statement: Statement,
    /// How it is told.
    pub(crate) standing: Standing,
}

/// How far the publisher is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    /// The name, once it has stood for something.
    pub(crate) published: Option<Published>,
    /// What the DHT is told.
    pub(crate) providing: providing::Progress,
}

/// Talks to the publisher.
#[derive(Debug)]
pub(crate) struct Handle {
    commands: mpsc::Sender<Command>,
    changed: Notify,
    progress: Mutex<Progress>,
}

impl Handle {
    /// Returns a handle, and the queue that the publisher reads.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Command>) {
        let (commands, queue) = mpsc::channel(COMMANDS_MAX);
        (Self { commands, changed: Notify::new(), progress: Mutex::default() }, queue)
    }

    /// Publishes everything public now; returns what was published and how that went.
    pub(crate) async fn publish(&self) -> Result<Published, PublishError> {
        self.ask(|reply| Command::Publish { reply }).await
    }

    /// Has public objects found on the DHT, now and from now on. It is durable when this returns.
    pub(crate) async fn provide(&self, cids: Vec<Cid>) -> Result<(), PublishError> {
        self.ask(|reply| Command::Provide { cids, reply }).await
    }

    /// Says that something in the archive changed that may be public.
    pub(crate) fn look(&self) {
        self.changed.notify_one();
    }

    /// Returns how far the publisher is.
    pub(crate) fn progress(&self) -> Progress {
        // Plain facts are whole after every statement.
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn show(&self, progress: Progress) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = progress;
    }

    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, PublishError> {
        let (reply, answer) = oneshot::channel();
        // A publisher that has ended answers nobody.
        self.commands.send(command(reply)).await.ok();
        answer.await.unwrap_or(Err(PublishError::Ended))
    }
}

/// Those who wait for a publication to be told.
#[derive(Debug, Default)]
pub(super) struct Waiting(Vec<Reply<Published>>);

impl Waiting {
    pub(super) fn push(&mut self, caller: Reply<Published>) {
        if self.0.len() < WAITING_MAX {
            self.0.push(caller);
        } else {
            answer(caller, Err(PublishError::Busy));
        }
    }

    pub(super) fn answer(&mut self, published: Option<&Published>) {
        for caller in self.0.drain(..) {
            let is_current = |published: &&Published| published.standing.is_public;
            let published = published.filter(is_current).copied();
            answer(caller, published.ok_or(PublishError::NothingPublic));
        }
    }
}

/// Answers a caller, who may have given up.
pub(super) fn answer<T>(reply: Reply<T>, result: Result<T, PublishError>) {
    reply.send(result).ok();
}

/// Why something is not published or provided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PublishError {
    /// The operator does not want it.
    #[error("`archive.publish` is off in the configuration")]
    Off,
    /// There is nothing to publish.
    #[error(
        "nothing here is public; `dunlin archive import --public` takes in what strangers may have"
    )]
    NothingPublic,
    /// Strangers may not have it, and its CID lets them confirm a guess.
    #[error(
        "{cid} is not public here, so the DHT is not told of it; \
         `dunlin archive import --public` takes in what strangers may have"
    )]
    Private {
        /// Which.
        cid: Cid,
    },
    /// There are too many already.
    #[error(transparent)]
    Full(#[from] TooMany),
    /// Too many callers wait.
    #[error("too many wait for a publication; try again later")]
    Busy,
    /// It cannot be kept; the log says why.
    #[error("the archive cannot keep what is to be provided")]
    Store,
    /// The node is ending.
    #[error("the node is ending")]
    Ended,
}
