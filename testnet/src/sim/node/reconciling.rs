//! What two nodes say when they meet: how they differ, and what each lacks.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc};

use dunlin_archive::catalog::{Comparison, Step};
use dunlin_trust::{Evidence, Operation, SyncAnswer, SyncRequest};
use dunlin_wire::{Cid, block};

use super::{Context, Node, SESSIONS_MAX};
use crate::sim::{
    bug::Bug,
    fact::Fact,
    message::{Item, Message, Summary},
};

/// Blocks of a peer's catalog that are read in one comparison.
const BLOCKS_MAX: u64 = 1_024;

/// Differences that one comparison looks for.
const DIFFERENCES_MAX: usize = 256;

/// Blocks that are asked for at once.
const BLOCKS_PER_QUESTION_MAX: usize = 32;

/// Segments that are asked for at once.
const SEGMENTS_PER_QUESTION_MAX: usize = 64;

/// Statements in one answer.
const STATEMENTS_PER_ANSWER_MAX: usize = 256;

/// About how many bytes of revocations are in one answer.
const REVOCATION_BYTES_MAX: usize = 1 << 20;

/// A comparison with a peer's catalog that goes on.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) since_ms: u64,
    comparison: Comparison,
    blocks: BTreeMap<Cid, Arc<[u8]>>,
}

impl Node {
    pub(in crate::sim) fn summary(&self) -> Summary {
        Summary {
            revocations: self.trust.revocations().digest(),
            catalog: self.catalog,
            statements: self.statements_digest,
        }
    }

    pub(super) fn on_hello(&mut self, ctx: &mut Context<'_>, from: usize, theirs: &Summary) {
        if !self.serves(ctx, from) {
            return;
        }
        ctx.out.push((from, Message::Welcome(Arc::new(self.summary()))));
        self.ask_for_what_is_missing(ctx, from, theirs);
    }

    pub(super) fn on_welcome(&mut self, ctx: &mut Context<'_>, from: usize, theirs: &Summary) {
        self.asked.remove(&from);
        self.ask_for_what_is_missing(ctx, from, theirs);
    }

    fn ask_for_what_is_missing(&mut self, ctx: &mut Context<'_>, from: usize, theirs: &Summary) {
        if !self.hears(ctx, from, Operation::FetchSegments) {
            return;
        }
        let ours = self.summary();
        if ours.revocations != theirs.revocations && !ctx.has(Bug::SkipReconciliation) {
            let request = self.trust.revocations().sync_request();
            ctx.out.push((from, Message::AskRevocations(Arc::new(request))));
        }
        if ours.statements != theirs.statements {
            let names = self.statements.keys().copied().collect();
            ctx.out.push((from, Message::AskStatements(names)));
        }
        let count = |summary: &Summary| summary.catalog.map(|root| root.count);
        let is_same = if ctx.has(Bug::CompareCounts) {
            count(&ours) == count(theirs)
        } else {
            ours.catalog == theirs.catalog
        };
        let has_room = self.sessions.len() < SESSIONS_MAX && !self.sessions.contains_key(&from);
        if !is_same && theirs.catalog.is_some() && has_room {
            let comparison =
                Comparison::new(self.catalog.as_ref(), theirs.catalog.as_ref(), BLOCKS_MAX);
            let session = Session { since_ms: ctx.now_ms, comparison, blocks: BTreeMap::new() };
            self.sessions.insert(from, session);
            self.compare(ctx, from);
        }
    }

    /// Goes on comparing with a peer as far as its blocks are here.
    fn compare(&mut self, ctx: &mut Context<'_>, from: usize) {
        let Some(session) = self.sessions.get_mut(&from) else { return };
        let read = |blocks: &BTreeMap<Cid, Arc<[u8]>>, cid: &Cid| {
            Ok::<_, Infallible>(blocks.get(cid).map(|bytes| bytes.to_vec()))
        };
        let limits = (DIFFERENCES_MAX, BLOCKS_PER_QUESTION_MAX);
        let Session { comparison, blocks, .. } = session;
        let step =
            comparison.advance(|cid| read(&self.blocks, cid), |cid| read(blocks, cid), limits);
        match step {
            Ok(Step::Ask(cids)) => ctx.out.push((from, Message::AskNodes(cids))),
            Ok(Step::Done) => {
                let lacking = comparison.take_difference().second_only;
                self.sessions.remove(&from);
                let cids: Vec<_> = lacking
                    .iter()
                    .map(dunlin_archive::catalog::Entry::cid)
                    .take(SEGMENTS_PER_QUESTION_MAX)
                    .collect();
                if !cids.is_empty() {
                    ctx.out.push((from, Message::AskSegments(cids)));
                }
            }
            // A node of our own tree may be gone, because the tree grew in the meantime: the next time.
            Err(_) => drop(self.sessions.remove(&from)),
        }
    }

    pub(super) fn on_ask_revocations(
        &mut self,
        ctx: &mut Context<'_>,
        from: usize,
        request: &SyncRequest,
    ) {
        if self.serves(ctx, from) {
            let answer = self.trust.revocations().sync_answer(request, REVOCATION_BYTES_MAX);
            ctx.out.push((from, Message::Revocations(Arc::new(answer))));
        }
    }

    pub(super) fn on_revocations(
        &mut self,
        ctx: &mut Context<'_>,
        from: usize,
        answer: &SyncAnswer,
    ) {
        if !self.hears(ctx, from, Operation::AcceptAnnouncement) {
            return;
        }
        ctx.facts.push(Fact::Heard { at: self.me, from, author: None });
        self.catch_up(ctx, from, answer);
        if answer.is_partial {
            let request = self.trust.revocations().sync_request();
            ctx.out.push((from, Message::AskRevocations(Arc::new(request))));
        }
    }

    pub(super) fn on_ask_nodes(&mut self, ctx: &mut Context<'_>, from: usize, cids: &[Cid]) {
        if cids.len() <= BLOCKS_PER_QUESTION_MAX && self.serves(ctx, from) {
            let found = cids.iter().filter_map(|cid| Some((*cid, self.blocks.get(cid)?.clone())));
            ctx.out.push((from, Message::Nodes(found.collect())));
        }
    }

    pub(super) fn on_nodes(
        &mut self,
        ctx: &mut Context<'_>,
        from: usize,
        blocks: &[(Cid, Arc<[u8]>)],
    ) {
        if !self.hears(ctx, from, Operation::FetchSegments) {
            return;
        }
        for (cid, bytes) in blocks.iter().take(BLOCKS_PER_QUESTION_MAX) {
            if block::verify(cid, bytes).is_err() {
                return self.observe(ctx, ctx.town.peers[from], Evidence::WrongCid);
            }
            if let Some(session) = self.sessions.get_mut(&from) {
                session.blocks.insert(*cid, bytes.clone());
            }
        }
        // Without what was asked for there is nothing to go on with.
        if blocks.is_empty() {
            self.sessions.remove(&from);
        }
        self.compare(ctx, from);
    }

    pub(super) fn on_ask_statements(&mut self, ctx: &mut Context<'_>, from: usize, names: &[u64]) {
        if !self.serves(ctx, from) {
            return;
        }
        let mut theirs = names.to_vec();
        theirs.sort_unstable();
        let lacks = |item: &&Arc<Item>| theirs.binary_search(&item.id()).is_err();
        let missing: Vec<_> = self
            .statements
            .values()
            .filter(lacks)
            .take(STATEMENTS_PER_ANSWER_MAX)
            .cloned()
            .collect();
        if !missing.is_empty() {
            ctx.out.push((from, Message::Statements(missing)));
        }
    }
}
