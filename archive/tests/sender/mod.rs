//! A node that makes bundles, as far as its archive goes; segments are whatever links to payload.

use std::io::Read;

use dunlin_archive::{
    Archive, Config, LandError, Landing, Object, Pin,
    bundle::{
        self, Builder, Contents, Export, Form, Gaps, Manifest, Policy, Reader, Span, follows,
    },
    car,
};
use dunlin_wire::{
    block::{Block, Codec},
    cbor, envelope,
};
use libp2p_identity::{Keypair, PeerId};
use tempfile::TempDir;

pub(crate) fn key(seed: u8) -> Keypair {
    Keypair::ed25519_from_bytes([seed; 32]).unwrap()
}

pub(crate) fn payload(number: u32) -> Block {
    Block::new(Codec::Raw, format!("observations {number}").into_bytes())
}

pub(crate) fn segment(name: &str, payload: &[&Block]) -> Block {
    let links: Vec<_> = payload.iter().map(|block| *block.cid()).collect();
    Block::new(Codec::DagCbor, cbor::encode(&(name, links)).unwrap())
}

/// Stands for an envelope of templates: the archive does not look into it.
pub(crate) fn template(collection: &str) -> Block {
    Block::new(Codec::DagCbor, cbor::encode(&("templates", collection)).unwrap())
}

pub(crate) struct Sender {
    _temp: TempDir,
    pub(crate) archive: Archive,
    key: Keypair,
    made: u32,
}

impl Sender {
    pub(crate) fn new(seed: u8) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let archive = Archive::open(&temp.path().join("blocks.redb"), Config::default()).unwrap();
        Self { _temp: temp, archive, key: key(seed), made: 0 }
    }

    pub(crate) fn peer(&self) -> PeerId {
        self.key.public().to_peer_id()
    }

    pub(crate) fn add(&self, collection: &str, root: &Block, links: &[Block]) {
        let pin = Pin::own(collection);
        self.archive
            .put(&[Object { pin, root: root.clone(), links: links.to_vec() }], None)
            .unwrap();
    }

    /// Archives so many segments of a collection, each with so many payload blocks.
    pub(crate) fn fill(
        &mut self,
        collection: &str,
        segments: u32,
        links: u32,
    ) -> Vec<(Block, Vec<Block>)> {
        let mut made = Vec::new();
        for number in 0..segments {
            let blocks: Vec<Block> = (0..links).map(|link| payload(self.made + link)).collect();
            self.made += links;
            let root =
                segment(&format!("{collection} {number}"), &blocks.iter().collect::<Vec<_>>());
            made.push((root, blocks));
        }
        let object = |(root, links): &(Block, Vec<Block>)| Object {
            pin: Pin::own(collection),
            root: root.clone(),
            links: links.clone(),
        };
        self.archive.put(&made.iter().map(object).collect::<Vec<_>>(), None).unwrap();
        made
    }

    pub(crate) fn export(&mut self) -> Vec<u8> {
        self.export_with(&[])
    }

    /// Makes a bundle of all that was not carried yet, and writes it.
    pub(crate) fn export_with(&mut self, templates: &[Block]) -> Vec<u8> {
        let mut export = Export::begin(&self.archive).unwrap();
        for template in templates {
            export.template(template).unwrap();
        }
        for pin in self.archive.pins(Pin::OWN).unwrap().into_keys() {
            let collection = pin.as_str()[Pin::OWN.len()..].to_owned();
            for cid in self.archive.roots(&pin, None, 10_000).unwrap() {
                if self.archive.was_sent(&cid).unwrap() {
                    continue;
                }
                let root = self.archive.block(&cid).unwrap().unwrap();
                let links = dunlin_archive::dag::links(&cid, root.bytes()).unwrap();
                let size = |link| (link, self.archive.get(&link).unwrap().unwrap().len());
                let links: Vec<_> = links.into_iter().map(size).collect();
                let span = Span { from_us: 1, to_us: 2 };
                export.segment(&collection, &root, &links, span).unwrap();
            }
        }
        let exported = export.finish(&self.key, 1_763_700_000_000, policy()).unwrap();
        self.write(exported.sent.link.sequence)
    }

    pub(crate) fn write(&self, sequence: u64) -> Vec<u8> {
        let exported = bundle::exported(&self.archive, Some(sequence)).unwrap().unwrap();
        let mut bytes = Vec::new();
        bundle::write(&mut bytes, &exported.sent.root, |cid| self.archive.get(cid)).unwrap();
        bytes
    }
}

fn policy() -> Policy {
    Policy { form: Form::Private, since_us: None, collections: Vec::new() }
}

/// Writes a bundle of one part that no archive made, with a manifest that may be spoiled.
pub(crate) fn write_by_hand(
    builder: Builder,
    blocks: &[Block],
    spoil: impl FnOnce(&mut Manifest),
) -> Vec<u8> {
    let Contents { part, index, counts, span } = builder.finish();
    let mut manifest = Manifest {
        sequence: 1,
        previous: None,
        created_unix_ms: 0,
        policy: policy(),
        counts,
        span,
        content: *index.cid(),
    };
    spoil(&mut manifest);
    let signed = envelope::sign(&key(1), manifest).unwrap();
    let envelope = Block::new(Codec::DagCbor, signed.bytes);
    let root = cbor::encode(&(1, *envelope.cid(), *index.cid())).unwrap();
    let root = Block::new(Codec::DagCbor, root);
    let mut bytes = car::header(&[*root.cid()]);
    for block in [&root, &envelope, &index, &part.unwrap()].into_iter().chain(blocks) {
        car::section(&mut bytes, block.cid(), block.bytes());
    }
    bytes
}

/// Takes a bundle in as a node does, once it trusts the signer.
pub(crate) fn import(archive: &Archive, input: impl Read, gaps: Gaps) -> Result<(), LandError> {
    import_all(archive, input, gaps, &[])
}

/// As [`import`], and keeps these templates.
pub(crate) fn import_with(
    archive: &Archive,
    input: impl Read,
    templates: &[Object],
) -> Result<(), LandError> {
    import_all(archive, input, Gaps::Refused, templates)
}

fn import_all(
    archive: &Archive,
    input: impl Read,
    gaps: Gaps,
    templates: &[Object],
) -> Result<(), LandError> {
    let mut reader = Reader::open(input).unwrap();
    let (signed, link) = (reader.signed().clone(), reader.link());
    follows(archive.last_received(&signed.signer).unwrap(), &link.bundle, &signed.value, gaps)?;
    bundle::stage(archive, &mut reader, |_| Ok(())).unwrap();
    archive.land(&Landing {
        signer: &signed.signer,
        bundle: link.bundle,
        manifest: &signed.value,
        gaps,
        templates,
    })
}
