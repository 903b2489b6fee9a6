//! Pins that the operator sets by name: of a root alone, or of everything behind it.
//!
//! A graph may be large, so its blocks are pinned a part at a time, and other writers come between. The row
//! of the name is there first and says that it is under way; it is complete with the last part.

use dunlin_wire::Cid;
use redb::{ReadableDatabase, ReadableTable};

use super::{
    Archive,
    tables::{NAMED, NamedRow, PINS, stored_cid},
};
use crate::{
    Pin, PinName, PutError, ReadError,
    dag::{Plan, Scope, Source, Walk, WalkError},
    names::stored_names,
};

/// Blocks that are pinned or let go of in one transaction: some milliseconds.
const PART: usize = 512;

/// How much behind a root is pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The root alone.
    Direct,
    /// The root and everything that it links to, and so on.
    Recursive,
}

/// A pin that the operator set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPin {
    /// Its name.
    pub name: PinName,
    /// The block that it was set on.
    pub root: Cid,
    /// How much is pinned.
    pub depth: Depth,
    /// How many blocks.
    pub blocks: u64,
    /// Their size.
    pub bytes: u64,
    /// Whether all of it is pinned: setting or removing it may have been cut off. Doing it again ends it.
    pub is_complete: bool,
}

/// Why a named pin was not set.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PinError {
    /// The name stands for another root, or another depth. Nothing changed.
    #[error("the pin {name} is set on {root} already")]
    Taken {
        /// The name.
        name: PinName,
        /// What it stands for.
        root: Cid,
    },
    /// A block that is to be pinned is not in the archive. Nothing is pinned.
    #[error("the block {cid} is not in the archive")]
    Missing {
        /// The block.
        cid: Cid,
    },
    /// The graph cannot be walked: a block is none of its codec, or there are too many. Nothing is pinned.
    #[error("the graph behind {root} cannot be followed: {what}")]
    Graph {
        /// The root.
        root: Cid,
        /// Why.
        what: String,
    },
    /// The archive cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The archive cannot be written.
    #[error(transparent)]
    Put(#[from] PutError),
}

impl Archive {
    /// Pins a root under a name, alone or with all that it links to. The same again changes nothing, and ends
    /// what was cut off.
    ///
    /// # Errors
    ///
    /// Fails when the name stands for something else, or when a block is not here; nothing is pinned then.
    pub fn set_pin(&self, name: &PinName, root: &Cid, depth: Depth) -> Result<NamedPin, PinError> {
        if let Some(known) = self.named_pin(name)? {
            if known.root != *root || known.depth != depth {
                return Err(PinError::Taken { name: name.clone(), root: known.root });
            }
            if known.is_complete {
                return Ok(known);
            }
        }
        let (pin, root) = (Pin::named(name), *root);
        let mut state =
            NamedPin { name: name.clone(), root, depth, blocks: 0, bytes: 0, is_complete: false };
        self.write_named(&state)?;
        match self.pin_all(&pin, &mut state) {
            Ok(()) => {
                state.is_complete = true;
                self.write_named(&state)?;
                Ok(state)
            }
            Err(cause) => {
                self.remove_pin(name)?;
                Err(cause)
            }
        }
    }

    /// Lets go of what a name stands for; returns what that was, if anything. What no other pin holds leaves.
    ///
    /// # Errors
    ///
    /// Fails when the archive cannot be read or written; doing it again goes on.
    pub fn remove_pin(&self, name: &PinName) -> Result<Option<NamedPin>, PutError> {
        let known = self.named_pin(name).map_err(|cause| match cause {
            ReadError::Database(cause) => PutError::Database(cause),
            ReadError::Damaged { .. } => unreachable!("no block is read"),
        })?;
        let Some(known) = known else { return Ok(None) };
        self.write_named(&NamedPin { is_complete: false, ..known.clone() })?;
        let pin = Pin::named(name);
        while self.unpin_part(&pin, PART)? {}
        let transaction = self.database.begin_write()?;
        transaction.open_table(NAMED)?.remove(name.as_str())?;
        transaction.commit()?;
        Ok(Some(known))
    }

    /// Returns all named pins, by their names.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read.
    pub fn named_pins(&self) -> Result<Vec<NamedPin>, ReadError> {
        let named = self.database.begin_read()?.open_table(NAMED)?;
        let mut pins = Vec::new();
        for entry in named.iter()? {
            let (name, row) = entry?;
            pins.push(of_row(PinName::from_stored(name.value()), row.value())?);
        }
        Ok(pins)
    }

    fn named_pin(&self, name: &PinName) -> Result<Option<NamedPin>, ReadError> {
        let named = self.database.begin_read()?.open_table(NAMED)?;
        let row = named.get(name.as_str())?;
        Ok(row.map(|row| of_row(name.clone(), row.value())).transpose()?)
    }

    fn write_named(&self, state: &NamedPin) -> Result<(), PutError> {
        let transaction = self.database.begin_write()?;
        let root = state.root.to_bytes();
        let row: NamedRow<'_> = (
            root.as_slice(),
            state.depth.code(),
            u8::from(state.is_complete),
            state.blocks,
            state.bytes,
        );
        transaction.open_table(NAMED)?.insert(state.name.as_str(), row)?;
        Ok(transaction.commit()?)
    }

    /// Pins all blocks of a graph, and counts them.
    fn pin_all(&self, pin: &Pin, state: &mut NamedPin) -> Result<(), PinError> {
        let scope = match state.depth {
            Depth::Direct => Scope::Block,
            Depth::Recursive => Scope::All,
        };
        let root = state.root;
        let plan = Plan { trail: Vec::new(), last: root, scope, with_duplicates: false };
        let mut walk = Walk::new(Blocks(self), &plan);
        let mut part = Vec::with_capacity(PART);
        loop {
            let section = walk.next_block().map_err(|cause| match cause {
                WalkError::Source(cause) => PinError::Read(cause),
                WalkError::Missing { cid } => PinError::Missing { cid },
                cause => PinError::Graph { root, what: cause.to_string() },
            })?;
            let is_last = section.is_none();
            if let Some(section) = section {
                state.blocks += 1;
                state.bytes += section.bytes.len() as u64;
                part.push(section.cid);
            }
            if part.len() == PART || is_last {
                self.hold(pin, &part)?;
                part.clear();
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// Has a pin hold blocks that are here, each by itself.
    fn hold(&self, pin: &Pin, cids: &[Cid]) -> Result<(), PinError> {
        let transaction = self.database.begin_write().map_err(PutError::from)?;
        let changes = {
            let mut writer = self.writer(&transaction)?;
            for cid in cids {
                let mut is_held = false;
                for name in stored_names(cid) {
                    is_held = is_held || writer.hold(pin, &name)?;
                }
                // It was here when it was read, and left meanwhile.
                if !is_held {
                    return Err(PinError::Missing { cid: *cid });
                }
            }
            writer.finish()?
        };
        Ok(self.commit(transaction, changes)?)
    }

    /// Lets go of up to `count` roots that a pin holds; says whether there may be more.
    ///
    /// # Errors
    ///
    /// Fails when the store refuses; nothing has left then.
    pub fn unpin_part(&self, pin: &Pin, count: usize) -> Result<bool, PutError> {
        let transaction = self.database.begin_write()?;
        let mut roots = Vec::new();
        for entry in transaction.open_table(PINS)?.range((pin.as_str(), &[][..])..)? {
            let (key, _) = entry?;
            let (name, root) = key.value();
            if name != pin.as_str() || roots.len() == count {
                break;
            }
            roots.push(stored_cid(root)?);
        }
        let changes = {
            let mut writer = self.writer(&transaction)?;
            for root in &roots {
                writer.unpin(pin, root)?;
            }
            writer.finish()?
        };
        self.commit(transaction, changes)?;
        Ok(roots.len() == count)
    }
}

impl Depth {
    fn code(self) -> u8 {
        match self {
            Self::Direct => 0,
            Self::Recursive => 1,
        }
    }
}

fn of_row(name: PinName, row: NamedRow<'_>) -> Result<NamedPin, redb::StorageError> {
    let (root, depth, is_complete, blocks, bytes) = row;
    let root = Cid::try_from(root)
        .map_err(|_| redb::StorageError::Corrupted("a pin's root is no CID".to_owned()))?;
    let depth = if depth == 0 { Depth::Direct } else { Depth::Recursive };
    Ok(NamedPin { name, root, depth, blocks, bytes, is_complete: is_complete != 0 })
}

/// The archive's blocks, by whatever name.
struct Blocks<'a>(&'a Archive);

impl Source for Blocks<'_> {
    type Error = ReadError;

    fn block(&self, cid: &Cid) -> Result<Option<Vec<u8>>, ReadError> {
        for name in stored_names(cid) {
            if let Some(bytes) = self.0.get(&name)? {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }
}
