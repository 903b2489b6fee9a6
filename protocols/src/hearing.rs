//! Which announcements are believed and passed on. Pure: the shell brings time and bytes, and does what it is told.

use std::time::{Duration, Instant};

use dunlin_trust::{Operation, Proof, Trust, UnixMillis};
use dunlin_wire::envelope::{OpenError, Signed};
use libp2p::PeerId;

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
    newest: Bounded<(PeerId, &'static str, String), (u64, Vec<u8>)>,
    rates: Bounded<PeerId, Bucket>,
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
        let place = (signed.signer, T::TYPE, collection.to_owned());
        let (newest, bytes) = self.newest.get(&place)?;
        let is_other = sequence == *newest && *bytes != signed.bytes;
        is_other.then(|| Proof::of_equivocation::<T>(bytes, &signed.bytes))
    }

    /// Judges an announcement. `opened` is what [`dunlin_wire::envelope::open`] said of its bytes, `source` who is said
    /// to have sent it, and `now` the time by both clocks.
    pub fn judge<T: Announcement>(
        &mut self,
        trust: &Trust,
        (now, unix): (Instant, UnixMillis),
        source: Option<PeerId>,
        opened: Result<Signed<T>, OpenError>,
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
        let place = (author, T::TYPE, collection.to_owned());
        // Old news, which anybody can repeat, do not use up what their author may say.
        if self.newest.get(&place).is_some_and(|(newest, _)| sequence <= *newest) {
            return Verdict::Ignore;
        }
        let bucket = self.rates.get_or_insert(author, || Bucket::full(ANNOUNCING, now));
        if !bucket.take(ANNOUNCING, now) {
            return Verdict::Ignore;
        }
        *self.newest.get_or_insert(place, Default::default) = (sequence, signed.bytes);
        Verdict::Accept { author, announcement: signed.value }
    }
}
