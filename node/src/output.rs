//! What commands print: text in aligned columns for people, JSON for programs.

use std::io::{self, Write};

use anyhow::Context;
use serde::Serialize;

/// Prints answers in the form that the user asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    /// Returns an output that prints JSON, or text.
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Prints `value` as JSON, or as the text that `text` makes of it.
    pub(crate) fn show<T: Serialize>(
        self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        let text = if self.json {
            serde_json::to_string_pretty(value).context("the answer has no JSON form")?
        } else {
            text(value)
        };
        print(&text)
    }
}

/// Prints `text` and a line break. A reader who has seen enough (`| head`) is no error.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout(), "{}", text.trim_end_matches('\n')) {
        Err(cause) if cause.kind() != io::ErrorKind::BrokenPipe => {
            Err(cause).context("cannot print")
        }
        _ => Ok(()),
    }
}

/// Rows of text in aligned columns.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Returns a table with a header.
    pub(crate) fn new<const N: usize>(header: [&str; N]) -> Self {
        Self { rows: vec![header.map(str::to_owned).to_vec()] }
    }

    /// Adds a row of as many cells as the header has.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.rows[0].len(), "a row has as many cells as the header");
        self.rows.push(cells.to_vec());
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..self.rows[0].len()).map(width).collect();
        for row in &self.rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            writeln!(f, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        Ok(())
    }
}

/// Returns a time in the calendar, or as a number where the calendar ends.
pub(crate) fn time(micros: i64) -> String {
    let since = u64::try_from(micros).ok().map(std::time::Duration::from_micros);
    let at = since.and_then(|since| std::time::SystemTime::UNIX_EPOCH.checked_add(since));
    // The calendar of the formatting library ends with the year 9999.
    match at.filter(|_| micros < 253_402_300_799_000_000) {
        Some(at) => humantime::format_rfc3339_seconds(at).to_string(),
        None => micros.to_string(),
    }
}

/// Returns a size in the unit that reads best.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_without_trailing_blanks() {
        let mut table = Table::new(["peer", "n"]);
        table.row(["a".to_owned(), "10".to_owned()]);
        table.row(["long name".to_owned(), "2".to_owned()]);
        assert_eq!(table.to_string(), "peer       n\na          10\nlong name  2\n");
    }

    #[test]
    fn times_and_sizes_read_well() {
        assert_eq!(time(0), "1970-01-01T00:00:00Z");
        assert_eq!(time(-1), "-1");
        assert_eq!(time(i64::MAX), i64::MAX.to_string());
        assert_eq!(size(512), "512 B");
        assert_eq!(size(1536), "1.5 KiB");
    }
}
