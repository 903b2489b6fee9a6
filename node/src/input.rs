//! Reads observations from CSV and NDJSON, line by line.
//!
//! A line that cannot be read is a [`BadLine`] with its number; reading can go on behind it.

use std::{collections::HashSet, io::Read, time::SystemTime};

use clap::ValueEnum;
use dunlin_client::Observation;

/// Longest NDJSON line, in bytes: 4,096 channels of 20 characters fit many times.
const LINE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// What the time column counts, since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TimeUnit {
    /// Seconds.
    S,
    /// Milliseconds.
    Ms,
    /// Microseconds.
    Us,
    /// Nanoseconds.
    Ns,
}

/// Which column of a CSV file is what.
#[derive(Clone, Debug)]
pub(crate) struct Columns {
    /// All rows belong to this entity, or the column of this name says to which.
    pub(crate) entity: EntityColumn,
    /// The column that holds the time.
    pub(crate) time: String,
    /// What it counts.
    pub(crate) unit: TimeUnit,
    /// The channels in order; all other numeric columns when empty.
    pub(crate) channels: Vec<String>,
    /// Columns that are not channels.
    pub(crate) ignore: Vec<String>,
}

/// Where the entity's id comes from.
#[derive(Clone, Debug)]
pub(crate) enum EntityColumn {
    /// From the command line.
    Fixed(String),
    /// From the column of this name.
    Named(String),
}

/// A line that is no observation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub(crate) struct BadLine {
    /// Its number, from 1.
    pub(crate) line: u64,
    /// What is wrong with it.
    pub(crate) problem: String,
}

/// An observation and the line it was read from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    /// The line's number, from 1.
    pub(crate) line: u64,
    /// What it says.
    pub(crate) observation: Observation,
}

/// Rows of an input, good and bad.
pub(crate) type Rows<'a> = Box<dyn Iterator<Item = Result<Row, BadLine>> + 'a>;

/// Returns the rows of an NDJSON input.
pub(crate) fn ndjson<'a>(input: impl Read + 'a) -> Rows<'a> {
    let mut input = std::io::BufReader::new(input);
    let (mut number, mut has_failed) = (0, false);
    Box::new(std::iter::from_fn(move || {
        loop {
            if has_failed {
                // An input that cannot be read stays so: going on would find bad lines for ever.
                return None;
            }
            number += 1;
            let line = match read_line(&mut input) {
                Ok(Line::End) => return None,
                Ok(Line::Whole(line)) => line,
                Ok(Line::TooLong) => {
                    let problem = format!("longer than {LINE_BYTES_MAX} bytes");
                    return Some(Err(BadLine { line: number, problem }));
                }
                Err(cause) => {
                    has_failed = true;
                    let problem = format!("cannot be read: {cause}");
                    return Some(Err(BadLine { line: number, problem }));
                }
            };
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let row = serde_json::from_slice(&line)
                .map(|observation| Row { line: number, observation })
                .map_err(|cause| BadLine { line: number, problem: cause.to_string() });
            return Some(row);
        }
    }))
}

/// What stands next in an input.
enum Line {
    Whole(Vec<u8>),
    /// It was passed over.
    TooLong,
    End,
}

/// Returns the next line without reading more than [`LINE_BYTES_MAX`] of it into memory.
fn read_line(input: &mut impl std::io::BufRead) -> std::io::Result<Line> {
    let mut line = Vec::new();
    let mut limited = Read::take(&mut *input, LINE_BYTES_MAX);
    let count = std::io::BufRead::read_until(&mut limited, b'\n', &mut line)?;
    if count as u64 == LINE_BYTES_MAX && line.last() != Some(&b'\n') {
        input.skip_until(b'\n')?;
        return Ok(Line::TooLong);
    }
    Ok(if count > 0 { Line::Whole(line) } else { Line::End })
}

/// Returns the rows of a CSV input.
///
/// # Errors
///
/// Fails when the header lacks a column that was asked for.
pub(crate) fn csv<'a>(input: impl Read + 'a, columns: Columns) -> Result<Rows<'a>, BadLine> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(input);
    let header = reader.headers().map_err(|cause| bad_record(1, &cause))?.clone();
    let layout = Layout::new(&header, columns)?;
    let mut channels: Option<Vec<usize>> = layout.channels.clone();
    let mut records = reader.into_records();
    Ok(Box::new(std::iter::from_fn(move || {
        let record = match records.next()? {
            Ok(record) => record,
            Err(cause) => {
                let line = cause
                    .position()
                    .map_or(records.reader().position().line(), csv::Position::line);
                return Some(Err(bad_record(line, &cause)));
            }
        };
        let line = record.position().map_or(0, csv::Position::line);
        // The first readable row decides which of the columns are numbers.
        let channels = channels.get_or_insert_with(|| layout.numeric(&record));
        let observation = layout.observation(&record, channels);
        Some(match observation {
            Ok(observation) => Ok(Row { line, observation }),
            Err(problem) => Err(BadLine { line, problem }),
        })
    })))
}

fn bad_record(line: u64, cause: &csv::Error) -> BadLine {
    let problem = match cause.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("{len} fields, but the header has {expected_len}")
        }
        csv::ErrorKind::Utf8 { .. } => "not UTF-8".to_owned(),
        _ => cause.to_string(),
    };
    BadLine { line, problem }
}

/// Where in a record the parts of an observation stand.
struct Layout {
    columns: Columns,
    header: csv::StringRecord,
    entity: Option<usize>,
    time: usize,
    channels: Option<Vec<usize>>,
}

impl Layout {
    fn new(header: &csv::StringRecord, columns: Columns) -> Result<Self, BadLine> {
        let find = |name: &str, flag: &str| {
            header.iter().position(|column| column == name).ok_or_else(|| {
                let known: Vec<_> = header.iter().take(20).collect();
                let problem =
                    format!("no column `{name}` ({flag}); the header has {}", known.join(", "));
                BadLine { line: 1, problem }
            })
        };
        let entity = match &columns.entity {
            EntityColumn::Fixed(_) => None,
            EntityColumn::Named(name) => {
                Some(find(name, "name it with --entity-column, or give --entity ID")?)
            }
        };
        let time = find(&columns.time, "name it with --time-column")?;
        let channels = match columns.channels.as_slice() {
            [] => None,
            names => {
                Some(names.iter().map(|name| find(name, "--channels")).collect::<Result<_, _>>()?)
            }
        };
        Ok(Self { columns, header: header.clone(), entity, time, channels })
    }

    fn numeric(&self, record: &csv::StringRecord) -> Vec<usize> {
        let ignore: HashSet<&str> = self.columns.ignore.iter().map(String::as_str).collect();
        (0..record.len())
            .filter(|&at| Some(at) != self.entity && at != self.time)
            .filter(|&at| !self.header.get(at).is_some_and(|name| ignore.contains(name)))
            .filter(|&at| record.get(at).is_some_and(|field| field.parse::<f32>().is_ok()))
            .collect()
    }

    fn observation(
        &self,
        record: &csv::StringRecord,
        channels: &[usize],
    ) -> Result<Observation, String> {
        let field = |at: usize| record.get(at).unwrap_or_default();
        let column = |at: usize| self.header.get(at).unwrap_or_default();
        if channels.is_empty() {
            return Err("no numeric column; name the channels with --channels".to_owned());
        }
        let entity = match (&self.columns.entity, self.entity) {
            (EntityColumn::Fixed(id), _) => id.clone(),
            (EntityColumn::Named(_), at) => field(at.unwrap_or_default()).to_owned(),
        };
        let timestamp_us = timestamp(field(self.time), self.columns.unit).ok_or_else(|| {
            format!("`{}` in column `{}` is not a time", field(self.time), column(self.time))
        })?;
        let number = |&at: &usize| {
            field(at).parse::<f32>().ok().filter(|value| value.is_finite()).ok_or_else(|| {
                format!("`{}` in column `{}` is not a finite number", field(at), column(at))
            })
        };
        let vector = channels.iter().map(number).collect::<Result<_, _>>()?;
        Ok(Observation { entity, timestamp_us, vector, metadata: None })
    }
}

/// Returns the microseconds since the epoch that `text` stands for.
fn timestamp(text: &str, unit: TimeUnit) -> Option<i64> {
    if let Ok(count) = text.parse::<i64>() {
        return match unit {
            TimeUnit::S => count.checked_mul(1_000_000),
            TimeUnit::Ms => count.checked_mul(1_000),
            TimeUnit::Us => Some(count),
            TimeUnit::Ns => Some(count.div_euclid(1_000)),
        };
    }
    if let Ok(count) = text.parse::<f64>() {
        let scale = match unit {
            TimeUnit::S => 1e6,
            TimeUnit::Ms => 1e3,
            TimeUnit::Us => 1.0,
            TimeUnit::Ns => 1e-3,
        };
        let micros = (count * scale).round();
        // Beyond 2^53 a float no longer counts single microseconds.
        #[expect(clippy::cast_possible_truncation, reason = "within 2^53")]
        return (micros.abs() < 9_007_199_254_740_992.0).then_some(micros as i64);
    }
    rfc3339(text)
}

fn rfc3339(text: &str) -> Option<i64> {
    let time = humantime::parse_rfc3339_weak(text).ok()?;
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_micros()).ok()
}

/// Reads a time from the command line: microseconds since the epoch, or RFC 3339.
pub(crate) fn parse_time(text: &str) -> Result<i64, String> {
    text.parse().ok().or_else(|| rfc3339(text)).ok_or_else(|| {
        "expected microseconds since the epoch, or a time like 2026-03-09T12:00:00Z".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> Columns {
        Columns {
            entity: EntityColumn::Named("host".to_owned()),
            time: "t".to_owned(),
            unit: TimeUnit::S,
            channels: Vec::new(),
            ignore: vec!["label".to_owned()],
        }
    }

    fn vectors(text: &str, columns: Columns) -> Vec<Result<Row, BadLine>> {
        csv(text.as_bytes(), columns).unwrap().collect()
    }

    #[test]
    fn numeric_columns_become_channels() {
        let rows =
            vectors("host,t,zone,cpu,mem,label\na,1,eu,0.5,2,0\na,2.5,us,0.25,3,1\n", columns());
        let row = |line, timestamp_us, vector: [f32; 2]| {
            let (entity, vector) = ("a".to_owned(), vector.to_vec());
            Ok(Row {
                line,
                observation: Observation { entity, timestamp_us, vector, metadata: None },
            })
        };
        assert_eq!(rows, [row(2, 1_000_000, [0.5, 2.0]), row(3, 2_500_000, [0.25, 3.0])]);
    }

    #[test]
    fn a_broken_line_is_named_and_the_rest_goes_on() {
        let text = "host,t,cpu\na,1,0.5\na,2\na,3,x\na,4,NaN\na,soon,1\na,6,0.5\n";
        let rows = vectors(text, columns());
        let bad: Vec<_> =
            rows.iter().filter_map(|row| row.as_ref().err()).map(ToString::to_string).collect();
        assert_eq!(
            bad,
            [
                "line 3: 2 fields, but the header has 3",
                "line 4: `x` in column `cpu` is not a finite number",
                "line 5: `NaN` in column `cpu` is not a finite number",
                "line 6: `soon` in column `t` is not a time",
            ]
        );
        let good: Vec<_> =
            rows.iter().filter_map(|row| row.as_ref().ok()).map(|row| row.line).collect();
        assert_eq!(good, [2, 7]);
    }

    #[test]
    fn a_missing_column_is_said_before_any_row() {
        let error = csv("x,y\n1,2\n".as_bytes(), columns()).err().unwrap().to_string();
        assert!(error.contains("no column `host`") && error.contains("x, y"), "{error}");
    }

    #[test]
    fn times_have_units_or_a_calendar() {
        assert_eq!(timestamp("-2", TimeUnit::S), Some(-2_000_000));
        assert_eq!(timestamp("1500", TimeUnit::Ms), Some(1_500_000));
        assert_eq!(timestamp("-1", TimeUnit::Ns), Some(-1));
        assert_eq!(timestamp("9223372036854775807", TimeUnit::S), None);
        assert_eq!(timestamp("1e300", TimeUnit::S), None);
        assert_eq!(timestamp("1970-01-01T00:00:01Z", TimeUnit::S), Some(1_000_000));
        assert_eq!(parse_time("1970-01-01 00:00:01"), Ok(1_000_000));
        assert!(parse_time("yesterday").is_err());
    }

    #[test]
    fn an_input_that_cannot_be_read_ends() {
        let folder = std::fs::File::open("/").unwrap();
        assert_eq!(ndjson(folder).filter(Result::is_err).count(), 1);
    }

    #[test]
    fn ndjson_lines_are_numbered_and_bounded() {
        let long = "x".repeat(usize::try_from(LINE_BYTES_MAX).unwrap() + 5);
        let text = format!(
            "{{\"entity\":\"a\",\"timestamp_us\":1,\"vector\":[1]}}\n\n{{\"entity\":1}}\n{long}\n{{\"entity\":\"a\",\"timestamp_us\":2,\"vector\":[2]}}"
        );
        let rows: Vec<_> = ndjson(text.as_bytes()).collect();
        let lines: Vec<_> = rows
            .iter()
            .map(|row| {
                row.as_ref().map_or_else(
                    |bad| -i64::try_from(bad.line).unwrap(),
                    |row| i64::try_from(row.line).unwrap(),
                )
            })
            .collect();
        assert_eq!(lines, [1, -3, -4, 5]);
    }
}
