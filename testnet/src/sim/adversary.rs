//! What malicious peers do, each in turn. They have real keys and licenses, served well before, and know the code; what
//! they cannot do is to sign as somebody else.

use std::sync::Arc;

use dunlin_protocols::{PeerId, messages::SegmentAnnouncement};
use dunlin_trust::{
    Claim, Extension, Report, SentObject, Served, UnixMillis, Withdrawal, recovery::Attestation,
};
use dunlin_wire::cbor;

use super::{
    message::{Item, Kind, Message, Sent},
    node::{Body, Node},
    notary::{self, NETWORK, Notary},
    rng::{Chance, below},
    town::{EPOCH_MS, Role, Town},
};

/// Objects that a flooder makes in one go.
const FLOOD: usize = 8;

/// Heard objects that are kept to be sent again.
pub(super) const CAPTURED_MAX: usize = 64;

/// What a malicious peer acts with.
pub(super) struct Scene<'a> {
    pub(super) now_ms: u64,
    pub(super) town: &'a Town,
    pub(super) notary: &'a mut Notary,
    pub(super) rng: &'a mut Chance,
    /// What malicious peers overheard.
    pub(super) captured: &'a [Arc<Item>],
    /// Whether it may still make things that everybody would have to learn.
    pub(super) may_write: bool,
    pub(super) out: &'a mut Vec<(usize, Message)>,
}

/// Does one thing that this peer does.
pub(super) fn act(node: &mut Node, scene: &mut Scene<'_>) {
    match scene.town.roles[node.me] {
        Role::Honest | Role::Withholder => {}
        Role::Forger => forge(node, scene),
        Role::Replayer => replay(node, scene),
        Role::Equivocator => equivocate(node, scene),
        Role::Colluder => collude(node, scene),
        Role::Flooder => flood(node, scene),
    }
}

/// Answers a question for segments with other bytes, and half of the time signs that these are they; and one for templates
/// with what nobody signed.
pub(super) fn lie(node: &Node, to: usize, asked: &Message, scene: &mut Scene<'_>) {
    if let (Message::AskTemplates, Some(item)) = (asked, node.own_templates()) {
        let forged = notary::forge(&item.bytes).map(|bytes| Item::new(Kind::Templates, bytes));
        return scene.out.extend(forged.map(|item| (to, Message::Templates(item))));
    }
    let Message::AskSegments(cids) = asked else { return };
    let Some(cid) = cids.first() else { return };
    let body = Body { entity: "entity 0".to_owned(), start: 1, end: 2, content: scene.now_ms };
    let bytes: Arc<[u8]> = body.to_block().bytes().into();
    let key = &scene.town.keys[node.me];
    let statement = Served::new(NETWORK, &[SentObject::new(*cid, &bytes)]);
    let served = statement.filter(|_| below(scene.rng, 2) == 0);
    let served = served.map(|served| scene.notary.sign(key, served));
    scene.out.push((to, Message::Segments(vec![Sent { cid: *cid, bytes, served }])));
}

fn forge(node: &Node, scene: &mut Scene<'_>) {
    let victim = below(scene.rng, scene.town.peers.len());
    let item = match below(scene.rng, 4) {
        0 => captured(scene, Kind::Announcement)
            .and_then(|item| Some(Item::new(Kind::Announcement, notary::forge(&item.bytes)?))),
        1 => captured(scene, Kind::Attestation)
            .and_then(|item| Some(Item::new(Kind::Attestation, notary::forge(&item.bytes)?))),
        2 => {
            // The victim's withdrawal, signed by somebody else.
            let issued = UnixMillis(EPOCH_MS + scene.now_ms);
            let key = &scene.town.keys[victim];
            let signed = dunlin_wire::envelope::sign(key, Withdrawal::new(issued, None));
            let forged = signed.ok().and_then(|signed| notary::forge(&signed.bytes));
            forged.map(|bytes| Item::new(Kind::Withdrawal, bytes))
        }
        _ => revoke_alone(node, victim, scene).map(|bytes| Item::new(Kind::Extension, bytes)),
    };
    if let Some(item) = item {
        for _ in 0..3 {
            let to = below(scene.rng, scene.town.peers.len());
            scene.out.push((to, Message::Gossip(item.clone())));
        }
    }
}

/// A log that one authority signed whose key was stolen, where two must.
fn revoke_alone(node: &Node, victim: usize, scene: &mut Scene<'_>) -> Option<Vec<u8>> {
    let issued = UnixMillis(EPOCH_MS + scene.now_ms);
    let victim = scene.town.peers[victim];
    let draft = node.trust.revocations().draft(&[victim], issued).ok()?;
    let signature = draft.sign(&scene.town.authorities[0]).ok()?;
    let extension: Extension = draft.signed(vec![signature]).ok()?;
    cbor::encode(&extension).ok()
}

fn replay(node: &Node, scene: &mut Scene<'_>) {
    for _ in 0..4 {
        if scene.captured.is_empty() {
            return;
        }
        let item = scene.captured[below(scene.rng, scene.captured.len())].clone();
        let to = node.neighbors[below(scene.rng, node.neighbors.len())];
        scene.out.push((to, Message::Gossip(item)));
    }
}

fn equivocate(node: &mut Node, scene: &mut Scene<'_>) {
    let sequence = 1_000 + scene.now_ms;
    let key = &scene.town.keys[node.me];
    let said = |notary: &mut Notary, count: u64| {
        let announcement = SegmentAnnouncement::new("servers", count, [7; 32], sequence);
        Item::new(Kind::Announcement, notary.sign(key, announcement))
    };
    let (one, other) = (said(scene.notary, 1), said(scene.notary, 2));
    for (at, neighbor) in node.neighbors.iter().enumerate() {
        let item = if at % 2 == 0 { &one } else { &other };
        scene.out.push((*neighbor, Message::Gossip(item.clone())));
    }
}

/// All colluders accuse the same honest peers, and say that they made the same segment.
fn collude(node: &Node, scene: &mut Scene<'_>) {
    let key = &scene.town.keys[node.me];
    let honest: Vec<_> =
        (0..scene.town.peers.len()).filter(|node| scene.town.is_honest(*node)).take(3).collect();
    let victim = scene.town.peers[honest[below(scene.rng, honest.len())]];
    let issued = UnixMillis(EPOCH_MS + scene.now_ms);
    let report = Report::new(victim, Claim::WrongCid, issued);
    let mut items = vec![Item::new(Kind::Report, scene.notary.sign(key, report))];
    if scene.may_write {
        let body = Body { entity: "entity 0".to_owned(), start: 0, end: 3_600, content: 666 };
        let cid = *body.to_block().cid();
        let attestation = Attestation::new(vec![cid]);
        items.push(Item::new(Kind::Attestation, scene.notary.sign(key, attestation)));
    }
    for item in items {
        send_to_neighbors(node, scene, &item);
    }
}

/// Reports of peers that do not exist, announcements of collections that do not, and keys that withdraw themselves.
fn flood(node: &Node, scene: &mut Scene<'_>) {
    let key = &scene.town.keys[node.me];
    let issued = UnixMillis(EPOCH_MS + scene.now_ms);
    for number in 0..FLOOD {
        let name = format!("flood {} {} {number}", node.me, scene.now_ms);
        let id = [&[0x12, 0x20][..], &notary::hash(name.as_bytes())].concat();
        let nobody = PeerId::from_bytes(&id).expect("a hash is a peer id");
        let item = match number % 4 {
            0 if scene.may_write && number == 0 => {
                let withdrawal = Withdrawal::new(issued, None);
                let fresh = notary::key(&name);
                Item::new(Kind::Withdrawal, scene.notary.sign(&fresh, withdrawal))
            }
            0 | 1 => {
                let report = Report::new(nobody, Claim::ProtocolViolation, issued);
                Item::new(Kind::Report, scene.notary.sign(key, report))
            }
            _ => {
                let announcement =
                    SegmentAnnouncement::new(&name[..name.len().min(60)], 1, [0; 32], 1);
                Item::new(Kind::Announcement, scene.notary.sign(key, announcement))
            }
        };
        send_to_neighbors(node, scene, &item);
    }
}

fn captured(scene: &mut Scene<'_>, kind: Kind) -> Option<Arc<Item>> {
    let found: Vec<_> = scene.captured.iter().filter(|item| item.kind == kind).collect();
    if found.is_empty() { None } else { Some(found[below(scene.rng, found.len())].clone()) }
}

fn send_to_neighbors(node: &Node, scene: &mut Scene<'_>, item: &Arc<Item>) {
    for neighbor in &node.neighbors {
        scene.out.push((*neighbor, Message::Gossip(item.clone())));
    }
}
