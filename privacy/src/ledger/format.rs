//! The ledger's bytes: `docs/formats/ledger.md`.
//!
//! A record's cost stands in a head with a checksum of its own, in front of the body, so that an
//! entry that was torn while being written still counts. Version 2 differs from 1 in the header, in two
//! more bodies and in more fields of a reservation; a file of version 1 is read, and written anew.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::epsilon::Epsilon;
use crate::ledger::{OpenError, TEXT_BYTES_MAX};
use crate::rho::Rho;
use crate::terms::{Mechanism, Unit};

pub(crate) const VERSION: u32 = 2;
/// The version before, which is read.
const VERSION_BEFORE: u32 = 1;
const MAGIC: &[u8; 8] = b"dunledgr";
pub(crate) const HEADER_BYTES: usize = 16;
/// epsilon 8, tag 16, body length 4, checksum 4.
pub(crate) const HEAD_BYTES: usize = 32;
const CRC_BYTES: usize = 4;
/// Two texts, a digest, numbers and the names of fields, or as many tags and the same.
const BODY_BYTES_MAX: usize = 4_096;
/// Bytes of an entity's tag.
pub(crate) const TAG_BYTES: usize = 8;
/// Entities in one record. Records stay small, because so many zeros at the end of a file may be a
/// record that was never written.
pub(crate) const ENTITIES_PER_RECORD: usize = (BODY_BYTES_MAX - 256) / TAG_BYTES;
const _: () = assert!(2 * TEXT_BYTES_MAX + 512 <= BODY_BYTES_MAX, "a reservation fits");
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
    /// A release is going to be made.
    Reserved(Reserved),
    /// It was made.
    Released { of: u64, sequence: u64 },
    /// It was given up after its first query: the rest of its cost was not spent.
    Stopped(Stop),
    /// A part of a list of entities, which reservations refer to by the number of its first record.
    Cohort {
        first: u64,
        sequence: u64,
        #[serde(with = "serde_bytes")]
        tags: Vec<u8>,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reserved {
    /// Absent in version 1, where it was 1.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) cells_max: Option<u8>,
    /// Absent for everyone.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) cohort: Option<u64>,
    pub(crate) collection: String,
    #[serde(with = "serde_bytes")]
    pub(crate) data: Vec<u8>,
    pub(crate) delta: f64,
    /// Absent, like the last, for all of time.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) first_us: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) last_us: Option<i64>,
    /// Absent in version 1, where it was Laplace noise.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) mechanism: Option<Mechanism>,
    pub(crate) purpose: String,
    /// With Gaussian noise.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) rho_picos: Option<Rho>,
    pub(crate) sequence: u64,
    pub(crate) unit: Unit,
    pub(crate) unix_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stop {
    /// What was spent after all.
    pub(crate) epsilon_nanos: Epsilon,
    pub(crate) of: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) rho_picos: Option<Rho>,
    pub(crate) sequence: u64,
    pub(crate) units_needed: u64,
    pub(crate) units_noised: u64,
}

/// A ledger file as read.
#[derive(Debug)]
pub(crate) struct Contents {
    pub(crate) records: Vec<Record>,
    /// Where the next record goes, once the tail is repaired.
    pub(crate) end: u64,
    pub(crate) tail: Tail,
    /// Whether the file is of the version before, and to be written anew.
    pub(crate) is_old: bool,
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
    header_of(VERSION)
}

fn header_of(version: u32) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&version.to_le_bytes());
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
    let mut contents = Contents {
        records: Vec::new(),
        end: HEADER_BYTES as u64,
        tail: Tail::Clean,
        is_old: false,
    };
    let mut rest = match bytes.split_first_chunk::<HEADER_BYTES>() {
        Some((header, rest)) if *header == header_of(VERSION) => rest,
        Some((header, rest)) if *header == header_of(VERSION_BEFORE) => {
            contents.is_old = true;
            rest
        }
        // A new file, or one whose first write was torn.
        None if [VERSION, VERSION_BEFORE].iter().any(|v| header_of(*v).starts_with(bytes)) => {
            contents.tail = Tail::Header;
            return Ok(contents);
        }
        _ => return Err(OpenError::Foreign),
    };
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
    (claimed_by(&body) == sequence).then_some(body)
}

/// Which record a body says it is.
fn claimed_by(body: &Body) -> u64 {
    match body {
        Body::Reserved(Reserved { sequence, .. })
        | Body::Released { sequence, .. }
        | Body::Stopped(Stop { sequence, .. })
        | Body::Cohort { sequence, .. } => *sequence,
    }
}

/// Whether body and head belong together.
fn fits(body: &Body, epsilon: Epsilon, tag: CollectionTag) -> bool {
    match body {
        Body::Reserved(reserved) => {
            let is_gaussian = reserved.mechanism == Some(Mechanism::Gaussian);
            tag == CollectionTag::of(&reserved.collection)
                && reserved.data.len() == 32
                && is_gaussian == reserved.rho_picos.is_some()
                && reserved.first_us.is_some() == reserved.last_us.is_some()
        }
        Body::Released { of, sequence } | Body::Stopped(Stop { of, sequence, .. }) => {
            epsilon == Epsilon::ZERO && of < sequence
        }
        Body::Cohort { first, sequence, tags } => {
            epsilon == Epsilon::ZERO
                && first <= sequence
                && !tags.is_empty()
                && tags.len().is_multiple_of(TAG_BYTES)
        }
    }
}
