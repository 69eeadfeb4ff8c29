//! Rows in columns, for people; the fields hold no tabs, so `column` and `awk` can read them, too.

use std::{fmt, time::SystemTime};

use humantime::format_rfc3339_seconds;

/// A title and rows of the same length.
pub struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// Only the title.
    pub fn new(title: [&str; N]) -> Self {
        Self {
            rows: vec![title.map(str::to_owned)],
        }
    }

    pub fn push(&mut self, row: [String; N]) {
        self.rows.push(row);
    }
}

/// Without a line end after the last row.
impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| {
            let lengths = self.rows.iter().map(|row| row[column].chars().count());
            lengths.max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..N).map(width).collect();
        for (number, row) in self.rows.iter().enumerate() {
            if number > 0 {
                writeln!(f)?;
            }
            for (column, field) in row.iter().enumerate() {
                match column + 1 {
                    last if last == N => f.write_str(field)?,
                    _ => write!(f, "{field:width$}  ", width = widths[column])?,
                }
            }
        }
        Ok(())
    }
}

/// RFC 3339, or a dash where there is none.
pub fn time(time: Option<SystemTime>) -> String {
    time.map_or_else(
        || "-".to_owned(),
        |time| format_rfc3339_seconds(time).to_string(),
    )
}

/// The text, or a dash where there is none.
pub fn or_dash(text: Option<&str>) -> String {
    text.filter(|text| !text.is_empty())
        .unwrap_or("-")
        .to_owned()
}
