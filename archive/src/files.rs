//! How files of redb come to be.

use std::path::Path;

use redb::Database;

use crate::OpenError;

/// Makes an empty store at `path` all at once: a crash while redb lays out a new file would leave one
/// that it cannot open, so the file gets its name when it is complete.
pub(crate) fn create_whole(
    path: &Path,
    lay_out: impl FnOnce(&Database) -> Result<(), redb::Error>,
) -> Result<(), OpenError> {
    let fail =
        |cause: redb::Error| OpenError::Database { path: path.into(), cause: Box::new(cause) };
    let unnamed = path.with_extension("new");
    let make = || -> Result<(), redb::Error> {
        if unnamed.exists() {
            std::fs::remove_file(&unnamed)?;
        }
        lay_out(&Database::create(&unnamed)?)?;
        std::fs::rename(&unnamed, path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        Ok(std::fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?)
    };
    make().map_err(fail)
}
