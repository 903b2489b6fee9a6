//! The ledger's bytes: `docs/formats/ledger.md`.
//!
//! A record's cost stands in a head with a checksum of its own, in front of the body, so that an
//! entry that was torn while being written still counts.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::epsilon::Epsilon;
use crate::ledger::{OpenError, TEXT_BYTES_MAX};
use crate::release::Unit;

pub(crate) const VERSION: u32 = 1;
const MAGIC: &[u8; 8] = b"dunledgr";
pub(crate) const HEADER_BYTES: usize = 16;
/// epsilon 8, tag 16, body length 4, checksum 4.
pub(crate) const HEAD_BYTES: usize = 32;
const CRC_BYTES: usize = 4;
/// Two texts, a digest, numbers and the names of eight fields.
const BODY_BYTES_MAX: usize = 2 * TEXT_BYTES_MAX + 256;
pub(crate) const RECORD_BYTES_MAX: usize = HEAD_BYTES + BODY_BYTES_MAX + CRC_BYTES;

/// Names a collection in the fixed-size head: the first half of its name's SHA-256 digest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CollectionTag([u8; 16]);

impl CollectionTag {
    pub(crate) fn of(collection: &str) -> Self {
        let digest: [u8; 32] = Sha256::digest(collection.as_bytes()).into();
        Self(std::array::from_fn(|index| digest[index]))
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    pub(crate) epsilon: Epsilon,
    pub(crate) tag: CollectionTag,
    /// `None` if it was torn.
    pub(crate) body: Option<Body>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Body {
    Reserved(Reserved),
    Released { of: u64, sequence: u64 },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reserved {
    pub(crate) collection: String,
    #[serde(with = "serde_bytes")]
    pub(crate) data: Vec<u8>,
    pub(crate) delta: f64,
    pub(crate) purpose: String,
    pub(crate) sequence: u64,
    pub(crate) unit: Unit,
    pub(crate) unix_ms: u64,
}

/// A ledger file as read.
#[derive(Debug)]
pub(crate) struct Contents {
    pub(crate) records: Vec<Record>,
    /// Where the next record goes, once the tail is repaired.
    pub(crate) end: u64,
    pub(crate) tail: Tail,
}

/// What a crash left at the end of the file.
#[derive(Debug, PartialEq)]
pub(crate) enum Tail {
    Clean,
    /// Too little to be an entry: cut the file at the end.
    Remove,
    /// No records, and not the whole header: write it.
    Header,
    /// The cost is readable and the body is not: it becomes zeros, which marks it as torn.
    Seal {
        at: u64,
        zeros: Vec<u8>,
    },
}

pub(crate) fn header() -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    let crc = crc32fast::hash(&header[..12]);
    header[12..].copy_from_slice(&crc.to_le_bytes());
    header
}

impl Record {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let body = self.body.as_ref().expect("only whole records are written");
        let body = dunlin_wire::cbor::encode(body).expect("a body has a dag-cbor encoding");
        assert!(body.len() <= BODY_BYTES_MAX, "a body of {} bytes", body.len());
        let mut bytes = Vec::with_capacity(HEAD_BYTES + body.len() + CRC_BYTES);
        bytes.extend_from_slice(&self.epsilon.as_nanos().to_le_bytes());
        bytes.extend_from_slice(&self.tag.0);
        bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
        bytes.extend_from_slice(&body);
        bytes.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
        bytes
    }
}

/// Reads a whole file.
pub(crate) fn parse(bytes: &[u8]) -> Result<Contents, OpenError> {
    let Some(mut rest) = bytes.strip_prefix(&header()) else {
        // A new file, or one whose first write was torn.
        if header().starts_with(bytes) {
            return Ok(Contents {
                records: Vec::new(),
                end: HEADER_BYTES as u64,
                tail: Tail::Header,
            });
        }
        return Err(OpenError::Foreign);
    };
    let mut contents =
        Contents { records: Vec::new(), end: HEADER_BYTES as u64, tail: Tail::Clean };
    while !rest.is_empty() && contents.tail == Tail::Clean {
        rest = contents.parse_record(rest)?;
    }
    Ok(contents)
}

impl Contents {
    /// Reads the record at the start of `rest`; returns what follows it.
    fn parse_record<'a>(&mut self, rest: &'a [u8]) -> Result<&'a [u8], OpenError> {
        let damaged = OpenError::Damaged { offset: self.end };
        let Some((head, rest_of_record)) = rest.split_at_checked(HEAD_BYTES) else {
            self.tail = Tail::Remove;
            return Ok(&[]);
        };
        let Some((epsilon, tag, body_bytes)) = parse_head(head) else {
            // The file system may grow a file before it writes to it. No head is all zeros.
            if head.iter().all(|&byte| byte == 0) && rest.len() <= RECORD_BYTES_MAX {
                self.tail = Tail::Remove;
                return Ok(&[]);
            }
            return Err(damaged);
        };
        let torn = Record { epsilon, tag, body: None };
        let at = self.end + HEAD_BYTES as u64;
        let tail_bytes = body_bytes + CRC_BYTES;
        let Some((body, next)) = rest_of_record.split_at_checked(tail_bytes) else {
            self.tail = Tail::Seal { at, zeros: vec![0; tail_bytes] };
            self.push(torn, tail_bytes);
            return Ok(&[]);
        };
        let record = match parse_body(body, self.records.len() as u64) {
            Some(body) if fits(&body, epsilon, tag) => Record { body: Some(body), ..torn },
            None if body.iter().all(|&byte| byte == 0) => torn,
            None if next.is_empty() => {
                self.tail = Tail::Seal { at, zeros: vec![0; tail_bytes] };
                torn
            }
            _ => return Err(damaged),
        };
        self.push(record, tail_bytes);
        Ok(next)
    }

    fn push(&mut self, record: Record, tail_bytes: usize) {
        self.records.push(record);
        self.end += (HEAD_BYTES + tail_bytes) as u64;
    }
}

fn parse_head(head: &[u8]) -> Option<(Epsilon, CollectionTag, usize)> {
    let (fields, crc) = head.split_last_chunk::<4>()?;
    let (epsilon, fields) = fields.split_first_chunk::<8>()?;
    let (tag, fields) = fields.split_first_chunk::<16>()?;
    let body_bytes = u32::from_le_bytes(*fields.first_chunk::<4>()?) as usize;
    let is_whole = crc32fast::hash(&head[..HEAD_BYTES - 4]) == u32::from_le_bytes(*crc);
    (is_whole && (1..=BODY_BYTES_MAX).contains(&body_bytes)).then(|| {
        (Epsilon::from_nanos(u64::from_le_bytes(*epsilon)), CollectionTag(*tag), body_bytes)
    })
}

fn parse_body(body: &[u8], sequence: u64) -> Option<Body> {
    let (body, crc) = body.split_last_chunk::<4>()?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return None;
    }
    let body: Body = dunlin_wire::cbor::decode(body, BODY_BYTES_MAX).ok()?;
    let claimed = match &body {
        Body::Reserved(reserved) => reserved.sequence,
        Body::Released { sequence, .. } => *sequence,
    };
    (claimed == sequence).then_some(body)
}

/// Whether body and head belong together.
fn fits(body: &Body, epsilon: Epsilon, tag: CollectionTag) -> bool {
    match body {
        Body::Reserved(reserved) => {
            tag == CollectionTag::of(&reserved.collection) && reserved.data.len() == 32
        }
        Body::Released { of, sequence } => epsilon == Epsilon::ZERO && of < sequence,
    }
}
