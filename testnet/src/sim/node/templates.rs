//! Template sets of the simulated node: released, announced, fetched from their author, put before the gate, used.
//!
//! A set is used while its author is heard and the gate let it in; whether it does is asked anew each time.

use std::sync::Arc;

use dunlin_privacy::{
    TemplateSet,
    adoption::{self, Config},
    doubt,
};
use dunlin_protocols::{Verdict, messages::TemplateAnnouncement};
use dunlin_trust::{Evidence, Operation};
use dunlin_wire::envelope::{OpenError, Signed};

use super::{Context, Node, gossip::Fate};
use crate::sim::{
    bug::Bug,
    disk::Write,
    fact::Fact,
    message::{Item, Kind, Message},
    notary,
};

/// Sets of others that are kept. When there are as many, the oldest of those that are not used makes room.
pub(in crate::sim) const SETS_MAX: usize = 16;

/// How far the clocks of two nodes may be apart, in milliseconds.
const CLOCKS_APART_MS: u64 = 24 * 3_600_000;

/// A set of another node.
#[derive(Clone, Debug)]
pub(super) struct Set {
    item: Arc<Item>,
    signed: Signed<TemplateSet>,
    is_adopted: bool,
    is_doubted: bool,
}

impl Node {
    /// Releases a set, and announces it.
    pub(in crate::sim) fn release(&mut self, ctx: &mut Context<'_>, set: TemplateSet) -> Arc<Item> {
        let count = set.templates().len() as u32;
        let item = Item::new(Kind::Templates, ctx.notary.sign(&ctx.town.keys[self.me], set));
        self.disk.write(Write::Release(item.clone()));
        self.released = Some(item.clone());
        let sequence = self.next_sequence();
        let announcement = TemplateAnnouncement::new("servers", count, item.hash, sequence);
        let bytes = ctx.notary.sign(&ctx.town.keys[self.me], announcement);
        self.publish(ctx, &Item::new(Kind::TemplateAnnouncement, bytes));
        item
    }

    /// Returns the own set.
    pub(in crate::sim) fn own_templates(&self) -> Option<&Arc<Item>> {
        self.released.as_ref()
    }

    pub(super) fn on_template_announcement(
        &mut self,
        ctx: &mut Context<'_>,
        from: usize,
        item: &Arc<Item>,
    ) -> Fate {
        let opened = ctx.notary.open::<TemplateAnnouncement>(&item.hash, &item.bytes);
        let author = opened.as_ref().ok().and_then(|signed| ctx.town.index.get(&signed.signer));
        let author = author.copied();
        if let Some(author) = author {
            self.present(ctx, author);
        }
        if let Some(proof) = opened.as_ref().ok().and_then(|said| self.heard.contradiction(said)) {
            self.prove(ctx, &proof);
        }
        let source = opened.as_ref().ok().map(|signed| signed.signer);
        let now = (ctx.instant(), self.unix(ctx));
        match self.heard.judge(&self.trust, now, source, (opened, || item.bytes.clone())) {
            Verdict::Accept { announcement, .. } => {
                ctx.facts.push(Fact::Heard { at: self.me, from, author });
                self.believe(ctx, item);
                self.ask_for_templates(ctx, author, &announcement.digest);
                Fate::News
            }
            Verdict::Ignore => Fate::Old,
            Verdict::Reject { is_forged: true } => Fate::Blame(Evidence::BadSignature),
            Verdict::Reject { is_forged: false } => Fate::Blame(Evidence::ProtocolViolation),
        }
    }

    fn ask_for_templates(
        &mut self,
        ctx: &mut Context<'_>,
        author: Option<usize>,
        digest: &[u8; 32],
    ) {
        let Some(author) = author.filter(|author| *author != self.me) else { return };
        let is_here = self.sets.get(&author).is_some_and(|set| set.item.hash == *digest);
        if !is_here && self.may(ctx, author, Operation::FetchTemplates) {
            ctx.out.push((author, Message::AskTemplates));
        }
    }

    pub(super) fn on_ask_templates(&mut self, ctx: &mut Context<'_>, from: usize) {
        if let Some(item) = self.released.clone()
            && self.serves_with(ctx, from, Operation::ServeTemplates)
        {
            ctx.out.push((from, Message::Templates(item)));
        }
    }

    pub(super) fn on_templates(&mut self, ctx: &mut Context<'_>, from: usize, item: &Arc<Item>) {
        if !self.hears(ctx, from, Operation::FetchTemplates) {
            return;
        }
        ctx.facts.push(Fact::Heard { at: self.me, from, author: None });
        let mut opened = ctx.notary.open::<TemplateSet>(&item.hash, &item.bytes);
        if ctx.has(Bug::AdoptUnsigned)
            && let Some(signed) = notary::open_blindly(&item.bytes)
        {
            opened = Ok(signed);
        }
        let signed = match opened {
            Ok(signed) if signed.signer == ctx.town.peers[from] => signed,
            Err(OpenError::Signature) => {
                return self.observe(ctx, ctx.town.peers[from], Evidence::BadSignature);
            }
            _ => return self.observe(ctx, ctx.town.peers[from], Evidence::ProtocolViolation),
        };
        if self.is_news(ctx, from, &signed.value) && self.make_room_for_set(ctx, from) {
            self.disk.write(Write::Templates(from, item.clone()));
            self.disk.sync();
            self.hold(ctx, from, item.clone(), signed);
        }
    }

    /// Returns whether a set counts now, and is newer than what is here of its author.
    fn is_news(&self, ctx: &Context<'_>, author: usize, set: &TemplateSet) -> bool {
        let now = self.unix(ctx).0;
        let issued = |set: &TemplateSet| set.issued_unix_ms();
        set.is_current(now)
            && issued(set) <= now + CLOCKS_APART_MS
            && self.sets.get(&author).is_none_or(|held| issued(&held.signed.value) < issued(set))
    }

    fn make_room_for_set(&mut self, ctx: &mut Context<'_>, author: usize) -> bool {
        if self.sets.len() < SETS_MAX || self.sets.contains_key(&author) {
            return true;
        }
        let in_use: Vec<_> = self.in_use(ctx).map(|(author, _)| author).collect();
        let useless = self.sets.iter().filter(|(author, _)| !in_use.contains(author));
        let least = useless.min_by_key(|(_, set)| set.signed.value.issued_unix_ms());
        let Some(least) = least.map(|(author, _)| *author) else { return false };
        self.sets.remove(&least);
        self.disk.write(Write::ForgetTemplates(least));
        true
    }

    /// Puts a set in the place of its author's last one, and all of them before the gate.
    fn hold(
        &mut self,
        ctx: &mut Context<'_>,
        author: usize,
        item: Arc<Item>,
        signed: Signed<TemplateSet>,
    ) {
        let life = ctx.town.life_of(self.me);
        let centroids = signed.value.centroids();
        let verdict = adoption::judge(life.history(), &centroids, &life.bounds, &Config::default());
        let is_adopted = verdict.is_adopted() || ctx.has(Bug::AdoptUnfit);
        self.sets.insert(author, Set { item, signed, is_adopted, is_doubted: false });
        self.doubt(ctx);
    }

    /// Looks at how the sets stand among one another, and holds it against authors who stand apart, once.
    fn doubt(&mut self, ctx: &mut Context<'_>) {
        let life = ctx.town.life_of(self.me);
        let centroids: Vec<_> =
            self.sets.values().map(|set| set.signed.value.centroids()).collect();
        let sources: Vec<_> = centroids.iter().map(Vec::as_slice).collect();
        let doubts = doubt::straying(&sources, life.regimes(), &life.bounds);
        let mut blamed = Vec::new();
        for ((author, set), doubt) in self.sets.iter_mut().zip(doubts) {
            if doubt.is_some() && !set.is_doubted {
                blamed.push(*author);
            }
            set.is_doubted = doubt.is_some();
        }
        for author in blamed {
            self.observe(ctx, ctx.town.peers[author], Evidence::DoubtfulTemplates);
        }
    }

    /// Matches what its entities do with the templates that are in use.
    pub(super) fn match_with_templates(&mut self, ctx: &mut Context<'_>) {
        let authors: Vec<_> = self.sets.keys().copied().collect();
        for author in authors {
            self.present(ctx, author);
        }
        let used: Vec<_> = self.in_use(ctx).map(|(author, set)| (author, set.item.hash)).collect();
        for (author, hash) in used {
            ctx.facts.push(Fact::Used { at: self.me, author, hash });
        }
    }

    /// Returns the sets that are in use.
    fn in_use<'a>(&'a self, ctx: &Context<'a>) -> impl Iterator<Item = (usize, &'a Set)> {
        let (now, town, is_anyone) = (self.unix(ctx), ctx.town, ctx.has(Bug::UseAnyone));
        self.sets.iter().map(|(author, set)| (*author, set)).filter(move |(author, set)| {
            let peer = &town.peers[*author];
            let may = || self.trust.may(now, peer, Operation::AdoptTemplates).is_ok();
            set.is_adopted && !set.is_doubted && (is_anyone || may())
        })
    }

    /// Takes in what was kept before a restart.
    pub(super) fn recall_templates(&mut self, ctx: &mut Context<'_>) {
        let contents = self.disk.contents();
        let (released, kept) = (contents.released.clone(), contents.templates.clone());
        self.released = released;
        for (author, item) in kept {
            let mut opened = ctx.notary.open::<TemplateSet>(&item.hash, &item.bytes).ok();
            if ctx.has(Bug::AdoptUnsigned) {
                opened = opened.or_else(|| notary::open_blindly(&item.bytes));
            }
            if let Some(signed) = opened {
                self.hold(ctx, author, item, signed);
            }
        }
    }
}
