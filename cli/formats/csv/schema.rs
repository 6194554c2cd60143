//! What the columns are said to be.

use std::fmt;
use std::str::FromStr;

/// What the cells of a column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Int,
    Float,
    Bool,
    String,
    Json,
}

impl Type {
    const NAMES: [(&'static str, Self); 5] = [
        ("int", Self::Int),
        ("float", Self::Float),
        ("bool", Self::Bool),
        ("string", Self::String),
        ("json", Self::Json),
    ];
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(_, of)| of == self);
        f.write_str(name.map_or("", |(name, _)| name))
    }
}

/// Types by the names of columns: `name:string,population:int`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Schema(Vec<(String, Type)>);

impl FromStr for Schema {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut columns: Vec<(String, Type)> = Vec::new();
        for column in text.split(',') {
            let (name, of) = column.rsplit_once(':').ok_or_else(|| {
                format!("{column:?} has no type: use {column}:string or the like")
            })?;
            let of = Type::NAMES.iter().find(|(name, _)| *name == of.trim()).ok_or_else(|| {
                format!("{of:?} is no type: use int, float, bool, string or json")
            })?;
            if columns.iter().any(|(before, _)| before == name) {
                return Err(format!("column {name:?} is there twice"));
            }
            columns.push((name.to_owned(), of.1));
        }
        Ok(Self(columns))
    }
}

impl fmt::Display for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns: Vec<_> = self.0.iter().map(|(name, of)| format!("{name}:{of}")).collect();
        f.write_str(&columns.join(","))
    }
}

impl Schema {
    /// The names, in the order in which they were said, with their types.
    pub(super) fn columns(&self) -> impl Iterator<Item = (&str, Type)> {
        self.0.iter().map(|(name, of)| (name.as_str(), *of))
    }

    /// Whether it says nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas() {
        let schema: Schema = "name:string,a:b:int".parse().unwrap();
        assert_eq!(schema.to_string(), "name:string,a:b:int");
        for text in ["", "name", "name:", "name:text", "a:int,a:int"] {
            assert!(text.parse::<Schema>().is_err(), "{text}");
        }
    }
}
