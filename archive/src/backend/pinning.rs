//! A backend, and a pinning service that keeps what may leave as well.
//!
//! [`Pinning::put`] and [`Pinning::unpin`] write down durably what the service has to be asked for, and
//! return when the backend inside is done: a service that cannot be reached keeps nobody waiting.
//! [`Pinning::advance`] asks what is due, and is called again and again by whoever owns a clock. It goes on
//! where it stopped, after a restart too.
//!
//! Only what a public pin holds is ever named to the service.

use std::collections::BTreeMap;

use dunlin_wire::{Cid, block::Block};

use super::{
    Backend, BackendError, Counts, RequestProblem, Requests, Service, ServiceError,
    requests::{Entry, State},
    service::{Answer, Status},
};
use crate::{Object, Pin};

/// Entries that one round looks at, each with a question or three. Other work waits for its end.
const ROUND: usize = 20;

const SECOND_MS: u64 = 1_000;
const HOUR_MS: u64 = 60 * 60 * SECOND_MS;

/// How soon it is looked whether a request has come further; twice as long each time.
const POLL_MS: (u64, u64) = (5 * SECOND_MS, 600 * SECOND_MS);

/// How soon a request that failed is made again; twice as long each time.
const RETRY_MS: (u64, u64) = (60 * SECOND_MS, 6 * HOUR_MS);

/// How soon it is looked whether what was pinned is so still.
const RECHECK_MS: u64 = 24 * HOUR_MS;

/// A backend with a pinning service behind it.
#[derive(Debug)]
pub struct Pinning<B> {
    inner: B,
    service: Service,
    requests: Requests,
}

/// What a round came to.
#[derive(Debug, Default)]
pub struct Round {
    /// When the next one has something to do, in milliseconds since the epoch; `None`: when something is put.
    pub next_ms: Option<u64>,
    /// Peers of the service that want to fetch: multiaddresses to connect to, none of them checked.
    pub delegates: Vec<String>,
    /// Why it ended early: the service is not there, or refuses everything.
    pub stopped: Option<ServiceError>,
}

impl<B: Backend> Pinning<B> {
    /// Decorates a backend.
    #[must_use]
    pub fn new(inner: B, service: Service, requests: Requests) -> Self {
        Self { inner, service, requests }
    }

    /// Returns the service.
    #[must_use]
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// Returns how many roots are in each state.
    ///
    /// # Errors
    ///
    /// Fails when the file of requests cannot be read.
    pub fn counts(&self) -> Result<Counts, BackendError> {
        Ok(self.requests.counts()?)
    }

    /// Returns up to `limit` roots about which the service complained.
    ///
    /// # Errors
    ///
    /// Fails when the file of requests cannot be read.
    pub fn problems(&self, limit: usize) -> Result<Vec<RequestProblem>, BackendError> {
        Ok(self.requests.problems(limit)?)
    }

    /// Asks the service what is due at `now_ms`, milliseconds since the epoch. `origins` are the addresses
    /// at which the service finds the blocks.
    ///
    /// # Errors
    ///
    /// Fails when the file of requests cannot be read or written. A service that fails is no error: the
    /// round says so, and what it did not do stays due.
    pub fn advance(&self, now_ms: u64, origins: &[String]) -> Result<Round, BackendError> {
        let mut round = Round::default();
        for (root, before) in self.requests.due(now_ms, ROUND)? {
            let mut now = before.clone();
            let asked = match before.state {
                State::Leaving => self.take_back(&root, &before).map(|()| None),
                State::Waiting => self.ask(&root, origins).map(Some),
                State::Failed => self.ask_again(&root, &before, origins).map(Some),
                State::Queued | State::Pinning | State::Pinned => self.look(&root, &before),
            };
            let entry = match asked {
                Ok(Some(answer)) => {
                    now.heard(&answer, now_ms);
                    if answer.status == Status::Queued || answer.status == Status::Pinning {
                        round.delegates.extend(answer.delegates);
                    }
                    Some(&now)
                }
                Ok(None) if before.state == State::Leaving => None,
                Ok(None) => {
                    // The service has lost it.
                    now =
                        Entry { problem: Some("the service forgot it".to_owned()), ..Entry::new() };
                    Some(&now)
                }
                Err(cause) if cause.is_general() => {
                    round.stopped = Some(cause);
                    break;
                }
                Err(cause) => {
                    now.failed(cause.to_string(), now_ms);
                    Some(&now)
                }
            };
            // Put or unpinned meanwhile: then it is due again.
            self.requests.change(&root, Some(&before), entry)?;
        }
        round.delegates.sort_unstable();
        round.delegates.dedup();
        round.next_ms = self.requests.next_ms()?;
        Ok(round)
    }

    /// Makes a request, unless an earlier one's answer got lost.
    fn ask(&self, root: &Cid, origins: &[String]) -> Result<Answer, ServiceError> {
        let alive = |answer: &Answer| answer.status != Status::Failed;
        match self.service.find(root)?.into_iter().find(alive) {
            Some(answer) => Ok(answer),
            None => self.service.add(root, origins),
        }
    }

    fn ask_again(
        &self,
        root: &Cid,
        before: &Entry,
        origins: &[String],
    ) -> Result<Answer, ServiceError> {
        if let Some(id) = &before.id {
            self.service.remove(id)?;
        }
        self.ask(root, origins)
    }

    fn look(&self, root: &Cid, before: &Entry) -> Result<Option<Answer>, ServiceError> {
        match &before.id {
            Some(id) => self.service.check(root, id),
            None => Ok(None),
        }
    }

    /// Takes back what was asked for, and what a lost answer may have left there.
    fn take_back(&self, root: &Cid, before: &Entry) -> Result<(), ServiceError> {
        if let Some(id) = &before.id {
            self.service.remove(id)?;
        }
        for answer in self.service.find(root)? {
            if Some(&answer.id) != before.id.as_ref() {
                self.service.remove(&answer.id)?;
            }
        }
        Ok(())
    }

    /// Writes down that the service shall keep a root.
    fn want(&self, root: &Cid) -> Result<(), BackendError> {
        loop {
            let before = self.requests.entry(root)?;
            let now = match &before {
                None => Entry::new(),
                // It may be removed there or not: the next round finds out.
                Some(entry) if entry.state == State::Leaving => Entry::new(),
                Some(_) => return Ok(()),
            };
            if self.requests.change(root, before.as_ref(), Some(&now))? {
                return Ok(());
            }
        }
    }

    /// Writes down that the service shall let go of a root.
    fn release(&self, root: &Cid) -> Result<(), BackendError> {
        loop {
            let Some(before) = self.requests.entry(root)? else { return Ok(()) };
            if before.state == State::Leaving {
                return Ok(());
            }
            let now = Entry { id: before.id.clone(), state: State::Leaving, ..Entry::new() };
            if self.requests.change(root, Some(&before), Some(&now))? {
                return Ok(());
            }
        }
    }
}

impl Entry {
    /// Takes in what the service says.
    fn heard(&mut self, answer: &Answer, now_ms: u64) {
        let state = match answer.status {
            Status::Queued => State::Queued,
            Status::Pinning => State::Pinning,
            Status::Pinned => State::Pinned,
            Status::Failed => {
                self.id = Some(answer.id.clone());
                let said = answer.details().unwrap_or_else(|| "the service failed".to_owned());
                return self.failed(said, now_ms);
            }
        };
        self.polls = if state == self.state { self.polls.saturating_add(1) } else { 0 };
        let pause = match state {
            State::Pinned => {
                self.attempts = 0;
                RECHECK_MS
            }
            _ => grown(POLL_MS, self.polls),
        };
        self.next_ms = now_ms.saturating_add(pause);
        (self.id, self.state, self.problem) = (Some(answer.id.clone()), state, None);
    }

    fn failed(&mut self, problem: String, now_ms: u64) {
        if self.state != State::Leaving {
            self.state = State::Failed;
        }
        self.next_ms = now_ms.saturating_add(grown(RETRY_MS, self.attempts));
        self.attempts = self.attempts.saturating_add(1);
        self.problem = Some(problem);
    }
}

/// Returns what a service is asked for, for a root under a pin. It keeps everything behind a CID, so that of a
/// file's blocks, which are pinned here one by one, it needs the root alone, under the name that it has there.
fn asked_for(pin: &Pin, root: &Cid) -> Option<Cid> {
    match pin.imported_root() {
        None => Some(*root),
        Some(of_file) => (of_file.hash() == root.hash()).then_some(of_file),
    }
}

/// Returns a pause that has doubled so many times.
fn grown((first, longest): (u64, u64), times: u32) -> u64 {
    first.saturating_mul(1_u64.checked_shl(times).unwrap_or(u64::MAX)).min(longest)
}

impl<B: Backend> Backend for Pinning<B> {
    fn describe(&self) -> Result<String, BackendError> {
        self.inner.describe()
    }

    fn put(&self, object: &Object) -> Result<(), BackendError> {
        self.inner.put(object)?;
        match asked_for(&object.pin, object.root.cid()) {
            Some(cid) if object.pin.is_public() => self.want(&cid),
            // It may have been public before.
            Some(cid) => self.release(&cid),
            None => Ok(()),
        }
    }

    fn unpin(&self, pin: &Pin, root: &Cid) -> Result<(), BackendError> {
        if let Some(cid) = asked_for(pin, root) {
            self.release(&cid)?;
        }
        self.inner.unpin(pin, root)
    }

    fn block(&self, cid: &Cid) -> Result<Option<Block>, BackendError> {
        self.inner.block(cid)
    }

    fn has(&self, cid: &Cid) -> Result<bool, BackendError> {
        self.inner.has(cid)
    }

    fn is_pinned(&self, pin: &Pin, root: &Cid) -> Result<bool, BackendError> {
        self.inner.is_pinned(pin, root)
    }

    fn pins(&self) -> Result<BTreeMap<Pin, u64>, BackendError> {
        self.inner.pins()
    }

    fn bytes(&self) -> Result<u64, BackendError> {
        self.inner.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_their_limit() {
        let pauses: Vec<_> = (0..5).map(|times| grown((5, 30), times)).collect();
        assert_eq!(pauses, [5, 10, 20, 30, 30]);
        assert_eq!(grown(RETRY_MS, u32::MAX), RETRY_MS.1);
    }
}
