//! Statements that a peer hands on: whoever receives one that nobody signed has a proof against who vouched for it.

use std::collections::BTreeSet;

use dunlin_trust::{Evidence, ForgedStatement, Passed, Proof, is_forged};
use dunlin_wire::{
    Cid,
    block::{Block, Codec},
    envelope,
};
use libp2p::PeerId;
use serde_bytes::ByteBuf;

use super::{Command, Handle, NetworkError};
use crate::messages::{CatalogsRequest, CatalogsResponse};

/// What a peer answered about statements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatementsAnswer {
    /// Blocks that were asked for; those that are envelopes are signed by the keys that they name.
    pub blocks: Vec<Block>,
    /// How many nobody signed. They are gone, and the peer's standing has fallen.
    pub forged: usize,
}

impl Handle {
    /// Asks an own peer for statements that are in a catalog of its, and checks all that comes. What it signed for, and nobody signed,
    /// convicts it everywhere. What it does not have, or does not vouch for, is not in the answer.
    ///
    /// # Errors
    ///
    /// Fails when the gate or the peer refuses, no answer comes, or one for which the peer did not sign.
    pub async fn statements(
        &self,
        peer: PeerId,
        cids: &[Cid],
    ) -> Result<StatementsAnswer, NetworkError> {
        let mut asked: BTreeSet<_> = cids.iter().copied().collect();
        let Some((statements, passed)) = self.ask_statements(peer, &asked).await? else {
            return Ok(StatementsAnswer::default());
        };
        if let Some(forged) = ForgedStatement::first_of(&statements) {
            let proof = Proof::BadSignature { forged: forged.into(), passed };
            self.tell(Command::Prove { proof: proof.into() }).await;
        }
        let (mut answer, mut unasked) = (StatementsAnswer::default(), false);
        for statement in statements {
            if is_forged(&statement) {
                answer.forged += 1;
                continue;
            }
            let block = Block::new(Codec::DagCbor, statement.into_vec());
            if asked.remove(block.cid()) {
                answer.blocks.push(block);
            } else {
                unasked = true;
            }
        }
        let served = u32::try_from(answer.blocks.len()).unwrap_or(u32::MAX);
        self.judge(peer, Evidence::Served { blocks: served }, usize::from(served > 0)).await;
        // The first one is proven. Further ones are this node's word.
        self.judge(peer, Evidence::BadSignature, answer.forged.saturating_sub(1)).await;
        self.judge(peer, Evidence::ProtocolViolation, usize::from(unasked)).await;
        Ok(answer)
    }

    /// Returns the statements that a peer signed for, with its envelope, if it has any.
    async fn ask_statements(
        &self,
        peer: PeerId,
        asked: &BTreeSet<Cid>,
    ) -> Result<Option<(Vec<ByteBuf>, ByteBuf)>, NetworkError> {
        let request = CatalogsRequest::Statements { cids: asked.iter().copied().collect() };
        match self.ask(|reply| Command::Catalogs { peer, request, reply }).await? {
            CatalogsResponse::Refused { reason } => {
                return Err(NetworkError::Refused { peer, reason });
            }
            CatalogsResponse::Statements { statements, passed: None } if statements.is_empty() => {
                return Ok(None);
            }
            CatalogsResponse::Statements { statements, passed: Some(passed) }
                if self.vouches(peer, &statements, &passed) =>
            {
                return Ok(Some((statements, passed)));
            }
            CatalogsResponse::Statements { .. } | CatalogsResponse::Compared { .. } => {}
        }
        self.judge(peer, Evidence::ProtocolViolation, 1).await;
        Err(NetworkError::Violation { peer })
    }

    fn vouches(&self, peer: PeerId, statements: &[ByteBuf], passed: &[u8]) -> bool {
        envelope::open::<Passed>(passed).is_ok_and(|signed| {
            signed.signer == peer && signed.value.is_about(&self.network, statements)
        })
    }
}
