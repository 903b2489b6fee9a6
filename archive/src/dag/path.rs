//! Following a path from a root to the block that it names.

use dunlin_wire::Cid;

use super::{
    DAG_CBOR, DAG_JSON, DAG_PB, Source,
    cbor::{self, Follow},
    hamt::{self, Bits},
    inline, json, load,
    pb::{Node, NodeError, UnixFsKind},
};

/// Most segments of a path. Every one may cost several blocks.
pub const PATH_SEGMENTS_MAX: usize = 64;

/// Most blocks that a path leads to. A block that is nothing but a link leads on without using a segment, and
/// whoever makes blocks may chain as many of them as there is disk.
const ROOTS_MAX: usize = 2 * PATH_SEGMENTS_MAX;

/// Where a path led.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The root, and the block that each further segment led to.
    pub roots: Vec<Cid>,
    /// The blocks that prove the way, in order, without the last one.
    pub trail: Vec<Cid>,
    /// The last block.
    pub last: Cid,
    /// How many segments lead into the last block instead of to another one.
    pub inside: usize,
}

/// Follows `path` from `root`.
///
/// # Errors
///
/// Fails when a block on the way is not there, is none of its codec, or has nothing of the next name.
pub fn resolve<S: Source>(
    source: &S,
    root: &Cid,
    path: &[String],
) -> Result<Resolved, ResolveError<S::Error>> {
    if path.len() > PATH_SEGMENTS_MAX {
        return Err(ResolveError::TooLong { segments: path.len() });
    }
    let mut way = Way { source, trail: Vec::new() };
    let (mut roots, mut last, mut rest) = (vec![*root], *root, path);
    while !rest.is_empty() {
        let bytes = way.load(&last)?;
        let mut inner = Vec::new();
        let follow = match last.codec() {
            DAG_CBOR => cbor::follow(&bytes, rest),
            DAG_JSON => json::follow(&bytes, rest),
            DAG_PB => match way.enter(&last, bytes, &rest[0], &mut inner)? {
                Some(cid) => Ok(Follow::Link { cid, used: 1 }),
                None => Ok(Follow::Missing),
            },
            _ => Ok(Follow::Missing),
        };
        match follow.map_err(|cause| ResolveError::Node { cid: last, cause })? {
            Follow::Link { cid, used } => {
                way.prove(&last);
                inner.iter().for_each(|cid| way.prove(cid));
                if roots.len() == ROOTS_MAX {
                    return Err(ResolveError::TooFar { cid });
                }
                roots.push(cid);
                last = cid;
                rest = &rest[used..];
            }
            Follow::Inside => {
                let inside = rest.len();
                return Ok(Resolved { roots, trail: way.trail, last, inside });
            }
            Follow::Missing => {
                return Err(ResolveError::NoSuchName { cid: last, name: rest[0].clone() });
            }
        }
    }
    if inline(&last).is_none() && source.block(&last).map_err(ResolveError::Source)?.is_none() {
        return Err(ResolveError::Missing { cid: last });
    }
    Ok(Resolved { roots, trail: way.trail, last, inside: 0 })
}

/// Why a path could not be followed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError<E> {
    /// The path has more segments than are followed.
    #[error("a path of {segments} segments, but at most {PATH_SEGMENTS_MAX} are followed")]
    TooLong {
        /// How many it has.
        segments: usize,
    },
    /// The way leads through more blocks than are read for a path.
    #[error("the way leads past {cid}, and at most {ROOTS_MAX} blocks are followed")]
    TooFar {
        /// The first block that was not followed.
        cid: Cid,
    },
    /// A block on the way is not here.
    #[error("the block {cid} is not here")]
    Missing {
        /// Which.
        cid: Cid,
    },
    /// A block on the way has nothing of the next name.
    #[error("{cid} has nothing named {name:?}")]
    NoSuchName {
        /// The block.
        cid: Cid,
        /// The name.
        name: String,
    },
    /// A block on the way cannot be read.
    #[error("{cid} cannot be followed")]
    Node {
        /// The block.
        cid: Cid,
        /// Why.
        #[source]
        cause: NodeError,
    },
    /// The source failed.
    #[error("a block cannot be read")]
    Source(#[source] E),
}

/// The blocks that were passed.
struct Way<'a, S> {
    source: &'a S,
    trail: Vec<Cid>,
}

impl<S: Source> Way<'_, S> {
    fn load(&self, cid: &Cid) -> Result<Vec<u8>, ResolveError<S::Error>> {
        let bytes = load(self.source, cid).map_err(ResolveError::Source)?;
        bytes.ok_or(ResolveError::Missing { cid: *cid })
    }

    fn prove(&mut self, cid: &Cid) {
        if inline(cid).is_none() {
            self.trail.push(*cid);
        }
    }

    /// Returns what `name` leads to from a `dag-pb` node; notes the inner nodes of a HAMT directory.
    fn enter(
        &self,
        cid: &Cid,
        bytes: Vec<u8>,
        name: &str,
        inner: &mut Vec<Cid>,
    ) -> Result<Option<Cid>, ResolveError<S::Error>> {
        let (mut at, mut bytes) = (*cid, bytes);
        let mut bits = Bits::of(name.as_bytes());
        // The hash of a name is used up after 64 levels at the latest.
        loop {
            let malformed = |cause| ResolveError::Node { cid: at, cause };
            let node = Node::decode(&bytes).map_err(malformed)?;
            let kind = node.unixfs().map(|unixfs| unixfs.kind);
            at = match kind {
                Some(UnixFsKind::Hamt { fanout }) => {
                    match hamt::step(&node, fanout, &mut bits, name.as_bytes()) {
                        Some(hamt::Step::Entry(link)) => {
                            return Ok(Some(link.cid));
                        }
                        Some(hamt::Step::Deeper(link)) => link.cid,
                        None => return Ok(None),
                    }
                }
                Some(UnixFsKind::File | UnixFsKind::Raw | UnixFsKind::Symlink) => return Ok(None),
                _ if at != *cid => return Ok(None),
                _ => {
                    let found = node.links.iter().find(|link| link.name == name.as_bytes());
                    return Ok(found.map(|link| link.cid));
                }
            };
            if at.codec() != DAG_PB {
                return Ok(None);
            }
            bytes = self.load(&at)?;
            inner.push(at);
        }
    }
}
