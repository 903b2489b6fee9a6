//! A new file: complete, or none.

use std::path::Path;

use redb::Database;

use super::prepare;
use crate::OpenError;

/// Makes an empty archive at `path` all at once: a crash while redb lays out a new file would leave one
/// that it cannot open, so the file gets its name when it is complete.
pub(super) fn create_whole(path: &Path) -> Result<(), OpenError> {
    let fail =
        |cause: redb::Error| OpenError::Database { path: path.into(), cause: Box::new(cause) };
    let unnamed = path.with_extension("new");
    let make = || -> Result<(), redb::Error> {
        if unnamed.exists() {
            std::fs::remove_file(&unnamed)?;
        }
        prepare(&Database::create(&unnamed)?)?;
        std::fs::rename(&unnamed, path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        Ok(std::fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?)
    };
    make().map_err(fail)
}
