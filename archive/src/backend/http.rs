//! HTTP to services that the operator named: the one file of this room that opens sockets, waits and retries.
//!
//! A service is believed nothing: every call has a limit for connecting, for the first byte of the answer
//! and for all of it, every answer has a largest size, redirects are not followed (they would carry the
//! credential elsewhere), and what it says about itself is shortened before anybody prints it.
//!
//! It stands here and not in a shell, because its limits are most of what a backend is; the suite of
//! `tests/conformance.rs` tries them over real sockets.

use std::{
    fmt,
    io::{self, Read},
    net::IpAddr,
    str::FromStr,
    thread::sleep,
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use ureq::http::{Uri, uri::Scheme};

/// Pauses before a call is made again that may be made twice; after them it failed.
const REPEATS_MS: [u64; 2] = [100, 400];

/// Longest part of a service's complaint that is passed on.
const MESSAGE_CHARS_MAX: usize = 200;

/// Connections to one service that are kept open.
const IDLE_MAX: usize = 4;

/// How long a call may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Until there is a connection; default 5 s.
    pub connect: Duration,
    /// From the end of the question to the beginning of the answer; default 30 s.
    pub answer: Duration,
    /// All in all; default 60 s. A batch of blocks has to fit, so a slow line needs more.
    pub overall: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { connect: seconds(5), answer: seconds(30), overall: seconds(60) }
    }
}

/// Where a service is: `http` or `https`, a host, and perhaps a path. It holds no credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceUrl(String);

impl ServiceUrl {
    /// Returns whether what is said there stays secret on the way: by TLS, or because it stays on this machine.
    #[must_use]
    pub fn is_confidential(&self) -> bool {
        let uri: Uri = self.0.parse().expect("it was parsed before");
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let is_loopback = host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
        uri.scheme() == Some(&Scheme::HTTPS) || is_loopback || host == "localhost"
    }
}

impl FromStr for ServiceUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let uri: Uri = text.parse().map_err(|_| UrlError)?;
        let is_http = [Some(&Scheme::HTTP), Some(&Scheme::HTTPS)].contains(&uri.scheme());
        let has_credential =
            uri.authority().is_none_or(|authority| authority.as_str().contains('@'));
        let has_host = uri.host().is_some_and(|host| !host.is_empty());
        if !is_http || !has_host || has_credential || uri.query().is_some() || text.contains('#') {
            return Err(UrlError);
        }
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }
}

impl fmt::Display for ServiceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is no address of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it has to be like http://127.0.0.1:5001, without a name, password or question")]
pub struct UrlError;

/// What shows a service who asks. It is never printed.
#[derive(Clone)]
pub struct Credential(String);

impl Credential {
    /// Reads what stands in an operator's file: `bearer:TOKEN` or `basic:NAME:PASSWORD`, as Kubo writes its
    /// `AuthSecret`, or the bare token of a pinning service.
    ///
    /// # Errors
    ///
    /// Fails when there is nothing in it, or what no HTTP header can carry.
    pub fn parse(text: &str) -> Result<Self, CredentialError> {
        let text = text.trim();
        let header = match text.split_once(':') {
            Some(("basic", pair)) if pair.contains(':') => {
                format!("Basic {}", BASE64_STANDARD.encode(pair))
            }
            Some(("bearer", token)) if !token.is_empty() => format!("Bearer {token}"),
            Some(("basic" | "bearer", _)) => return Err(CredentialError),
            _ => format!("Bearer {text}"),
        };
        let is_sayable = header.bytes().all(|byte| (0x20..0x7f).contains(&byte));
        if text.is_empty() || !is_sayable { Err(CredentialError) } else { Ok(Self(header)) }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential")
    }
}

/// A text that is no credential. It says nothing about it: it may be a real one with a typing error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it has to be one line: a token, bearer:TOKEN or basic:NAME:PASSWORD")]
pub struct CredentialError;

/// Why there is no answer. What the service did with the question is not known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// There is no connection, or it broke off.
    #[error("{url} cannot be reached")]
    Unreachable {
        /// The service.
        url: String,
        /// Why.
        #[source]
        cause: Box<ureq::Error>,
    },
    /// It took too long.
    #[error("{url} did not answer in time ({timeout})")]
    Timeout {
        /// The service.
        url: String,
        /// Which limit was passed.
        timeout: ureq::Timeout,
    },
    /// The answer is longer than any that is expected.
    #[error("the answer of {url} is longer than {bytes_max} bytes")]
    TooLarge {
        /// The service.
        url: String,
        /// The limit.
        bytes_max: u64,
    },
}

/// A question.
pub(super) struct Call<'a> {
    pub(super) path: &'a str,
    pub(super) query: &'a [(&'a str, &'a str)],
    pub(super) method: Method<'a>,
    /// Whether asking twice is as good as asking once.
    pub(super) is_repeatable: bool,
    pub(super) answer_bytes_max: u64,
}

/// How to ask.
pub(super) enum Method<'a> {
    Get,
    Delete,
    Post,
    PostBody { content_type: &'a str, bytes: &'a [u8] },
}

/// An answer.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

impl Reply {
    /// Returns the beginning of what the service said, on one line and without control characters.
    pub(super) fn message(&self) -> String {
        shortened(&String::from_utf8_lossy(&self.body))
    }
}

/// Makes a service's words fit to be shown.
pub(super) fn shortened(text: &str) -> String {
    let visible = |c: char| if c.is_control() { ' ' } else { c };
    text.trim().chars().take(MESSAGE_CHARS_MAX).map(visible).collect()
}

/// Speaks HTTP to one service.
#[derive(Clone, Debug)]
pub(super) struct Http {
    agent: ureq::Agent,
    url: ServiceUrl,
    credential: Option<Credential>,
}

impl Http {
    pub(super) fn new(url: ServiceUrl, credential: Option<Credential>, timeouts: Timeouts) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(timeouts.connect))
            .timeout_recv_response(Some(timeouts.answer))
            .timeout_global(Some(timeouts.overall))
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_idle_connections_per_host(IDLE_MAX)
            .user_agent(concat!("dunlin/", env!("CARGO_PKG_VERSION")))
            .proxy(None);
        Self { agent: config.build().new_agent(), url, credential }
    }

    /// Returns where the service is.
    pub(super) fn url(&self) -> &ServiceUrl {
        &self.url
    }

    /// Asks, again if that is harmless and may help.
    ///
    /// # Errors
    ///
    /// Fails when there is no whole answer; a status that says no is an answer.
    pub(super) fn call(&self, call: &Call<'_>) -> Result<Reply, HttpError> {
        let mut pauses = REPEATS_MS.into_iter().filter(|_| call.is_repeatable);
        loop {
            let reply = self.once(call).and_then(|mut answer| {
                let body = answer.body_mut().with_config().limit(limit(call));
                let body =
                    body.read_to_vec().map_err(|cause| self.error(cause, call.answer_bytes_max))?;
                Ok(Reply { status: answer.status().as_u16(), body })
            });
            let may_change = match &reply {
                Ok(reply) => matches!(reply.status, 429 | 502..=504),
                // One that is too slow would be so again, and the caller waits.
                Err(cause) => matches!(cause, HttpError::Unreachable { .. }),
            };
            match pauses.next().filter(|_| may_change) {
                Some(pause) => sleep(Duration::from_millis(pause)),
                None => return reply,
            }
        }
    }

    /// Asks once, and hands a good answer to `read` as it comes.
    ///
    /// # Errors
    ///
    /// As [`Self::call`].
    pub(super) fn stream<T>(
        &self,
        call: &Call<'_>,
        read: impl FnOnce(&mut dyn Read) -> T,
    ) -> Result<Result<T, Reply>, HttpError> {
        let mut answer = self.once(call)?;
        let status = answer.status().as_u16();
        let body = answer.body_mut().with_config().limit(limit(call));
        if status == 200 {
            return Ok(Ok(read(&mut body.reader())));
        }
        let body = body.read_to_vec().map_err(|cause| self.error(cause, call.answer_bytes_max))?;
        Ok(Err(Reply { status, body }))
    }

    fn once(&self, call: &Call<'_>) -> Result<ureq::http::Response<ureq::Body>, HttpError> {
        let address = format!("{}{}", self.url, call.path);
        let query = || call.query.iter().copied();
        let answer = match call.method {
            Method::Get => self.authorized(self.agent.get(address)).query_pairs(query()).call(),
            Method::Delete => {
                self.authorized(self.agent.delete(address)).query_pairs(query()).call()
            }
            Method::Post => {
                self.authorized(self.agent.post(address)).query_pairs(query()).send_empty()
            }
            Method::PostBody { content_type, bytes } => {
                let post = self.authorized(self.agent.post(address)).query_pairs(query());
                post.content_type(content_type).send(bytes)
            }
        };
        answer.map_err(|cause| self.error(cause, call.answer_bytes_max))
    }

    fn authorized<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.credential {
            Some(Credential(header)) => request.header("Authorization", header),
            None => request,
        }
    }

    fn error(&self, cause: ureq::Error, bytes_max: u64) -> HttpError {
        let url = self.url.to_string();
        match cause {
            ureq::Error::Timeout(timeout) => HttpError::Timeout { url, timeout },
            ureq::Error::BodyExceedsLimit(_) => HttpError::TooLarge { url, bytes_max },
            cause => HttpError::Unreachable { url, cause: Box::new(cause) },
        }
    }

    /// Returns what it means that an answer could not be read to its end.
    pub(super) fn broke_off(&self, cause: io::Error, bytes_max: u64) -> HttpError {
        self.error(ureq::Error::from(cause), bytes_max)
    }
}

/// Returns the limit as the library wants it: an answer that is just as long takes one byte of it to see the end.
fn limit(call: &Call<'_>) -> u64 {
    call.answer_bytes_max.saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_services_are_checked() {
        for (text, is_confidential) in [
            ("http://127.0.0.1:5001", true),
            ("http://[::1]:5001/", true),
            ("http://localhost", true),
            ("https://api.example.org/psa", true),
            ("http://192.168.1.7:5001", false),
            ("http://127.0.0.1.example.org", false),
        ] {
            let url: ServiceUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), text.trim_end_matches('/'));
            assert_eq!(url.is_confidential(), is_confidential, "{text}");
        }
        for text in ["", "x", "ftp://x.org", "http://", "http://x.org?a=b", "http://me:pw@x.org"] {
            assert!(text.parse::<ServiceUrl>().is_err(), "{text}");
        }
    }

    #[test]
    fn credentials_are_read_as_kubo_writes_them_and_never_shown() {
        for (text, header) in [
            ("secret\n", "Bearer secret"),
            ("bearer:secret", "Bearer secret"),
            ("basic:Aladdin:open sesame", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
        ] {
            let credential = Credential::parse(text).unwrap();
            assert_eq!(credential.0, header);
            assert_eq!(format!("{credential:?}"), "Credential");
        }
        for text in ["", "\n", "bearer:", "basic:nobody", "two\nlines", "caf\u{e9}"] {
            assert!(Credential::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_a_service_says_is_cut_and_cleaned() {
        let reply = Reply { status: 500, body: b"no\x1b[31m\nroom ".repeat(100) };
        let message = reply.message();
        assert_eq!(message.chars().count(), MESSAGE_CHARS_MAX);
        assert!(message.starts_with("no [31m room"), "{message}");
    }
}
