//! A fetch over bitswap as its caller holds it.

use dunlin_archive::{Outcome, bitswap::FetchId};
use dunlin_wire::{Cid, block::Block};
use libp2p::PeerId;
use tokio::sync::mpsc;

use crate::{Handle, NetworkError, handle::Command};

/// News of one fetch that may wait: as many deliveries as there is room for blocks, and word that it has
/// settled after each of them.
pub(crate) const NEWS_MAX: usize = 256;

/// What the network's task tells about a fetch.
#[derive(Debug)]
pub(crate) enum News {
    Blocks { from: PeerId, blocks: Vec<Block> },
    Settled { wants: usize },
}

/// A fetch that has begun.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) id: FetchId,
    /// How many blocks are wanted.
    pub(crate) wants: usize,
    pub(crate) news: mpsc::Receiver<News>,
}

/// Blocks on their way. Dropped, it is given up.
#[derive(Debug)]
pub struct Fetch {
    handle: Handle,
    id: FetchId,
    news: mpsc::Receiver<News>,
    wanted: usize,
    /// Blocks that were handed out last: whoever asks for more has taken them.
    handed_out: usize,
    is_settled: bool,
}

impl Fetch {
    pub(crate) fn new(handle: Handle, started: Started) -> Self {
        let Started { id, wants: wanted, news } = started;
        Self { handle, id, news, wanted, handed_out: 0, is_settled: false }
    }

    /// Returns the next blocks, each of which hashes to its CID, and who sent them; none when everything
    /// was found or everyone was asked, or the network has ended. Only so many are fetched ahead.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn next(&mut self) -> Option<(PeerId, Vec<Block>)> {
        if self.handed_out > 0 {
            let blocks = self.handed_out;
            self.handle.tell(Command::FetchTaken { fetch: self.id, blocks }).await;
            self.handed_out = 0;
        }
        while !self.is_settled {
            match self.news.recv().await? {
                News::Blocks { from, blocks } => {
                    self.handed_out = blocks.len();
                    return Some((from, blocks));
                }
                // Word from before more was wanted is old.
                News::Settled { wants } => self.is_settled = wants >= self.wanted,
            }
        }
        None
    }

    /// Wants more blocks, such as those that one of the last links to; `cids` that were wanted before
    /// change nothing.
    ///
    /// # Errors
    ///
    /// Fails beyond the limit for one fetch; it goes on without them.
    pub async fn want(&mut self, cids: Vec<Cid>) -> Result<(), NetworkError> {
        let (fetch, wanted) = (self.id, cids);
        let wants = self.handle.ask(|reply| Command::FetchMore { fetch, wanted, reply }).await?;
        self.is_settled &= wants == self.wanted;
        self.wanted = wants;
        Ok(())
    }

    /// Ends the fetch; returns what became of every block, in the order in which they were wanted.
    pub async fn finish(self) -> Vec<Outcome> {
        let fetch = self.id;
        // A network that has ended found nothing.
        self.handle.ask(|reply| Command::FetchFinish { fetch, reply }).await.unwrap_or_default()
    }
}
