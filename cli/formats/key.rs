//! Where the key of a document is that is an object: in a field, or in several.

use std::fmt;
use std::str::FromStr;

use crate::document::tokens::{Reader, Token};

use super::Fault;

/// How a key is made of the fields of a document: `id`, or `{country}:{id}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyOf {
    parts: Vec<Part>,
    /// As it was given.
    text: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(String),
}

impl FromStr for KeyOf {
    type Err = String;

    /// A field's name, or a template with names in braces; `{{` and `}}` are braces.
    fn from_str(text: &str) -> Result<Self, String> {
        if !text.contains(['{', '}']) {
            if text.is_empty() {
                return Err("the name of a field is missing".to_owned());
            }
            return Ok(Self { parts: vec![Part::Field(text.to_owned())], text: text.to_owned() });
        }
        let (mut parts, mut literal, mut rest) = (Vec::new(), String::new(), text);
        while let Some(at) = rest.find(['{', '}']) {
            literal += &rest[..at];
            let brace = &rest[at..=at];
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                literal += brace;
                rest = after;
                continue;
            }
            let name = if brace == "{" { rest.split_once('}') } else { None };
            let Some((name, after)) = name.filter(|(name, _)| !name.is_empty()) else {
                return Err(
                    "a brace has no other half: use {FIELD}, or {{ and }} for braces".into()
                );
            };
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal)));
            }
            parts.push(Part::Field(name.to_owned()));
            rest = after;
        }
        literal += rest;
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        if !parts.iter().any(|part| matches!(part, Part::Field(_))) {
            return Err("all documents would have the same key: name a {FIELD} in it".to_owned());
        }
        Ok(Self { parts, text: text.to_owned() })
    }
}

impl fmt::Display for KeyOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl KeyOf {
    /// The key of a document.
    pub(super) fn of_document(&self, document: &[u8]) -> Result<String, Fault> {
        let mut key = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => key += text,
                Part::Field(field) => push_field(&mut key, document, field)?,
            }
        }
        Ok(key)
    }

    /// The names of the fields.
    pub(super) fn fields(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Field(field) => Some(field.as_str()),
            Part::Text(_) => None,
        })
    }
}

fn push_field(key: &mut String, document: &[u8], field: &str) -> Result<(), Fault> {
    let mut reader = Reader { bytes: document, offset: 0 };
    let Token::Map(count) = reader.next()? else {
        return Err(Fault::NoObject { field: field.to_owned() });
    };
    for _ in 0..count {
        let start = reader.offset;
        if reader.next()? != Token::String(field) {
            // The name may be a value of several tokens.
            reader.offset = start;
            reader.skip()?;
            reader.skip()?;
            continue;
        }
        let what = match reader.next()? {
            Token::String(text) => {
                key.push_str(text);
                return Ok(());
            }
            Token::Unsigned(number) => {
                *key += &number.to_string();
                return Ok(());
            }
            Token::Signed(number) => {
                *key += &number.to_string();
                return Ok(());
            }
            Token::Bool(value) => {
                *key += if value { "true" } else { "false" };
                return Ok(());
            }
            Token::Float(_) | Token::Single(_) => "a float, of which there are several texts",
            Token::Nil => "null",
            Token::Binary(_) => "binary",
            Token::Array(_) => "an array",
            Token::Map(_) => "an object",
        };
        return Err(Fault::NoScalar { field: field.to_owned(), what });
    }
    Err(Fault::NoKeyField { field: field.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::parse;

    fn key(of: &str, document: &str) -> Result<String, String> {
        let key: KeyOf = of.parse()?;
        key.of_document(&parse(document).unwrap()).map_err(|fault| fault.to_string())
    }

    #[test]
    fn fields_and_templates() {
        let document = r#"{"id": 7, "country": "CH", "neg": -1, "yes": true, "a b": "x"}"#;
        for (of, expected) in [
            ("id", "7"),
            ("{country}:{id}", "CH:7"),
            ("{{{neg}}}", "{-1}"),
            ("{yes}{a b}|", "truex|"),
        ] {
            assert_eq!(key(of, document), Ok(expected.to_owned()), "{of}");
        }
        for of in ["", "{", "}", "{}", "{id", "id}", "{{id}}", "{id}}"] {
            assert!(of.parse::<KeyOf>().is_err(), "{of}");
        }
    }

    #[test]
    fn what_makes_no_key_is_told() {
        for (document, expected) in [
            ("5", "no object"),
            (r#"{"a": 1}"#, "no field \"id\""),
            (r#"{"id": null}"#, "null"),
            (r#"{"id": 1.5}"#, "float"),
            (r#"{"id": [1]}"#, "array"),
            (r#"{"id": {"x": 1}}"#, "an object"),
        ] {
            let fault = key("id", document).unwrap_err();
            assert!(fault.contains(expected), "{document}: {fault}");
        }
        // A map whose key looks like it in a value before.
        assert_eq!(key("id", r#"{"x": {"id": 1}, "id": 2}"#), Ok("2".to_owned()));
    }
}
