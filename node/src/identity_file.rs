//! The node's key on disk: as it is, or sealed with a passphrase. `docs/formats/identity.md` has the bytes.
//!
//! A passphrase is stretched with argon2id, so that guessing is slow, and the key encrypted with XChaCha20-Poly1305. It is
//! asked for on the terminal; a daemon, which has none, reads it from the file that `DUNLIN_PASSPHRASE_FILE` names.

use std::{
    io::{self, IsTerminal as _, Read, Write as _},
    path::{Path, PathBuf},
};

use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::{AeadInPlace as _, KeyInit as _, Tag, XChaCha20Poly1305, XNonce};
use dunlin_wire::cbor;
use libp2p_identity::Keypair;
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};
use serde::{Deserialize, Serialize};
use serde_bytes::{ByteArray, ByteBuf};
use zeroize::Zeroizing;

use crate::data_dir::{DataDirError, read_secret};

/// The variable that names the file with the passphrase.
pub(crate) const PASSPHRASE_FILE: &str = "DUNLIN_PASSPHRASE_FILE";

/// The variable that names the file with a new one.
pub(crate) const NEW_PASSPHRASE_FILE: &str = "DUNLIN_NEW_PASSPHRASE_FILE";

/// How a sealed key begins. A plain one begins with a byte of its encoding, 0x08.
const MAGIC: &[u8; 8] = b"dunlkey\x01";

/// Largest sealed key, in bytes.
const SEALED_BYTES_MAX: usize = 1024;

/// Bytes behind the encrypted key that show whether it was changed.
const TAG_BYTES: usize = 16;

/// Shortest passphrase, in bytes: what is shorter is guessed, however slowly.
const PASSPHRASE_BYTES_MIN: usize = 8;

/// Longest passphrase, in bytes.
const PASSPHRASE_BYTES_MAX: usize = 1024;

/// What a guess costs: 64 MiB and three passes, the second choice of RFC 9106.
const COST: Cost = Cost { memory_kib: 64 * 1024, passes: 3, lanes: 1 };

/// What opening a key may cost at most: a damaged file must not take all memory.
const COST_MAX: Cost = Cost { memory_kib: 1024 * 1024, passes: 64, lanes: 16 };

/// How argon2id stretches a passphrase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

/// What stands before the encrypted key, and is authenticated with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    cost: Cost,
    salt: ByteArray<16>,
    nonce: ByteArray<24>,
}

/// A key that a passphrase seals.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    header: Header,
    key: ByteBuf,
}

/// A passphrase, which is not shown, and forgotten after use.
pub(crate) struct Passphrase(Zeroizing<Vec<u8>>);

impl std::fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Passphrase({} bytes)", self.0.len())
    }
}

/// A node's key, and what seals it on disk.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) keypair: Keypair,
    pub(crate) passphrase: Option<Passphrase>,
}

impl Identity {
    /// Reads a key from a file that only its owner may read, and asks for its passphrase if it has one.
    ///
    /// # Errors
    ///
    /// Fails when others may read the file, it holds no key, or the passphrase is not the right one.
    pub(crate) fn read(path: &Path) -> Result<Self, DataDirError> {
        let bytes = Zeroizing::new(read_secret(path)?);
        if !is_sealed(&bytes) {
            let keypair = decode(&bytes, path)?;
            return Ok(Self { keypair, passphrase: None });
        }
        let passphrase = Passphrase::of(PASSPHRASE_FILE, "passphrase of the node's key: ")
            .map_err(|cause| DataDirError::Passphrase { path: path.into(), cause })?;
        let key = open(&bytes, &passphrase)
            .map_err(|cause| DataDirError::Passphrase { path: path.into(), cause })?;
        Ok(Self { keypair: decode(&key, path)?, passphrase: Some(passphrase) })
    }

    /// Returns the bytes of the file that holds it.
    ///
    /// # Errors
    ///
    /// Fails when there is no memory to stretch the passphrase in.
    pub(crate) fn to_bytes(&self) -> Result<Zeroizing<Vec<u8>>, PassphraseError> {
        let key = self.keypair.to_protobuf_encoding();
        let key = Zeroizing::new(key.expect("an Ed25519 key has a protobuf encoding"));
        match &self.passphrase {
            None => Ok(key),
            Some(passphrase) => seal(&key, passphrase, COST).map(Zeroizing::new),
        }
    }
}

/// Returns a key that was sealed like another one was, from bytes that this program wrote.
///
/// # Errors
///
/// Fails when the passphrase is not the right one, or they hold no key.
pub(crate) fn open_with(
    bytes: &[u8],
    passphrase: Option<&Passphrase>,
    path: &Path,
) -> Result<Keypair, DataDirError> {
    match passphrase {
        Some(passphrase) if is_sealed(bytes) => {
            let opened = open(bytes, passphrase)
                .map_err(|cause| DataDirError::Passphrase { path: path.into(), cause })?;
            decode(&opened, path)
        }
        _ => decode(bytes, path),
    }
}

/// Returns the bytes of a file with a key that a passphrase seals.
///
/// # Errors
///
/// As [`Identity::to_bytes`].
pub(crate) fn sealed_with(
    keypair: &Keypair,
    passphrase: &Passphrase,
) -> Result<Zeroizing<Vec<u8>>, PassphraseError> {
    let passphrase = Some(Passphrase(passphrase.0.clone()));
    Identity { keypair: keypair.clone(), passphrase }.to_bytes()
}

/// Returns whether a passphrase seals the key in these bytes.
pub(crate) fn is_sealed(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

fn decode(bytes: &[u8], path: &Path) -> Result<Keypair, DataDirError> {
    Keypair::from_protobuf_encoding(bytes).map_err(|_| DataDirError::Identity { path: path.into() })
}

impl Passphrase {
    /// Takes a passphrase from the file that a variable names, or asks for it on the terminal.
    ///
    /// # Errors
    ///
    /// Fails when there is neither, others may read the file, or what comes is too short or too long.
    pub(crate) fn of(variable: &'static str, prompt: &str) -> Result<Self, PassphraseError> {
        let bytes = match file_named_by(variable) {
            Some(path) => {
                let read = read_secret(&path).map_err(Box::new);
                Zeroizing::new(read.map_err(|cause| PassphraseError::File { variable, cause })?)
            }
            None if io::stdin().is_terminal() => ask(prompt)?,
            None => return Err(PassphraseError::Absent { variable }),
        };
        Self::new(bytes)
    }

    fn new(mut bytes: Zeroizing<Vec<u8>>) -> Result<Self, PassphraseError> {
        // An editor ends a file with a newline, and a terminal every line.
        while bytes.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
            bytes.pop();
        }
        if (PASSPHRASE_BYTES_MIN..=PASSPHRASE_BYTES_MAX).contains(&bytes.len()) {
            Ok(Self(bytes))
        } else {
            Err(PassphraseError::Length { bytes: bytes.len() })
        }
    }

    /// Returns whether another is the same.
    pub(crate) fn is(&self, other: &Self) -> bool {
        // Both were typed by the one who runs this: there is nobody to learn from how long it takes.
        *self.0 == *other.0
    }
}

/// Returns the file that a variable names, if it does.
pub(crate) fn file_named_by(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|name| !name.is_empty()).map(PathBuf::from)
}

/// Asks on the terminal, without showing what is typed.
fn ask(prompt: &str) -> Result<Zeroizing<Vec<u8>>, PassphraseError> {
    let broken = |cause| PassphraseError::Terminal { cause };
    let silence = Silence::begin().map_err(broken)?;
    let mut stderr = io::stderr();
    // Behind this, so that nothing that is typed in answer is lost.
    stderr.write_all(prompt.as_bytes()).and_then(|()| stderr.flush()).map_err(broken)?;
    let line = typed(io::stdin().lock(), &silence.usual);
    drop(silence);
    writeln!(stderr).map_err(broken)?;
    line
}

/// Keeps the terminal from showing what is typed, until it is dropped.
///
/// It hands over every key, also those that it acts on otherwise: Ctrl-C would end this program, and what the shell's user
/// types next would not be shown either.
struct Silence {
    usual: Termios,
}

impl Silence {
    fn begin() -> io::Result<Self> {
        let usual = tcgetattr(io::stdin())?;
        let mut silent = usual.clone();
        silent.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        silent.special_codes[SpecialCodeIndex::VMIN] = 1;
        silent.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(io::stdin(), OptionalActions::Flush, &silent)?;
        Ok(Self { usual })
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // A terminal that is gone shows nothing.
        tcsetattr(io::stdin(), OptionalActions::Flush, &self.usual).ok();
    }
}

/// Reads a line as a terminal would edit it: with the keys that erase, end and interrupt there.
fn typed(mut keys: impl Read, terminal: &Termios) -> Result<Zeroizing<Vec<u8>>, PassphraseError> {
    // A key whose code is zero is turned off.
    let is = |key: u8, index| key != 0 && key == terminal.special_codes[index];
    // It never grows, which would leave a copy behind.
    let mut line = Zeroizing::new(Vec::with_capacity(PASSPHRASE_BYTES_MAX + 1));
    // Nor is there one in a buffer: a key is read at a time.
    let mut key = Zeroizing::new([0]);
    loop {
        match keys.read_exact(key.as_mut_slice()) {
            Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => break,
            read => read.map_err(|cause| PassphraseError::Terminal { cause })?,
        }
        match key[0] {
            b'\n' | b'\r' => break,
            key if is(key, SpecialCodeIndex::VEOF) => break,
            key if is(key, SpecialCodeIndex::VINTR) || is(key, SpecialCodeIndex::VQUIT) => {
                return Err(PassphraseError::Interrupted);
            }
            key if is(key, SpecialCodeIndex::VKILL) => line.clear(),
            key if is(key, SpecialCodeIndex::VERASE) => {
                // A letter may have several bytes, of which all but the first begin with the bits 10.
                while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
            }
            key if line.len() <= PASSPHRASE_BYTES_MAX => line.push(key),
            // It is too long already.
            _ => {}
        }
    }
    Ok(line)
}

fn seal(key: &[u8], passphrase: &Passphrase, cost: Cost) -> Result<Vec<u8>, PassphraseError> {
    let header = Header {
        cost,
        salt: ByteArray::new(rand::random()),
        nonce: ByteArray::new(rand::random()),
    };
    seal_as(header, key, passphrase)
}

fn seal_as(
    header: Header,
    key: &[u8],
    passphrase: &Passphrase,
) -> Result<Vec<u8>, PassphraseError> {
    let mut sealed = key.to_vec();
    let (cipher, associated) = cipher(&header, passphrase)?;
    let nonce = XNonce::from_slice(&*header.nonce);
    let tag = cipher
        .encrypt_in_place_detached(nonce, &associated, &mut sealed)
        .map_err(|_| PassphraseError::Damaged)?;
    sealed.extend_from_slice(&tag);
    let mut bytes = MAGIC.to_vec();
    let sealed = Sealed { header, key: ByteBuf::from(sealed) };
    bytes.extend(cbor::encode(&sealed).map_err(|_| PassphraseError::Damaged)?);
    Ok(bytes)
}

fn open(bytes: &[u8], passphrase: &Passphrase) -> Result<Zeroizing<Vec<u8>>, PassphraseError> {
    let body = bytes.strip_prefix(MAGIC).ok_or(PassphraseError::Damaged)?;
    let sealed: Sealed =
        cbor::decode(body, SEALED_BYTES_MAX).map_err(|_| PassphraseError::Damaged)?;
    let cost = sealed.header.cost;
    let is_sane = cost.memory_kib <= COST_MAX.memory_kib
        && cost.passes <= COST_MAX.passes
        && cost.lanes <= COST_MAX.lanes;
    if !is_sane {
        return Err(PassphraseError::Damaged);
    }
    let (key, tag) = sealed.key.split_last_chunk::<TAG_BYTES>().ok_or(PassphraseError::Damaged)?;
    let mut key = Zeroizing::new(key.to_vec());
    let (cipher, associated) = cipher(&sealed.header, passphrase)?;
    let nonce = XNonce::from_slice(&*sealed.header.nonce);
    cipher
        .decrypt_in_place_detached(nonce, &associated, &mut key, Tag::from_slice(tag))
        .map_err(|_| PassphraseError::Wrong)?;
    Ok(key)
}

/// Returns the cipher that a passphrase makes, and what is authenticated with the key.
fn cipher(
    header: &Header,
    passphrase: &Passphrase,
) -> Result<(XChaCha20Poly1305, Vec<u8>), PassphraseError> {
    let Cost { memory_kib, passes, lanes } = header.cost;
    let params = Params::new(memory_kib, passes, lanes, Some(32));
    let params = params.map_err(|_| PassphraseError::Damaged)?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(&passphrase.0, &*header.salt, &mut *key)
        .map_err(|_| PassphraseError::Damaged)?;
    let mut associated = MAGIC.to_vec();
    associated.extend(cbor::encode(header).map_err(|_| PassphraseError::Damaged)?);
    Ok((XChaCha20Poly1305::new((&*key).into()), associated))
}

/// Why a passphrase does not open a key. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum PassphraseError {
    /// There is nobody to ask.
    #[error(
        "it has a passphrase, and there is no terminal to ask for it; name a file with it in {variable}"
    )]
    Absent {
        /// The variable that would name a file.
        variable: &'static str,
    },
    /// The file cannot be used.
    #[error("cannot read the file that {variable} names")]
    File {
        /// The variable.
        variable: &'static str,
        /// Why.
        #[source]
        cause: Box<DataDirError>,
    },
    /// The terminal fails.
    #[error("cannot ask on the terminal")]
    Terminal {
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// Whoever was asked does not want to say it.
    #[error("interrupted")]
    Interrupted,
    /// It is too short or too long.
    #[error("a passphrase has {PASSPHRASE_BYTES_MIN} to {PASSPHRASE_BYTES_MAX} bytes, not {bytes}")]
    Length {
        /// How many it has.
        bytes: usize,
    },
    /// It does not open the key.
    #[error("this is not its passphrase, or the file was changed")]
    Wrong,
    /// What seals the key cannot be read.
    #[error("what seals the key is damaged")]
    Damaged,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tests need no slow guesses.
    const CHEAP: Cost = Cost { memory_kib: 64, passes: 1, lanes: 1 };

    fn phrase(text: &str) -> Passphrase {
        Passphrase::new(Zeroizing::new(text.as_bytes().to_vec())).unwrap()
    }

    #[test]
    fn only_the_passphrase_opens_a_sealed_key() {
        let sealed = seal(b"the key itself", &phrase("correct horse"), CHEAP).unwrap();
        assert!(is_sealed(&sealed) && !sealed.windows(7).any(|part| part == b"the key"));
        assert_eq!(
            open(&sealed, &phrase("correct horse\n")).unwrap().as_slice(),
            b"the key itself"
        );
        let wrong = open(&sealed, &phrase("correct horsf"));
        assert!(matches!(wrong, Err(PassphraseError::Wrong)));
        assert_ne!(sealed, seal(b"the key itself", &phrase("correct horse"), CHEAP).unwrap());
    }

    #[test]
    fn no_bit_of_a_sealed_key_may_change() {
        let sealed = seal(b"the key itself", &phrase("correct horse"), CHEAP).unwrap();
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(open(&changed, &phrase("correct horse")).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_file_cannot_ask_for_all_memory() {
        let mut sealed = Sealed {
            header: Header {
                cost: Cost { memory_kib: u32::MAX, passes: 1, lanes: 1 },
                salt: ByteArray::new([1; 16]),
                nonce: ByteArray::new([2; 24]),
            },
            key: ByteBuf::from(vec![3; 48]),
        };
        let bytes = |sealed: &Sealed| [MAGIC, &cbor::encode(sealed).unwrap()[..]].concat();
        let phrase = phrase("correct horse");
        assert!(matches!(open(&bytes(&sealed), &phrase), Err(PassphraseError::Damaged)));
        sealed.header.cost = CHEAP;
        assert!(matches!(open(&bytes(&sealed), &phrase), Err(PassphraseError::Wrong)));
    }

    #[test]
    fn a_key_that_was_sealed_by_the_first_version_still_opens() {
        let header =
            Header { cost: CHEAP, salt: ByteArray::new([1; 16]), nonce: ByteArray::new([2; 24]) };
        let sealed = seal_as(header, b"key", &phrase("correct horse")).unwrap();
        let hex: String = sealed.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN);
        assert_eq!(open(&sealed, &phrase("correct horse")).unwrap().as_slice(), b"key");
    }

    /// The bytes of a file that holds `key`, with fixed salt and nonce, as argon2-cffi and libsodium make them.
    const GOLDEN: &str = concat!(
        "64756e6c6b657901a2636b6579535872b4d68f7565a573fc2fdb8e5ab4b4762cb866686561646572a364636f",
        "7374a3656c616e65730166706173736573016a6d656d6f72795f6b696218406473616c745001010101010101",
        "010101010101010101656e6f6e63655818020202020202020202020202020202020202020202020202",
    );

    #[test]
    fn passphrases_have_a_length_and_are_not_shown() {
        let new = |text: &str| Passphrase::new(Zeroizing::new(text.as_bytes().to_vec()));
        assert!(matches!(new("short\r\n"), Err(PassphraseError::Length { bytes: 5 })));
        assert!(new(&"x".repeat(PASSPHRASE_BYTES_MAX + 1)).is_err());
        assert_eq!(format!("{:?}", phrase("correct horse")), "Passphrase(13 bytes)");
    }
}
