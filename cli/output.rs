//! Standard output: results and nothing else.

use std::io::{self, BufWriter, StdoutLock, Write};

use comfy_table::{Table, presets};
use serde::Serialize;

use crate::document::to_json;
use crate::error::Error;

/// Buffered standard output. What is not flushed by [`Output::flush`] is lost only where the
/// command fails.
pub(crate) struct Output {
    writer: BufWriter<StdoutLock<'static>>,
}

impl Output {
    pub(crate) fn new() -> Self {
        Self { writer: BufWriter::new(io::stdout().lock()) }
    }

    /// Prints a line.
    ///
    /// # Errors
    /// [`Error::OutputClosed`] when nobody reads on.
    pub(crate) fn line(&mut self, line: impl std::fmt::Display) -> Result<(), Error> {
        writeln!(self.writer, "{line}").map_err(|error| output_error(&error))
    }

    /// Prints text as it is, without a line's end.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub(crate) fn text(&mut self, text: &str) -> Result<(), Error> {
        write!(self.writer, "{text}").map_err(|error| output_error(&error))
    }

    /// Prints a value as one line of JSON.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub(crate) fn json<T: Serialize>(&mut self, value: &T) -> Result<(), Error> {
        self.line(json(value)?)
    }

    /// Hands on what is buffered.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub(crate) fn flush(&mut self) -> Result<(), Error> {
        self.writer.flush().map_err(|error| output_error(&error))
    }
}

/// A value as JSON.
///
/// # Errors
/// When it is a document that is none.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<String, Error> {
    to_json(value).map_err(|error| Error::Failed(format!("cannot print as JSON: {error}")))
}

/// A table for people: no lines, columns apart.
pub(crate) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

fn output_error(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Error::OutputClosed,
        _ => Error::Failed(format!("cannot write to standard output: {error}")),
    }
}

/// Says something to a program on standard error: a line that is a value as JSON and nothing else.
///
/// # Errors
/// As [`json`].
pub(crate) fn say_json<T: Serialize>(value: &T) -> Result<(), Error> {
    let line = json(value)?;
    // As with `say!`.
    _ = writeln!(io::stderr(), "{line}");
    Ok(())
}

/// Text as it is typed as one word of a shell.
pub(crate) fn shell_word(text: &str) -> String {
    let is_plain = |it: char| it.is_ascii_alphanumeric() || "-_./,:=@%+".contains(it);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// Says something to the person on standard error. That nobody may be listening is no failure.
macro_rules! say {
    ($($argument:tt)*) => {{
        use std::io::Write as _;
        // `eprintln!` would panic where standard error is closed.
        let _ = writeln!(std::io::stderr(), "sherd: {}", format_args!($($argument)*));
    }};
}
pub(crate) use say;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_shell() {
        for (text, word) in [
            ("people.import", "people.import"),
            ("{country}:{id}", "'{country}:{id}'"),
            ("it's", r"'it'\''s'"),
            ("", "''"),
        ] {
            assert_eq!(shell_word(text), word);
        }
    }
}
