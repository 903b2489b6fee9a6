//! Publishes what is public: signs records of the node's name, and tells the DHT of them and of roots.
//!
//! When and in which order is decided by [`Naming`] and [`Providing`]; this carries it out. Before anything is
//! told to the DHT it is looked up once more whether strangers may have it: what is not public is not told,
//! whoever asked for it and whatever was kept.

mod handle;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use dunlin_archive::{
    Archive, Publication,
    ipns::{Name, Record, Terms},
    naming::{self, Naming, Statement},
    providing::{self, Change, Providing},
    stored_names,
};
use dunlin_protocols::Keypair;
use dunlin_wire::Cid;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use self::handle::{Command, Waiting};
pub(crate) use self::handle::{Handle, Progress, PublishError, Published};
use super::{clock, shared::Shared};
use crate::config::ArchiveConfig;

/// How often it is looked whether something public changed without anybody saying so.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// How often a node that has something to tell looks whether there is somebody to tell it to.
const COMPANY_EVERY: Duration = Duration::from_secs(2);

/// Changes that are kept together, in one durable commit.
const KEEP_MAX: usize = 256;

/// How long changes wait to be kept. What a crash loses is told once more.
const KEEP_EVERY: Duration = Duration::from_secs(5);

/// How long others may keep a record of the name before they look again.
const TTL: Duration = Duration::from_secs(60);

/// The task.
pub(super) struct Publisher {
    shared: Arc<Shared>,
    keypair: Keypair,
    name: Option<Name>,
    naming: Naming,
    providing: Providing,
    /// The newest record, as it is on disk.
    record: Option<Record>,
    /// Whether it is known that the DHT has no newer record of this node's name than the node itself.
    is_newest: bool,
    /// Whether something was published and is provided.
    has_roots: bool,
    is_alone: bool,
    next_look: Instant,
    next_company: Instant,
    /// Changes that are not kept yet, and by when they are.
    changes: Vec<Change>,
    keep_by: Option<Instant>,
    work: JoinSet<Done>,
    waiting: Waiting,
}

/// Something that was under way.
enum Done {
    /// The DHT was told of this.
    Told { cid: Cid, is_heard: bool },
    /// So many peers keep the record.
    Put { peers: usize },
    /// The DHT has a newer record than this node.
    Overtaken { sequence: u64 },
}

impl Publisher {
    /// Goes on where the last run stopped.
    ///
    /// # Errors
    ///
    /// Fails when the archive cannot be read.
    pub(super) fn open(shared: Arc<Shared>, keypair: Keypair) -> anyhow::Result<Self> {
        let name = Name::of(&keypair.public().to_peer_id());
        let kept = shared.archive.name_record()?;
        let record = name.zip(kept).and_then(|(name, kept)| {
            // A node with a new key has a new name. The DHT knows the number of one that was damaged.
            Record::read(&name, &kept)
                .inspect_err(
                    |cause| tracing::warn!(%cause, "the record that was kept does not count"),
                )
                .ok()
        });
        let config = &shared.config.archive;
        if !config.publish {
            shared.archive.unpublish()?;
        }
        let now_ms = clock::now().0;
        let naming = Naming::new(naming_config(config), record.as_ref().map(statement), now_ms);
        let kept = shared.archive.provided()?;
        let providing = Providing::new(providing_config(config), kept, now_ms);
        let now = Instant::now();
        Ok(Self {
            shared,
            keypair,
            name,
            naming,
            providing,
            record,
            is_newest: false,
            has_roots: false,
            is_alone: true,
            next_look: now,
            next_company: now,
            changes: Vec::new(),
            keep_by: None,
            work: JoinSet::new(),
            waiting: Waiting::default(),
        })
    }

    /// Runs until `stop`. A failure is reported and tried again.
    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let shared = Arc::clone(&self.shared);
        self.begin().await;
        loop {
            self.act().await;
            self.shared.publisher.show(self.progress());
            let deadline = self.deadline();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(done) = self.work.join_next() => self.on_done(done?),
                () = sleep_until(deadline) => self.wake().await,
                Some(command) = commands.recv() => self.on_command(command).await,
                () = shared.publisher.changed() => self.look().await,
            }
        }
        self.work.shutdown().await;
        self.keep().await;
        Ok(())
    }

    /// Says to those who ask what others were told before, as far as it still holds.
    async fn begin(&mut self) {
        let kept: Vec<_> = self.providing.all().copied().collect();
        for cid in self.private_among(kept.clone()).await {
            self.providing.handle(clock::now().0, providing::Input::Forget(cid));
        }
        self.shared.network.hold(self.providing.all().copied().collect()).await;
        match self.shared.blocking(|shared| shared.archive.published()).await {
            Ok(published) => self.set_roots(published.as_ref()),
            Err(cause) => self.failed(cause),
        }
    }

    async fn wake(&mut self) {
        let (now, now_ms) = (Instant::now(), clock::now().0);
        if now >= self.next_look {
            self.look().await;
        }
        if self.is_alone && now >= self.next_company {
            self.next_company = now + COMPANY_EVERY;
            self.look_for_company().await;
        }
        if self.keep_by.is_some_and(|by| by <= now) {
            self.keep().await;
        }
        self.naming.wake(now_ms);
        self.providing.wake(now_ms);
    }

    fn deadline(&self) -> Instant {
        let (now, now_ms) = (Instant::now(), clock::now().0);
        let due = self.naming.next_wake().into_iter().chain(self.providing.next_wake()).min();
        let due = due.map(|at_ms| now + Duration::from_millis(at_ms.saturating_sub(now_ms)));
        let company = (self.is_alone && self.has_something_to_tell()).then_some(self.next_company);
        let others = [due, company, self.keep_by].into_iter().flatten();
        others.fold(self.next_look, Instant::min)
    }

    fn has_something_to_tell(&self) -> bool {
        self.providing.all().next().is_some() || self.naming.standing().statement.is_some()
    }

    /// Looks what is public now.
    async fn look(&mut self) {
        self.next_look = Instant::now() + LOOK_EVERY;
        if !self.shared.config.archive.publish {
            return;
        }
        match self.shared.blocking(|shared| shared.archive.public_roots()).await {
            Ok(public) => {
                self.shared.recovered("publishing");
                let root = public.map(|public| public.root);
                if root.is_none() && self.has_roots {
                    self.let_go().await;
                }
                self.naming.handle(clock::now().0, naming::Input::Root(root));
            }
            Err(cause) => self.failed(cause),
        }
    }

    /// Nothing is public any more.
    async fn let_go(&mut self) {
        match self.shared.blocking(|shared| shared.archive.unpublish()).await {
            Ok(()) => self.set_roots(None),
            Err(cause) => self.failed(cause),
        }
    }

    async fn look_for_company(&mut self) {
        if !self.shared.network.connected().await.is_empty() {
            self.is_alone = false;
            let now_ms = clock::now().0;
            self.naming.handle(now_ms, naming::Input::Met);
            self.providing.handle(now_ms, providing::Input::Met);
        }
    }

    /// Nobody heard: perhaps there is nobody.
    fn on_unheard(&mut self) {
        self.is_alone = true;
        self.next_company = Instant::now() + COMPANY_EVERY;
        let now_ms = clock::now().0;
        self.naming.handle(now_ms, naming::Input::Alone);
        self.providing.handle(now_ms, providing::Input::Alone);
    }

    fn set_roots(&mut self, published: Option<&Publication>) {
        let publishes = self.shared.config.archive.publish;
        let published = published.filter(|_| publishes);
        self.has_roots = published.is_some();
        let roots = published.into_iter().flat_map(Publication::all).copied().collect();
        self.providing.handle(clock::now().0, providing::Input::Roots(roots));
    }

    async fn act(&mut self) {
        while let Some(action) = self.naming.next_action() {
            match action {
                naming::Action::Sign { sequence, eol_ms } => self.sign(sequence, eol_ms).await,
                naming::Action::Put => self.put(),
            }
        }
        while let Some(action) = self.providing.next_action() {
            match action {
                providing::Action::Provide(cid) => self.provide(cid).await,
                providing::Action::Withdraw(cid) => self.shared.network.withdraw(cid).await,
            }
        }
        self.changes.extend(self.providing.take_changes());
        if self.changes.len() >= KEEP_MAX {
            self.keep().await;
        } else if !self.changes.is_empty() && self.keep_by.is_none() {
            self.keep_by = Some(Instant::now() + KEEP_EVERY);
        }
        let standing = self.naming.standing();
        if !standing.is_due && !standing.is_putting {
            let published = self.published();
            self.waiting.answer(published.as_ref());
        }
    }

    /// Publishes what is public at this moment: keeps it, signs it, and keeps the record before it is told.
    async fn sign(&mut self, sequence: u64, eol_ms: u64) {
        let keypair = self.keypair.clone();
        let signed =
            self.shared.blocking(move |shared| sign(&shared.archive, &keypair, sequence, eol_ms));
        let now_ms = clock::now().0;
        match signed.await {
            Ok(Some((published, record))) => {
                self.shared.recovered("publishing");
                tracing::info!(root = %published.root, sequence, "the name stands for a new root");
                self.record = Some(record);
                self.set_roots(Some(&published));
                self.naming.handle(now_ms, naming::Input::Signed { root: published.root });
            }
            // What was public is so no more.
            Ok(None) => {
                self.naming.handle(now_ms, naming::Input::NotSigned);
                self.look().await;
            }
            Err(cause) => {
                self.failed(cause);
                self.naming.handle(now_ms, naming::Input::NotSigned);
            }
        }
    }

    /// Tells the DHT of the newest record. Before the first time it asks whether there is a newer one: of a
    /// life that this data folder does not remember, because it was restored from a copy.
    fn put(&mut self) {
        let (Some(name), Some(record)) = (self.name, self.record.clone()) else { return };
        let (network, is_newest) = (self.shared.network.clone(), self.is_newest);
        self.work.spawn(async move {
            if !is_newest
                && let Ok(Some(known)) = network.resolve_name(name).await
                && known.sequence() > record.sequence()
            {
                return Done::Overtaken { sequence: known.sequence() };
            }
            let peers = network.put_name(record).await.unwrap_or_else(|cause| {
                tracing::debug!(%cause, "the record was not put");
                0
            });
            Done::Put { peers }
        });
    }

    /// Tells the DHT of a block, if strangers may have it.
    async fn provide(&mut self, cid: Cid) {
        if !self.private_among(vec![cid]).await.is_empty() {
            return self.providing.handle(clock::now().0, providing::Input::Forget(cid));
        }
        let network = self.shared.network.clone();
        self.work.spawn(async move {
            let is_heard = network.provide(cid).await.unwrap_or_else(|cause| {
                tracing::debug!(%cid, %cause, "not provided");
                false
            });
            Done::Told { cid, is_heard }
        });
    }

    fn on_done(&mut self, done: Done) {
        let now_ms = clock::now().0;
        match done {
            Done::Told { cid, is_heard } => {
                self.providing.handle(now_ms, providing::Input::Told { cid, is_heard });
                if !is_heard {
                    self.on_unheard();
                }
            }
            Done::Put { peers } => {
                self.is_newest |= peers > 0;
                self.naming.handle(now_ms, naming::Input::Put { peers });
                if peers == 0 {
                    self.on_unheard();
                }
            }
            Done::Overtaken { sequence } => {
                tracing::warn!(sequence, "the DHT knows a newer record of this node's name");
                self.is_newest = true;
                self.naming.handle(now_ms, naming::Input::Overtaken { sequence });
            }
        }
    }

    async fn on_command(&mut self, command: Command) {
        match command {
            Command::Publish { reply } => {
                if !self.shared.config.archive.publish {
                    return handle::answer(reply, Err(PublishError::Off));
                }
                self.look().await;
                self.look_for_company().await;
                let now_ms = clock::now().0;
                self.naming.handle(now_ms, naming::Input::Now);
                self.providing.handle(now_ms, providing::Input::Again);
                self.waiting.push(reply);
            }
            Command::Provide { cids, reply } => {
                handle::answer(reply, self.provide_objects(cids).await);
            }
        }
    }

    /// Takes objects that the operator wants to be found. They are on disk when it is answered.
    async fn provide_objects(&mut self, cids: Vec<Cid>) -> Result<(), PublishError> {
        if let Some(private) = self.private_among(cids.clone()).await.first() {
            return Err(PublishError::Private { cid: *private });
        }
        self.providing.has_room(&cids)?;
        self.look_for_company().await;
        self.providing.handle(clock::now().0, providing::Input::Objects(cids));
        self.changes.extend(self.providing.take_changes());
        self.keep().await;
        if self.changes.is_empty() { Ok(()) } else { Err(PublishError::Store) }
    }

    /// Returns those of which strangers may not even know that they are here. What cannot be looked up counts
    /// as such.
    async fn private_among(&self, cids: Vec<Cid>) -> Vec<Cid> {
        let looked_up = self.shared.blocking(move |shared| {
            let is_private = |cid: &Cid| {
                let public = stored_names(cid).into_iter();
                !public
                    .map(|name| shared.archive.is_public(&name))
                    .any(|public| matches!(public, Ok(true)))
            };
            cids.into_iter().filter(is_private).collect()
        });
        looked_up.await
    }

    /// Keeps what changed. What cannot be kept is tried again.
    async fn keep(&mut self) {
        self.keep_by = None;
        if self.changes.is_empty() {
            return;
        }
        let changes = std::mem::take(&mut self.changes);
        let kept = self.shared.blocking(move |shared| {
            shared.archive.keep_provided(&changes).map_err(|cause| (cause, changes))
        });
        match kept.await {
            Ok(()) => self.shared.recovered("providing"),
            Err((cause, changes)) => {
                self.shared.report("providing", format!("{:#}", anyhow::Error::from(cause)));
                self.changes = changes;
                self.keep_by = Some(Instant::now() + KEEP_EVERY);
            }
        }
    }

    fn failed(&self, cause: impl Into<anyhow::Error>) {
        self.shared.report("publishing", format!("{:#}", cause.into()));
    }

    fn progress(&self) -> Progress {
        Progress { published: self.published(), providing: self.providing.progress() }
    }

    fn published(&self) -> Option<Published> {
        let standing = self.naming.standing();
        let (name, statement) = (self.name?, standing.statement?);
        Some(Published { name, statement, standing })
    }
}

/// Keeps what is public as it is now, and the record that says so.
fn sign(
    archive: &Archive,
    keypair: &Keypair,
    sequence: u64,
    eol_ms: u64,
) -> anyhow::Result<Option<(Publication, Record)>> {
    let Some(published) = archive.publish()? else { return Ok(None) };
    let terms = Terms {
        value: format!("/ipfs/{}", published.root),
        sequence,
        eol: SystemTime::UNIX_EPOCH + Duration::from_millis(eol_ms),
        ttl: TTL,
    };
    let record = Record::sign(keypair, &terms)?;
    archive.keep_name_record(record.bytes())?;
    Ok(Some((published, record)))
}

fn statement(record: &Record) -> Statement {
    let eol = record.eol().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Statement {
        root: record.cid(),
        sequence: record.sequence(),
        eol_ms: u64::try_from(eol.as_millis()).unwrap_or(u64::MAX),
    }
}

fn naming_config(config: &ArchiveConfig) -> naming::Config {
    naming::Config { lifetime: config.ipns_lifetime, ..naming::Config::default() }
}

fn providing_config(config: &ArchiveConfig) -> providing::Config {
    providing::Config {
        every: config.provide_every,
        objects_max: config.provide_max,
        ..providing::Config::default()
    }
}
