//! A pinning service that keeps the rules of its API 1.0, on a clock that the test turns.

use std::sync::{Arc, Mutex};

use dunlin_archive::backend::{Credential, Service, Timeouts};
use serde_json::{Value, json};

use super::{Reply, Request, Server};

/// The token that it takes.
pub(crate) const TOKEN: &str = "a-token-nobody-sees";

#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) cid: String,
    pub(crate) name: String,
    pub(crate) origins: Vec<String>,
    pub(crate) status: &'static str,
    /// Grows with each request, as times do.
    created: u64,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) pins: Vec<Record>,
    made: u64,
    /// What every call gets instead.
    pub(crate) mischief: Option<Reply>,
    /// Requests are taken, and their answers get lost.
    pub(crate) loses_answers: bool,
    pub(crate) calls: Vec<(String, String)>,
}

pub(crate) struct Double {
    server: Server,
    state: Arc<Mutex<State>>,
}

impl Double {
    pub(crate) fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let of = Arc::clone(&state);
        let server = Server::start(move |request| of.lock().unwrap().answer(&request));
        Self { server, state }
    }

    pub(crate) fn client(&self, token: &str, timeouts: Timeouts) -> Service {
        let url = format!("{}/psa", self.server.url()).parse().unwrap();
        Service::new(url, "me", Credential::parse(token).unwrap(), timeouts)
    }

    pub(crate) fn state<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap())
    }

    /// Brings every request to a status.
    pub(crate) fn bring_all_to(&self, status: &'static str) {
        self.state(|state| state.pins.iter_mut().for_each(|pin| pin.status = status));
    }

    pub(crate) fn pins(&self) -> Vec<Record> {
        self.state(|state| state.pins.clone())
    }
}

impl State {
    fn answer(&mut self, request: &Request) -> Reply {
        self.calls.push((request.method.clone(), request.path.clone()));
        if let Some(reply) = &self.mischief {
            return reply.clone();
        }
        if request.header("authorization") != format!("Bearer {TOKEN}") {
            return failure(401, "UNAUTHORIZED", "the token is not known");
        }
        let Some(path) = request.path.strip_prefix("/psa/pins") else {
            return failure(404, "NOT_FOUND", "no such path");
        };
        match (request.method.as_str(), path.strip_prefix('/')) {
            ("GET", None) => self.list(request),
            ("POST", None) => {
                let reply = self.add(request);
                if self.loses_answers { Reply::Close } else { reply }
            }
            ("GET", Some(id)) => match self.pins.iter().find(|pin| pin.id == id) {
                Some(pin) => Reply::json(200, &told(pin)),
                None => failure(404, "NOT_FOUND", "no such request"),
            },
            ("DELETE", Some(id)) => {
                let before = self.pins.len();
                self.pins.retain(|pin| pin.id != id);
                if self.pins.len() < before {
                    Reply::Say(202, Vec::new())
                } else {
                    failure(404, "NOT_FOUND", "no such request")
                }
            }
            _ => failure(400, "BAD_REQUEST", "no such method"),
        }
    }

    fn list(&self, request: &Request) -> Reply {
        let status = match request.query("status") {
            "" => "pinned",
            status => status,
        };
        let limit: usize = request.query("limit").parse().unwrap_or(10);
        assert!((1..=1000).contains(&limit), "limit={limit}");
        assert!(["", "exact"].contains(&request.query("match")));
        let before: u64 = request
            .query("before")
            .trim_end_matches('Z')
            .rsplit('.')
            .next()
            .unwrap()
            .parse()
            .unwrap_or(u64::MAX);
        let mut pins: Vec<_> = self
            .pins
            .iter()
            .filter(|pin| status.split(',').any(|status| status == pin.status))
            .filter(|pin| ["", pin.cid.as_str()].contains(&request.query("cid")))
            .filter(|pin| ["", pin.name.as_str()].contains(&request.query("name")))
            .filter(|pin| pin.created < before)
            .collect();
        // The newest first.
        pins.sort_by_key(|pin| std::cmp::Reverse(pin.created));
        let results: Vec<_> = pins.iter().take(limit).map(|pin| told(pin)).collect();
        Reply::json(200, &json!({ "count": pins.len(), "results": results }))
    }

    fn add(&mut self, request: &Request) -> Reply {
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
        let origins = body["origins"].as_array().cloned().unwrap_or_default();
        let origins: Vec<_> =
            origins.iter().map(|origin| origin.as_str().unwrap().to_owned()).collect();
        if text("cid").is_empty() || origins.len() > 20 || text("name").len() > 255 {
            return failure(400, "BAD_REQUEST", "the request is against the rules");
        }
        self.made += 1;
        let (id, created) = (format!("request-{}", self.made), self.made);
        let (cid, name) = (text("cid"), text("name"));
        self.pins.push(Record { id, cid, name, origins, status: "queued", created });
        Reply::json(202, &told(self.pins.last().unwrap()))
    }
}

fn told(pin: &Record) -> Value {
    let mut told = json!({
        "requestid": pin.id,
        "status": pin.status,
        "created": format!("2026-01-01T00:00:00.{:09}Z", pin.created),
        "pin": { "cid": pin.cid, "name": pin.name, "origins": pin.origins, "meta": {} },
        "delegates": ["/ip4/203.0.113.7/tcp/4001/p2p/12D3KooWFetcher"],
    });
    if pin.status == "failed" {
        told["info"] = json!({ "status_details": "no provider was found" });
    }
    told
}

fn failure(status: u16, reason: &str, details: &str) -> Reply {
    Reply::json(status, &json!({ "error": { "reason": reason, "details": details } }))
}
