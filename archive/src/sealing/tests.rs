//! What sealing promises: one form, bound parts, sizes in classes, nothing shown.

use proptest::prelude::*;
use zeroize::Zeroizing;

use super::*;

fn key(seed: u8) -> SealingKey {
    SealingKey::new(Zeroizing::new([seed; KEY_BYTES]))
}

fn root(content: &[u8]) -> Block {
    Block::new(Codec::DagCbor, content.to_vec())
}

fn payload(content: &[u8]) -> Block {
    Block::new(Codec::Raw, content.to_vec())
}

/// Opens a sealed object with all of its payload.
fn open(key: &SealingKey, sealed: &Sealed) -> Result<(Block, Vec<Block>), OpenError> {
    let root = key.open(&SealedRoot::decode(sealed.root.bytes())?)?;
    let links = sealed.links.iter().map(|link| key.open_payload(link.bytes()));
    Ok((root, links.collect::<Result<_, _>>()?))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes are those of another implementation, written from `docs/formats/sealed.md` alone.
#[test]
fn golden() {
    let key = key(7);
    assert_eq!(key.id().to_string(), "74f84a1d784bbcc074ae4ab497490fb4");
    let sealed = key.seal(&root(b"a segment"), &[payload(b"its payload")]).unwrap();
    assert_eq!(
        hex(&sealed.root.bytes()[..64]),
        "85015074f84a1d784bbcc074ae4ab497490fb458188d138125f36e9661ac682d32a5b251b412290c485e24b98b59021079908a44eb255c6bfdf5db700e7a7f91"
    );
    assert_eq!(
        sealed.root.cid().to_string(),
        "bafyreibtv735t2ic3ossfqwv4znl2o5xselda7jss2f33yzpka7eiav56m"
    );
    assert_eq!(
        hex(&sealed.links[0].bytes()[..64]),
        "0140fff58bf980aeb417d00a33b2cde5518bacbf5d0888e83cfb2c0702ff6a795f7d9f1dbdb54080784283e2b2a60dcd5b804802a668af3107b697956b83d271"
    );
    assert_eq!(
        sealed.links[0].cid().to_string(),
        "bafkreifj3ja76ez2iaqpic4awyz6voddjx6h5tok6ssipadxpttk6iqhfe"
    );
}

#[test]
fn equal_segments_share_a_cid_under_one_key_and_under_no_other() {
    let (root, links) = (root(b"same"), [payload(b"rows"), payload(b"more rows")]);
    let (one, other) = (key(1), key(2));
    let sealed = one.seal(&root, &links).unwrap();
    assert_eq!(sealed, SealingKey::new(Zeroizing::new([1; 32])).seal(&root, &links).unwrap());
    let elsewhere = other.seal(&root, &links).unwrap();
    assert_ne!(sealed.root.cid(), elsewhere.root.cid());
    assert!(sealed.links.iter().all(|link| !elsewhere.links.contains(link)));
    assert_eq!(open(&one, &sealed).unwrap(), (root, links.to_vec()));
    assert_eq!(open(&other, &sealed), Err(OpenError::OtherKey { id: one.id() }));
    let sealed_root = SealedRoot::decode(sealed.root.bytes()).unwrap();
    assert_eq!((sealed_root.key(), sealed_root.links().len()), (one.id(), 2));
}

#[test]
fn links_are_those_that_an_ipfs_node_walks() {
    let sealed = key(1).seal(&root(b"x"), &[payload(b"1"), payload(b"2")]).unwrap();
    let links = crate::dag::links(sealed.root.cid(), sealed.root.bytes()).unwrap();
    let cids: Vec<_> = sealed.links.iter().map(|block| *block.cid()).collect();
    assert_eq!(links, cids);
}

#[test]
fn lengths_show_no_more_than_their_class() {
    let key = key(1);
    let size = |length: usize| key.seal_payload(&payload(&vec![9; length])).unwrap().bytes().len();
    let around = 1 + NONCE_BYTES + 16;
    for (length, class) in [
        (0, 512),
        (508, 512),
        (509, 1024),
        (1020, 1024),
        (1021, 2048),
        (600_000, 1 << 20),
        ((1 << 20) - 4, 1 << 20),
        ((1 << 20) - 3, (1 << 20) + 1024),
        (1 << 20, (1 << 20) + 1024),
    ] {
        assert_eq!(size(length), class + around, "{length}");
    }
    let sizes = |length: usize| key.seal(&root(&vec![9; length]), &[]).unwrap().root.bytes().len();
    assert_eq!(sizes(0), sizes(508));
    assert_ne!(sizes(508), sizes(509));
}

#[test]
fn what_no_segment_has_is_not_sealed() {
    let key = key(1);
    let large = root(&vec![0; ROOT_BYTES_MAX + 1]);
    let bytes = large.bytes().len();
    let refusal = SealError::TooLarge { bytes, bytes_max: ROOT_BYTES_MAX };
    assert_eq!(key.seal(&large, &[]), Err(refusal));
    assert!(key.seal(&root(b"x"), &[payload(&vec![0; PAYLOAD_BLOCK_BYTES_MAX + 1])]).is_err());
    let many = vec![payload(b"x"); LINKS_MAX + 1];
    assert_eq!(key.seal(&root(b"x"), &many), Err(SealError::TooManyLinks { links: 129 }));
    let most = key.seal(&root(&vec![0; ROOT_BYTES_MAX]), &many[..LINKS_MAX]).unwrap();
    assert!(most.root.bytes().len() <= form::BLOCK_BYTES_MAX);
    open(&key, &most).unwrap();
}

#[test]
fn parts_cannot_be_put_together_anew() {
    let key = key(1);
    let (a, b) = (payload(b"first"), payload(b"second"));
    let honest = key.seal(&root(b"x"), &[a.clone(), b.clone()]).unwrap();
    let mut swapped = SealedRoot::decode(honest.root.bytes()).unwrap();
    swapped.links.reverse();
    assert_eq!(key.open(&swapped), Err(OpenError::Forged));
    swapped.links.pop();
    assert_eq!(key.open(&swapped), Err(OpenError::Forged));
    // A root does not pass for payload, nor payload for a root.
    let sealed = SealedRoot::decode(honest.root.bytes()).unwrap();
    let as_payload = [&[VERSION][..], &sealed.nonce, &sealed.sealed].concat();
    assert_eq!(key.open_payload(&as_payload), Err(OpenError::Forged));
    let bytes = honest.links[0].bytes();
    let as_root = SealedRoot {
        key: key.id(),
        nonce: bytes[1..=NONCE_BYTES].try_into().unwrap(),
        sealed: bytes[1 + NONCE_BYTES..].to_vec(),
        links: Vec::new(),
    };
    assert_eq!(key.open(&as_root), Err(OpenError::Forged));
}

#[test]
fn a_nonce_that_does_not_follow_from_the_content_is_refused() {
    let key = key(1);
    let (context, nonce) = (Part::Payload.context(), [5; NONCE_BYTES]);
    // Whoever has the key can encrypt under any nonce; the tag holds, and still it is no sealed block.
    let sealed = key.cipher().encrypt(&nonce, &context, Padded::of(b"x").into_bytes());
    assert!(key.cipher().decrypt(&nonce, &context, &sealed).is_some());
    let bytes = [&[VERSION][..], &nonce, &sealed].concat();
    assert_eq!(key.open_payload(&bytes), Err(OpenError::Forged));
}

#[test]
fn padding_has_one_form() {
    let mut padded = Padded::of(b"abc").into_bytes();
    assert!(Padded::from_bytes(padded.clone()).is_some());
    padded.extend_from_slice(&[0; 512]);
    assert!(Padded::from_bytes(padded.clone()).is_none(), "a class too large");
    padded.truncate(512);
    padded[511] = 1;
    assert!(Padded::from_bytes(padded).is_none(), "not of zeros");
    assert!(Padded::from_bytes(vec![0xff; 512]).is_none(), "longer than itself");
    assert!(Padded::from_bytes(vec![0; 3]).is_none());
}

#[test]
fn keys_are_not_shown() {
    let key = key(0xab);
    let shown = format!("{key:?}");
    assert!(shown.contains(&key.id().to_string()) && !shown.contains("abab"), "{shown}");
    assert!(!shown.contains("171"), "{shown}");
    assert_eq!(key.id().to_string().parse::<KeyId>().unwrap(), key.id());
    for text in ["", "abcd", &"g".repeat(32), &"ä".repeat(16)] {
        assert!(text.parse::<KeyId>().is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn what_is_sealed_opens_to_itself(
        seed: u8,
        content in prop::collection::vec(any::<u8>(), 0..2_000),
        rows in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..2_000), 0..4),
    ) {
        let rows: Vec<_> = rows.iter().map(|rows| payload(rows)).collect();
        let sealed = key(seed).seal(&root(&content), &rows).unwrap();
        prop_assert_eq!(open(&key(seed), &sealed).unwrap(), (root(&content), rows));
    }

    #[test]
    fn one_flipped_bit_is_found(
        at in any::<prop::sample::Index>(), bit in 0..8, is_root: bool,
    ) {
        let key = key(3);
        let sealed = key.seal(&root(b"a segment"), &[payload(b"rows")]).unwrap();
        let mut bytes = if is_root { &sealed.root } else { &sealed.links[0] }.bytes().to_vec();
        bytes[at.index(sealed.root.bytes().len()) % sealed.links[0].bytes().len()] ^= 1u8 << bit;
        let opened = if is_root {
            SealedRoot::decode(&bytes).and_then(|root| key.open(&root)).is_ok()
        } else {
            key.open_payload(&bytes).is_ok()
        };
        prop_assert!(!opened);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in any::<Vec<u8>>()) {
        prop_assert!(SealedRoot::decode(&bytes).is_err());
        prop_assert!(key(1).open_payload(&bytes).is_err());
    }
}
