//! Who is who in a simulated network: what nobody needs to be told.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use dunlin_protocols::{Keypair, PeerId};
use dunlin_trust::{Authorities, Config, Endorsements, License, Subject, UnixMillis};

use dunlin_wire::envelope;

use super::{
    life::{self, Life},
    notary::{self, Hash},
    rng::{Chance, below},
};

/// When every run begins.
pub(super) const EPOCH_MS: u64 = 1_763_700_000_000;

const NETWORK: &str = "simulated";

/// Authorities, and how many of them must agree.
const AUTHORITIES: [&str; 3] = ["authority 1", "authority 2", "authority 3"];
const THRESHOLD: usize = 2;

/// What a peer is up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It does what the code does.
    Honest,
    /// It sends what nobody signed, and answers with bytes that are not what was asked for.
    Forger,
    /// It sends again what it heard.
    Replayer,
    /// It says one thing to some and another to others.
    Equivocator,
    /// It accuses honest peers together with others, and vouches for what they made up.
    Colluder,
    /// It neither answers nor passes on.
    Withholder,
    /// It sends as much as it can.
    Flooder,
}

impl Role {
    /// All that are not honest.
    pub(super) const MALICIOUS: [Self; 6] = [
        Self::Forger,
        Self::Replayer,
        Self::Equivocator,
        Self::Colluder,
        Self::Withholder,
        Self::Flooder,
    ];
}

/// Keys, licenses and roles.
#[derive(Debug)]
pub(super) struct Town {
    pub(super) peers: Vec<PeerId>,
    pub(super) keys: Vec<Keypair>,
    pub(super) index: HashMap<PeerId, usize>,
    subjects: HashMap<Subject, usize>,
    pub(super) roles: Vec<Role>,
    /// What kind of life the entities of each node live.
    pub(super) lives: Vec<usize>,
    kinds: [Life; life::KINDS],
    pub(super) licenses: Vec<Endorsements>,
    pub(super) authorities: Vec<Keypair>,
    /// Whose decisions count.
    pub(super) operator: Keypair,
    pub(super) config: Config,
}

/// What is true, whatever nodes believe.
#[derive(Debug, Default)]
pub(super) struct Truth {
    /// Who was revoked by those who may.
    pub(super) revoked: BTreeSet<PeerId>,
    /// Of what life each template set tells, if of any.
    pub(super) sets: BTreeMap<Hash, Option<usize>>,
}

impl Town {
    pub(super) fn new(roles: Vec<Role>) -> Self {
        let keys = notary::keys(roles.len());
        let peers: Vec<_> = keys.iter().map(|key| key.public().to_peer_id()).collect();
        let index = peers.iter().enumerate().map(|(at, peer)| (*peer, at)).collect();
        let subjects = peers.iter().enumerate().map(|(at, peer)| (Subject::of(peer), at)).collect();
        let authorities = AUTHORITIES.map(notary::key);
        let ids = authorities.iter().map(|key| key.public().to_peer_id());
        let named = Authorities::new(NETWORK, ids, THRESHOLD).expect("three authorities");
        let until = UnixMillis(EPOCH_MS + 365 * 24 * 3_600_000);
        let license = |node: usize| {
            let license = License::new(NETWORK, peers[node], UnixMillis(EPOCH_MS), until);
            let sign = |key| envelope::sign(key, license.clone()).expect("a license fits").bytes;
            let signed = authorities[..THRESHOLD].iter().map(sign).collect();
            Endorsements::collect::<License>(signed).expect("they say the same")
        };
        let licenses = notary::licenses(peers.len(), license);
        let config = Config { authorities: Some(named), ..Config::default() };
        let operator = notary::key("operator");
        Self {
            peers,
            keys,
            index,
            subjects,
            // Neighbors in the ring live different lives, and roles are given by chance.
            lives: (0..roles.len()).map(|node| node % life::KINDS).collect(),
            kinds: std::array::from_fn(Life::of),
            roles,
            licenses,
            authorities: authorities.to_vec(),
            operator,
            config,
        }
    }

    pub(super) fn is_honest(&self, node: usize) -> bool {
        self.roles[node] == Role::Honest
    }

    /// Returns the life that the entities of a node live.
    pub(super) fn life_of(&self, node: usize) -> &Life {
        &self.kinds[self.lives[node]]
    }

    /// Returns the peer of this network that has a key.
    pub(super) fn peer_of(&self, subject: &Subject) -> Option<&PeerId> {
        self.subjects.get(subject).map(|node| &self.peers[*node])
    }

    /// Returns whether a peer is an honest one of this network.
    pub(super) fn is_honest_peer(&self, peer: &PeerId) -> bool {
        self.index.get(peer).is_some_and(|node| self.is_honest(*node))
    }
}

/// Returns who is honest, and what the others do: a third of all, of each kind as many as of the others.
pub(super) fn roles(rng: &mut Chance, count: usize, has_malice: bool) -> Vec<Role> {
    let mut roles = vec![Role::Honest; count];
    if has_malice {
        let mut left = count / 3;
        let mut kind = below(rng, Role::MALICIOUS.len());
        while left > 0 {
            let node = below(rng, count);
            if roles[node] == Role::Honest {
                roles[node] = Role::MALICIOUS[kind % Role::MALICIOUS.len()];
                kind += 1;
                left -= 1;
            }
        }
    }
    roles
}
