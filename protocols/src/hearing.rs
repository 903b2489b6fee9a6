//! Which announcements are believed and passed on. Pure: the shell brings time and bytes, and does what it is told.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use dunlin_trust::{Operation, Proof, Subject, Trust, UnixMillis};
use dunlin_wire::envelope::{OpenError, Signed};
use libp2p::PeerId;
use sha2::{Digest as _, Sha256};

use crate::{
    messages::Announcement,
    rate::{Bucket, Rate},
    requests::Bounded,
};

/// How fast one author may announce.
const ANNOUNCING: Rate = Rate { burst: 64, every: Duration::from_secs(1) };

/// What was heard, and from whom how often.
#[derive(Debug, Default)]
pub struct Heard {
    /// The newest announcement of each author, by its type and about each collection: its number and its envelope, of
    /// at most 512 bytes.
    newest: Bounded<Place, (u64, Arc<[u8]>)>,
    rates: Bounded<Subject, Bucket>,
}

/// A short name of an author, a type and a collection: 16 bytes of a sha2-256, so that one that means another's place
/// takes 2^128 attempts to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Place([u8; 16]);

impl Place {
    fn of<T: Announcement>(author: &PeerId, collection: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(Subject::of(author).as_bytes());
        // No type has a zero in it.
        hash.update(T::TYPE);
        hash.update([0]);
        hash.update(collection);
        let mut place = [0; 16];
        place.copy_from_slice(&hash.finalize()[..16]);
        Self(place)
    }
}

/// What to do with an announcement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<T> {
    /// Believe it and pass it on.
    Accept {
        /// Who made it.
        author: PeerId,
        /// What it says.
        announcement: T,
    },
    /// Drop it, without blame: it is old, or comes too often, or of a peer that is not heard.
    Ignore,
    /// Drop it: nobody should have passed it on.
    Reject {
        /// Whether its signature does not verify.
        is_forged: bool,
    },
}

impl Heard {
    /// Returns the proof that an announcement contradicts the newest one of its author, if it does.
    pub fn contradiction<T: Announcement>(&self, signed: &Signed<T>) -> Option<Proof> {
        let (collection, sequence) = signed.value.place();
        let (newest, bytes) = self.newest.get(&Place::of::<T>(&signed.signer, collection))?;
        let is_other = sequence == *newest && **bytes != signed.bytes;
        is_other.then(|| Proof::of_equivocation::<T>(bytes, &signed.bytes))
    }

    /// Judges an announcement. `opened` is what [`dunlin_wire::envelope::open`] said of `bytes`, which are kept where it
    /// counts, `source` who is said to have sent it, and `now` the time by both clocks.
    pub fn judge<T: Announcement>(
        &mut self,
        trust: &Trust,
        (now, unix): (Instant, UnixMillis),
        source: Option<PeerId>,
        (opened, bytes): (Result<Signed<T>, OpenError>, impl FnOnce() -> Arc<[u8]>),
    ) -> Verdict<T> {
        let signed = match opened {
            Ok(signed) => signed,
            Err(error) => return Verdict::Reject { is_forged: error == OpenError::Signature },
        };
        let author = signed.signer;
        if source != Some(author) || !signed.value.is_valid() {
            return Verdict::Reject { is_forged: false };
        }
        // What a peer that is not heard says is dropped without blame for those who still hear it.
        if trust.may(unix, &author, Operation::AcceptAnnouncement).is_err() {
            return Verdict::Ignore;
        }
        let (collection, sequence) = signed.value.place();
        let place = Place::of::<T>(&author, collection);
        // Old news, which anybody can repeat, do not use up what their author may say.
        if self.newest.get(&place).is_some_and(|(newest, _)| sequence <= *newest) {
            return Verdict::Ignore;
        }
        let rate = Subject::of(&author);
        let bucket = self.rates.get_or_insert(rate, || Bucket::full(ANNOUNCING, now));
        if !bucket.take(ANNOUNCING, now) {
            return Verdict::Ignore;
        }
        *self.newest.get_or_insert(place, || (0, Arc::default())) = (sequence, bytes());
        Verdict::Accept { author, announcement: signed.value }
    }
}
