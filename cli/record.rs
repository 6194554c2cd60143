//! Documents found, as they are printed.

use serde::Serialize;
use sherd_client::Document;

use crate::command::Context;
use crate::document::Printable;
use crate::error::Error;
use crate::output::{Output, json};

/// How a document is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `{"hash_": …, "record": …}`
    Record,
    /// `key|{"hash_": …, "record": …}`
    Row,
    /// `{"key": …, "hash_": …, "record": …, "version": …}`, and `"expires_at": …` where it does, in
    /// milliseconds since 1970
    Json,
}

impl Form {
    /// How documents are printed that were asked for by these keys.
    pub(crate) fn of_keys(context: &Context, keys: &[String]) -> Self {
        match keys {
            _ if context.json => Self::Json,
            [_] => Self::Record,
            _ => Self::Row,
        }
    }

    /// How documents of an index are printed.
    pub(crate) fn of_rows(context: &Context) -> Self {
        if context.json { Self::Json } else { Self::Row }
    }
}

#[derive(Serialize)]
struct Record<'a> {
    hash_: f64,
    record: Printable<'a>,
}

#[derive(Serialize)]
struct Keyed<'a> {
    key: &'a str,
    hash_: f64,
    record: Printable<'a>,
    version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<u64>,
}

/// Prints a document.
///
/// # Errors
/// As [`Output::line`], and when the bytes stored are no document.
pub(crate) fn show(
    output: &mut Output,
    form: Form,
    key: &str,
    document: &Document,
) -> Result<(), Error> {
    let Document { position, version, expires_at, bytes } = document;
    let record = Printable::new(bytes).map_err(|fault| {
        Error::Failed(format!("what is stored under {key:?} cannot be printed: {fault}"))
    })?;
    let hash_ = position.fraction();
    match form {
        Form::Record => output.json(&Record { hash_, record }),
        Form::Row => output.line(format_args!("{key}|{}", json(&Record { hash_, record })?)),
        Form::Json => {
            let (version, expires_at) = (*version, Some(*expires_at).filter(|&at| at != 0));
            output.json(&Keyed { key, hash_, record, version, expires_at })
        }
    }
}
