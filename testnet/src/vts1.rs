//! VTS1: labelled telemetry as compressed columns of integers, described by a `manifest.json`.
//!
//! Each entity is one zstd frame of little-endian `i32`, column-major, `dims + 1` columns by `rows`. A
//! value is its integer times `scale`; the last column is the label: -1 in the train half, 0 or 1 in the
//! test half. Row `i` was observed `i * step_s` seconds after an arbitrary origin.
//! The page in `testnet/data/asd/README.md` says the same for people who bring their own data.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    fs,
    io::{self, Read as _},
    path::{Component, Path, PathBuf},
};

use serde::Deserialize;

/// Rows of one entity: ten million would take hours to replay.
const ROWS_MAX: usize = 10_000_000;
/// Channels of one entity, as for a collection.
const DIMS_MAX: usize = 4096;
/// Decoded size of one entity: the demo holds six of them in memory.
const ENTITY_BYTES_MAX: usize = 512 << 20;
/// Compressed size of one entity.
const FILE_BYTES_MAX: u64 = 512 << 20;
/// Size of the manifest.
const MANIFEST_BYTES_MAX: u64 = 4 << 20;

/// The entities that a manifest lists, each read when it is asked for.
#[derive(Debug)]
pub struct Dataset {
    root: Root,
    entries: Vec<Entry>,
}

impl Dataset {
    /// Opens the data that is built in: six application servers of the ASD set.
    ///
    /// # Errors
    ///
    /// Fails as [`Dataset::open`] does; a test keeps the built-in data whole.
    pub fn embedded() -> Result<Self, Vts1Error> {
        Self::with_manifest(Root::Embedded, EMBEDDED_MANIFEST)
    }

    /// Opens the data in a folder with a `manifest.json`.
    ///
    /// # Errors
    ///
    /// Fails when the manifest cannot be read, is not JSON of the right form, or contradicts itself.
    pub fn open(folder: &Path) -> Result<Self, Vts1Error> {
        let path = folder.join("manifest.json");
        let bytes = read_file(&path, MANIFEST_BYTES_MAX)?;
        Self::with_manifest(Root::Folder(folder.to_owned()), &bytes)
    }

    fn with_manifest(root: Root, bytes: &[u8]) -> Result<Self, Vts1Error> {
        let manifest: Manifest = serde_json::from_slice(bytes)
            .map_err(|cause| Vts1Error::Manifest { path: root.path("manifest.json"), cause })?;
        if manifest.format != "VTS1" {
            return Err(Vts1Error::Format { format: manifest.format });
        }
        let mut seen = BTreeSet::new();
        for entry in &manifest.entities {
            entry.check()?;
            if !seen.insert(entry.entity.as_str()) {
                return Err(entry.contradiction("the entity is listed twice".to_owned()));
            }
        }
        Ok(Self { root, entries: manifest.entities })
    }

    /// Reads the first `count` entities of one kind: same source and dimension if there are enough of
    /// them, else same dimension, in the order of the manifest.
    ///
    /// # Errors
    ///
    /// Fails when no kind has enough entities, or a file is missing or not what the manifest says.
    pub fn read_alike(&self, count: usize) -> Result<Vec<Series>, Vts1Error> {
        self.alike(count)?.into_iter().map(|entry| self.read(entry)).collect()
    }

    /// Returns the names of the sources in the order of the manifest, in lower case.
    #[must_use]
    pub fn sets(&self) -> Vec<String> {
        let mut sets = Vec::new();
        for set in self.entries.iter().map(Entry::set) {
            if !sets.contains(&set) {
                sets.push(set);
            }
        }
        sets
    }

    /// Reads the entities of a source, one after the other.
    pub fn read_set<'a>(
        &'a self,
        set: &'a str,
    ) -> impl Iterator<Item = Result<Series, Vts1Error>> + 'a {
        self.entries.iter().filter(move |entry| entry.set() == set).map(|entry| self.read(entry))
    }

    fn alike(&self, count: usize) -> Result<Vec<&Entry>, Vts1Error> {
        let of_kind = |same: &dyn Fn(&Entry, &Entry) -> bool| {
            self.entries.iter().find_map(|first| {
                let kind: Vec<_> =
                    self.entries.iter().filter(|e| same(first, e)).take(count).collect();
                (kind.len() == count).then_some(kind)
            })
        };
        of_kind(&|a, b| (&a.source, a.dims) == (&b.source, b.dims))
            .or_else(|| of_kind(&|a, b| a.dims == b.dims))
            .ok_or_else(|| Vts1Error::TooFew { needed: count, found: self.kinds() })
    }

    /// Returns how many entities there are of each source and dimension, for an error message.
    fn kinds(&self) -> String {
        let mut kinds: Vec<(&str, usize, usize)> = Vec::new();
        for entry in &self.entries {
            let source = entry.source.as_deref().unwrap_or("unnamed");
            match kinds.iter_mut().find(|(s, dims, _)| (*s, *dims) == (source, entry.dims)) {
                Some((_, _, n)) => *n += 1,
                None => kinds.push((source, entry.dims, 1)),
            }
        }
        let kinds: Vec<_> = kinds
            .iter()
            .map(|(source, dims, n)| format!("{n} of {dims} channels from {source}"))
            .collect();
        if kinds.is_empty() { "none".to_owned() } else { kinds.join(", ") }
    }

    fn read(&self, entry: &Entry) -> Result<Series, Vts1Error> {
        let compressed = self.root.read(&entry.file)?;
        let path = self.root.path(&entry.file);
        let bytes = entry.bytes();
        let mut raw = Vec::with_capacity(bytes);
        // One byte more than expected tells a longer frame from the right one, and bounds a bomb.
        zstd::Decoder::new(compressed.as_ref())
            .and_then(|decoder| decoder.take(bytes as u64 + 1).read_to_end(&mut raw))
            .map_err(|cause| Vts1Error::Frame { path: path.clone(), cause })?;
        if raw.len() != bytes {
            return Err(Vts1Error::Size {
                path,
                rows: entry.rows(),
                columns: entry.dims + 1,
                expected: bytes,
                found_at_least: raw.len(),
            });
        }
        let cells: Vec<i32> =
            raw.as_chunks::<4>().0.iter().map(|cell| i32::from_le_bytes(*cell)).collect();
        Series::from_cells(entry, &cells, &path)
    }
}

/// One entity's telemetry.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Its id.
    pub entity: String,
    /// Channels of every row.
    pub dims: usize,
    /// Seconds between two rows.
    pub step_s: u64,
    /// Rows of the train half, which come first.
    pub rows_train: usize,
    /// Row-major `[rows, dims]`, finite.
    values: Vec<f32>,
    /// One for each row of the test half: whether it belongs to an incident.
    labels: Vec<bool>,
}

impl Series {
    fn from_cells(entry: &Entry, cells: &[i32], path: &Path) -> Result<Self, Vts1Error> {
        let (rows, dims) = (entry.rows(), entry.dims);
        let (columns, labels) = cells.split_at(rows * dims);
        let label_error =
            |row: usize, label: i32| Vts1Error::Label { path: path.to_owned(), row, label };
        let (train, test) = labels.split_at(entry.rows_train);
        if let Some(row) = train.iter().position(|label| *label != -1) {
            return Err(label_error(row, train[row]));
        }
        if let Some(row) = test.iter().position(|label| !matches!(label, 0 | 1)) {
            return Err(label_error(entry.rows_train + row, test[row]));
        }
        let mut values = Vec::with_capacity(rows * dims);
        for row in 0..rows {
            // The product in f64, rounded once, is the published f32 bit for bit.
            let cell = |column: usize| f64::from(columns[column * rows + row]) * entry.scale;
            values.extend((0..dims).map(|column| cell(column) as f32));
        }
        Ok(Self {
            entity: entry.entity.clone(),
            dims,
            step_s: entry.step_s,
            rows_train: entry.rows_train,
            values,
            labels: test.iter().map(|label| *label == 1).collect(),
        })
    }

    /// Returns how many rows there are, both halves together.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows_train + self.labels.len()
    }

    /// Returns the values of one row. Panics when there is no such row.
    #[must_use]
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.dims..][..self.dims]
    }

    /// Returns the values of one channel in the order of the rows. Panics when there is no such channel.
    #[must_use]
    pub fn column(&self, channel: usize) -> Vec<f32> {
        assert!(channel < self.dims, "channel {channel} of {}", self.dims);
        self.values.iter().skip(channel).step_by(self.dims).copied().collect()
    }

    /// Returns when a row was observed, in microseconds since the data's origin.
    #[must_use]
    pub fn timestamp_us(&self, row: usize) -> i64 {
        // The manifest's check keeps the last row below `i64::MAX`.
        (row as u64 * self.step_s * 1_000_000) as i64
    }

    /// Returns, for each row of the test half, whether it belongs to an incident.
    #[must_use]
    pub fn labels(&self) -> &[bool] {
        &self.labels
    }
}

#[derive(Debug, Deserialize)]
struct Manifest {
    format: String,
    entities: Vec<Entry>,
}

/// One entity in the manifest. Fields that this reader does not need are ignored: publishers add some.
#[derive(Debug, Deserialize)]
struct Entry {
    file: String,
    entity: String,
    source: Option<String>,
    step_s: u64,
    dims: usize,
    #[serde(default = "Entry::scale_default")]
    scale: f64,
    rows_train: usize,
    rows_test: usize,
    rows: Option<usize>,
    columns: Option<usize>,
}

impl Entry {
    fn scale_default() -> f64 {
        1e-6
    }

    fn rows(&self) -> usize {
        self.rows_train + self.rows_test
    }

    fn set(&self) -> String {
        self.source.as_deref().unwrap_or("unnamed").to_lowercase()
    }

    /// Returns the decoded size; `check` has bounded it.
    fn bytes(&self) -> usize {
        self.rows() * (self.dims + 1) * size_of::<i32>()
    }

    fn contradiction(&self, what: String) -> Vts1Error {
        Vts1Error::Entry { entity: self.entity.clone(), what }
    }

    fn check(&self) -> Result<(), Vts1Error> {
        let complain = |what: String| Err(self.contradiction(what));
        if self.entity.is_empty() || self.entity.len() > 256 {
            return complain("its name has to have 1 to 256 bytes".to_owned());
        }
        if self.dims == 0 || self.dims > DIMS_MAX {
            return complain(format!("dims is {}; it has to be 1 to {DIMS_MAX}", self.dims));
        }
        if self.rows_train > ROWS_MAX || self.rows_test > ROWS_MAX || self.rows() == 0 {
            return complain(format!(
                "it has {} train and {} test rows; each can have up to {ROWS_MAX}, and not both none",
                self.rows_train, self.rows_test
            ));
        }
        if self.bytes() > ENTITY_BYTES_MAX {
            return complain(format!(
                "decoded it takes {} bytes; the limit is {ENTITY_BYTES_MAX}",
                self.bytes()
            ));
        }
        if self.step_s == 0 || self.step_s > 366 * 86_400 {
            return complain(format!("step_s is {}; it has to be 1 s to a year", self.step_s));
        }
        let end_us = (self.rows() as u64).checked_mul(self.step_s * 1_000_000);
        if end_us.is_none_or(|us| i64::try_from(us).is_err()) {
            return complain("its rows reach beyond the year 294,000".to_owned());
        }
        if !self.scale.is_finite() || self.scale <= 0.0 {
            return complain(format!("scale is {}; it has to be above 0", self.scale));
        }
        if self.rows.is_some_and(|rows| rows != self.rows()) {
            return complain("rows is not rows_train + rows_test".to_owned());
        }
        if self.columns.is_some_and(|columns| columns != self.dims + 1) {
            return complain("columns is not dims + 1".to_owned());
        }
        let inside = Path::new(&self.file).components().all(|c| matches!(c, Component::Normal(_)));
        if self.file.is_empty() || !inside {
            return complain(format!("its file {:?} is not inside the data folder", self.file));
        }
        Ok(())
    }
}

/// Where files are read from.
#[derive(Debug)]
enum Root {
    Embedded,
    Folder(PathBuf),
}

impl Root {
    fn path(&self, file: &str) -> PathBuf {
        match self {
            Self::Embedded => Path::new("built-in data").join(file),
            Self::Folder(folder) => folder.join(file),
        }
    }

    fn read(&self, file: &str) -> Result<Cow<'static, [u8]>, Vts1Error> {
        match self {
            Self::Folder(folder) => read_file(&folder.join(file), FILE_BYTES_MAX).map(Cow::Owned),
            Self::Embedded => EMBEDDED_FILES
                .iter()
                .find_map(|(name, bytes)| (*name == file).then_some(Cow::Borrowed(*bytes)))
                .ok_or_else(|| Vts1Error::Read {
                    path: self.path(file),
                    cause: io::ErrorKind::NotFound.into(),
                }),
        }
    }
}

const EMBEDDED_MANIFEST: &[u8] = include_bytes!("../data/asd/manifest.json");

/// The files that the built-in manifest names.
const EMBEDDED_FILES: [(&str, &[u8]); 6] = [
    ("omi-1.i32.zst", include_bytes!("../data/asd/omi-1.i32.zst")),
    ("omi-2.i32.zst", include_bytes!("../data/asd/omi-2.i32.zst")),
    ("omi-3.i32.zst", include_bytes!("../data/asd/omi-3.i32.zst")),
    ("omi-4.i32.zst", include_bytes!("../data/asd/omi-4.i32.zst")),
    ("omi-5.i32.zst", include_bytes!("../data/asd/omi-5.i32.zst")),
    ("omi-6.i32.zst", include_bytes!("../data/asd/omi-6.i32.zst")),
];

fn read_file(path: &Path, bytes_max: u64) -> Result<Vec<u8>, Vts1Error> {
    let read_error = |cause| Vts1Error::Read { path: path.to_owned(), cause };
    let file = fs::File::open(path).map_err(read_error)?;
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes).map_err(read_error)?;
    if bytes.len() as u64 > bytes_max {
        return Err(read_error(io::ErrorKind::FileTooLarge.into()));
    }
    Ok(bytes)
}

/// Why data cannot be read. Nothing has been started or written by then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Vts1Error {
    /// A file cannot be read.
    #[error("cannot read {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The manifest is not JSON, or lacks a field.
    #[error("{path} is not a VTS1 manifest", path = path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// Where it breaks off.
        #[source]
        cause: serde_json::Error,
    },
    /// The manifest describes another format.
    #[error("the manifest's format is {format:?}, this program reads \"VTS1\"")]
    Format {
        /// Its format.
        format: String,
    },
    /// An entity in the manifest contradicts itself or a limit.
    #[error("entity {entity:?} in the manifest: {what}")]
    Entry {
        /// The entity.
        entity: String,
        /// What is wrong with it.
        what: String,
    },
    /// A file is not a whole zstd frame.
    #[error("{path} is not a whole zstd frame", path = path.display())]
    Frame {
        /// The file.
        path: PathBuf,
        /// What the decoder says.
        #[source]
        cause: io::Error,
    },
    /// A file holds more or less than the manifest says.
    #[error("{path} decodes to {found_at_least} bytes or more, but {rows} rows of {columns} columns take {expected}", path = path.display())]
    Size {
        /// The file.
        path: PathBuf,
        /// Rows by the manifest.
        rows: usize,
        /// Columns by the manifest, the label's included.
        columns: usize,
        /// Bytes that these take.
        expected: usize,
        /// Bytes that were decoded before this reader stopped.
        found_at_least: usize,
    },
    /// A label is none.
    #[error("{path} has label {label} in row {row}; train rows have -1, test rows 0 or 1", path = path.display())]
    Label {
        /// The file.
        path: PathBuf,
        /// The row, from 0.
        row: usize,
        /// What stands there.
        label: i32,
    },
    /// Not enough entities have the same channels.
    #[error("the demo needs {needed} entities with the same number of channels, found: {found}")]
    TooFew {
        /// How many are needed.
        needed: usize,
        /// What there is.
        found: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_data_is_whole() {
        let series = Dataset::embedded().unwrap().read_alike(6).unwrap();
        let names: Vec<_> = series.iter().map(|s| s.entity.as_str()).collect();
        assert_eq!(names, ["omi-1", "omi-2", "omi-3", "omi-4", "omi-5", "omi-6"]);
        for series in &series {
            assert_eq!((series.dims, series.step_s), (19, 300));
            assert_eq!((series.rows(), series.labels().len()), (12_960, 4_320));
            assert!(series.values.iter().all(|v| (0.0..=1.0).contains(v)));
        }
        // The published share of labelled rows of omi-6.
        let labelled = series[5].labels().iter().filter(|label| **label).count();
        assert_eq!(labelled, 198);
        assert_eq!(series[5].timestamp_us(72), 21_600_000_000);
    }

    /// Two rows of two channels and a label, as `(file bytes, manifest entry)`.
    fn small(folder: &Path, name: &str, dims: usize) -> String {
        let cells: Vec<i32> = match dims {
            1 => vec![500_000, 250_000, -1, 1],
            _ => vec![500_000, 250_000, 1_000_000, 0, -1, 1],
        };
        let raw: Vec<u8> = cells.iter().flat_map(|cell| cell.to_le_bytes()).collect();
        fs::write(folder.join(name), zstd::encode_all(raw.as_slice(), 1).unwrap()).unwrap();
        format!(
            r#"{{"file":"{name}","entity":"{name}","source":"S{dims}","step_s":60,"dims":{dims},"rows_train":1,"rows_test":1}}"#
        )
    }

    fn manifest(folder: &Path, entries: &[String]) {
        let text = format!(r#"{{"format":"VTS1","entities":[{}]}}"#, entries.join(","));
        fs::write(folder.join("manifest.json"), text).unwrap();
    }

    #[test]
    fn a_folder_is_read_column_by_column() {
        let folder = tempfile::tempdir().unwrap();
        manifest(folder.path(), &[small(folder.path(), "a", 2)]);
        let series = Dataset::open(folder.path()).unwrap().read_alike(1).unwrap();
        assert_eq!(series[0].row(0), [0.5, 1.0]);
        assert_eq!(series[0].row(1), [0.25, 0.0]);
        assert_eq!(series[0].labels(), [true]);
        assert_eq!(series[0].timestamp_us(1), 60_000_000);
    }

    #[test]
    fn the_first_kind_with_enough_entities_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let entries: Vec<_> = [("a", 1), ("b", 2), ("c", 1), ("d", 2), ("e", 2)]
            .map(|(name, dims)| small(folder.path(), name, dims))
            .into();
        manifest(folder.path(), &entries);
        let dataset = Dataset::open(folder.path()).unwrap();
        let names =
            |n| dataset.read_alike(n).map(|s| s.into_iter().map(|s| s.entity).collect::<Vec<_>>());
        assert_eq!(names(2).unwrap(), ["a", "c"]);
        assert_eq!(names(3).unwrap(), ["b", "d", "e"]);
        let error = names(4).unwrap_err().to_string();
        assert!(error.ends_with("found: 2 of 1 channels from S1, 3 of 2 channels from S2"));
    }

    #[track_caller]
    fn refused(folder: &Path) -> String {
        let error = Dataset::open(folder).and_then(|d| d.read_alike(1)).unwrap_err();
        error.to_string()
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        assert!(refused(folder).contains("manifest.json"), "no manifest");
        fs::write(folder.join("manifest.json"), "{").unwrap();
        assert!(refused(folder).ends_with("is not a VTS1 manifest"));

        let entry = small(folder, "a", 2);
        manifest(folder, &[entry.replace(r#""rows_test":1"#, r#""rows_test":2"#)]);
        assert!(refused(folder).contains("3 rows of 3 columns take 36"));
        manifest(folder, &[entry.replace(r#""rows_test":1"#, r#""rows_test":0"#)]);
        assert!(refused(folder).contains("1 rows of 3 columns take 12"));
        manifest(
            folder,
            &[entry
                .replace(r#""rows_train":1"#, r#""rows_train":2"#)
                .replace(r#""rows_test":1"#, r#""rows_test":0"#)],
        );
        assert!(refused(folder).contains("label 1 in row 1"));
        manifest(folder, &[entry.replace(r#""file":"a""#, r#""file":"../a""#)]);
        assert!(refused(folder).contains("not inside the data folder"));
        manifest(folder, &[entry.clone(), entry.clone()]);
        assert!(refused(folder).contains("listed twice"));
        manifest(folder, &[entry.replace(r#""file":"a""#, r#""file":"b""#)]);
        assert!(refused(folder).starts_with("cannot read"));

        manifest(folder, &[entry]);
        let whole = fs::read(folder.join("a")).unwrap();
        fs::write(folder.join("a"), &whole[..whole.len() - 3]).unwrap();
        assert!(refused(folder).contains("not a whole zstd frame"));
    }
}
