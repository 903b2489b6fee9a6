//! What follows from what peers answered.

use std::time::Duration;

use rand_chacha::rand_core::Rng as _;

use super::{
    Action, AskOutcome, Conduct, DENIED_PAUSE, FAILED_PAUSE, FULL_PAUSE, Failure, HASTE, Kind,
    MISS_PAUSE, MISSES_MAX, Placed, Replication, RequestId, UNSENT_PAUSE, Verdict, object::Key,
};

impl Replication {
    pub(super) fn on_asked(
        &mut self,
        now: Duration,
        request: RequestId,
        answer: Result<Vec<AskOutcome>, Failure>,
    ) {
        let Some((number, keys)) = self.end(request, Kind::Ask) else { return };
        match answer {
            Ok(outcomes) => {
                let peer = &mut self.peers[number];
                (peer.failures, peer.not_before) = (0, now);
                for (key, outcome) in keys.iter().zip(&outcomes) {
                    self.on_outcome(now, number, *key, *outcome);
                }
                // An answer that is too short says nothing about the rest.
                self.wait_again(number, keys.get(outcomes.len()..).unwrap_or_default());
            }
            Err(failure) => {
                self.wait_again(number, &keys);
                self.on_failure(now, number, failure);
            }
        }
    }

    /// Puts placements back that are still to be asked for.
    fn wait_again(&mut self, number: u16, keys: &[Key]) {
        for key in keys {
            if self.state_at(number, key) == Some(Placed::Asked) {
                self.peers[number].waiting.insert(*key);
            }
        }
    }

    fn state_at(&self, number: u16, key: &Key) -> Option<Placed> {
        self.objects.get(key)?.holder(number).map(|holder| holder.state)
    }

    fn on_outcome(&mut self, now: Duration, number: u16, key: Key, outcome: AskOutcome) {
        // It may have been given up meanwhile.
        if self.state_at(number, &key) != Some(Placed::Asked) {
            return;
        }
        match outcome {
            AskOutcome::Held => {
                self.counters.placed += 1;
                self.change(number, key, Placed::Held);
                let peer = &mut self.peers[number];
                if peer.held == 1 {
                    // The first one is checked soon: a peer that only says so shall not get many.
                    peer.check_at = now + self.config.check_every / HASTE;
                }
            }
            AskOutcome::Pending | AskOutcome::Busy => {
                if !self.peers[number].ask_later(now, key) {
                    self.change(number, key, Placed::Lost);
                    self.pause(now, number, FULL_PAUSE);
                }
            }
            AskOutcome::Full | AskOutcome::Denied => {
                self.counters.refused += 1;
                self.forget(number, key);
                let is_full = outcome == AskOutcome::Full;
                self.pause(now, number, if is_full { FULL_PAUSE } else { DENIED_PAUSE });
            }
            AskOutcome::Absent => {
                if let Some(object) = self.objects.get_mut(&key) {
                    object.is_unfit = true;
                }
                self.look_at(key);
            }
        }
    }

    /// Gives a peer nothing more for a while; what was not asked of it yet goes to others.
    fn pause(&mut self, now: Duration, number: u16, pause: Duration) {
        let peer = &mut self.peers[number];
        peer.paused = peer.paused.max(Some(now + pause));
        for key in std::mem::take(&mut peer.waiting) {
            self.change(number, key, Placed::Lost);
        }
    }

    fn change(&mut self, number: u16, key: Key, state: Placed) {
        let Some(mut object) = self.objects.remove(&key) else { return };
        if let Some(place) = object.place_of(number) {
            self.set_state(key, &mut object, place, state);
        }
        self.objects.insert(key, object);
        if state == Placed::Lost {
            self.look_at(key);
        }
    }

    fn forget(&mut self, number: u16, key: Key) {
        let Some(mut object) = self.objects.remove(&key) else { return };
        if let Some(place) = object.place_of(number) {
            self.remove_holder(key, &mut object, place);
        }
        self.objects.insert(key, object);
        self.look_at(key);
    }

    fn on_failure(&mut self, now: Duration, number: u16, failure: Failure) {
        let peer = &mut self.peers[number];
        match failure {
            Failure::Unsent => peer.not_before = now + UNSENT_PAUSE,
            Failure::Unanswered => {
                if peer.back_off(now) {
                    self.pause(now, number, FULL_PAUSE);
                }
            }
            Failure::Denied => {
                peer.not_before = now + DENIED_PAUSE;
                self.pause(now, number, DENIED_PAUSE);
            }
        }
    }

    pub(super) fn on_released(
        &mut self,
        now: Duration,
        request: RequestId,
        answer: Result<(), Failure>,
    ) {
        let Some((number, keys)) = self.end(request, Kind::Release) else { return };
        match answer {
            Ok(()) => {
                let peer = &mut self.peers[number];
                (peer.failures, peer.not_before) = (0, now);
                for key in keys {
                    if self.state_at(number, &key) == Some(Placed::Lost) {
                        self.counters.released += 1;
                        self.forget(number, key);
                    }
                }
            }
            Err(failure) => {
                for key in keys {
                    if self.state_at(number, &key) == Some(Placed::Lost) {
                        self.peers[number].releasing.insert(key);
                    }
                }
                self.on_failure(now, number, failure);
            }
        }
    }

    pub(super) fn on_challenged(
        &mut self,
        now: Duration,
        request: RequestId,
        answer: Result<Vec<Verdict>, Failure>,
    ) {
        let Some((number, keys)) = self.end(request, Kind::Challenge) else { return };
        // Some time earlier or later, so that a peer cannot tell when it will be looked at.
        let every = self.config.check_every;
        let jitter = self.rng.next_u32() % 256;
        let usual = every * 3 / 4 + every * jitter / 512;
        let peer = &mut self.peers[number];
        match answer {
            Ok(verdicts) => {
                peer.misses = 0;
                peer.check_at = now + usual;
                self.on_verdicts(now, number, &keys, &verdicts);
            }
            Err(Failure::Unsent) => peer.check_at = now + usual / HASTE,
            Err(Failure::Unanswered | Failure::Denied) => {
                self.counters.challenges_unanswered += 1;
                peer.check_at = now + MISS_PAUSE.max(usual / HASTE);
                peer.misses += 1;
                if peer.misses >= MISSES_MAX {
                    peer.misses = 0;
                    self.void_all(now, number);
                }
            }
        }
    }

    fn on_verdicts(&mut self, now: Duration, number: u16, keys: &[Key], verdicts: &[Verdict]) {
        let count = |wanted: Verdict| verdicts.iter().filter(|found| **found == wanted).count();
        let (right, wrong, missing) =
            (count(Verdict::Right), count(Verdict::Wrong), count(Verdict::Missing));
        let failed = wrong + missing;
        self.counters.proofs_right += right as u64;
        self.counters.proofs_failed += failed as u64;
        let peer = &mut self.peers[number];
        peer.proofs_right += right as u64;
        peer.proofs_failed += failed as u64;
        if failed == 0 {
            if right > 0 {
                peer.proved = Some(now);
                peer.strikes = peer.strikes.saturating_sub(1);
            }
            return;
        }
        peer.check_at = now + self.config.check_every / HASTE;
        let conduct = if wrong > 0 { Conduct::WrongProof } else { Conduct::Lost };
        self.actions.push_back(Action::Judge { peer: peer.id, conduct });
        for (key, verdict) in keys.iter().zip(verdicts) {
            let is_lost = matches!(verdict, Verdict::Wrong | Verdict::Missing);
            // One object may have been sampled twice.
            if is_lost && self.state_at(number, key) == Some(Placed::Held) {
                self.counters.lost += 1;
                self.change(number, *key, Placed::Lost);
            }
        }
        if failed >= right {
            self.void_all(now, number);
        } else {
            self.strike(now, number);
        }
    }

    /// Counts nothing more that a peer holds.
    fn void_all(&mut self, now: Duration, number: u16) {
        let peer = &mut self.peers[number];
        peer.generation = peer.generation.wrapping_add(1);
        self.strike(now, number);
        self.look_at_all();
    }

    fn strike(&mut self, now: Duration, number: u16) {
        let peer = &mut self.peers[number];
        let pause = FAILED_PAUSE * (1 << peer.strikes);
        peer.strike();
        self.pause(now, number, pause);
    }
}
