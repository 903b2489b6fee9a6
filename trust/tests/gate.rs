//! The gate, operation by operation and standing by standing, against the published table.

use std::{collections::BTreeSet, time::Duration};

use dunlin_trust::{
    Acquaintance, Authorities, Config, Endorsements, Evidence, License, Operation, Refusal,
    Standing, Thresholds, Trust, UnixMillis, Withdrawal,
};
use dunlin_wire::envelope;
use libp2p_identity::{Keypair, PeerId};

const NOW: UnixMillis = UnixMillis(1_763_700_000_000);
const PAGE: &str = include_str!("../../docs/trust.md");

/// Settings under which conduct alone decides: how long a peer is known is what `standing.rs` tests.
fn config() -> Config {
    let thresholds = Thresholds { trust_after: Duration::ZERO, ..Thresholds::default() };
    Config { thresholds, ..Config::default() }
}

fn key(seed: u8) -> Keypair {
    Keypair::ed25519_from_bytes([seed; 32]).expect("32 bytes are a key")
}

fn peer(seed: u8) -> PeerId {
    key(seed).public().to_peer_id()
}

/// Has a key revoke itself.
fn withdraw(trust: &mut Trust, seed: u8) {
    let signed =
        envelope::sign(&key(seed), Withdrawal::new(NOW, None)).expect("made for this test");
    let pending = trust.revocations().check_withdrawal(&signed.bytes, Acquaintance::Known);
    trust.apply_revocation(pending.expect("made for this test").expect("made for this test"));
}

/// A peer brought to `standing`, and whether the operator owns it.
fn judged(standing: Standing, own: bool) -> (Trust, PeerId) {
    let peer = peer(1);
    let own_peers = if own { BTreeSet::from([peer]) } else { BTreeSet::new() };
    let mut trust = Trust::new(Config { own_peers, ..config() }, Vec::new());
    match standing {
        Standing::Probation => {}
        Standing::Trusted => drop(trust.observe(NOW, peer, Evidence::Served { blocks: 400 })),
        Standing::Quarantined => drop(trust.observe(NOW, peer, Evidence::WrongCid)),
        Standing::Revoked => withdraw(&mut trust, 1),
    }
    assert_eq!(trust.standing(NOW, &peer), standing);
    (trust, peer)
}

/// One row of the page: the operation, a yes or no per standing, and whether it needs an own peer.
fn published(operation: Operation) -> ([(Standing, bool); 4], bool) {
    let row = format!("| {operation} |");
    let line = PAGE.lines().find(|line| line.starts_with(&row)).expect("a row in docs/trust.md");
    let cells: Vec<bool> = line[row.len()..]
        .trim_matches(['|', ' '])
        .split('|')
        .map(|cell| match cell.trim() {
            "yes" => true,
            "no" => false,
            other => panic!("{operation}: {other}"),
        })
        .collect();
    let [revoked, quarantined, probation, trusted, own_only] = cells[..] else {
        panic!("{operation}: {} cells", cells.len())
    };
    let standings = [
        (Standing::Revoked, revoked),
        (Standing::Quarantined, quarantined),
        (Standing::Probation, probation),
        (Standing::Trusted, trusted),
    ];
    (standings, own_only)
}

#[test]
fn every_operation_at_every_standing_is_as_published() {
    for operation in Operation::ALL {
        let (standings, own_only) = published(operation);
        assert_eq!(operation.needs_own_peer(), own_only, "{operation}");
        for (standing, admitted) in standings {
            assert_eq!(operation.admits(standing), admitted, "{operation} at {standing}");
            let (trust, peer) = judged(standing, true);
            assert_eq!(trust.may(NOW, &peer, operation).is_ok(), admitted);
            let (trust, peer) = judged(standing, false);
            assert_eq!(trust.may(NOW, &peer, operation).is_ok(), admitted && !own_only);
        }
    }
}

#[test]
fn the_page_lists_no_other_operation() {
    let rows = PAGE
        .lines()
        .skip_while(|line| !line.starts_with("| operation |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    assert_eq!(rows.count(), Operation::ALL.len());
}

#[test]
fn private_segments_go_to_own_peers_alone() {
    let (trust, stranger) = judged(Standing::Trusted, false);
    assert_eq!(
        trust.may(NOW, &stranger, Operation::ServePrivateSegments),
        Err(Refusal::NotOwnPeer { peer: stranger, operation: Operation::ServePrivateSegments })
    );
    let (trust, own) = judged(Standing::Probation, true);
    assert_eq!(trust.may(NOW, &own, Operation::ServePrivateSegments), Ok(()));
    for standing in [Standing::Quarantined, Standing::Revoked] {
        let (trust, own) = judged(standing, true);
        assert!(trust.may(NOW, &own, Operation::ServePrivateSegments).is_err());
    }
}

#[test]
fn the_refusal_says_who_what_and_why() {
    let (trust, liar) = judged(Standing::Quarantined, false);
    let refusal = trust.may(NOW, &liar, Operation::AcceptEvidence).unwrap_err();
    assert_eq!(refusal.to_string(), format!("accept_evidence refused: {liar} is quarantined"));
}

#[test]
fn a_closed_network_gives_a_connection_and_no_more_to_who_has_no_license() {
    let authorities = Authorities::new("plant", [peer(7)], 1).unwrap();
    let config =
        Config { authorities: Some(authorities), own_peers: BTreeSet::from([peer(1)]), ..config() };
    let mut trust = Trust::new(config, Vec::new());
    for operation in Operation::ALL {
        let refused = Err(Refusal::Unlicensed { peer: peer(1), operation });
        // A console has a ticket of the operator's in place of a license.
        let is_free = matches!(operation, Operation::Connect | Operation::ShowConsole);
        let expected = if is_free { Ok(()) } else { refused };
        // Being trusted comes after being let in.
        trust.observe(NOW, peer(1), Evidence::Served { blocks: 400 });
        assert_eq!(trust.may(NOW, &peer(1), operation), expected, "{operation}");
    }
    let license = License::new("plant", peer(1), NOW, UnixMillis(NOW.0 + 1_000));
    let signed = envelope::sign(&key(7), license).unwrap();
    let license = Endorsements::collect::<License>(vec![signed.bytes]).unwrap();
    assert!(trust.present_license(NOW, peer(2), &license).is_err(), "it is another's");
    trust.present_license(NOW, peer(1), &license).unwrap();
    for operation in Operation::ALL {
        assert_eq!(trust.may(NOW, &peer(1), operation), Ok(()), "{operation}");
    }
    // A day and more after its end it is over, and so it is when the peer goes.
    let late = UnixMillis(NOW.0 + 27 * 60 * 60 * 1_000);
    assert!(trust.may(late, &peer(1), Operation::ServeTemplates).is_err());
    trust.forget_license(&peer(1));
    assert!(trust.may(NOW, &peer(1), Operation::ServeTemplates).is_err());
}
