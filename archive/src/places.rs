//! Which roots belong in a backend outside this store, which are there, and which have to be looked at.
//!
//! The store is the first to take everything, and writes down in the same commit that a root belongs
//! elsewhere, too. A shell carries that out at its own pace and tells when it is done, so that a backend
//! that cannot be reached keeps nobody waiting and forgets nothing: [`Archive::errands`] says what to do,
//! [`Archive::begin`] is told that somebody begins, and [`Archive::settle`] that it was done.

use dunlin_wire::Cid;
use redb::{
    ReadableDatabase, ReadableTable, ReadableTableMetadata, StorageError, Table, TableDefinition,
    TableError, WriteTransaction,
};
use sha2::{Digest, Sha256};

use crate::{
    Archive, Pin, PutError, ReadError,
    archive::{
        tables::{META, PINS, stored_cid, stored_links},
        writer::count_up,
    },
};

/// Root and pin, for each pin whose roots belong in the backend.
const WANTED: TableDefinition<'_, (&[u8], &str), ()> = TableDefinition::new("wanted");
/// Root, to the pin under which somebody began to bring it there.
const BEGUN: TableDefinition<'_, &[u8], &str> = TableDefinition::new("begun");
/// Root, to the pin under which the backend has it.
const PLACED: TableDefinition<'_, &[u8], &str> = TableDefinition::new("placed");
/// Roots that have to be looked at, and how often that was said.
const DUE: TableDefinition<'_, &[u8], u64> = TableDefinition::new("due");

/// Keys of the table of numbers: which selection the tables are for, and which backend.
const SELECTION: &str = "selection";
const PLACE: &str = "place";

/// Which roots belong in the backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Selection {
    /// None: there is no other backend.
    #[default]
    None,
    /// Those that strangers may have.
    Public,
    /// Those, and everything that was sealed or imported here.
    Everything,
}

impl Selection {
    /// Returns whether what a pin holds is selected. What can be had again or made again is not: segments of
    /// others, templates, and catalogs.
    #[must_use]
    pub fn takes(self, pin: &Pin) -> bool {
        match self {
            Self::None => false,
            _ if pin.is_catalog() => false,
            Self::Public => pin.is_public(),
            Self::Everything => pin.is_public() || pin.is_own_work(),
        }
    }

    fn number(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Public => 1,
            Self::Everything => 2,
        }
    }

    fn from_number(number: u64) -> Self {
        match number {
            1 => Self::Public,
            2 => Self::Everything,
            _ => Self::None,
        }
    }
}

/// Something to do about a root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errand {
    /// The root.
    pub root: Cid,
    /// Under which pin the backend is to have it, with which links; `None`: not at all.
    pub wanted: Option<(Pin, Vec<Cid>)>,
    /// Under which pin the backend has it, or may have it: when somebody began to bring it there.
    pub placed: Option<Pin>,
    /// Tells whether something changed since.
    said: u64,
}

/// What the tables hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placing {
    /// Roots that the backend has.
    pub placed: u64,
    /// Roots that have to be looked at.
    pub due: u64,
}

/// The tables of one write transaction.
pub(crate) struct Places<'a> {
    selection: Selection,
    wanted: Table<'a, (&'static [u8], &'static str), ()>,
    due: Table<'a, &'static [u8], u64>,
}

impl<'a> Places<'a> {
    pub(crate) fn open(
        transaction: &'a WriteTransaction,
        meta: &impl ReadableTable<&'static str, u64>,
    ) -> Result<Self, PutError> {
        let selection = meta.get(SELECTION)?.map_or(0, |number| number.value());
        Ok(Self {
            selection: Selection::from_number(selection),
            wanted: transaction.open_table(WANTED)?,
            due: transaction.open_table(DUE)?,
        })
    }

    /// A pin holds a root now, or more of what it links to.
    pub(crate) fn on_pinned(&mut self, pin: &Pin, root: &[u8]) -> Result<(), StorageError> {
        if self.selection.takes(pin) {
            self.wanted.insert((root, pin.as_str()), ())?;
            count_up(&mut self.due, root)?;
        }
        Ok(())
    }

    /// A pin holds a root no more.
    pub(crate) fn on_unpinned(&mut self, pin: &Pin, root: &[u8]) -> Result<(), StorageError> {
        let was_wanted = self.wanted.remove((root, pin.as_str()))?.is_some();
        if was_wanted {
            count_up(&mut self.due, root)?;
        }
        Ok(())
    }
}

/// Makes the tables of a new file.
pub(crate) fn prepare(transaction: &WriteTransaction) -> Result<(), TableError> {
    transaction.open_table(WANTED)?;
    transaction.open_table(BEGUN)?;
    transaction.open_table(PLACED)?;
    transaction.open_table(DUE)?;
    Ok(())
}

impl Archive {
    /// Selects what belongs in the backend that `place` names. When either is another than before, all roots
    /// are looked at again, which takes time linear in their number; what another place has is forgotten
    /// here, and stays there.
    ///
    /// # Errors
    ///
    /// Fails when the store refuses; nothing changed then.
    pub fn select(&self, selection: Selection, place: &str) -> Result<(), PutError> {
        let digest: [u8; 32] = Sha256::digest(place).into();
        let place = u64::from_le_bytes(digest[..8].try_into().expect("a digest has 32 bytes"));
        {
            let meta = self.database.begin_read()?.open_table(META)?;
            let number = |key| meta.get(key).map(|number| number.map(|number| number.value()));
            if (number(SELECTION)?, number(PLACE)?) == (Some(selection.number()), Some(place)) {
                return Ok(());
            }
        }
        let transaction = self.database.begin_write()?;
        {
            let mut meta = transaction.open_table(META)?;
            let before = meta.insert(PLACE, place)?.map(|place| place.value());
            meta.insert(SELECTION, selection.number())?;
            if before != Some(place) {
                transaction.delete_table(BEGUN)?;
                transaction.delete_table(PLACED)?;
            }
            transaction.delete_table(WANTED)?;
            transaction.delete_table(DUE)?;
            let mut places = Places::open(&transaction, &meta)?;
            for there in [transaction.open_table(BEGUN)?, transaction.open_table(PLACED)?] {
                for entry in there.iter()? {
                    count_up(&mut places.due, entry?.0.value())?;
                }
            }
            if selection != Selection::None {
                for entry in transaction.open_table(PINS)?.iter()? {
                    let (key, _) = entry?;
                    let (pin, root) = key.value();
                    places.on_pinned(&Pin::from_stored(pin), root)?;
                }
            }
        }
        Ok(transaction.commit()?)
    }

    /// Returns up to `limit` errands, in order of the roots' bytes, behind `after`.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read.
    pub fn errands(&self, after: Option<&Cid>, limit: usize) -> Result<Vec<Errand>, ReadError> {
        let transaction = self.database.begin_read()?;
        let wanted = transaction.open_table(WANTED)?;
        let (begun, placed) = (transaction.open_table(BEGUN)?, transaction.open_table(PLACED)?);
        let pins = transaction.open_table(PINS)?;
        let after = after.map(Cid::to_bytes).unwrap_or_default();
        let mut errands = Vec::new();
        for entry in transaction.open_table(DUE)?.range(after.as_slice()..)? {
            let (key, said) = entry?;
            let root = key.value();
            if errands.len() == limit {
                break;
            }
            if root == after.as_slice() {
                continue;
            }
            let wanted = match holder(&wanted, root)? {
                None => None,
                Some(pin) => match pins.get((pin.as_str(), root))? {
                    Some(links) => Some((pin, stored_links(links.value())?)),
                    None => None,
                },
            };
            let there = placed.get(root)?.or(begun.get(root)?);
            let placed = there.map(|pin| Pin::from_stored(pin.value()));
            errands.push(Errand { root: stored_cid(root)?, wanted, placed, said: said.value() });
        }
        Ok(errands)
    }

    /// Writes down, durably, that errands are about to be carried out: what a crash leaves behind in the
    /// backend is found again.
    ///
    /// # Errors
    ///
    /// Fails when the store refuses; nothing changed then.
    pub fn begin(&self, errands: &[Errand]) -> Result<(), PutError> {
        let transaction = self.database.begin_write()?;
        {
            let mut begun = transaction.open_table(BEGUN)?;
            for errand in errands {
                if let Some((pin, _)) = &errand.wanted {
                    begun.insert(errand.root.to_bytes().as_slice(), pin.as_str())?;
                }
            }
        }
        Ok(transaction.commit()?)
    }

    /// Writes down, durably, that errands were carried out. One whose root changed meanwhile stays due.
    ///
    /// # Errors
    ///
    /// Fails when the store refuses; nothing changed then.
    pub fn settle(&self, errands: &[Errand]) -> Result<(), PutError> {
        let transaction = self.database.begin_write()?;
        {
            let mut begun = transaction.open_table(BEGUN)?;
            let mut placed = transaction.open_table(PLACED)?;
            let mut due = transaction.open_table(DUE)?;
            for errand in errands {
                let root = errand.root.to_bytes();
                begun.remove(root.as_slice())?;
                match &errand.wanted {
                    Some((pin, _)) => drop(placed.insert(root.as_slice(), pin.as_str())?),
                    None => drop(placed.remove(root.as_slice())?),
                }
                let said = due.get(root.as_slice())?.map(|said| said.value());
                if said == Some(errand.said) {
                    due.remove(root.as_slice())?;
                }
            }
        }
        Ok(transaction.commit()?)
    }

    /// Returns how many roots the backend has, and how many have to be looked at.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read.
    pub fn placing(&self) -> Result<Placing, ReadError> {
        let transaction = self.database.begin_read()?;
        let placed = transaction.open_table(PLACED)?.len()?;
        Ok(Placing { placed, due: transaction.open_table(DUE)?.len()? })
    }

    /// Lets go of one root of a pin: what no other pin holds leaves.
    ///
    /// # Errors
    ///
    /// Fails when the store refuses; nothing has left then.
    pub fn unpin_root(&self, pin: &Pin, root: &Cid) -> Result<(), PutError> {
        let transaction = self.database.begin_write()?;
        let changes = {
            let mut writer = self.writer(&transaction)?;
            writer.unpin(pin, root)?;
            writer.finish()?
        };
        self.commit(transaction, changes)
    }

    /// Returns whether a pin holds a root with all of these blocks.
    pub(crate) fn holds(&self, pin: &Pin, root: &Cid, links: &[Cid]) -> Result<bool, ReadError> {
        let pins = self.database.begin_read()?.open_table(PINS)?;
        let Some(held) = pins.get((pin.as_str(), root.to_bytes().as_slice()))? else {
            return Ok(false);
        };
        let held = stored_links(held.value())?;
        Ok(links.iter().all(|link| held.contains(link)))
    }
}

/// Returns the pin under which the backend is to have a root: a public one, if there is any.
fn holder(
    wanted: &impl ReadableTable<(&'static [u8], &'static str), ()>,
    root: &[u8],
) -> Result<Option<Pin>, StorageError> {
    let mut first = None;
    for entry in wanted.range((root, "")..)? {
        let (key, ()) = (entry?.0, ());
        let (of, pin) = key.value();
        if of != root {
            break;
        }
        let pin = Pin::from_stored(pin);
        if pin.is_public() {
            return Ok(Some(pin));
        }
        first.get_or_insert(pin);
    }
    Ok(first)
}
