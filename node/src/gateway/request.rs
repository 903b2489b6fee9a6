//! What an HTTP request asks a gateway for: a pure reading of its method, URL and headers.
//!
//! `format=` in the URL wins over the `Accept` header, and so do `car-order`, `car-dups` and `car-version`
//! over the parameters there.

use axum::http::{HeaderMap, Method, Uri, header};
use dunlin_archive::dag::{self, ByteRange, PATH_SEGMENTS_MAX, Scope};
use dunlin_wire::Cid;

use super::answer::Refusal;

/// Longest path in a URL, in bytes: 64 segments of the longest names that file systems have would not fit,
/// and nobody makes them.
const PATH_BYTES_MAX: usize = 8 * 1024;

/// Longest file name that a client may ask for.
const FILENAME_BYTES_MAX: usize = 255;

/// What is asked for.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) root: Cid,
    pub(super) path: Vec<String>,
    /// The path as it came, for headers.
    pub(super) shown_path: String,
    pub(super) format: Format,
    /// What a browser is to call the file.
    pub(super) filename: Option<String>,
    /// The bytes of the block that are wanted.
    pub(super) range: Option<Range>,
    pub(super) only_if_cached: bool,
    pub(super) is_head: bool,
    if_none_match: Vec<String>,
}

/// In which form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Raw,
    Car(CarWish),
    DagJson,
    Html,
}

/// How a CAR is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CarWish {
    pub(super) scope: Scope,
    pub(super) with_duplicates: bool,
}

/// One range of an HTTP `Range` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Range {
    /// From an offset on, up to an offset or to the end.
    From(u64, Option<u64>),
    /// So many bytes at the end.
    Last(u64),
}

impl Range {
    /// Returns the first offset and the one behind the last, when any of `length` bytes are meant.
    pub(super) fn within(self, length: u64) -> Option<(u64, u64)> {
        let (from, to) = match self {
            Self::From(from, to) => {
                (from, to.map_or(length, |to| to.saturating_add(1).min(length)))
            }
            Self::Last(count) => (length.saturating_sub(count), length),
        };
        (from < to).then_some((from, to))
    }
}

impl Wish {
    /// Reads a request.
    pub(super) fn read(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Self, Refusal> {
        let shown_path = uri.path();
        if shown_path.len() > PATH_BYTES_MAX {
            return Err(Refusal::BadRequest(format!("a path of more than {PATH_BYTES_MAX} bytes")));
        }
        let (root, path) = read_path(shown_path)?;
        let query = Query::read(uri.query().unwrap_or_default())?;
        let accept = Accept::read(headers);
        let format = format(&query, &accept, &root)?;
        let filename = query.get("filename").filter(|name| !name.is_empty()).map(str::to_owned);
        if filename.as_ref().is_some_and(|name| name.len() > FILENAME_BYTES_MAX) {
            let problem = format!("a file name of more than {FILENAME_BYTES_MAX} bytes");
            return Err(Refusal::BadRequest(problem));
        }
        let cache = text(headers, header::CACHE_CONTROL.as_str()).unwrap_or_default();
        let tags = text(headers, header::IF_NONE_MATCH.as_str()).unwrap_or_default();
        Ok(Self {
            root,
            path,
            shown_path: shown_path.trim_end_matches('/').to_owned(),
            format,
            filename,
            range: text(headers, header::RANGE.as_str()).and_then(read_range),
            only_if_cached: cache
                .split(',')
                .any(|directive| directive.trim().eq_ignore_ascii_case("only-if-cached")),
            is_head: method == Method::HEAD,
            if_none_match: tags.split(',').map(|tag| tag.trim().to_owned()).collect(),
        })
    }

    /// Returns whether the client has what this tag names.
    pub(super) fn has(&self, tag: &str) -> bool {
        let plain = |tag: &str| tag.trim_start_matches("W/").to_owned();
        self.if_none_match.iter().any(|known| known == "*" || plain(known) == plain(tag))
    }
}

/// Returns whether a `Host` header names this machine: an address, or `localhost`. Behind any other name a
/// page of a stranger may hide that had it point here.
pub(crate) fn is_own_host(host: Option<&str>) -> bool {
    let Some(host) = host else { return true };
    let without_port = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = without_port.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok()
}

fn read_path(path: &str) -> Result<(Cid, Vec<String>), Refusal> {
    let Some(rest) = path.strip_prefix("/ipfs/") else {
        if path.starts_with("/ipns/") {
            return Err(Refusal::NoNames);
        }
        return Err(Refusal::NotFound("only /ipfs/<cid> is served here".to_owned()));
    };
    let mut segments = rest.split('/').filter(|segment| !segment.is_empty());
    let root = segments.next().unwrap_or_default();
    let root: Cid = root
        .parse()
        .map_err(|problem| Refusal::BadRequest(format!("{root:?} is no CID: {problem}")))?;
    let path = segments.map(percent_decode).collect::<Option<Vec<_>>>();
    let path = path.ok_or_else(|| Refusal::BadRequest("the path is not UTF-8".to_owned()))?;
    if path.len() > PATH_SEGMENTS_MAX {
        return Err(Refusal::BadRequest(format!(
            "a path of {} segments; at most {PATH_SEGMENTS_MAX} are followed",
            path.len()
        )));
    }
    Ok((root, path))
}

fn format(query: &Query, accept: &Accept, root: &Cid) -> Result<Format, Refusal> {
    let named = query.get("format");
    match named {
        Some("raw") => return Ok(Format::Raw),
        Some("car") => return car(query, accept).map(Format::Car),
        Some("dag-json" | "json") => return Ok(Format::DagJson),
        Some("html") => return Ok(Format::Html),
        Some(other) => {
            let problem =
                format!("format={other:?} is not served; raw, car, dag-json and html are");
            return Err(Refusal::NotAcceptable(problem));
        }
        None => {}
    }
    for (kind, _) in &accept.0 {
        match kind.as_str() {
            "application/vnd.ipld.raw" => return Ok(Format::Raw),
            "application/vnd.ipld.car" => return car(query, accept).map(Format::Car),
            "application/vnd.ipld.dag-json" | "application/json" => return Ok(Format::DagJson),
            "text/html" => return Ok(Format::Html),
            _ => {}
        }
    }
    // The probe: an empty block that every gateway has.
    if dag::inline(root).is_some() {
        return Ok(Format::Raw);
    }
    if accept.0.iter().all(|(kind, _)| kind == "*/*") {
        let problem =
            "say what you want: `?format=raw`, `car`, `dag-json` or `html`, or an Accept header";
        return Err(Refusal::BadRequest(problem.to_owned()));
    }
    Err(Refusal::NotAcceptable("nothing of what Accept lists is served".to_owned()))
}

fn car(query: &Query, accept: &Accept) -> Result<CarWish, Refusal> {
    let in_accept = accept.0.iter().find(|(kind, _)| kind == "application/vnd.ipld.car");
    let parameter = |in_url: &str, name: &str| {
        let in_accept = in_accept.and_then(|(_, parameters)| {
            parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
        });
        query.get(in_url).or(in_accept).unwrap_or_default().to_owned()
    };
    match parameter("car-version", "version").as_str() {
        "" | "1" => {}
        other => {
            return Err(Refusal::NotAcceptable(format!("CAR version {other:?}; 1 is served")));
        }
    }
    match parameter("car-order", "order").as_str() {
        // Who takes any order takes ours.
        "" | "dfs" | "unk" => {}
        other => {
            return Err(Refusal::NotAcceptable(format!("order {other:?}; dfs is served")));
        }
    }
    let with_duplicates = match parameter("car-dups", "dups").as_str() {
        "" | "n" => false,
        "y" => true,
        other => return Err(Refusal::BadRequest(format!("dups is y or n, not {other:?}"))),
    };
    let range = query.get("entity-bytes").map(entity_bytes).transpose()?;
    let scope = match (query.get("dag-scope"), range) {
        (None, None) | (Some("all"), _) => Scope::All,
        (Some("block"), _) => Scope::Block,
        (None | Some("entity"), range) => Scope::Entity(range.unwrap_or(ByteRange::ALL)),
        (Some(other), _) => {
            let problem = format!("dag-scope is block, entity or all, not {other:?}");
            return Err(Refusal::BadRequest(problem));
        }
    };
    Ok(CarWish { scope, with_duplicates })
}

fn entity_bytes(text: &str) -> Result<ByteRange, Refusal> {
    let problem = || Refusal::BadRequest(format!("entity-bytes is from:to, not {text:?}"));
    let (from, to) = text.split_once(':').ok_or_else(problem)?;
    let from = from.parse().map_err(|_| problem())?;
    let to = match to {
        "*" => None,
        number => Some(number.parse().map_err(|_| problem())?),
    };
    Ok(ByteRange { from, to })
}

/// Returns the one range of a header; several, or none that can be read, are as good as no header.
fn read_range(text: &str) -> Option<Range> {
    let (from, to) = text.trim().strip_prefix("bytes=")?.split_once('-')?;
    let number = |text: &str| text.trim().parse::<u64>().ok();
    match (from.trim(), to.trim()) {
        ("", count) => number(count).map(Range::Last),
        (from, "") => number(from).map(|from| Range::From(from, None)),
        (from, to) => {
            let (from, to) = (number(from)?, number(to)?);
            (from <= to).then_some(Range::From(from, Some(to)))
        }
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The parameters of a URL, first one first.
struct Query(Vec<(String, String)>);

impl Query {
    fn read(text: &str) -> Result<Self, Refusal> {
        let decode = |part: &str| {
            let problem = || Refusal::BadRequest("the query is not UTF-8".to_owned());
            percent_decode(&part.replace('+', " ")).ok_or_else(problem)
        };
        let mut pairs = Vec::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            pairs.push((decode(key)?, decode(value)?));
        }
        Ok(Self(pairs))
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

/// The kinds that a client takes, in its order, each with its parameters.
struct Accept(Vec<(String, Vec<(String, String)>)>);

impl Accept {
    fn read(headers: &HeaderMap) -> Self {
        let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let mut kinds = Vec::new();
        for kind in values.flat_map(|value| value.split(',')) {
            let mut parts = kind.split(';').map(|part| part.trim().to_ascii_lowercase());
            let name = parts.next().unwrap_or_default();
            let parameters: Vec<_> = parts
                .filter_map(|part| {
                    let (key, value) = part.split_once('=')?;
                    Some((key.trim().to_owned(), value.trim().trim_matches('"').to_owned()))
                })
                .collect();
            let weight = parameters.iter().find(|(key, _)| key == "q");
            let is_refused =
                weight.is_some_and(|(_, weight)| weight.parse::<f32>().is_ok_and(|q| q <= 0.0));
            if !name.is_empty() && !is_refused {
                kinds.push((name, parameters));
            }
        }
        Self(kinds)
    }
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        let escaped = (byte == b'%').then(|| behind.get(..2)).flatten().and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            digits.bytes().all(|digit| digit.is_ascii_hexdigit()).then_some(())?;
            u8::from_str_radix(digits, 16).ok()
        });
        match escaped {
            Some(escaped) => {
                bytes.push(escaped);
                rest = &behind[2..];
            }
            None => {
                bytes.push(byte);
                rest = behind;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CID: &str = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku";

    fn read(uri: &str, headers: &[(&str, &str)]) -> Result<Wish, Refusal> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name = header::HeaderName::from_bytes(name.as_bytes()).unwrap();
            map.append(name, value.parse().unwrap());
        }
        Wish::read(&Method::GET, &uri.parse().unwrap(), &map)
    }

    #[track_caller]
    fn format(query: &str, accept: &str) -> Format {
        let headers: &[_] = if accept.is_empty() { &[] } else { &[("accept", accept)] };
        read(&format!("/ipfs/{CID}{query}"), headers).unwrap().format
    }

    fn car(scope: Scope, with_duplicates: bool) -> Format {
        Format::Car(CarWish { scope, with_duplicates })
    }

    #[test]
    fn the_url_wins_over_the_header() {
        assert_eq!(format("?format=raw", "application/vnd.ipld.car"), Format::Raw);
        assert_eq!(format("", "text/plain, application/vnd.ipld.raw;q=0.5"), Format::Raw);
        let car_accept = "application/vnd.ipld.car; version=1; order=unk; dups=y";
        assert_eq!(format("", car_accept), car(Scope::All, true));
        assert_eq!(format("?format=car", car_accept), car(Scope::All, true));
        assert_eq!(format("?format=car&car-dups=n", car_accept), car(Scope::All, false));
        assert_eq!(format("", "text/html,application/xhtml+xml"), Format::Html);
        assert_eq!(format("?format=dag-json", "*/*"), Format::DagJson);
    }

    #[test]
    fn ranges_of_entities_are_read() {
        let entity = |from, to| car(Scope::Entity(ByteRange { from, to }), false);
        assert_eq!(format("?format=car&entity-bytes=0:*", ""), entity(0, None));
        let query = "?format=car&dag-scope=entity&entity-bytes=-5:-1";
        assert_eq!(format(query, ""), entity(-5, Some(-1)));
        assert_eq!(format("?format=car&dag-scope=block", ""), car(Scope::Block, false));
        for bad in ["dag-scope=most", "entity-bytes=5", "entity-bytes=a:b", "car-dups=x"] {
            let refusal = read(&format!("/ipfs/{CID}?format=car&{bad}"), &[]).unwrap_err();
            assert!(matches!(refusal, Refusal::BadRequest(_)), "{bad}: {refusal:?}");
        }
    }

    #[test]
    fn what_is_not_served_is_said() {
        let bad = [
            format!("/ipfs/{CID}"),
            "/ipfs/".to_owned(),
            "/ipfs/nonsense?format=raw".to_owned(),
            format!("/ipfs/{CID}/%ff?format=raw"),
            format!("/ipfs/{CID}{}?format=raw", "/x".repeat(65)),
            format!("/ipfs/{CID}?format=raw&filename={}", "x".repeat(256)),
        ];
        for uri in bad {
            assert!(matches!(read(&uri, &[]), Err(Refusal::BadRequest(_))), "{uri}");
        }
        for query in ["?format=tar", "?format=car&car-version=2", "?format=car&car-order=bfs"] {
            let refused = read(&format!("/ipfs/{CID}{query}"), &[]);
            assert!(matches!(refused, Err(Refusal::NotAcceptable(_))), "{query}");
        }
        let refused = read(&format!("/ipfs/{CID}"), &[("accept", "application/x-tar")]);
        assert!(matches!(refused, Err(Refusal::NotAcceptable(_))));
        assert!(matches!(read("/", &[]), Err(Refusal::NotFound(_))));
        assert!(matches!(read("/ipns/x", &[]), Err(Refusal::NoNames)));
        assert_eq!(read("/ipfs/bafkqaaa", &[]).unwrap().format, Format::Raw);
    }

    #[test]
    fn paths_are_decoded_once() {
        let wish = read(&format!("/ipfs/{CID}/a%2525/%C3%A4//b/?format=raw"), &[]).unwrap();
        assert_eq!(wish.path, ["a%25", "ä", "b"]);
        assert_eq!(wish.shown_path, format!("/ipfs/{CID}/a%2525/%C3%A4//b"));
    }

    #[test]
    fn ranges_of_bytes_are_read() {
        assert_eq!(read_range("bytes=6-16"), Some(Range::From(6, Some(16))));
        assert_eq!(read_range("bytes=6-"), Some(Range::From(6, None)));
        assert_eq!(read_range("bytes=-6"), Some(Range::Last(6)));
        for text in ["bytes=7-9,1-3", "bytes=9-7", "lines=1-2", "bytes=", "bytes=-"] {
            assert_eq!(read_range(text), None, "{text}");
        }
        assert_eq!(Range::From(6, Some(u64::MAX)).within(10), Some((6, 10)));
        assert_eq!(Range::Last(99).within(10), Some((0, 10)));
        assert_eq!(Range::From(10, None).within(10), None);
        assert_eq!(Range::Last(0).within(10), None);
    }

    #[test]
    fn names_that_point_here_are_not_this_machine() {
        for own in
            [None, Some("127.0.0.1:4610"), Some("localhost"), Some("[::1]:80"), Some("10.0.0.7")]
        {
            assert!(is_own_host(own), "{own:?}");
        }
        for foreign in ["evil.example:80", "localhost.evil.example", "", "127.0.0.1.evil.example"] {
            assert!(!is_own_host(Some(foreign)), "{foreign}");
        }
    }

    #[test]
    fn known_tags_are_compared_weakly() {
        let headers = [("if-none-match", "\"x\", W/\"y\"")];
        let wish = read(&format!("/ipfs/{CID}?format=raw"), &headers).unwrap();
        assert!(wish.has("\"y\"") && wish.has("W/\"x\"") && !wish.has("\"z\""));
    }
}
