//! Lines of the ledger, and the receipt that one of them is worth.

use std::sync::Arc;

use crate::dataset::{DataDigest, Dataset, EntityTag, Span};
use crate::epsilon::Epsilon;
use crate::rho::Rho;
use crate::terms::{Mechanism, Terms, Unit};

use super::format::{CollectionTag, Record, Reserved};

/// What a release is going to cost, and for what.
#[derive(Clone, Debug)]
pub struct Intent<'a> {
    /// Whose observations.
    pub collection: &'a str,
    /// The observations to be released.
    pub data: &'a Dataset,
    /// What is promised for each unit of them.
    pub terms: Terms,
    /// The wall clock, in milliseconds since the Unix epoch. For people; nothing is ordered by it.
    pub now_unix_ms: u64,
    /// For people: what the release is for.
    pub purpose: &'a str,
}

/// One line of the ledger.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Entry {
    /// The collection, or `None` if a crash tore the entry: its cost counts all the same.
    pub collection: Option<String>,
    /// What was spent. With Gaussian noise, the epsilon of `rho` at `delta`.
    pub epsilon: Epsilon,
    /// The probability that the loss is larger; 0 with Laplace noise.
    pub delta: f64,
    /// What was spent, with Gaussian noise; zero with Laplace noise.
    pub rho: Rho,
    /// Which noise; `None` if the entry is torn.
    pub mechanism: Option<Mechanism>,
    /// What the loss is per; `None` if the entry is torn.
    pub unit: Option<Unit>,
    /// The time that the released observations are from; all of it, if that is not known.
    pub span: Span,
    /// How many entities took part; `None` if everyone counts as having done so.
    pub entities: Option<usize>,
    /// When, in milliseconds since the Unix epoch; `None` if the entry is torn.
    pub unix_ms: Option<u64>,
    /// What for; empty if the entry is torn.
    pub purpose: String,
    /// How it ended.
    pub outcome: Outcome,
    pub(super) tag: CollectionTag,
    pub(super) data: Option<DataDigest>,
    pub(super) cells_max: u8,
    /// What was reserved, which is more than what was spent if the release was given up.
    pub(super) reserved: Paid,
    pub(super) cohort: Option<Arc<Vec<EntityTag>>>,
    pub(super) sequence: u64,
}

/// How a reserved release ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// A crash or an error prevented it. The cost counts.
    Prevented,
    /// It was made.
    Released,
    /// The data were too few for the promise; only what was drawn until then counts.
    TooFew {
        /// How many units there were, noised.
        units_noised: u64,
        /// How many it takes.
        units_needed: u64,
    },
}

/// A cost in both currencies. With Laplace noise, rho is zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Paid {
    pub(crate) epsilon: Epsilon,
    pub(crate) rho: Rho,
}

impl Paid {
    /// Returns what `terms` cost.
    pub(crate) fn for_terms(terms: &Terms) -> Self {
        let rho = match terms.mechanism() {
            Mechanism::Laplace => Rho::ZERO,
            Mechanism::Gaussian => Rho::within(terms.epsilon(), terms.delta()),
        };
        Self { epsilon: terms.epsilon(), rho }
    }

    /// Returns the cost of a `loss` (an epsilon for Laplace noise, a rho for Gaussian), rounded up; never
    /// more than this one.
    pub(crate) fn at_most(self, loss: f64, terms: &Terms) -> Self {
        match terms.mechanism() {
            Mechanism::Laplace => {
                let epsilon = Epsilon::from_nanos((loss * 1e9).ceil() as u64);
                Self { epsilon: epsilon.min(self.epsilon), rho: Rho::ZERO }
            }
            Mechanism::Gaussian => {
                let rho = Rho::from_picos((loss * 1e12).ceil() as u64).min(self.rho);
                let epsilon = rho.epsilon(terms.delta()).unwrap_or(self.epsilon);
                Self { epsilon: epsilon.min(self.epsilon), rho }
            }
        }
    }
}

/// That a release was given up because its data are too few.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Stopped {
    /// What was spent until then.
    pub(crate) paid: Paid,
    pub(crate) units_noised: u64,
    pub(crate) units_needed: u64,
}

/// Proof that a cost is on disk. It is worth one release of the data it was made for; dropping it
/// wastes the budget.
#[derive(Debug)]
#[must_use = "dropping a receipt wastes its budget"]
pub struct Receipt {
    pub(super) sequence: u64,
    pub(super) data: DataDigest,
    pub(super) terms: Terms,
    pub(super) paid: Paid,
}

impl Receipt {
    pub(crate) fn data(&self) -> DataDigest {
        self.data
    }

    pub(crate) fn paid(&self) -> Paid {
        self.paid
    }

    /// Returns what was promised.
    #[must_use]
    pub fn terms(&self) -> &Terms {
        &self.terms
    }
}

impl Entry {
    /// An entry of which only the head could be read: it counts for everyone and all of time.
    pub(super) fn torn(record: &Record, sequence: u64) -> Self {
        Self {
            collection: None,
            epsilon: record.epsilon,
            delta: 0.0,
            rho: Rho::ZERO,
            mechanism: None,
            unit: None,
            span: Span::ALL,
            entities: None,
            unix_ms: None,
            purpose: String::new(),
            outcome: Outcome::Prevented,
            tag: record.tag,
            data: None,
            cells_max: 1,
            reserved: Paid { epsilon: record.epsilon, rho: Rho::ZERO },
            cohort: None,
            sequence,
        }
    }

    pub(super) fn fill(&mut self, reserved: Reserved, cohort: Option<Arc<Vec<EntityTag>>>) {
        self.data = reserved.data.try_into().ok().map(DataDigest);
        self.collection = Some(reserved.collection);
        self.delta = reserved.delta;
        self.rho = reserved.rho_picos.unwrap_or_default();
        self.reserved.rho = self.rho;
        self.mechanism = Some(reserved.mechanism.unwrap_or(Mechanism::Laplace));
        self.unit = Some(reserved.unit);
        self.span = Span {
            first_us: reserved.first_us.unwrap_or(Span::ALL.first_us),
            last_us: reserved.last_us.unwrap_or(Span::ALL.last_us),
        };
        self.entities = cohort.as_ref().map(|tags| tags.len());
        self.unix_ms = Some(reserved.unix_ms);
        self.purpose = reserved.purpose;
        self.cells_max = reserved.cells_max.unwrap_or(1);
        self.cohort = cohort;
    }

    /// Whether these are the terms that it was reserved under.
    pub(super) fn is_under(&self, terms: &Terms) -> bool {
        let paid = Paid::for_terms(terms);
        self.unit == Some(terms.unit())
            && self.mechanism == Some(terms.mechanism())
            && self.delta == terms.delta()
            && self.cells_max == terms.cells_max()
            && self.reserved == paid
    }
}
