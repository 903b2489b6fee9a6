//! HTTP as a stranger's program speaks it: bytes on a socket, whatever the client library would do.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::TcpStream,
};

use super::{Node, PATIENCE};

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The lines of the head.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// Reads the body as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|cause| panic!("{cause}: {self:?}"))
    }

    /// Returns what stands in a line of the head.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        let found = lines.into_iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
        found.unwrap_or_else(|| panic!("no {name} in {}", self.head)).1
    }

    /// Checks that this is a refusal as `docs/api.md` describes it.
    #[track_caller]
    pub(crate) fn assert_refused(&self, status: u16, code: &str) {
        let json = self.json();
        assert_eq!((self.status, json["code"].as_str()), (status, Some(code)), "{self:?}");
        assert!(json["message"].as_str().is_some_and(|text| !text.is_empty()), "{self:?}");
    }
}

/// Returns the header that shows the node's token.
pub(crate) fn authorization(node: &Node) -> String {
    let token = fs::read_to_string(node.dir.join("api.token")).unwrap();
    format!("Authorization: Bearer {}\r\n", token.trim())
}

pub(crate) fn connect(node: &Node) -> TcpStream {
    let address = fs::read_to_string(node.dir.join("api.address")).unwrap();
    let stream = TcpStream::connect(address.trim()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends a request with these header lines and this body.
#[track_caller]
pub(crate) fn send(node: &Node, request: &str, headers: &str, body: &str) -> Answer {
    send_as("dunlin", node, request, headers, body)
}

/// Sends a request to a node that is called by this name.
#[track_caller]
pub(crate) fn send_as(host: &str, node: &Node, request: &str, headers: &str, body: &str) -> Answer {
    let mut stream = connect(node);
    let length = body.len();
    let text = format!(
        "{request} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    );
    stream.write_all(text.as_bytes()).unwrap();
    read(stream)
}

/// Sends a request with the token and a JSON body.
#[track_caller]
pub(crate) fn send_json(node: &Node, request: &str, body: &str) -> Answer {
    let headers = format!("{}Content-Type: application/json\r\n", authorization(node));
    send(node, request, &headers, body)
}

/// Reads an answer to its end.
#[track_caller]
pub(crate) fn read(mut stream: TcpStream) -> Answer {
    let mut bytes = Vec::new();
    // A node that refuses a body early may reset the connection behind its answer.
    stream.read_to_end(&mut bytes).ok();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Answer {
        status: status.unwrap_or_else(|| panic!("no status: {head:?}")),
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

/// Returns every sample of `/metrics` by its name.
#[track_caller]
pub(crate) fn metrics(node: &Node) -> BTreeMap<String, f64> {
    let answer = send(node, "GET /metrics", &authorization(node), "");
    assert_eq!(answer.status, 200, "{answer:?}");
    let mut lines: Vec<_> = answer.body.lines().collect();
    assert_eq!(lines.pop(), Some("# EOF"), "OpenMetrics ends so");
    let samples = lines.into_iter().filter(|line| !line.starts_with('#')).map(|line| {
        let (name, value) = line.split_once(' ').unwrap_or_else(|| panic!("no sample: {line:?}"));
        (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("no number: {line:?}")))
    });
    samples.collect()
}
