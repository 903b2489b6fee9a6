//! Records: made, and checked before anything in them is believed.

use std::{
    cmp::Ordering,
    time::{Duration, SystemTime},
};

use dunlin_wire::{Cid, cbor};
use libp2p_identity::Keypair;
use serde::Serialize;
use serde_bytes::Bytes;

use super::Name;
use crate::{
    bitswap::protobuf::{Malformed, Reader, Value, put_bytes, put_varint},
    dag::cbor::{Cursor, Item},
};

/// Largest record, in bytes. The specification asks everybody to take as much, and no more.
pub const RECORD_BYTES_MAX: usize = 10 * 1024;

/// What stands before the data when it is signed.
const SIGNED_PREFIX: &[u8] = b"ipns-signature:";

/// The one kind of validity that there is: an end of life.
const EOL: u64 = 0;

/// Numbers of the message's fields.
mod field {
    pub(super) const VALUE: u64 = 1;
    pub(super) const SIGNATURE_V1: u64 = 2;
    pub(super) const VALIDITY_TYPE: u64 = 3;
    pub(super) const VALIDITY: u64 = 4;
    pub(super) const SEQUENCE: u64 = 5;
    pub(super) const TTL: u64 = 6;
    pub(super) const PUBLIC_KEY: u64 = 7;
    pub(super) const SIGNATURE_V2: u64 = 8;
    pub(super) const DATA: u64 = 9;
}

/// What a record shall say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// What the name stands for: a path like `/ipfs/<cid>`.
    pub value: String,
    /// A higher one replaces a lower one, for ever.
    pub sequence: u64,
    /// When it ends, to the nanosecond; before the year 10000.
    pub eol: SystemTime,
    /// How long others may keep it before they look again.
    pub ttl: Duration,
}

/// A record that its name's key has signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    bytes: Vec<u8>,
    value: Vec<u8>,
    sequence: u64,
    eol: SystemTime,
}

impl Record {
    /// Returns the record that says so, signed: of version 2, with the fields of version 1 for readers of
    /// before 2021, as Kubo makes it.
    ///
    /// # Errors
    ///
    /// Fails when the key is not Ed25519, the end of life has no date, or the value is too long.
    pub fn sign(keypair: &Keypair, terms: &Terms) -> Result<Self, SignError> {
        keypair.public().try_into_ed25519().map_err(|_| SignError::NotEd25519)?;
        let value = terms.value.as_bytes();
        let validity = date(terms.eol).ok_or(SignError::Date)?;
        let ttl = u64::try_from(terms.ttl.as_nanos()).unwrap_or(u64::MAX);
        let data = Signed {
            sequence: terms.sequence,
            ttl,
            validity: Bytes::new(validity.as_bytes()),
            validity_type: EOL,
            value: Bytes::new(value),
        };
        let data = cbor::encode(&data).expect("plain fields have an encoding");
        let sign =
            |parts: &[&[u8]]| keypair.sign(&parts.concat()).map_err(|_| SignError::NotEd25519);
        let v1 = sign(&[value, validity.as_bytes(), EOL.to_string().as_bytes()])?;
        let v2 = sign(&[SIGNED_PREFIX, &data])?;
        let mut bytes = Vec::with_capacity(2 * data.len() + 160);
        put_bytes(&mut bytes, field::VALUE, value);
        put_bytes(&mut bytes, field::SIGNATURE_V1, &v1);
        put_present(&mut bytes, field::VALIDITY_TYPE, EOL);
        put_bytes(&mut bytes, field::VALIDITY, validity.as_bytes());
        put_present(&mut bytes, field::SEQUENCE, terms.sequence);
        put_present(&mut bytes, field::TTL, ttl);
        put_bytes(&mut bytes, field::SIGNATURE_V2, &v2);
        put_bytes(&mut bytes, field::DATA, &data);
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(SignError::TooLarge { bytes: bytes.len() });
        }
        Ok(Self { bytes, value: value.into(), sequence: terms.sequence, eol: terms.eol })
    }

    /// Returns the record in `bytes` when `name`'s key has signed it and it has not ended at `now`.
    ///
    /// # Errors
    ///
    /// Fails on everything else. What the legacy signature is does not matter: it signs too little.
    pub fn open(name: &Name, bytes: &[u8], now: SystemTime) -> Result<Self, InvalidRecord> {
        let record = Self::read(name, bytes)?;
        if record.eol <= now {
            return Err(InvalidRecord::Expired { eol: record.eol });
        }
        Ok(record)
    }

    /// As [`Self::open`], of a record that may have ended: an own one, whose sequence still counts.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn read(name: &Name, bytes: &[u8]) -> Result<Self, InvalidRecord> {
        if bytes.len() > RECORD_BYTES_MAX {
            return Err(InvalidRecord::TooLarge { bytes: bytes.len() });
        }
        let message = Message::decode(bytes)?;
        let (Some(signature), Some(data)) = (message.signature_v2, message.data) else {
            return Err(InvalidRecord::Unsigned);
        };
        verify(name, data, signature, message.public_key).ok_or(InvalidRecord::Signature)?;
        let data = Data::decode(data)?;
        message.agrees_with(&data)?;
        let validity = std::str::from_utf8(data.validity).ok();
        let eol = validity.and_then(|text| humantime::parse_rfc3339(text).ok());
        let eol = eol.ok_or(InvalidRecord::Malformed("its end of life is no date"))?;
        Ok(Self { bytes: bytes.into(), value: data.value.into(), sequence: data.sequence, eol })
    }

    /// Returns the encoded record, to pass on as it is.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns what the name stands for: a path, as a rule.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        &self.value
    }

    /// Returns the CID that the name stands for, when it is one and nothing but one.
    #[must_use]
    pub fn cid(&self) -> Option<Cid> {
        let path = std::str::from_utf8(&self.value).ok()?;
        path.strip_prefix("/ipfs/")?.parse().ok()
    }

    /// Returns its sequence number.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Returns when it ends.
    #[must_use]
    pub fn eol(&self) -> SystemTime {
        self.eol
    }

    /// Says which of two records of one name counts: the greater one. As everywhere on IPFS it is the one
    /// with the higher sequence number, then the one that ends later, then the one with the greater bytes.
    #[must_use]
    pub fn compare(&self, other: &Self) -> Ordering {
        let key = |record: &Self| (record.sequence, record.eol);
        key(self).cmp(&key(other)).then_with(|| self.bytes.cmp(&other.bytes))
    }
}

/// What is signed, with its keys as canonical DAG-CBOR sorts them.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Signed<'a> {
    sequence: u64,
    #[serde(rename = "TTL")]
    ttl: u64,
    validity: &'a Bytes,
    validity_type: u64,
    value: &'a Bytes,
}

/// Appends an integer, also when it is zero: the fields are optional ones that are there.
fn put_present(bytes: &mut Vec<u8>, number: u64, value: u64) {
    put_varint(bytes, number << 3);
    put_varint(bytes, value);
}

/// Returns a moment as it is written; none for one that has no date with four digits of a year.
fn date(moment: SystemTime) -> Option<String> {
    /// The last second of the year 9999.
    const LAST: Duration = Duration::from_secs(253_402_300_799);
    let since = moment.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    (since <= LAST).then(|| humantime::format_rfc3339_nanos(moment).to_string())
}

/// Checks the signature, strictly: of one key and one text there is one, which nobody can turn into another.
fn verify(name: &Name, data: &[u8], signature: &[u8], stated: Option<&[u8]>) -> Option<()> {
    let key = name.key()?;
    // The key stands in the name; a record that states another one wants to be misread.
    if let Some(stated) = stated {
        let stated = libp2p_identity::PublicKey::try_decode_protobuf(stated).ok()?;
        (stated.to_peer_id() == name.peer()).then_some(())?;
    }
    let signature = ed25519_dalek::Signature::from_slice(signature).ok()?;
    let key = ed25519_dalek::VerifyingKey::from_bytes(&key).ok()?;
    key.verify_strict(&[SIGNED_PREFIX, data].concat(), &signature).ok()
}

/// The fields of the message that are looked at.
#[derive(Default)]
struct Message<'a> {
    value: Option<&'a [u8]>,
    signature_v1: Option<&'a [u8]>,
    validity_type: Option<u64>,
    validity: Option<&'a [u8]>,
    sequence: Option<u64>,
    ttl: Option<u64>,
    public_key: Option<&'a [u8]>,
    signature_v2: Option<&'a [u8]>,
    data: Option<&'a [u8]>,
}

impl<'a> Message<'a> {
    fn decode(bytes: &'a [u8]) -> Result<Self, InvalidRecord> {
        let mut message = Self::default();
        let mut reader = Reader::new(bytes);
        while let Some(read) = reader.next()? {
            match read {
                (field::VALUE, Value::Bytes(value)) => once(&mut message.value, value)?,
                (field::SIGNATURE_V1, Value::Bytes(value)) => {
                    once(&mut message.signature_v1, value)?;
                }
                (field::VALIDITY_TYPE, Value::Varint(value)) => {
                    once(&mut message.validity_type, value)?;
                }
                (field::VALIDITY, Value::Bytes(value)) => once(&mut message.validity, value)?,
                (field::SEQUENCE, Value::Varint(value)) => once(&mut message.sequence, value)?,
                (field::TTL, Value::Varint(value)) => once(&mut message.ttl, value)?,
                (field::PUBLIC_KEY, Value::Bytes(value)) => once(&mut message.public_key, value)?,
                (field::SIGNATURE_V2, Value::Bytes(value)) => {
                    once(&mut message.signature_v2, value)?;
                }
                (field::DATA, Value::Bytes(value)) => once(&mut message.data, value)?,
                (field::VALUE..=field::DATA, _) => {
                    return Err(InvalidRecord::Malformed("a field has another type"));
                }
                // Fields that are added later are for those who know them.
                _ => {}
            }
        }
        // An empty key says nothing, and neither does an empty signature of the old kind.
        message.public_key = message.public_key.filter(|key| !key.is_empty());
        message.signature_v1 = message.signature_v1.filter(|signature| !signature.is_empty());
        Ok(message)
    }

    /// Checks that what readers of old records see is what is signed.
    fn agrees_with(&self, data: &Data<'_>) -> Result<(), InvalidRecord> {
        if self.signature_v1.is_none() && self.value.is_none_or(<[u8]>::is_empty) {
            return Ok(());
        }
        let is_same = self.value.unwrap_or_default() == data.value
            && self.validity.unwrap_or_default() == data.validity
            && self.validity_type.unwrap_or_default() == EOL
            && self.sequence.unwrap_or_default() == data.sequence
            && self.ttl.unwrap_or_default() == data.ttl;
        if is_same { Ok(()) } else { Err(InvalidRecord::Contradiction) }
    }
}

/// Takes a field that may be there once: of two, readers might believe different ones.
fn once<T>(place: &mut Option<T>, value: T) -> Result<(), InvalidRecord> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(InvalidRecord::Malformed("a field is there twice")),
    }
}

/// What is signed. Entries that are unknown are passed over, as the specification wants it.
struct Data<'a> {
    value: &'a [u8],
    validity: &'a [u8],
    sequence: u64,
    ttl: u64,
}

impl<'a> Data<'a> {
    fn decode(bytes: &'a [u8]) -> Result<Self, InvalidRecord> {
        let broken = |_| InvalidRecord::Malformed("its data are no canonical dag-cbor map");
        let odd = InvalidRecord::Malformed("an entry of its data is missing or of another type");
        let mut cursor = Cursor(bytes);
        let Item::Map(pairs) = cursor.next().map_err(broken)? else { return Err(odd) };
        let (mut value, mut validity, mut kind, mut sequence, mut ttl) =
            (None, None, None, None, None);
        let mut last: Option<&str> = None;
        for _ in 0..pairs {
            let Item::Text(key) = cursor.next().map_err(broken)? else { return Err(odd) };
            let order = |key: &str| (key.len(), key.to_owned());
            if last.is_some_and(|last| order(last) >= order(key)) {
                return Err(InvalidRecord::Malformed("the keys of its data do not rise"));
            }
            last = Some(key);
            let known = match key {
                "Value" => &mut value,
                "Validity" => &mut validity,
                "ValidityType" => &mut kind,
                "Sequence" => &mut sequence,
                "TTL" => &mut ttl,
                _ => {
                    cursor.skip(drop).map_err(broken)?;
                    continue;
                }
            };
            *known = Some(cursor.next().map_err(broken)?);
        }
        if !cursor.0.is_empty() {
            return Err(InvalidRecord::Malformed("there is something behind its data"));
        }
        match (value, validity, kind, sequence, ttl) {
            (
                Some(Item::Bytes(value)),
                Some(Item::Bytes(validity)),
                Some(Item::Unsigned(EOL)),
                Some(Item::Unsigned(sequence)),
                Some(Item::Unsigned(ttl)),
            ) => Ok(Self { value, validity, sequence, ttl }),
            _ => Err(odd),
        }
    }
}

/// Why a record cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// The key is of another kind.
    #[error("the key is not of the kind Ed25519")]
    NotEd25519,
    /// The end of life is before 1970 or beyond the year 9999.
    #[error("the end of life has no date")]
    Date,
    /// The value is too long.
    #[error("the record would have {bytes} bytes; at most {RECORD_BYTES_MAX} are allowed")]
    TooLarge {
        /// How many it would have.
        bytes: usize,
    },
}

/// Why bytes are no valid record of a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRecord {
    /// It is larger than any record may be.
    #[error("{bytes} bytes; a record has at most {RECORD_BYTES_MAX}")]
    TooLarge {
        /// How many there are.
        bytes: usize,
    },
    /// It is no record.
    #[error("it is no record: {0}")]
    Malformed(&'static str),
    /// It has no signature of version 2, or nothing that is signed.
    #[error("it has no signature of version 2")]
    Unsigned,
    /// The signature is not the name's.
    #[error("it is not signed by the name's key")]
    Signature,
    /// What is signed is not what stands beside it.
    #[error("its old fields say something else than what is signed")]
    Contradiction,
    /// It has ended.
    #[error("it ended at {}", humantime::format_rfc3339_seconds(*eol))]
    Expired {
        /// When.
        eol: SystemTime,
    },
}

impl From<Malformed> for InvalidRecord {
    fn from(_: Malformed) -> Self {
        Self::Malformed("it is no protobuf message")
    }
}
