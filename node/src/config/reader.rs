//! Reads a TOML table key by key and remembers every mistake.

use std::{
    fmt::{self, Display},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    str::FromStr,
};

use toml::{Table, Value};

/// Why a configuration cannot be used. Nothing has started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}; `dunlin init` writes one", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// The text is not TOML.
    #[error("{source_name} is not TOML: {cause}")]
    Syntax {
        /// The file, or what else was read.
        source_name: String,
        /// What the parser says, with line and column.
        cause: String,
    },
    /// Some keys or values are not accepted.
    #[error("{source_name} has {count}:{list}", count = count(mistakes), list = list(mistakes))]
    Mistakes {
        /// The file, or what else was read.
        source_name: String,
        /// All of them.
        mistakes: Vec<Mistake>,
    },
}

impl ConfigError {
    /// Returns the same error, naming the file that was read.
    pub(crate) fn in_file(mut self, path: &Path) -> Self {
        match &mut self {
            Self::Read { .. } => {}
            Self::Syntax { source_name, .. } | Self::Mistakes { source_name, .. } => {
                *source_name = path.display().to_string();
            }
        }
        self
    }

    /// Returns the mistakes, when the text was TOML at all.
    #[cfg(test)]
    pub(crate) fn mistakes(&self) -> &[Mistake] {
        match self {
            Self::Mistakes { mistakes, .. } => mistakes,
            _ => &[],
        }
    }
}

fn count(mistakes: &[Mistake]) -> String {
    match mistakes.len() {
        1 => "a mistake".to_owned(),
        n => format!("{n} mistakes"),
    }
}

fn list(mistakes: &[Mistake]) -> String {
    mistakes.iter().map(|mistake| format!("\n  {mistake}")).collect()
}

/// One key or value that is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mistake {
    key: String,
    problem: String,
}

impl Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.problem)
    }
}

/// A TOML document that is read section by section.
pub(super) struct Reader {
    table: Table,
    sections: Vec<&'static str>,
    mistakes: Vec<Mistake>,
}

impl Reader {
    /// Returns a reader of `text`.
    pub(super) fn new(text: &str) -> Result<Self, ConfigError> {
        let source_name = "the configuration".to_owned();
        let table = text.parse().map_err(|cause: toml::de::Error| ConfigError::Syntax {
            source_name,
            cause: cause.to_string(),
        })?;
        Ok(Self { table, sections: Vec::new(), mistakes: Vec::new() })
    }

    /// Reads the section `name` with `read`, which must ask for every key that may stand in it.
    pub(super) fn section<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&mut Section<'_>) -> T,
    ) -> T {
        self.sections.push(name);
        let table = match self.table.remove(name) {
            None => Table::new(),
            Some(Value::Table(table)) => table,
            Some(other) => {
                let problem = format!("is {}, but must be a section `[{name}]`", kind(&other));
                self.mistakes.push(Mistake { key: name.to_owned(), problem });
                Table::new()
            }
        };
        let mut section = Section { name, table, known: Vec::new(), mistakes: &mut self.mistakes };
        let value = read(&mut section);
        section.finish();
        value
    }

    /// Remembers that a value is not accepted together with those of other sections.
    pub(super) fn object(&mut self, key: &str, problem: &str) {
        self.mistakes.push(Mistake { key: key.to_owned(), problem: problem.to_owned() });
    }

    /// Reports everything that was wrong, and every section that nobody asked for.
    pub(super) fn finish(mut self) -> Result<(), ConfigError> {
        for name in self.table.keys() {
            let problem = unknown(name, &self.sections);
            self.mistakes.push(Mistake { key: name.clone(), problem });
        }
        if self.mistakes.is_empty() {
            return Ok(());
        }
        let source_name = "the configuration".to_owned();
        Err(ConfigError::Mistakes { source_name, mistakes: self.mistakes })
    }
}

/// One section of the document. A value that is not accepted is remembered, and the default returned
/// in its place, so that reading goes on to the next mistake.
pub(super) struct Section<'a> {
    name: &'static str,
    table: Table,
    known: Vec<&'static str>,
    mistakes: &'a mut Vec<Mistake>,
}

impl Section<'_> {
    /// Returns the keys that were asked for so far.
    #[cfg(test)]
    pub(super) fn known(&self) -> &[&'static str] {
        &self.known
    }

    pub(super) fn boolean(&mut self, key: &'static str, default: bool) -> bool {
        match self.take(key) {
            None => default,
            Some(Value::Boolean(value)) => value,
            Some(other) => self.refuse(key, &other, "true or false", default),
        }
    }

    pub(super) fn integer(
        &mut self,
        key: &'static str,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> u64 {
        let accepted = format!("a whole number from {} to {}", range.start(), range.end());
        match self.take(key) {
            None => default,
            Some(Value::Integer(value))
                if u64::try_from(value).is_ok_and(|v| range.contains(&v)) =>
            {
                value.unsigned_abs()
            }
            Some(other) => self.refuse(key, &other, &accepted, default),
        }
    }

    pub(super) fn float(
        &mut self,
        key: &'static str,
        default: f64,
        range: RangeInclusive<f64>,
    ) -> f64 {
        let accepted = format!("a number from {} to {}", range.start(), range.end());
        let Some(value) = self.take(key) else { return default };
        #[expect(clippy::cast_precision_loss, reason = "accepted ranges are far below 2^52")]
        let number = match value {
            Value::Float(number) => Some(number),
            Value::Integer(number) => Some(number as f64),
            _ => None,
        };
        match number {
            Some(number) if range.contains(&number) => number,
            _ => self.refuse(key, &value, &accepted, default),
        }
    }

    pub(super) fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&str, T)]) -> T {
        let default = choices[0].1;
        let Some(value) = self.take(key) else { return default };
        match choices.iter().find(|(name, _)| value.as_str() == Some(name)) {
            Some((_, choice)) => *choice,
            None => {
                let names: Vec<_> = choices.iter().map(|(name, _)| format!("`{name}`")).collect();
                self.refuse(key, &value, &names.join(" or "), default)
            }
        }
    }

    pub(super) fn checked(
        &mut self,
        key: &'static str,
        default: &str,
        accepted: &str,
        is_accepted: impl FnOnce(&str) -> bool,
    ) -> String {
        match self.take(key) {
            None => default.to_owned(),
            Some(Value::String(text)) if is_accepted(&text) => text,
            Some(other) => self.refuse(key, &other, accepted, default.to_owned()),
        }
    }

    /// # Panics
    ///
    /// Panics when `default` itself does not parse.
    pub(super) fn parsed<T: FromStr>(
        &mut self,
        key: &'static str,
        default: &str,
        accepted: &str,
    ) -> T {
        let value = self.take(key);
        if let Some(parsed) =
            value.as_ref().and_then(Value::as_str).and_then(|text| text.parse().ok())
        {
            return parsed;
        }
        let Ok(default) = default.parse() else { panic!("the default of {}.{key}", self.name) };
        match value {
            None => default,
            Some(other) => self.refuse(key, &other, accepted, default),
        }
    }

    /// # Panics
    ///
    /// Panics when one of `defaults` does not parse.
    pub(super) fn parsed_list<T: FromStr>(
        &mut self,
        key: &'static str,
        defaults: &[&str],
        accepted: &str,
    ) -> Vec<T> {
        let items = match self.take(key) {
            None => defaults.iter().map(|text| Value::String((*text).to_owned())).collect(),
            Some(Value::Array(items)) => items,
            Some(other) => return self.refuse(key, &other, "a list", Vec::new()),
        };
        let mut list = Vec::with_capacity(items.len());
        for item in items {
            match item.as_str().and_then(|text| text.parse().ok()) {
                Some(parsed) => list.push(parsed),
                None => self.refuse(key, &item, accepted, ()),
            }
        }
        list
    }

    /// Remembers that a value is not accepted together with others.
    pub(super) fn object(&mut self, key: &str, problem: &str) {
        let (key, problem) = (format!("{}.{key}", self.name), problem.to_owned());
        self.mistakes.push(Mistake { key, problem });
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.table.remove(key)
    }

    fn refuse<T>(&mut self, key: &str, value: &Value, accepted: &str, default: T) -> T {
        let problem = format!("{value} is not {accepted}");
        self.mistakes.push(Mistake { key: format!("{}.{key}", self.name), problem });
        default
    }

    fn finish(self) {
        for key in self.table.keys() {
            let problem = unknown(key, &self.known);
            self.mistakes.push(Mistake { key: format!("{}.{key}", self.name), problem });
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Array(_) => "a list",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a time",
        Value::Float(_) | Value::Integer(_) => "a number",
        Value::String(_) => "a string",
        Value::Table(_) => "a section",
    }
}

/// Says that `name` is unknown, and which known one it may be a typing error of.
fn unknown(name: &str, known: &[&'static str]) -> String {
    let nearest = known.iter().map(|other| (distance(name, other), *other)).min();
    match nearest {
        Some((distance, other)) if distance <= 2 => {
            format!("is not known; did you mean `{other}`?")
        }
        _ => format!("is not known; known are {}", known.join(", ")),
    }
}

/// Returns the edit distance of two short names (Damerau 1964, restricted to adjacent swaps).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = usize::from(a[i - 1] != b[j - 1]);
            let mut best =
                (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + change);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits_and_swaps() {
        assert_eq!(distance("listen", "listen"), 0);
        assert_eq!(distance("lisen", "listen"), 1);
        assert_eq!(distance("lsiten", "listen"), 1);
        assert_eq!(distance("lgo", "log"), 1);
        assert_eq!(distance("", "log"), 3);
    }
}
