//! A Kubo as far as its RPC is used: it really stores blocks, pins and collects garbage, in memory.
//!
//! Its words are those of Kubo 0.41; `interop/backends` runs the same suite against the real one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use dunlin_archive::{
    backend::{Credential, Kubo, Timeouts},
    dag,
};
use dunlin_wire::{
    Cid,
    block::{Codec, cid_of},
};
use serde_json::json;

use super::{Reply, Request, Server};

/// What the node does instead of what it should, for calls whose path begins so.
pub(crate) type Mischief = (&'static str, Reply);

#[derive(Default)]
pub(crate) struct State {
    /// By multihash, as Kubo keeps them.
    pub(crate) blocks: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) pins: BTreeMap<Cid, (String, String)>,
    pub(crate) mischief: Option<Mischief>,
    /// So many calls are answered with 503 first.
    pub(crate) busy: u32,
    pub(crate) authorization: Option<String>,
    pub(crate) calls: Vec<Request>,
}

pub(crate) struct Double {
    server: Server,
    state: Arc<Mutex<State>>,
}

impl Double {
    pub(crate) fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let of = Arc::clone(&state);
        let server = Server::start(move |request| of.lock().unwrap().answer(request));
        Self { server, state }
    }

    /// Ends the node, and returns how to start it again, with all that it had, at the same address.
    pub(crate) fn stop(self) -> impl FnOnce() -> Self {
        let Self { server, state } = self;
        let address = server.url().trim_start_matches("http://").to_owned();
        drop(server);
        move || {
            let of = Arc::clone(&state);
            let answer = move |request| of.lock().unwrap().answer(request);
            Self { server: Server::start_at(&address, answer), state }
        }
    }

    pub(crate) fn url(&self) -> String {
        self.server.url()
    }

    pub(crate) fn client(&self, timeouts: Timeouts) -> Kubo {
        self.client_with(None, timeouts)
    }

    pub(crate) fn client_with(&self, credential: Option<&str>, timeouts: Timeouts) -> Kubo {
        let credential = credential.map(|text| Credential::parse(text).unwrap());
        Kubo::new(self.url().parse().unwrap(), "me", credential, timeouts)
    }

    pub(crate) fn state<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap())
    }

    pub(crate) fn misbehave(&self, path: &'static str, reply: Reply) {
        self.state(|state| state.mischief = Some((path, reply)));
    }

    /// Removes what no pin holds.
    pub(crate) fn collect_garbage(&self) {
        self.state(|state| {
            let mut held = BTreeSet::new();
            for (root, (kind, _)) in &state.pins {
                match kind.as_str() {
                    "recursive" => held.extend(state.graph(root).unwrap()),
                    _ => held.extend([root.hash().to_bytes()]),
                }
            }
            state.blocks.retain(|hash, _| held.contains(hash));
        });
    }
}

impl State {
    fn answer(&mut self, request: Request) -> Reply {
        self.calls.push(request.clone());
        let Some(command) = request.path.strip_prefix("/api/v0/") else {
            return Reply::Say(404, b"404 page not found".to_vec());
        };
        if request.method != "POST" {
            return Reply::Say(405, b"405 - Method Not Allowed".to_vec());
        }
        if self
            .authorization
            .as_deref()
            .is_some_and(|wanted| request.header("authorization") != wanted)
        {
            return Reply::Say(403, b"Kubo RPC Access Denied: Please provide a token".to_vec());
        }
        if self.busy > 0 {
            self.busy -= 1;
            return Reply::Say(503, Vec::new());
        }
        if let Some((path, reply)) = &self.mischief
            && command.starts_with(path)
        {
            return reply.clone();
        }
        let done = match command {
            "id" => Ok(json!({
                "ID": "12D3KooW", "AgentVersion": "kubo/0.41.0/", "Addresses": ["/ip4/127.0.0.1/tcp/4001"],
            })),
            "repo/stat" => {
                let size: usize = self.blocks.values().map(Vec::len).sum();
                Ok(json!({ "RepoSize": size, "NumObjects": 0 }))
            }
            "block/put" => return self.put(&request),
            "block/get" => match self.block(request.query("arg")) {
                Ok(bytes) => return Reply::Say(200, bytes),
                Err(problem) => Err(problem),
            },
            "block/stat" => self
                .block(request.query("arg"))
                .map(|bytes| json!({ "Key": request.query("arg"), "Size": bytes.len() })),
            "pin/add" => self.pin(&request),
            "pin/rm" => self.unpin(&request),
            "pin/ls" => self.list(&request),
            _ => return Reply::Say(404, b"404 page not found".to_vec()),
        };
        done.map_or_else(
            |problem| Reply::json(500, &json!({ "Message": problem, "Code": 0, "Type": "error" })),
            |body| Reply::json(200, &body),
        )
    }

    fn put(&mut self, request: &Request) -> Reply {
        let codec = match request.query("cid-codec") {
            "raw" => Codec::Raw,
            "dag-cbor" => Codec::DagCbor,
            other => panic!("codec {other}"),
        };
        let stored = files(request).into_iter().map(|bytes| {
            let (cid, size) = (cid_of(codec, &bytes), bytes.len());
            self.blocks.insert(cid.hash().to_bytes(), bytes);
            format!("{}\n", json!({ "Key": cid.to_string(), "Size": size }))
        });
        Reply::Say(200, stored.collect::<String>().into_bytes())
    }

    fn block(&self, cid: &str) -> Result<Vec<u8>, String> {
        let absent =
            || format!("block was not found locally (offline): ipld: could not find {cid}");
        let parsed: Cid = cid.parse().map_err(|_| "invalid cid".to_owned())?;
        self.blocks.get(&parsed.hash().to_bytes()).cloned().ok_or_else(absent)
    }

    /// Returns the hashes of all blocks behind a root.
    fn graph(&self, root: &Cid) -> Result<BTreeSet<Vec<u8>>, String> {
        let (mut found, mut ahead) = (BTreeSet::new(), vec![*root]);
        while let Some(cid) = ahead.pop() {
            let bytes = self.block(&cid.to_string())?;
            if found.insert(cid.hash().to_bytes()) {
                ahead.extend(dag::links(&cid, &bytes).unwrap());
            }
        }
        Ok(found)
    }

    fn pin(&mut self, request: &Request) -> Result<serde_json::Value, String> {
        assert_eq!(request.query("offline"), "true", "a pin must not wait for the network");
        let root: Cid = request.query("arg").parse().unwrap();
        let kind = if request.query("recursive") == "true" { "recursive" } else { "direct" };
        let graph = self.graph(&root);
        match kind {
            "recursive" => drop(graph.map_err(|problem| format!("pin: {problem}"))?),
            _ if self.pins.get(&root).is_some_and(|(kind, _)| kind == "recursive") => {
                return Err(format!("pin: {root} already pinned recursively"));
            }
            _ => drop(self.block(&root.to_string())?),
        }
        self.pins.insert(root, (kind.to_owned(), request.query("name").to_owned()));
        Ok(json!({ "Pins": [root.to_string()] }))
    }

    fn unpin(&mut self, request: &Request) -> Result<serde_json::Value, String> {
        let root: Cid = request.query("arg").parse().unwrap();
        let not_pinned = || "not pinned or pinned indirectly".to_owned();
        self.pins.remove(&root).ok_or_else(not_pinned)?;
        Ok(json!({ "Pins": [root.to_string()] }))
    }

    fn list(&self, request: &Request) -> Result<serde_json::Value, String> {
        let has_kind = |kind: &str| kind == request.query("type");
        let names = request.query("names") == "true";
        let row = |(cid, (kind, name)): (&Cid, &(String, String))| {
            let name = if names { name.as_str() } else { "" };
            (cid.to_string(), json!({ "Type": kind, "Name": name }))
        };
        let argument = request.query("arg");
        let keys: serde_json::Map<_, _> = self
            .pins
            .iter()
            .filter(|(cid, (kind, name))| {
                let is_named = name.contains(request.query("name"));
                has_kind(kind) && is_named && (argument.is_empty() || argument == cid.to_string())
            })
            .map(row)
            .collect();
        match (keys.is_empty(), argument) {
            (true, "") => Ok(json!({})),
            (true, argument) => Err(format!("path '{argument}' is not pinned")),
            (false, _) => Ok(json!({ "Keys": keys })),
        }
    }
}

/// Returns the files of a form.
fn files(request: &Request) -> Vec<Vec<u8>> {
    let kind = request.header("content-type");
    let boundary = kind.split_once("boundary=").unwrap_or_else(|| panic!("no form: {kind}")).1;
    let line = format!("--{boundary}");
    let at: Vec<_> = find_all(&request.body, line.as_bytes());
    let part = |pair: &[usize]| {
        let part = &request.body[pair[0] + line.len() + 2..pair[1] - 2];
        let head = find_all(part, b"\r\n\r\n")[0];
        part[head + 4..].to_vec()
    };
    assert!(request.body.ends_with(format!("{line}--\r\n").as_bytes()));
    at.windows(2).map(part).collect()
}

fn find_all(bytes: &[u8], what: &[u8]) -> Vec<usize> {
    let mut found = Vec::new();
    let mut at = 0;
    while at + what.len() <= bytes.len() {
        // Most bytes are none that a line begins with, and files have megabytes.
        if bytes[at] == what[0] && bytes[at..].starts_with(what) {
            found.push(at);
            at += what.len();
        } else {
            at += 1;
        }
    }
    found
}
