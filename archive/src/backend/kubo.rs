//! Blocks in the repository of a Kubo node, over its RPC API (`/api/v0`, POST alone).
//!
//! Blocks are put one by one and not as a CAR, because `dag/import` waits for the network where a link leads
//! out of the file. Every read and every pin is `offline`: what the node does not have is not searched for,
//! so that nothing hangs and a missing block is an answer.
//!
//! Kubo has one pin for each CID, with one name. Ours are called `dunlin/<owner>/<pin>`; a root that is
//! pinned under another name is somebody else's business, is kept by that pin, and stays as it is.

use std::{collections::BTreeMap, fmt};

use dunlin_wire::{
    Cid,
    block::{Block, Codec},
    limits::BLOCK_BYTES_MAX,
};
use serde::{
    Deserialize,
    de::{IgnoredAny, MapAccess, Visitor},
};

use super::{
    Backend, BackendError,
    http::{Call, Credential, Http, Method, Reply, ServiceUrl, Timeouts},
};
use crate::{Object, Pin, dag};

/// Blocks of one upload, so that it fits the timeouts on a slow disk.
const UPLOAD_BLOCKS_MAX: usize = 64;

/// Bytes of one upload; a single block may be larger. They are in memory twice.
const UPLOAD_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Longest answer but for blocks and lists of pins. An upload is answered with some 100 bytes for each block.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Longest list of all pins: some ten million. It is read as it comes.
const PINS_BYTES_MAX: u64 = 2 << 30;

/// Longest name of a pin that Kubo takes.
const NAME_BYTES_MAX: usize = 255;

/// Addresses of the node that are passed on.
const ADDRESSES_MAX: usize = 20;

/// A Kubo node as a place for blocks. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Kubo {
    http: Http,
    /// What the names of our pins begin with.
    prefix: String,
    /// How long Kubo itself may work on one call.
    timeout: String,
}

impl Kubo {
    /// Returns the Kubo whose RPC listens at `url`, for pins of `owner`: nodes that share one Kubo need
    /// different ones. Nothing is asked yet.
    #[must_use]
    pub fn new(
        url: ServiceUrl,
        owner: &str,
        credential: Option<Credential>,
        timeouts: Timeouts,
    ) -> Self {
        let timeout = format!("{}ms", timeouts.answer.as_millis());
        let prefix = format!("dunlin/{owner}/");
        Self { http: Http::new(url, credential, timeouts), prefix, timeout }
    }

    /// Returns where other nodes reach this one, as far as it tells.
    ///
    /// # Errors
    ///
    /// Fails when it does not answer.
    pub fn addresses(&self) -> Result<Vec<String>, BackendError> {
        let mut addresses = self.identity()?.addresses.unwrap_or_default();
        addresses.truncate(ADDRESSES_MAX);
        Ok(addresses)
    }

    /// Makes the node connect to a peer: to one that wants to fetch from it.
    ///
    /// # Errors
    ///
    /// Fails when it cannot.
    pub fn connect(&self, address: &str) -> Result<(), BackendError> {
        self.ask("swarm/connect", &[("arg", address)]).map(drop)
    }

    fn identity(&self) -> Result<Identity, BackendError> {
        let reply = self.ask("id", &[])?;
        self.parse("id", &reply.body)
    }

    /// Uploads blocks, and makes sure that they got the names that they have here.
    fn upload(&self, codec: &str, blocks: &[&Block]) -> Result<(), BackendError> {
        let path = "/api/v0/block/put";
        let (boundary, body) = multipart(blocks);
        let content_type = format!("multipart/form-data; boundary={boundary}");
        let call = Call {
            path,
            query: &[("cid-codec", codec), ("mhtype", "sha2-256"), ("pin", "false")],
            method: Method::PostBody { content_type: &content_type, bytes: &body },
            is_repeatable: true,
            answer_bytes_max: ANSWER_BYTES_MAX,
        };
        let reply = self.accepted("block/put", self.http.call(&call)?)?;
        let stored = serde_json::Deserializer::from_slice(&reply.body).into_iter::<Stored>();
        let stored =
            stored.map(|stored| stored.ok()?.key.parse().ok()).collect::<Option<Vec<Cid>>>();
        let expected = blocks.iter().map(|block| *block.cid());
        if stored.is_some_and(|stored| stored.into_iter().eq(expected)) {
            Ok(())
        } else {
            Err(self.no_sense("block/put"))
        }
    }

    /// Sets a pin, which holds what the root links to as far as it is here.
    fn pin(&self, object: &Object) -> Result<(), BackendError> {
        let root = object.root.cid();
        let missing = |link: &Cid| object.links.iter().all(|block| block.cid() != link);
        // A block that is not readable as what it claims to be has no links for Kubo either.
        let links = dag::links(root, object.root.bytes()).unwrap_or_default();
        let is_whole = !links.iter().any(missing);
        if !is_whole && !object.links.is_empty() {
            return Err(BackendError::Incomplete { root: *root });
        }
        let recursive = if is_whole { "true" } else { "false" };
        let name = self.name(&object.pin)?;
        let root = root.to_string();
        let query = [
            ("arg", root.as_str()),
            ("recursive", recursive),
            ("name", &name),
            ("offline", "true"),
            ("timeout", &self.timeout),
        ];
        self.ask("pin/add", &query).map(drop)
    }

    fn name(&self, pin: &Pin) -> Result<String, BackendError> {
        let name = format!("{}{}", self.prefix, pin.as_str());
        if name.len() > NAME_BYTES_MAX {
            let what = format!("a name of {} bytes", name.len());
            let (who, message) = (self.who(), format!("at most {NAME_BYTES_MAX} are taken"));
            return Err(BackendError::Refused { who, what, status: 400, message });
        }
        Ok(name)
    }

    /// Returns the name of the pin that holds a root, if one does by itself.
    fn pinned_as(&self, root: &Cid) -> Result<Option<String>, BackendError> {
        let root = root.to_string();
        // Not `all`: that looks through every other pin, whether it leads to the root.
        for kind in ["recursive", "direct"] {
            let query =
                [("arg", root.as_str()), ("type", kind), ("names", "true"), ("offline", "true")];
            let reply = match self.ask("pin/ls", &query) {
                Err(BackendError::Refused { message, .. }) if message.contains("not pinned") => {
                    continue;
                }
                reply => reply?,
            };
            let listed: Listed = self.parse("pin/ls", &reply.body)?;
            if let Some(pin) = listed.keys.into_values().next() {
                return Ok(Some(pin.name.unwrap_or_default()));
            }
        }
        Ok(None)
    }

    fn count_pins(&self, kind: &str, counts: &mut BTreeMap<Pin, u64>) -> Result<(), BackendError> {
        let call = Call {
            path: "/api/v0/pin/ls",
            query: &[("type", kind), ("name", &self.prefix), ("names", "true")],
            method: Method::Post,
            is_repeatable: true,
            answer_bytes_max: PINS_BYTES_MAX,
        };
        // The list is one JSON value, so that one that broke off is no list.
        let listed = self.http.stream(&call, |body| {
            serde_json::from_reader::<_, Counted>(std::io::BufReader::new(body))
        })?;
        match listed {
            Ok(Ok(Counted { names })) => {
                for (name, count) in names {
                    if let Some(pin) = name.strip_prefix(&self.prefix) {
                        *counts.entry(Pin::from_stored(pin)).or_default() += count;
                    }
                }
                Ok(())
            }
            Ok(Err(cause)) if cause.is_io() => {
                Err(self.http.broke_off(cause.into(), PINS_BYTES_MAX).into())
            }
            Ok(Err(_)) => Err(self.no_sense("pin/ls")),
            Err(refused) => self.accepted("pin/ls", refused).map(drop),
        }
    }

    fn ask(&self, what: &str, query: &[(&str, &str)]) -> Result<Reply, BackendError> {
        self.ask_for(what, query, ANSWER_BYTES_MAX)
    }

    fn ask_for(
        &self,
        what: &str,
        query: &[(&str, &str)],
        answer_bytes_max: u64,
    ) -> Result<Reply, BackendError> {
        let path = format!("/api/v0/{what}");
        let method = Method::Post;
        let call = Call { path: &path, query, method, is_repeatable: true, answer_bytes_max };
        self.accepted(what, self.http.call(&call)?)
    }

    fn accepted(&self, what: &str, reply: Reply) -> Result<Reply, BackendError> {
        if reply.status == 200 {
            return Ok(reply);
        }
        let said: Option<Complaint> = serde_json::from_slice(&reply.body).ok();
        let message = match said {
            Some(complaint) => super::http::shortened(&complaint.message),
            None => reply.message(),
        };
        let (who, what) = (self.who(), what.to_owned());
        Err(BackendError::Refused { who, what, status: reply.status, message })
    }

    fn parse<'a, T: Deserialize<'a>>(&self, what: &str, body: &'a [u8]) -> Result<T, BackendError> {
        serde_json::from_slice(body).map_err(|_| self.no_sense(what))
    }

    fn no_sense(&self, what: &str) -> BackendError {
        BackendError::Answer { who: self.who(), what: what.to_owned() }
    }

    fn who(&self) -> String {
        format!("Kubo at {}", self.http.url())
    }
}

impl Backend for Kubo {
    fn describe(&self) -> Result<String, BackendError> {
        let agent = self.identity()?.agent;
        let agent = super::http::shortened(agent.trim_end_matches('/'));
        Ok(format!("{agent} at {}", self.http.url()))
    }

    fn put(&self, object: &Object) -> Result<(), BackendError> {
        // What a pin holds is there before the pin is.
        for (codec, name) in [(Codec::Raw, "raw"), (Codec::DagCbor, "dag-cbor")] {
            let blocks = object.links.iter().chain([&object.root]);
            let blocks: Vec<_> =
                blocks.filter(|block| Codec::of(block.cid()) == Some(codec)).collect();
            for batch in batches(&blocks) {
                self.upload(name, batch)?;
            }
        }
        match self.pinned_as(object.root.cid())? {
            Some(name) if !name.starts_with(&self.prefix) => Ok(()),
            _ => self.pin(object),
        }
    }

    fn unpin(&self, _pin: &Pin, root: &Cid) -> Result<(), BackendError> {
        match self.pinned_as(root)? {
            Some(name) if name.starts_with(&self.prefix) => {}
            _ => return Ok(()),
        }
        let root = root.to_string();
        // Recursive is right for either kind.
        let query = [("arg", root.as_str()), ("recursive", "true"), ("offline", "true")];
        match self.ask("pin/rm", &query) {
            Err(BackendError::Refused { message, .. }) if message.contains("not pinned") => Ok(()),
            done => done.map(drop),
        }
    }

    fn block(&self, cid: &Cid) -> Result<Option<Block>, BackendError> {
        let text = cid.to_string();
        let query = [("arg", text.as_str()), ("offline", "true"), ("timeout", &self.timeout)];
        let reply = match self.ask_for("block/get", &query, BLOCK_BYTES_MAX as u64) {
            Err(BackendError::Refused { status: 500, message, .. }) if is_absent(&message) => {
                return Ok(None);
            }
            reply => reply?,
        };
        let block = Block::verified(*cid, reply.body);
        block.map(Some).map_err(|_| BackendError::Wrong { who: self.who(), cid: *cid })
    }

    fn has(&self, cid: &Cid) -> Result<bool, BackendError> {
        let text = cid.to_string();
        let query = [("arg", text.as_str()), ("offline", "true"), ("timeout", &self.timeout)];
        match self.ask("block/stat", &query) {
            Ok(_) => Ok(true),
            Err(BackendError::Refused { status: 500, message, .. }) if is_absent(&message) => {
                Ok(false)
            }
            Err(cause) => Err(cause),
        }
    }

    fn is_pinned(&self, pin: &Pin, root: &Cid) -> Result<bool, BackendError> {
        Ok(self.pinned_as(root)? == Some(self.name(pin)?))
    }

    fn pins(&self) -> Result<BTreeMap<Pin, u64>, BackendError> {
        let mut counts = BTreeMap::new();
        for kind in ["recursive", "direct"] {
            self.count_pins(kind, &mut counts)?;
        }
        Ok(counts)
    }

    fn bytes(&self) -> Result<u64, BackendError> {
        let reply = self.ask("repo/stat", &[("size-only", "true")])?;
        Ok(self.parse::<Repository>("repo/stat", &reply.body)?.size)
    }
}

/// Returns whether Kubo says that it does not have a block: it has no code for that.
fn is_absent(message: &str) -> bool {
    message.contains("not found") || message.contains("could not find")
}

/// Cuts blocks into uploads.
fn batches<'a, 'b>(blocks: &'b [&'a Block]) -> impl Iterator<Item = &'b [&'a Block]> {
    let mut rest = blocks;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |block: &&&Block| {
            bytes += block.bytes().len();
            bytes <= UPLOAD_BYTES_MAX
        };
        let count = rest.iter().take(UPLOAD_BLOCKS_MAX).take_while(fits).count();
        let (batch, behind) = rest.split_at(count.max(1).min(rest.len()));
        rest = behind;
        (!batch.is_empty()).then_some(batch)
    })
}

/// Returns blocks as the files of a form, with the line that separates them.
fn multipart(blocks: &[&Block]) -> (String, Vec<u8>) {
    // No block can be made to hold a line that depends on its own hash.
    let boundary = blocks.first().map_or_else(String::new, |block| block.cid().to_string());
    let mut body = Vec::new();
    for block in blocks {
        let mut head = format!("--{boundary}\r\n");
        head.push_str("Content-Disposition: form-data; name=\"data\"; filename=\"block\"\r\n");
        head.push_str("Content-Type: application/octet-stream\r\n\r\n");
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(block.bytes());
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    (boundary, body)
}

#[derive(Deserialize)]
struct Complaint {
    #[serde(rename = "Message")]
    message: String,
}

#[derive(Deserialize)]
struct Stored {
    #[serde(rename = "Key")]
    key: String,
}

#[derive(Deserialize)]
struct Identity {
    #[serde(rename = "AgentVersion")]
    agent: String,
    #[serde(rename = "Addresses")]
    addresses: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Repository {
    #[serde(rename = "RepoSize")]
    size: u64,
}

#[derive(Deserialize)]
struct Listed {
    #[serde(rename = "Keys", default)]
    keys: BTreeMap<String, ListedPin>,
}

#[derive(Deserialize)]
struct ListedPin {
    #[serde(rename = "Name")]
    name: Option<String>,
}

/// How many pins have each name, counted while the list is read.
struct Counted {
    names: BTreeMap<String, u64>,
}

impl<'de> Deserialize<'de> for Counted {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct List {
            #[serde(rename = "Keys", default)]
            keys: Option<Names>,
        }
        let names = List::deserialize(deserializer)?.keys.map(|Names(names)| names);
        Ok(Self { names: names.unwrap_or_default() })
    }
}

struct Names(BTreeMap<String, u64>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Count;
        impl<'de> Visitor<'de> for Count {
            type Value = Names;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("pins by their CIDs")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
                let mut names = BTreeMap::new();
                while let Some((IgnoredAny, pin)) = map.next_entry::<_, ListedPin>()? {
                    *names.entry(pin.name.unwrap_or_default()).or_default() += 1;
                }
                Ok(Names(names))
            }
        }
        deserializer.deserialize_map(Count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_are_cut_by_count_and_by_size() {
        let small: Vec<_> =
            (0..130_u32).map(|n| Block::new(Codec::Raw, n.to_be_bytes().to_vec())).collect();
        let cut = |blocks: &[Block]| {
            let blocks: Vec<_> = blocks.iter().collect();
            batches(&blocks).map(<[_]>::len).collect::<Vec<_>>()
        };
        assert_eq!(cut(&small), [64, 64, 2]);
        let large: Vec<_> =
            (0..5_u8).map(|n| Block::new(Codec::Raw, vec![n; BLOCK_BYTES_MAX])).collect();
        assert_eq!(cut(&large), [2, 2, 1]);
        assert!(cut(&[]).is_empty());
    }

    #[test]
    fn pins_are_counted_by_name_whatever_else_is_said() {
        let list = r#"{"Keys":{"a":{"Type":"recursive","Name":"x"},"b":{"Type":"direct"},
            "c":{"Type":"recursive","Name":"x","More":[1,{"a":2}]}}}"#;
        let Counted { names } = serde_json::from_str(list).unwrap();
        assert_eq!(names, BTreeMap::from([(String::new(), 1), ("x".to_owned(), 2)]));
        assert!(serde_json::from_str::<Counted>("{}").unwrap().names.is_empty());
        assert!(serde_json::from_str::<Counted>(&list[..80]).is_err());
    }
}
