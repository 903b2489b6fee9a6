//! Signed objects that go round: each is looked at once, checked, and passed on when it is news.

use std::sync::Arc;

use dunlin_protocols::{PeerId, Verdict, messages::SegmentAnnouncement};
use dunlin_trust::{
    Acquaintance, Evidence, Exclusive, Extension, Operation, Proof, Report, ReportError,
    RevocationError, Withdrawal,
    recovery::{Attestation, Decision},
};
use dunlin_wire::{
    cbor,
    envelope::{OpenError, Signed},
};

use super::{Context, Node, SAID_MAX, SEEN_MAX, STATEMENTS_MAX};
use crate::sim::{
    bug::Bug,
    disk::Write,
    fact::Fact,
    message::{Item, Kind, Message},
    notary,
};

/// Largest revocation that is read, in bytes.
const REVOCATION_BYTES_MAX: usize = 4 << 20;

/// The one collection of honest nodes.
const COLLECTION: &str = "servers";

/// What becomes of an item.
pub(super) enum Fate {
    /// It counts: it is passed on.
    News,
    /// It is known, or says nothing that counts here.
    Old,
    /// Nobody should have passed it on.
    Blame(Evidence),
}

impl Node {
    /// Takes in what this node made itself, and sends it round.
    pub(in crate::sim) fn publish(&mut self, ctx: &mut Context<'_>, item: &Arc<Item>) {
        self.see(ctx, item.id());
        self.pass_on(ctx, item, None);
    }

    /// Takes in what the operator brings, and sends it round.
    pub(in crate::sim) fn hand_in(&mut self, ctx: &mut Context<'_>, item: &Arc<Item>) {
        let fate = match item.kind {
            Kind::Extension => self.on_extension(ctx, self.me, item),
            Kind::Withdrawal => self.on_withdrawal(ctx, item),
            Kind::Decision => self.on_decision(ctx, item),
            _ => return,
        };
        if matches!(fate, Fate::News) {
            self.publish(ctx, item);
        }
    }

    /// Announces what this node has.
    pub(in crate::sim) fn announce(&mut self, ctx: &mut Context<'_>) {
        let sequence = self.next_sequence();
        let count = self.segments.len() as u64;
        let digest =
            self.summary().catalog.map_or([0; 32], |root| notary::hash(&root.cid.to_bytes()));
        let announcement = SegmentAnnouncement::new(COLLECTION, count, digest, sequence);
        let bytes = ctx.notary.sign(&ctx.town.keys[self.me], announcement);
        self.publish(ctx, &Item::new(Kind::Announcement, bytes));
    }

    /// Returns the number of the next announcement, once it is on disk.
    pub(super) fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.disk.write(Write::Sequence(self.sequence));
        self.disk.sync();
        self.sequence
    }

    pub(super) fn on_gossip(&mut self, ctx: &mut Context<'_>, from: usize, item: &Arc<Item>) {
        if self.seen.contains(&item.id()) || self.statements.contains_key(&item.id()) {
            if ctx.has(Bug::CountTwice) && item.kind == Kind::Attestation {
                self.count_again(ctx, item);
            }
            return;
        }
        // It is not marked as seen: somebody else may bring it.
        if !self.hears(ctx, from, Operation::AcceptAnnouncement) {
            return;
        }
        self.see(ctx, item.id());
        // Now, because it may be a proof against whoever brings it.
        ctx.facts.push(Fact::Heard { at: self.me, from, author: None });
        let fate = match item.kind {
            Kind::Announcement => self.on_announcement(ctx, from, item),
            Kind::Extension => self.on_extension(ctx, from, item),
            Kind::Withdrawal => self.on_withdrawal(ctx, item),
            Kind::Report => self.on_report(ctx, from, item),
            Kind::Proof => self.on_proof(ctx, item),
            Kind::Attestation => self.on_attestation(ctx, item),
            Kind::Decision => self.on_decision(ctx, item),
            Kind::TemplateAnnouncement => self.on_template_announcement(ctx, from, item),
            // It is an answer.
            Kind::Templates => Fate::Blame(Evidence::ProtocolViolation),
        };
        match fate {
            Fate::News => self.pass_on(ctx, item, Some(from)),
            Fate::Old if ctx.has(Bug::BlameMessenger) => {
                self.observe(ctx, ctx.town.peers[from], Evidence::ProtocolViolation);
            }
            Fate::Old => {}
            Fate::Blame(evidence) => self.observe(ctx, ctx.town.peers[from], evidence),
        }
    }

    fn on_announcement(&mut self, ctx: &mut Context<'_>, from: usize, item: &Arc<Item>) -> Fate {
        let mut opened = ctx.notary.open::<SegmentAnnouncement>(&item.hash, &item.bytes);
        if ctx.has(Bug::SkipSignature)
            && let Some(signed) = notary::open_blindly(&item.bytes)
        {
            opened = Ok(signed);
        }
        if let Ok(signed) = &opened {
            // What somebody from elsewhere says counts nothing, whatever it contradicts.
            if let Some(&author) = ctx.town.index.get(&signed.signer) {
                self.present(ctx, author);
                self.compare_with_what_was_said(ctx, author, signed, item);
            }
        }
        let source = opened.as_ref().ok().map(|signed| signed.signer);
        let now = (ctx.instant(), self.unix(ctx));
        match self.heard.judge(&self.trust, now, source, (opened, || item.bytes.clone())) {
            Verdict::Accept { author, .. } => {
                let author = ctx.town.index.get(&author).copied();
                ctx.facts.push(Fact::Heard { at: self.me, from, author });
                self.believe(ctx, item);
                Fate::News
            }
            Verdict::Ignore => Fate::Old,
            Verdict::Reject { is_forged: true } => Fate::Blame(Evidence::BadSignature),
            Verdict::Reject { is_forged: false } => Fate::Blame(Evidence::ProtocolViolation),
        }
    }

    /// Two announcements for one place prove that their author says both.
    fn compare_with_what_was_said(
        &mut self,
        ctx: &mut Context<'_>,
        author: usize,
        signed: &Signed<SegmentAnnouncement>,
        item: &Arc<Item>,
    ) {
        let (collection, number) = signed.value.place();
        if collection != COLLECTION {
            return;
        }
        let place = (u32::try_from(author).expect("so many nodes fit no memory"), number);
        match self.said.get(&place) {
            Some(said) if said.hash != item.hash => {
                let proof = Proof::of_equivocation::<SegmentAnnouncement>(&said.bytes, &item.bytes);
                let proof = Item::new(Kind::Proof, proof.encode());
                if matches!(self.on_proof(ctx, &proof), Fate::News) {
                    self.publish(ctx, &proof);
                }
            }
            Some(_) => {}
            None => {
                if self.said.len() >= SAID_MAX
                    && let Some(oldest) = self.said_order.pop_front()
                {
                    self.said.remove(&oldest);
                }
                self.said_order.push_back(place);
                self.said.insert(place, item.clone());
            }
        }
    }

    fn on_extension(&mut self, ctx: &mut Context<'_>, from: usize, item: &Arc<Item>) -> Fate {
        let Ok(extension) = cbor::decode::<Extension>(&item.bytes, REVOCATION_BYTES_MAX) else {
            return Fate::Blame(Evidence::ProtocolViolation);
        };
        self.extend(ctx, from, extension)
    }

    fn extend(&mut self, ctx: &mut Context<'_>, from: usize, extension: Extension) -> Fate {
        // What counts depends on what this node knows of authorities, which the bringer cannot.
        let Ok(opened) = ctx.notary.head(&extension) else { return Fate::Old };
        match self.trust.revocations().check_opened_extension(extension, opened) {
            Ok(Some(pending)) => {
                self.revoke(ctx, pending);
                Fate::News
            }
            Ok(None) => Fate::Old,
            Err(RevocationError::Gap) => {
                let request = self.trust.revocations().sync_request();
                ctx.out.push((from, Message::AskRevocations(Arc::new(request))));
                Fate::Old
            }
            Err(_) => Fate::Old,
        }
    }

    fn on_withdrawal(&mut self, ctx: &mut Context<'_>, item: &Arc<Item>) -> Fate {
        let signed = match ctx.notary.open::<Withdrawal>(&item.hash, &item.bytes) {
            Ok(signed) => signed,
            Err(error) => return Fate::Blame(blame(&error)),
        };
        if ctx.has(Bug::TrustClock) && signed.value.issued() > self.unix(ctx) {
            return Fate::Old;
        }
        match self.trust.revocations().check_opened_withdrawal(signed, Acquaintance::Known) {
            Ok(Some(pending)) => {
                self.believe(ctx, item);
                self.revoke(ctx, pending);
                Fate::News
            }
            Ok(None) => Fate::Old,
            Err(_) => Fate::Old,
        }
    }

    /// Takes in the answer to a question for what was missed.
    pub(super) fn catch_up(
        &mut self,
        ctx: &mut Context<'_>,
        from: usize,
        answer: &dunlin_trust::SyncAnswer,
    ) {
        if ctx.has(Bug::UnrevokeOnMerge) {
            self.forget_revocations(ctx);
        }
        for extension in &answer.extensions {
            if matches!(self.extend(ctx, from, extension.clone()), Fate::News) {
                let bytes = cbor::encode(extension).expect("it was decoded");
                self.publish(ctx, &Item::new(Kind::Extension, bytes));
            }
        }
        for withdrawal in &answer.withdrawals {
            let item = Item::new(Kind::Withdrawal, withdrawal.as_slice());
            if matches!(self.on_withdrawal(ctx, &item), Fate::News) {
                self.publish(ctx, &item);
            }
        }
    }

    fn on_report(&mut self, ctx: &mut Context<'_>, from: usize, item: &Arc<Item>) -> Fate {
        let signed = match ctx.notary.open::<Report>(&item.hash, &item.bytes) {
            Ok(signed) => signed,
            Err(error) => return Fate::Blame(blame(&error)),
        };
        if !self.may_author(ctx, &signed.signer, Operation::AcceptEvidence) {
            return Fate::Old;
        }
        if ctx.has(Bug::HearsayAsProof) {
            self.observe(ctx, *signed.value.about(), Evidence::WrongCid);
        }
        match self.trust.hear(self.unix(ctx), &signed) {
            Ok(()) => {
                let author = ctx.town.index.get(&signed.signer).copied();
                ctx.facts.push(Fact::Heard { at: self.me, from, author });
                self.believe(ctx, item);
                Fate::News
            }
            Err(ReportError::Version | ReportError::OfItself { .. }) => {
                Fate::Blame(Evidence::ProtocolViolation)
            }
            Err(_) => Fate::Old,
        }
    }

    pub(super) fn prove(&mut self, ctx: &mut Context<'_>, proof: &Proof) {
        let item = Item::new(Kind::Proof, proof.encode());
        if matches!(self.on_proof(ctx, &item), Fate::News) {
            self.publish(ctx, &item);
        }
    }

    fn on_proof(&mut self, ctx: &mut Context<'_>, item: &Arc<Item>) -> Fate {
        let Some(proven) = ctx.notary.prove(&item.hash, &item.bytes) else {
            return Fate::Blame(Evidence::ProtocolViolation);
        };
        if self.trust.has_counted(&proven) || self.trust.revocations().is_revoked(proven.peer()) {
            return Fate::Old;
        }
        let change = self.trust.observe_proof(self.unix(ctx), &proven);
        self.keep_records(ctx, change);
        if !self.trust.has_counted(&proven) {
            return Fate::Old;
        }
        ctx.facts.push(Fact::Proven { at: self.me, peer: *proven.peer() });
        self.keep(item);
        Fate::News
    }

    fn on_attestation(&mut self, ctx: &mut Context<'_>, item: &Arc<Item>) -> Fate {
        let signed = match ctx.notary.open::<Attestation>(&item.hash, &item.bytes) {
            Ok(signed) => signed,
            Err(error) => return Fate::Blame(blame(&error)),
        };
        if !self.may_author(ctx, &signed.signer, Operation::AcceptAnnouncement) {
            return Fate::Old;
        }
        self.believe(ctx, item);
        self.attest(ctx, &signed, item);
        Fate::News
    }

    /// Takes in an attestation, a new one or one of its own.
    pub(super) fn attest(
        &mut self,
        ctx: &mut Context<'_>,
        signed: &Signed<Attestation>,
        item: &Arc<Item>,
    ) {
        self.keep(item);
        self.note_maker(ctx, signed);
        let now = self.unix(ctx);
        self.conflicts.attest(signed, |peer| self.trust.standing(now, peer));
        self.keep_conflicts(ctx);
    }

    fn note_maker(&mut self, ctx: &Context<'_>, signed: &Signed<Attestation>) {
        let maker = ctx.town.index[&signed.signer] as u32;
        for cid in signed.value.segments() {
            self.makers.entry(*cid).or_default().insert(maker);
        }
    }

    /// What a node does that counts what it is told, instead of who tells it.
    fn count_again(&mut self, ctx: &mut Context<'_>, item: &Arc<Item>) {
        let Ok(mut signed) = ctx.notary.open::<Attestation>(&item.hash, &item.bytes) else {
            return;
        };
        let number = notary::hash(&[&item.hash[..], &ctx.now_ms.to_be_bytes()].concat());
        let id = [&[0x12, 0x20][..], &number].concat();
        signed.signer = PeerId::from_bytes(&id).expect("a hash is a peer id");
        let now = self.unix(ctx);
        self.conflicts.attest(&signed, |peer| self.trust.standing(now, peer));
    }

    fn on_decision(&mut self, ctx: &mut Context<'_>, item: &Arc<Item>) -> Fate {
        let signed = match ctx.notary.open::<Decision>(&item.hash, &item.bytes) {
            Ok(signed) => signed,
            Err(error) => return Fate::Blame(blame(&error)),
        };
        let operator = ctx.town.operator.public().to_peer_id();
        match self.conflicts.decide(signed, |signer| *signer == operator) {
            Ok(true) => {
                self.believe(ctx, item);
                self.keep(item);
                self.keep_conflicts(ctx);
                Fate::News
            }
            Ok(false) | Err(_) => Fate::Old,
        }
    }

    /// Takes in what was kept before a restart.
    pub(super) fn recall(&mut self, ctx: &mut Context<'_>, item: &Arc<Item>) {
        self.remember(item);
        if item.kind == Kind::Attestation
            && let Ok(signed) = ctx.notary.open::<Attestation>(&item.hash, &item.bytes)
        {
            self.note_maker(ctx, &signed);
            let now = self.unix(ctx);
            self.conflicts.attest(&signed, |peer| self.trust.standing(now, peer));
        }
    }

    fn keep(&mut self, item: &Arc<Item>) {
        if self.remember(item) {
            self.disk.write(Write::Statement(item.clone()));
        }
    }

    fn remember(&mut self, item: &Arc<Item>) -> bool {
        let has_room = self.statements.len() < STATEMENTS_MAX;
        let is_new = has_room && self.statements.insert(item.id(), item.clone()).is_none();
        if is_new {
            self.statements_digest ^= item.id();
        }
        is_new
    }

    fn see(&mut self, ctx: &Context<'_>, id: u64) {
        if self.seen.insert(id) {
            self.seen_order.push_back(id);
        }
        if self.seen.len() > SEEN_MAX
            && !ctx.has(Bug::RememberAll)
            && let Some(oldest) = self.seen_order.pop_front()
        {
            self.seen.remove(&oldest);
        }
    }

    pub(super) fn believe(&mut self, ctx: &mut Context<'_>, item: &Arc<Item>) {
        let what = Message::Gossip(item.clone()).as_str();
        ctx.facts.push(Fact::Believed { at: self.me, what, hash: item.hash });
    }

    fn pass_on(&self, ctx: &mut Context<'_>, item: &Arc<Item>, from: Option<usize>) {
        for neighbor in self.neighbors.iter().filter(|neighbor| Some(**neighbor) != from) {
            ctx.out.push((*neighbor, Message::Gossip(item.clone())));
        }
    }

    fn forget_revocations(&mut self, ctx: &Context<'_>) {
        let records = self.disk.contents().read_records();
        self.trust = dunlin_trust::Trust::new(ctx.town.config.clone(), records);
    }
}

fn blame(error: &OpenError) -> Evidence {
    if *error == OpenError::Signature {
        Evidence::BadSignature
    } else {
        Evidence::ProtocolViolation
    }
}
