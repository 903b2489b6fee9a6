//! Services on loopback that keep the rules of the real ones, and break them when a test says so.

#![expect(dead_code, reason = "each test file uses a part of this")]

pub(crate) mod kubo;
pub(crate) mod service;

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use dunlin_archive::backend::Timeouts;

/// Longest wait for anything: far above what a loaded machine needs, so that only a hang reaches it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Limits for services that answer as well as they can.
pub(crate) fn patient() -> Timeouts {
    Timeouts { connect: PATIENCE, answer: PATIENCE, overall: PATIENCE }
}

/// Limits for services that do not answer.
pub(crate) fn impatient() -> Timeouts {
    let answer = Duration::from_millis(300);
    Timeouts { connect: answer, answer, overall: 2 * answer }
}

/// One request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    /// All pairs of the question, decoded.
    pub(crate) query: BTreeMap<String, String>,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn query(&self, key: &str) -> &str {
        self.query.get(key).map_or("", String::as_str)
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// What a service does about a request.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// Answers.
    Say(u16, Vec<u8>),
    /// Answers with a header.
    SayWith(u16, String),
    /// Says that more comes than does.
    Truncate(Vec<u8>),
    /// Sends a byte now and then.
    Drip(Vec<u8>),
    /// Never ends.
    Flood,
    /// Says nothing.
    Hang,
    /// Ends the connection.
    Close,
}

impl Reply {
    pub(crate) fn json(status: u16, body: &serde_json::Value) -> Self {
        Self::Say(status, body.to_string().into_bytes())
    }
}

/// A server on a port of its own, until it is dropped.
pub(crate) struct Server {
    address: SocketAddr,
    is_over: Arc<AtomicBool>,
}

impl Server {
    pub(crate) fn start(handle: impl Fn(Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0", handle)
    }

    /// Starts where another one was before.
    pub(crate) fn start_at(
        address: &str,
        handle: impl Fn(Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let (is_over, handle) = (Arc::new(AtomicBool::new(false)), Arc::new(handle));
        let ends = Arc::clone(&is_over);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if ends.load(Ordering::SeqCst) {
                    return;
                }
                let (handle, ends) = (Arc::clone(&handle), Arc::clone(&ends));
                thread::spawn(move || converse(stream.unwrap(), &*handle, &ends));
            }
        });
        Self { address, is_over }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        // Wakes it up, so that it sees that it is over.
        TcpStream::connect(self.address).ok();
    }
}

/// Answers the requests of one connection. Whoever leaves early is no failure here.
fn converse(stream: TcpStream, handle: &dyn Fn(Request) -> Reply, is_over: &AtomicBool) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let mut reader = BufReader::new(stream);
    while let Some(request) = read(&mut reader) {
        let head = |status: u16, length: usize, more: &str| {
            format!("HTTP/1.1 {status} Some\r\nContent-Length: {length}\r\n{more}\r\n").into_bytes()
        };
        let sent = match handle(request) {
            Reply::Say(status, body) => {
                writer.write_all(&[head(status, body.len(), ""), body].concat())
            }
            Reply::SayWith(status, header) => {
                writer.write_all(&head(status, 0, &format!("{header}\r\n")))
            }
            Reply::Truncate(body) => {
                writer.write_all(&[head(200, body.len() + 1, ""), body].concat()).ok();
                return;
            }
            Reply::Drip(body) => drip(&mut writer, &head(200, body.len(), ""), &body, is_over),
            Reply::Flood => flood(&mut writer, is_over),
            Reply::Hang => {
                wait(is_over);
                return;
            }
            Reply::Close => return,
        };
        if sent.is_err() {
            return;
        }
    }
}

fn drip(to: &mut TcpStream, head: &[u8], body: &[u8], is_over: &AtomicBool) -> std::io::Result<()> {
    to.write_all(head)?;
    for byte in body {
        to.write_all(&[*byte])?;
        if is_over.load(Ordering::SeqCst) {
            break;
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn flood(to: &mut TcpStream, is_over: &AtomicBool) -> std::io::Result<()> {
    to.write_all(b"HTTP/1.1 200 Some\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    let chunk = [b"10000\r\n", &[b' '; 0x10000][..], b"\r\n"].concat();
    while !is_over.load(Ordering::SeqCst) {
        to.write_all(&chunk)?;
    }
    Ok(())
}

fn wait(is_over: &AtomicBool) {
    let end = Instant::now() + PATIENCE;
    while !is_over.load(Ordering::SeqCst) && Instant::now() < end {
        thread::sleep(Duration::from_millis(20));
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
        Some(line.trim_end().to_owned())
    };
    let first = line()?;
    let mut words = first.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let query = pairs.map(|(key, value)| (decoded(key), decoded(value))).collect();
    let mut headers = BTreeMap::new();
    loop {
        let header = line()?;
        let Some((name, value)) = header.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let path = path.to_owned();
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, path, query, headers, body })
}

fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let code = (bytes[at] == b'%').then(|| &text[at + 1..at + 3]);
        match code.map(|code| u8::from_str_radix(code, 16).unwrap()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(if bytes[at] == b'+' { b' ' } else { bytes[at] });
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap()
}
