//! Records on the DHT: what this node tells, what it asks, and what it keeps for others.

use std::{
    cmp::Ordering,
    collections::HashMap,
    time::{Instant, SystemTime},
};

use dunlin_archive::ipns::{Name, Record};
use dunlin_trust::Operation;
use dunlin_wire::Cid;
use libp2p::{
    PeerId,
    kad::{
        self, GetRecordOk, ProviderRecord, PutRecordError, PutRecordOk, QueryId, QueryResult,
        QueryStats, Quorum, store::RecordStore,
    },
};

use super::{Actor, QUERIES_MAX, Reply, record_key, refuse, unix_now};
use crate::{
    NetworkError, address_book::is_dialable, config::ADDRESSES_PER_PEER_MAX, handle::Records,
    name_store::key_of,
};

/// Longest DHT key that is kept for others: a CID has 36 bytes, a multihash 34, a name 44.
const KEY_BYTES_MAX: usize = 64;

/// Records of a name after which nobody else is asked: IPFS asks for as many.
const ANSWERS_ENOUGH: usize = 16;

/// The questions to the DHT about records that are under way. All of them together have a limit.
#[derive(Debug, Default)]
pub(super) struct Telling {
    provides: HashMap<QueryId, Reply<bool>>,
    puts: HashMap<QueryId, Reply<usize>>,
    names: HashMap<QueryId, Asked>,
}

/// A question for a name's record.
#[derive(Debug)]
struct Asked {
    name: Name,
    newest: Option<Record>,
    answers: usize,
    reply: Reply<Option<Record>>,
}

impl Telling {
    pub(super) fn len(&self) -> usize {
        self.provides.len() + self.puts.len() + self.names.len()
    }
}

impl Actor {
    pub(super) fn provide(&mut self, cid: &Cid, reply: Reply<bool>) {
        if self.telling.len() >= QUERIES_MAX {
            return refuse(reply, NetworkError::Busy);
        }
        match self.swarm.behaviour_mut().kad.start_providing(record_key(cid)) {
            Ok(id) => drop(self.telling.provides.insert(id, reply)),
            Err(cause) => refuse(reply, NetworkError::Impossible { cause: cause.to_string() }),
        }
    }

    /// Says to those who ask that these are here, as others were told before.
    pub(super) fn hold(&mut self, cids: &[Cid]) {
        let me = *self.swarm.local_peer_id();
        let store = self.swarm.behaviour_mut().kad.store_mut();
        for cid in cids {
            let record = ProviderRecord::new(record_key(cid), me, Vec::new());
            if let Err(cause) = store.add_provider(record) {
                tracing::debug!(%cid, %cause, "not held");
            }
        }
    }

    pub(super) fn withdraw(&mut self, cid: &Cid) {
        self.swarm.behaviour_mut().kad.stop_providing(&record_key(cid));
    }

    pub(super) fn put_name(&mut self, name: &Name, record: &Record, reply: Reply<usize>) {
        if self.telling.len() >= QUERIES_MAX {
            return refuse(reply, NetworkError::Busy);
        }
        let mut value = kad::Record::new(key_of(name), record.bytes().to_vec());
        let left = record.eol().duration_since(SystemTime::now()).unwrap_or_default();
        value.expires = Instant::now().checked_add(left);
        match self.swarm.behaviour_mut().kad.put_record(value, Quorum::All) {
            Ok(id) => drop(self.telling.puts.insert(id, reply)),
            Err(cause) => refuse(reply, NetworkError::Impossible { cause: cause.to_string() }),
        }
    }

    pub(super) fn resolve_name(&mut self, name: Name, reply: Reply<Option<Record>>) {
        if self.telling.len() >= QUERIES_MAX {
            return refuse(reply, NetworkError::Busy);
        }
        let id = self.swarm.behaviour_mut().kad.get_record(key_of(&name));
        self.telling.names.insert(id, Asked { name, newest: None, answers: 0, reply });
    }

    /// Lists what this node keeps of the DHT.
    pub(super) fn records(&mut self) -> Records {
        let store = self.swarm.behaviour_mut().kad.store_mut();
        Records { providers: store.all_providers().collect(), names: store.names.names().collect() }
    }

    /// Takes a provider record that a peer sent.
    pub(super) fn on_provider_record(&mut self, mut record: kad::ProviderRecord) {
        let reach = self.config.reach;
        record.addresses.retain(|address| is_dialable(address, reach));
        record.addresses.truncate(ADDRESSES_PER_PEER_MAX);
        let is_fit =
            record.key.as_ref().len() <= KEY_BYTES_MAX && self.keeps_records_of(&record.provider);
        let stored =
            is_fit && self.swarm.behaviour_mut().kad.store_mut().add_provider(record).is_ok();
        self.count_record(stored);
    }

    /// Takes a value that a peer sent.
    pub(super) fn on_value_record(&mut self, source: PeerId, record: kad::Record) {
        let is_fit = record.key.as_ref().len() <= KEY_BYTES_MAX && self.keeps_records_of(&source);
        let stored = is_fit && {
            let names = &mut self.swarm.behaviour_mut().kad.store_mut().names;
            let kept = names.offer(source, record, SystemTime::now(), Instant::now());
            kept.inspect_err(|cause| tracing::debug!(peer = %source, %cause, "record refused"))
                .is_ok()
        };
        self.count_record(stored);
    }

    fn keeps_records_of(&self, peer: &PeerId) -> bool {
        self.peers.is_identified(peer)
            && self.trust.may(unix_now(), peer, Operation::AcceptAnnouncement).is_ok()
    }

    fn count_record(&mut self, stored: bool) {
        self.counters.records_stored += u64::from(stored);
        self.counters.records_refused += u64::from(!stored);
    }

    /// Takes what became of a question about records.
    pub(super) fn on_record_result(
        &mut self,
        id: QueryId,
        result: QueryResult,
        stats: &QueryStats,
    ) {
        match result {
            QueryResult::StartProviding(result) => {
                if let Some(reply) = self.telling.provides.remove(&id) {
                    // Records are sent to those who answered the question who is near; without them there
                    // was nobody to tell.
                    reply.send(Ok(result.is_ok() && stats.num_successes() > 0)).ok();
                }
            }
            QueryResult::PutRecord(result) => {
                if let Some(reply) = self.telling.puts.remove(&id) {
                    let peers = match result {
                        Ok(PutRecordOk { .. }) => kad::K_VALUE.get(),
                        Err(
                            PutRecordError::QuorumFailed { success, .. }
                            | PutRecordError::Timeout { success, .. },
                        ) => success.len(),
                    };
                    reply.send(Ok(peers)).ok();
                }
            }
            QueryResult::GetRecord(Ok(GetRecordOk::FoundRecord(found))) => {
                self.on_name_record(id, &found.record);
            }
            _ => {}
        }
    }

    fn on_name_record(&mut self, id: QueryId, found: &kad::Record) {
        let Some(asked) = self.telling.names.get_mut(&id) else { return };
        match Record::open(&asked.name, &found.value, SystemTime::now()) {
            Ok(record) => {
                let is_newer = |newest: &Record| newest.compare(&record) == Ordering::Less;
                if asked.newest.as_ref().is_none_or(is_newer) {
                    asked.newest = Some(record);
                }
                asked.answers += 1;
            }
            Err(cause) => {
                tracing::debug!(name = %asked.name, %cause, "an answer is no record");
                self.counters.records_refused += 1;
            }
        }
        if asked.answers >= ANSWERS_ENOUGH
            && let Some(mut query) = self.swarm.behaviour_mut().kad.query_mut(&id)
        {
            query.finish();
        }
    }

    /// Answers whoever asked for a name, when the question has ended.
    pub(super) fn on_name_asked(&mut self, id: QueryId) {
        if let Some(asked) = self.telling.names.remove(&id) {
            // Whoever asked may have given up.
            asked.reply.send(Ok(asked.newest)).ok();
        }
    }
}
