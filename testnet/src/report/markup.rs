//! Text into markup, and numbers into text.

use std::fmt::Write as _;

/// Escapes text for an element or a quoted attribute.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // Control characters are not allowed in markup at all.
            c if c.is_control() && !matches!(c, '\n' | '\t') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Returns a whole number with commas.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Returns a number with a fixed number of decimals, or a dash.
pub(super) fn decimal(number: Option<f64>, decimals: usize) -> String {
    number
        .filter(|number| number.is_finite())
        .map_or("–".to_owned(), |n| format!("{n:.decimals$}"))
}

/// Returns a size in the unit that suits it.
pub(super) fn bytes(size: u64) -> String {
    match size {
        0..1024 => format!("{size} B"),
        1024..0x10_0000 => format!("{:.1} KiB", size as f64 / 1024.0),
        _ => format!("{:.1} MiB", size as f64 / f64::from(1 << 20)),
    }
}

/// Markup that grows by parts.
#[derive(Debug, Default)]
pub(crate) struct Markup(String);

impl Markup {
    /// Adds formatted markup; its text has been escaped by the caller.
    pub(crate) fn add(&mut self, parts: std::fmt::Arguments<'_>) -> &mut Self {
        self.0.write_fmt(parts).expect("a string takes whatever is written to it");
        self.0.push('\n');
        self
    }

    pub(crate) fn into_string(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_breaks_out_of_text() {
        assert_eq!(escape(r#"<b a="1" c='2'>&"#), "&lt;b a=&quot;1&quot; c=&#39;2&#39;&gt;&amp;");
        assert_eq!(escape("a\u{0}b\u{1b}"), "a\u{fffd}b\u{fffd}");
    }

    #[test]
    fn numbers_read_well() {
        let counts = [0, 999, 1_000, 12_960, 1_234_567].map(count);
        assert_eq!(counts, ["0", "999", "1,000", "12,960", "1,234,567"]);
        assert_eq!(decimal(Some(0.5104), 3), "0.510");
        assert_eq!([decimal(None, 1), decimal(Some(f64::NAN), 1)], ["–", "–"]);
        assert_eq!([bytes(10), bytes(1536), bytes(5 << 20)], ["10 B", "1.5 KiB", "5.0 MiB"]);
    }
}
