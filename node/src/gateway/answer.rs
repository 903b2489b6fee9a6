//! What a gateway answers: status, headers and short bodies. Pure, but for the blocks it is handed.

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::Response,
};
use dunlin_archive::dag::{self, Resolved, Scope};
use dunlin_wire::Cid;
use sha2::{Digest, Sha256};

use super::{
    BUSY,
    request::{CarWish, Format, Wish},
    view,
};

/// A year, less a little: what a CID names never changes.
const IMMUTABLE: &str = "max-age=29030400, immutable";

/// When a client that came at a busy time may come again.
const RETRY_AFTER_SECS: &str = "1";

/// The methods that a gateway has.
const METHODS: &str = "GET, HEAD, OPTIONS";

/// Headers that a page of another origin may send and read.
const CORS_HEADERS: &str = "Content-Type, Range, User-Agent, X-Requested-With";
const CORS_EXPOSED: &str =
    "Content-Length, Content-Range, ETag, X-Ipfs-Path, X-Ipfs-Roots, X-Content-Type-Options";

/// Why there is nothing to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The request is wrong.
    BadRequest(String),
    /// It is not here, or not for everybody.
    NotFound(String),
    /// The operator has decided not to serve it.
    Gone(String),
    /// It is not here, and the client wants no one else to be asked.
    NotCached(String),
    /// It is not served in that form.
    NotAcceptable(String),
    /// No byte of the range exists.
    NoSuchRange(u64),
    /// The method is none of a gateway.
    Method,
    /// Names are not resolved here.
    NoNames,
    /// The request came under a name that is not this machine's.
    ForeignHost,
    /// All places are taken.
    Busy,
    /// It took too long.
    Timeout,
    /// A store failed; the log says how.
    Failed,
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Gone(_) => StatusCode::GONE,
            Self::NotCached(_) => StatusCode::PRECONDITION_FAILED,
            Self::NotAcceptable(_) => StatusCode::NOT_ACCEPTABLE,
            Self::NoSuchRange(_) => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoNames => StatusCode::NOT_IMPLEMENTED,
            Self::ForeignHost => StatusCode::FORBIDDEN,
            Self::Busy => BUSY,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn message(&self) -> String {
        match self {
            Self::BadRequest(problem)
            | Self::NotFound(problem)
            | Self::Gone(problem)
            | Self::NotCached(problem)
            | Self::NotAcceptable(problem) => problem.clone(),
            Self::NoSuchRange(length) => format!("the block has {length} bytes"),
            Self::Method => format!("a gateway knows {METHODS}"),
            Self::NoNames => "IPNS names are not resolved here; ask for /ipfs/<cid>".to_owned(),
            Self::ForeignHost => {
                "this gateway serves its own machine; call it by address or as localhost".to_owned()
            }
            Self::Busy => "too many requests at once; come back in a second".to_owned(),
            Self::Timeout => "the request took too long".to_owned(),
            Self::Failed => "a store failed; the node's log says why".to_owned(),
        }
    }
}

/// Answers `OPTIONS`; refuses what is neither that nor a read.
pub(super) fn without_content(method: &Method) -> Result<Option<Response>, Refusal> {
    match *method {
        Method::GET | Method::HEAD => Ok(None),
        Method::OPTIONS => {
            let mut response = status(StatusCode::NO_CONTENT);
            set(&mut response, header::ALLOW, METHODS);
            Ok(Some(response))
        }
        _ => Err(Refusal::Method),
    }
}

/// Turns a refusal into an answer of one line.
pub(super) fn refusal(refusal: &Refusal) -> Response {
    let mut response = status(refusal.status());
    set(&mut response, header::CONTENT_TYPE, "text/plain; charset=utf-8");
    match refusal {
        Refusal::Method => set(&mut response, header::ALLOW, METHODS),
        Refusal::Busy => set(&mut response, header::RETRY_AFTER, RETRY_AFTER_SECS),
        Refusal::NoSuchRange(length) => {
            set(&mut response, header::CONTENT_RANGE, &format!("bytes */{length}"));
        }
        _ => {}
    }
    set(&mut response, header::CACHE_CONTROL, "no-store");
    response.map(|_| Body::from(refusal.message() + "\n"))
}

/// Adds what every answer has. Pages of other origins may read what strangers may have, and no more.
pub(super) fn finish(mut response: Response, is_public: bool) -> Response {
    set(&mut response, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    if is_public {
        set(&mut response, header::ACCESS_CONTROL_ALLOW_ORIGIN, "*");
        set(&mut response, header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        set(&mut response, header::ACCESS_CONTROL_ALLOW_HEADERS, CORS_HEADERS);
        set(&mut response, header::ACCESS_CONTROL_EXPOSE_HEADERS, CORS_EXPOSED);
    }
    if response.headers().get(header::CACHE_CONTROL).is_none() {
        let who = if is_public { "public" } else { "private" };
        set(&mut response, header::CACHE_CONTROL, &format!("{who}, {IMMUTABLE}"));
    }
    response
}

/// Returns the tag of an answer: what it is made of, and in which form.
pub(super) fn etag(wish: &Wish, last: &Cid) -> String {
    match &wish.format {
        Format::Raw => format!("\"{last}.raw\""),
        Format::DagJson => format!("\"{last}.dag-json\""),
        // The page may look different with the next version.
        Format::Html => format!("W/\"{last}.{}.html\"", env!("CARGO_PKG_VERSION")),
        Format::Car(car) => {
            let CarWish { scope, with_duplicates } = car;
            let parts = format!("{} {:?} {scope:?} {with_duplicates}", wish.root, wish.path);
            let digest = Sha256::digest(parts);
            let short: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
            format!("W/\"{last}.car.{short}\"")
        }
    }
}

/// Says that the client has the newest there is.
pub(super) fn not_modified(tag: &str) -> Response {
    let mut response = status(StatusCode::NOT_MODIFIED);
    set(&mut response, header::ETAG, tag);
    response
}

/// Returns the head of a CAR.
pub(super) fn car(wish: &Wish, car: &CarWish, resolved: &Resolved, tag: &str) -> Response {
    let mut response = status(StatusCode::OK);
    let dups = if car.with_duplicates { "y" } else { "n" };
    let kind = format!("application/vnd.ipld.car; version=1; order=dfs; dups={dups}");
    set(&mut response, header::CONTENT_TYPE, &kind);
    set(&mut response, header::ACCEPT_RANGES, "none");
    let suffix = match car.scope {
        Scope::All => "",
        Scope::Block => "-block",
        Scope::Entity(_) => "-entity",
    };
    attach(&mut response, wish, &format!("{}{suffix}.car", resolved.last));
    describe(&mut response, wish, resolved, tag);
    response
}

/// Returns a whole block, or a part of it, or what it says.
pub(super) fn block(
    wish: &Wish,
    resolved: &Resolved,
    bytes: Vec<u8>,
    tag: &str,
    host: &str,
) -> Result<Response, Refusal> {
    let cid = &resolved.last;
    if resolved.inside > 0 {
        let problem = "the path ends inside a block; ask for a CAR, or for the block itself";
        return Err(Refusal::NotFound(problem.to_owned()));
    }
    let (mut response, content) = match wish.format {
        Format::Raw => return raw(wish, resolved, bytes, tag),
        Format::DagJson => {
            let json = dag::to_json(cid, &bytes);
            let json =
                json.map_err(|problem| Refusal::NotAcceptable(format!("{cid}: {problem}")))?;
            let mut response = status(StatusCode::OK);
            set(&mut response, header::CONTENT_TYPE, "application/vnd.ipld.dag-json");
            attach(&mut response, wish, &format!("{cid}.json"));
            (response, json)
        }
        _ => {
            let page = view::page(cid, &bytes, host).ok_or_else(|| {
                Refusal::NotAcceptable(format!("{cid} is no segment; ask with ?format=raw or car"))
            })?;
            let mut response = status(StatusCode::OK);
            set(&mut response, header::CONTENT_TYPE, "text/html; charset=utf-8");
            let policy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";
            set(&mut response, header::CONTENT_SECURITY_POLICY, policy);
            (response, page)
        }
    };
    set(&mut response, header::CONTENT_LENGTH, &content.len().to_string());
    set(&mut response, header::VARY, "Accept");
    describe(&mut response, wish, resolved, tag);
    Ok(if wish.is_head { response } else { response.map(|_| Body::from(content)) })
}

fn raw(
    wish: &Wish,
    resolved: &Resolved,
    mut bytes: Vec<u8>,
    tag: &str,
) -> Result<Response, Refusal> {
    let length = bytes.len() as u64;
    let mut response = status(StatusCode::OK);
    if let Some(range) = wish.range {
        let (from, to) = range.within(length).ok_or(Refusal::NoSuchRange(length))?;
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let place = format!("bytes {from}-{}/{length}", to - 1);
        set(&mut response, header::CONTENT_RANGE, &place);
        let inside = |offset: u64| usize::try_from(offset).expect("an offset in a block");
        bytes.truncate(inside(to));
        bytes.drain(..inside(from));
    }
    set(&mut response, header::CONTENT_TYPE, "application/vnd.ipld.raw");
    set(&mut response, header::ACCEPT_RANGES, "bytes");
    set(&mut response, header::CONTENT_LENGTH, &bytes.len().to_string());
    attach(&mut response, wish, &format!("{}.bin", resolved.last));
    describe(&mut response, wish, resolved, tag);
    Ok(if wish.is_head { response } else { response.map(|_| Body::from(bytes)) })
}

fn describe(response: &mut Response, wish: &Wish, resolved: &Resolved, tag: &str) {
    set(response, header::ETAG, tag);
    set(response, HeaderName::from_static("x-ipfs-path"), &wish.shown_path);
    let roots: Vec<_> = resolved.roots.iter().map(ToString::to_string).collect();
    set(response, HeaderName::from_static("x-ipfs-roots"), &roots.join(","));
}

/// Makes a browser store the answer instead of showing it.
fn attach(response: &mut Response, wish: &Wish, default: &str) {
    let name = wish.filename.as_deref().unwrap_or(default);
    let plain: String = name
        .chars()
        .map(|c| if c.is_ascii_graphic() && !"\"\\;%".contains(c) || c == ' ' { c } else { '_' })
        .collect();
    let mut value = format!("attachment; filename=\"{plain}\"");
    if plain != name {
        let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        let escaped: String = name
            .bytes()
            .map(|byte| match byte {
                safe if is_safe(safe) => char::from(safe).to_string(),
                other => format!("%{other:02X}"),
            })
            .collect();
        value = format!("{value}; filename*=UTF-8''{escaped}");
    }
    set(response, header::CONTENT_DISPOSITION, &value);
}

fn status(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// Sets a header. A value that no header can have, such as a path with a control character in it, leaves
/// the header out.
fn set(response: &mut Response, name: HeaderName, value: &str) {
    let headers: &mut HeaderMap = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use dunlin_wire::block::{Codec, cid_of};

    use super::*;

    fn wish(uri: &str, range: Option<&str>) -> Wish {
        let mut headers = HeaderMap::new();
        if let Some(range) = range {
            headers.insert(header::RANGE, range.parse().unwrap());
        }
        Wish::read(&Method::GET, &uri.parse().unwrap(), &headers).unwrap()
    }

    fn resolved(cid: Cid) -> Resolved {
        Resolved { roots: vec![cid], trail: Vec::new(), last: cid, inside: 0 }
    }

    fn header<'a>(response: &'a Response, name: &str) -> &'a str {
        response.headers().get(name).map_or("", |value| value.to_str().unwrap())
    }

    #[test]
    fn a_block_comes_with_its_names() {
        let cid = cid_of(Codec::Raw, b"0123456789");
        let uri = format!("/ipfs/{cid}?format=raw");
        let make = |range| {
            let wish = wish(&uri, range);
            let tag = etag(&wish, &cid);
            block(&wish, &resolved(cid), b"0123456789".to_vec(), &tag, "here")
        };
        let whole = finish(make(None).unwrap(), true);
        assert_eq!(whole.status(), StatusCode::OK);
        assert_eq!(header(&whole, "content-type"), "application/vnd.ipld.raw");
        assert_eq!(header(&whole, "content-length"), "10");
        assert_eq!(header(&whole, "x-ipfs-path"), format!("/ipfs/{cid}"));
        assert_eq!(header(&whole, "x-ipfs-roots"), cid.to_string());
        let disposition = format!("attachment; filename=\"{cid}.bin\"");
        assert_eq!(header(&whole, "content-disposition"), disposition);
        assert_eq!(header(&whole, "cache-control"), "public, max-age=29030400, immutable");
        assert_eq!(header(&whole, "x-content-type-options"), "nosniff");
        assert_eq!(header(&whole, "access-control-allow-origin"), "*");
        let part = finish(make(Some("bytes=2-4")).unwrap(), false);
        assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
        assert_eq!(header(&part, "content-range"), "bytes 2-4/10");
        assert_eq!(header(&part, "content-length"), "3");
        assert_eq!(header(&part, "cache-control"), "private, max-age=29030400, immutable");
        assert_eq!(header(&part, "access-control-allow-origin"), "");
        assert_eq!(make(Some("bytes=10-")).unwrap_err(), Refusal::NoSuchRange(10));
    }

    #[test]
    fn file_names_are_escaped() {
        let cid = cid_of(Codec::Raw, b"");
        let uri = format!("/ipfs/{cid}?format=raw&filename=test%D1%82%D0%B5%22.bin");
        let response = raw(&wish(&uri, None), &resolved(cid), Vec::new(), "\"x\"").unwrap();
        assert_eq!(
            header(&response, "content-disposition"),
            "attachment; filename=\"test___.bin\"; filename*=UTF-8''test%D1%82%D0%B5%22.bin"
        );
    }

    #[test]
    fn tags_tell_answers_apart() {
        let cid = cid_of(Codec::Raw, b"");
        let queries = [
            "format=raw",
            "format=dag-json",
            "format=car",
            "format=car&car-dups=y",
            "format=car&dag-scope=block",
            "format=car&entity-bytes=0:1",
            "format=car&entity-bytes=0:2",
        ];
        let tag = |query| etag(&wish(&format!("/ipfs/{cid}?{query}"), None), &cid);
        let tags: std::collections::BTreeSet<_> = queries.into_iter().map(tag).collect();
        assert_eq!(tags.len(), queries.len());
    }

    #[test]
    fn refusals_have_the_status_that_clients_know() {
        let why = || "why".to_owned();
        let known = [
            (Refusal::BadRequest(why()), 400),
            (Refusal::ForeignHost, 403),
            (Refusal::NotFound(why()), 404),
            (Refusal::Method, 405),
            (Refusal::NotAcceptable(why()), 406),
            (Refusal::Gone(why()), 410),
            (Refusal::NotCached(why()), 412),
            (Refusal::NoSuchRange(10), 416),
            (Refusal::Busy, 429),
            (Refusal::Failed, 500),
            (Refusal::NoNames, 501),
            (Refusal::Timeout, 504),
        ];
        for (problem, status) in known {
            let response = finish(refusal(&problem), true);
            assert_eq!(response.status().as_u16(), status, "{problem:?}");
            // What failed now may be here in a minute.
            assert_eq!(header(&response, "cache-control"), "no-store");
        }
    }

    #[test]
    fn busy_clients_are_told_when_to_come_back() {
        let response = finish(refusal(&Refusal::Busy), true);
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(
            (header(&response, "retry-after"), header(&response, "cache-control")),
            ("1", "no-store")
        );
    }
}
