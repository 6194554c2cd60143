//! Entries into records, under a header of the columns that all of them have.

use std::collections::HashSet;

use sherd_protocol::document::check;

use crate::document::append_json;
use crate::document::tokens::{Reader, Token};
use crate::formats::jsonl::{BYTE_ORDER_MARK, write_as_bytes, write_document};
use crate::formats::lines::MAX_LINE_BYTES;
use crate::formats::{Fault, Fields};

use super::cell::{Scalar, infer};
use super::{EXPIRES_AT, KEY, RECORD, VERSION};

/// What a record may have beside its key and its document: the quotes around that, a delimiter before each of
/// three cells, two numbers of 64 bits, and the end.
const MAX_REST_BYTES: usize = 2 + 3 + 2 * 20 + 1;

/// How documents become records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One column `record`, which holds any document as JSON, and `version` and `expires_at`.
    Record,
    /// A column for each field.
    Columns(Vec<String>),
    /// The fields of the first document that can be written so.
    OfFirst,
}

impl Shape {
    /// The columns after the key, where they do not depend on the documents.
    fn columns(&self) -> Option<Vec<String>> {
        match self {
            Self::Record => Some([RECORD, VERSION, EXPIRES_AT].map(str::to_owned).to_vec()),
            Self::Columns(columns) => Some(columns.clone()),
            Self::OfFirst => None,
        }
    }
}

/// Writes records.
#[derive(Debug)]
pub(crate) struct Writer {
    delimiter: u8,
    shape: Shape,
    has_header: bool,
}

impl Writer {
    pub(in crate::formats) fn new(delimiter: u8, shape: Shape) -> Self {
        Self { delimiter, shape, has_header: false }
    }

    /// Appends the header, if the columns are known.
    pub(in crate::formats) fn begin(&mut self, out: &mut Vec<u8>) -> Result<(), Fault> {
        if let Some(columns) = self.shape.columns() {
            self.push_header(out, &columns)?;
            self.has_header = true;
        }
        Ok(())
    }

    /// Leaves the header out: it is in front of what goes on.
    pub(in crate::formats) fn go_on(&mut self) {
        self.has_header = true;
    }

    fn push_header(&self, out: &mut Vec<u8>, columns: &[String]) -> Result<(), Fault> {
        if self.shape != Shape::Record {
            check_columns(columns)?;
        }
        self.push_text(out, KEY);
        for column in columns {
            out.push(self.delimiter);
            self.push_text(out, column);
        }
        out.push(b'\n');
        Ok(())
    }

    /// Appends a record.
    pub(in crate::formats) fn write(
        &mut self,
        out: &mut Vec<u8>,
        fields: &Fields<'_>,
    ) -> Result<(), Fault> {
        let found;
        let columns = match &self.shape {
            Shape::Record => &[][..],
            Shape::Columns(columns) => columns,
            Shape::OfFirst => {
                found = columns_of(fields.document)?;
                &found
            }
        };
        if !self.has_header {
            match self.shape.columns() {
                Some(columns) => self.push_header(out, &columns)?,
                None => self.push_header(out, columns)?,
            }
        }
        let start = out.len();
        self.push_text(out, fields.key);
        match &self.shape {
            Shape::Record => self.push_record(out, start, fields)?,
            _ => self.push_columns(out, columns, fields)?,
        }
        out.push(b'\n');
        if out.len() - start > MAX_LINE_BYTES {
            return Err(Fault::TooLong(MAX_LINE_BYTES));
        }
        if self.shape == Shape::OfFirst {
            self.shape = Shape::Columns(columns.to_vec());
        }
        self.has_header = true;
        Ok(())
    }

    fn push_record(
        &self,
        out: &mut Vec<u8>,
        start: usize,
        fields: &Fields<'_>,
    ) -> Result<(), Fault> {
        let Fields { document, version, expires_at, .. } = *fields;
        let (mut record, rest) = (Vec::new(), out.len() - start + MAX_REST_BYTES);
        write_document(&mut record, 0, document, rest)?;
        // Quotes are doubled, which may take as much again.
        let quotes = record.iter().filter(|&&byte| byte == b'"').count();
        if record.len() + quotes + rest > MAX_LINE_BYTES {
            record.clear();
            write_as_bytes(&mut record, document)?;
        }
        out.push(self.delimiter);
        push_quoted(out, &record);
        for number in [version, expires_at] {
            out.push(self.delimiter);
            if let Some(number) = number {
                out.extend_from_slice(number.to_string().as_bytes());
            }
        }
        Ok(())
    }

    fn push_columns(
        &self,
        out: &mut Vec<u8>,
        columns: &[String],
        fields: &Fields<'_>,
    ) -> Result<(), Fault> {
        let Fields { document, expires_at, .. } = *fields;
        if expires_at.is_some() {
            return Err(Fault::ExpiryNotHeld);
        }
        check(document)?;
        let not_held = |why: String| Err(Fault::ColumnsNotHeld(why));
        let mut reader = Reader { bytes: document, offset: 0 };
        let (Token::Map(count), true) = reader.next_of_length()? else {
            return not_held("the document is no object".to_owned());
        };
        if count != columns.len() {
            return not_held(format!(
                "the document has {count} fields where there are {} columns",
                columns.len()
            ));
        }
        for column in columns {
            let (name, is_shortest) = reader.next_of_length()?;
            if name != Token::String(column) || !is_shortest {
                return not_held(match name {
                    Token::String(name) if name != column => {
                        format!(
                            "the document has the field {name:?} in the place of column {column:?}"
                        )
                    }
                    _ => "the document has a field that is no column".to_owned(),
                });
            }
            out.push(self.delimiter);
            let (value, is_shortest) = reader.next_of_length()?;
            let what = match value {
                _ if !is_shortest => "not the shortest MessagePack",
                Token::Nil => continue,
                Token::Bool(value) => {
                    out.extend_from_slice(if value { b"true" } else { b"false" });
                    continue;
                }
                Token::Unsigned(number) => {
                    out.extend_from_slice(number.to_string().as_bytes());
                    continue;
                }
                Token::Signed(number) => {
                    out.extend_from_slice(number.to_string().as_bytes());
                    continue;
                }
                Token::Float(number) if number.is_finite() => {
                    _ = append_json(out, &number);
                    continue;
                }
                Token::String(text) => {
                    match infer(text) {
                        Scalar::String if !text.is_empty() => self.push_text(out, text),
                        _ => push_quoted(out, text.as_bytes()),
                    }
                    continue;
                }
                Token::Float(_) => "no number of CSV",
                Token::Single(_) => "a 32-bit float",
                Token::Binary(_) => "binary",
                Token::Array(_) => "an array",
                Token::Map(_) => "an object",
            };
            return not_held(format!("the field {column:?} is {what}"));
        }
        Ok(())
    }

    /// Appends text, in quotes where it needs them.
    fn push_text(&self, out: &mut Vec<u8>, text: &str) {
        let special = |byte: u8| byte == self.delimiter || matches!(byte, b'"' | b'\r' | b'\n');
        let has_edges = text.trim().len() != text.len();
        if text.is_empty()
            || has_edges
            || text.starts_with(BYTE_ORDER_MARK)
            || text.bytes().any(special)
        {
            push_quoted(out, text.as_bytes());
        } else {
            out.extend_from_slice(text.as_bytes());
        }
    }
}

/// The fields of an object as columns.
fn columns_of(document: &[u8]) -> Result<Vec<String>, Fault> {
    check(document)?;
    let not_held = |why: String| Err(Fault::ColumnsNotHeld(why));
    let mut reader = Reader { bytes: document, offset: 0 };
    let Token::Map(count) = reader.next()? else {
        return not_held("the document is no object".to_owned());
    };
    let mut columns = Vec::new();
    for _ in 0..count {
        let Token::String(name) = reader.next()? else {
            return not_held("the document has a field whose name is no string".to_owned());
        };
        columns.push(name.to_owned());
        reader.skip()?;
    }
    Ok(columns)
}

/// Whether columns can stand beside that of the key, and are read as what they are.
fn check_columns(columns: &[String]) -> Result<(), Fault> {
    let mut seen = HashSet::new();
    for name in columns {
        let why = if name.is_empty() || *name == KEY || *name == RECORD {
            format!("the field {name:?} cannot be a column beside that of the key")
        } else if !seen.insert(name.as_str()) {
            format!("the field {name:?} is there twice, which cannot be a column")
        } else {
            continue;
        };
        return Err(Fault::ColumnsNotHeld(why));
    }
    Ok(())
}

fn push_quoted(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    for &byte in text {
        if byte == b'"' {
            out.push(b'"');
        }
        out.push(byte);
    }
    out.push(b'"');
}
