//! DAG-JSON: links and paths of blocks that are written in it, and other blocks shown in it.
//!
//! A link is `{"/": "<cid>"}`, bytes are `{"/": {"bytes": "<base64>"}}`, and keys are sorted by their bytes.

use dunlin_wire::Cid;
use serde_json::{Map, Number, Value, json};

use super::{
    DAG_CBOR, DAG_JSON, DAG_PB,
    cbor::{Cursor, Follow, Item},
    pb::{Node, NodeError},
};

/// Most values of a block that is shown as JSON: each takes some 50 bytes of memory while that is done. The
/// largest summary of a segment has some 4,096 dimensions three times over.
const VALUES_MAX: usize = 1 << 16;

/// Deepest nesting that is shown. It is what `serde_json` reads at most.
const DEPTH_MAX: usize = 127;

/// Returns a block as DAG-JSON text.
///
/// # Errors
///
/// Fails when the block is not of its codec, is of one without a form in JSON, or is too large to show.
pub fn to_json(cid: &Cid, bytes: &[u8]) -> Result<String, NodeError> {
    let value = match cid.codec() {
        DAG_CBOR => cbor_value(bytes)?,
        DAG_PB => pb_value(&Node::decode(bytes)?),
        DAG_JSON => parse(bytes)?,
        _ => return Err(NodeError::Malformed),
    };
    Ok(value.to_string())
}

/// Returns all links, depth first, keys in order.
pub(super) fn links(bytes: &[u8]) -> Result<Vec<Cid>, NodeError> {
    let value = parse(bytes)?;
    let (mut links, mut open) = (Vec::new(), vec![&value]);
    while let Some(value) = open.pop() {
        if let Some(cid) = link(value) {
            links.push(cid);
            continue;
        }
        match value {
            Value::Array(values) => open.extend(values.iter().rev()),
            Value::Object(map) => open.extend(map.values().rev()),
            _ => {}
        }
    }
    Ok(links)
}

/// Follows a path as far as this block goes.
pub(super) fn follow(bytes: &[u8], path: &[String]) -> Result<Follow, NodeError> {
    let root = parse(bytes)?;
    let mut value = &root;
    for (used, segment) in path.iter().enumerate() {
        if let Some(cid) = link(value) {
            return Ok(Follow::Link { cid, used });
        }
        let child = match value {
            Value::Array(values) => segment.parse().ok().and_then(|index: usize| values.get(index)),
            Value::Object(map) => map.get(segment),
            _ => None,
        };
        let Some(child) = child else { return Ok(Follow::Missing) };
        value = child;
    }
    let end = link(value).filter(|_| !path.is_empty());
    Ok(end.map_or(Follow::Inside, |cid| Follow::Link { cid, used: path.len() }))
}

fn parse(bytes: &[u8]) -> Result<Value, NodeError> {
    serde_json::from_slice(bytes).map_err(|_| NodeError::Malformed)
}

fn link(value: &Value) -> Option<Cid> {
    let map = value.as_object().filter(|map| map.len() == 1)?;
    map.get("/")?.as_str()?.parse().ok()
}

fn link_value(cid: &Cid) -> Value {
    json!({ "/": cid.to_string() })
}

fn bytes_value(bytes: &[u8]) -> Value {
    json!({ "/": { "bytes": base64(bytes) } })
}

fn pb_value(node: &Node<'_>) -> Value {
    let links: Vec<_> = node
        .links
        .iter()
        .map(|link| {
            let name = String::from_utf8_lossy(link.name);
            json!({ "Hash": link_value(&link.cid), "Name": name, "Tsize": link.size })
        })
        .collect();
    match node.data {
        Some(data) => json!({ "Data": bytes_value(data), "Links": links }),
        None => json!({ "Links": links }),
    }
}

/// An array or a map whose end has not come yet.
enum Open {
    Array { values: Vec<Value>, left: u64 },
    Map { map: Map<String, Value>, key: String, left: u64 },
}

fn cbor_value(bytes: &[u8]) -> Result<Value, NodeError> {
    let mut cursor = Cursor(bytes);
    let mut open: Vec<Open> = Vec::new();
    for _ in 0..VALUES_MAX {
        if let Some(Open::Map { key, .. }) = open.last_mut() {
            let Item::Text(text) = cursor.next()? else { return Err(NodeError::Malformed) };
            text.clone_into(key);
        }
        let mut value = match cursor.next()? {
            Item::Array(left) if left > 0 => {
                open.push(Open::Array { values: Vec::new(), left });
                None
            }
            Item::Map(left) if left > 0 => {
                open.push(Open::Map { map: Map::new(), key: String::new(), left });
                None
            }
            item => Some(leaf(item)?),
        };
        if open.len() > DEPTH_MAX {
            return Err(NodeError::TooDeep);
        }
        while let Some(finished) = value.take() {
            match open.pop() {
                None if cursor.0.is_empty() => return Ok(finished),
                None => return Err(NodeError::Malformed),
                Some(parent) => value = parent.add(finished, &mut open)?,
            }
        }
    }
    Err(NodeError::TooLarge)
}

impl Open {
    /// Adds a child; returns the parent when that was its last one.
    fn add(self, child: Value, open: &mut Vec<Self>) -> Result<Option<Value>, NodeError> {
        match self {
            Self::Array { mut values, left } => {
                values.push(child);
                if left == 1 {
                    return Ok(Some(Value::Array(values)));
                }
                open.push(Self::Array { values, left: left - 1 });
            }
            Self::Map { mut map, key, left } => {
                // A key of this name would read as a link or as bytes.
                if key == "/" || map.insert(key, child).is_some() {
                    return Err(NodeError::Malformed);
                }
                if left == 1 {
                    return Ok(Some(Value::Object(map)));
                }
                open.push(Self::Map { map, key: String::new(), left: left - 1 });
            }
        }
        Ok(None)
    }
}

fn leaf(item: Item<'_>) -> Result<Value, NodeError> {
    Ok(match item {
        Item::Unsigned(number) => number.into(),
        Item::Negative(number) => {
            let number = -1 - i128::from(number);
            let number = Number::from_i128(number).ok_or(NodeError::Malformed)?;
            Value::Number(number)
        }
        Item::Bytes(bytes) => bytes_value(bytes),
        Item::Text(text) => text.into(),
        Item::Array(_) => Value::Array(Vec::new()),
        Item::Map(_) => Value::Object(Map::new()),
        Item::Link(cid) => link_value(&cid),
        Item::Bool(value) => value.into(),
        Item::Null => Value::Null,
        Item::Float(value) => Value::Number(Number::from_f64(value).ok_or(NodeError::Malformed)?),
    })
}

/// Returns standard base64 (RFC 4648) without padding, as DAG-JSON has it.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0_usize, |word, &byte| word << 8 | usize::from(byte))
            << (8 * (3 - chunk.len()));
        for index in 0..=chunk.len() {
            text.push(char::from(DIGITS[word >> (18 - 6 * index) & 63]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use dunlin_wire::{
        block::{Codec, cid_of},
        cbor,
    };
    use proptest::prelude::*;

    use super::*;

    fn show(bytes: &[u8]) -> Result<String, NodeError> {
        to_json(&cid_of(Codec::DagCbor, bytes), bytes)
    }

    #[test]
    fn base64_is_that_of_the_rfc() {
        let texts = [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foob", "Zm9vYg")];
        for (bytes, text) in texts {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
    }

    #[test]
    fn dag_cbor_is_shown_with_sorted_keys() {
        let cid = cid_of(Codec::Raw, b"a");
        let object = BTreeMap::from([("link", (cid, -5_i64, 0.5_f64)), ("a", (cid, 7, 2.0))]);
        let text = show(&cbor::encode(&object).unwrap()).unwrap();
        let expected =
            format!(r#"{{"a":[{{"/":"{cid}"}},7,2.0],"link":[{{"/":"{cid}"}},-5,0.5]}}"#);
        assert_eq!(text, expected);
        // And is read again: its links and its paths.
        assert_eq!(links(text.as_bytes()).unwrap(), [cid, cid]);
        let path = ["link".to_owned(), "0".to_owned(), "x".to_owned()];
        assert_eq!(follow(text.as_bytes(), &path), Ok(Follow::Link { cid, used: 2 }));
        assert_eq!(follow(text.as_bytes(), &path[..1]), Ok(Follow::Inside));
    }

    #[test]
    fn what_is_too_large_to_show_is_refused() {
        let many = cbor::encode(&vec![0_u8; VALUES_MAX]).unwrap();
        assert_eq!(show(&many), Err(NodeError::TooLarge));
        assert_eq!(show(&[vec![0x81; 1000], vec![0]].concat()), Err(NodeError::TooDeep));
        assert_eq!(show(&[0x80]).as_deref(), Ok("[]"));
        assert_eq!(
            show(&[0x3b, 255, 255, 255, 255, 255, 255, 255, 255]).as_deref().unwrap_or("-"),
            "-"
        );
        assert_eq!(show(&[0xa1, 0x61, b'/', 0x61, b'x']), Err(NodeError::Malformed));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in any::<Vec<u8>>()) {
            show(&bytes).ok();
            links(&bytes).ok();
        }
    }
}
