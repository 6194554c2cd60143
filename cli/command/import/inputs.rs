//! What is to be imported: files, globs and standard input, each with its format.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::error::{Error, file_hint};
use crate::export::Sidecar;
use crate::formats::{Format, ReadError, Source};
use crate::load::{Batch, Input, InputIs, Point};
use crate::output::say;
use crate::units::show_count;

use super::Import;
use super::sidecar::{Expected, Finding};

/// What is to be imported.
pub(super) struct Inputs {
    pub(super) inputs: Vec<Input>,
    /// What their sidecars say, where they have one.
    expected: Vec<Option<Expected>>,
    /// It is said what makes keys, or what columns are.
    has_own_keys: bool,
    /// As they are now.
    pub(super) are: Vec<InputIs>,
}

impl Inputs {
    /// The bytes of all, if that is known.
    pub(super) fn bytes(&self) -> Option<u64> {
        let is_known = self.inputs.iter().all(|input| input.source.path().is_some());
        is_known.then(|| self.are.iter().map(|input| input.bytes).sum())
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.are.iter().map(|input| input.name.clone()).collect()
    }

    /// Why an input ends early.
    pub(super) fn unreadable(&self, input: usize, error: &ReadError) -> Error {
        let name = self.are.get(input).map_or("", |input| input.name.as_str());
        let hint = match error {
            ReadError::Io(error) => file_hint(error),
            ReadError::Format(_) => "",
        };
        Error::Failed(format!("cannot read {name}: {error}{hint}"))
    }

    /// How an input that ends is not what its sidecar says. Where that cannot be known, it is said at
    /// once.
    pub(super) fn mismatch(&self, batch: &Batch) -> Option<String> {
        let Point { input, documents, digest, .. } = batch.end;
        let expected = self.expected.get(input).filter(|_| batch.ends_input)?.as_ref()?;
        match expected.compare(&self.are[input].name, documents, digest, self.has_own_keys)? {
            Finding::Differs(why) => Some(why),
            Finding::Unchecked(why) => {
                say!("{why}");
                None
            }
        }
    }
}

impl Import {
    /// The inputs that were named, with their formats.
    pub(super) fn inputs(&self) -> Result<Inputs, Error> {
        let mut sources = Vec::new();
        for name in &self.files {
            sources.extend(self.sources_of(name)?);
        }
        if sources.is_empty() {
            sources.push(Source::Stdin);
        }
        if sources.iter().filter(|source| **source == Source::Stdin).count() > 1 {
            return Err(Error::Usage("standard input can be read once".to_owned()));
        }
        let has_own_keys = self.key.is_some() || !self.schema.is_empty();
        let (inputs, expected, are) = (Vec::new(), Vec::new(), Vec::new());
        let mut all = Inputs { inputs, expected, has_own_keys, are };
        for source in sources {
            let name = source.name();
            let (mut expected, mut bytes, mut modified) = (None, 0, 0);
            if let Some(path) = source.path() {
                if path.is_dir() {
                    return Err(Error::Usage(format!(
                        "{name} is a directory; name its files, as '{name}/*.jsonl'"
                    )));
                }
                expected = Expected::of(path)?;
                (bytes, modified) = length_and_time(path)?;
            }
            let of_sidecar = expected.as_ref().and_then(|expected| expected.format);
            let told = source.path().and_then(Format::of_path).or(of_sidecar);
            let format = self.format.or(told).ok_or_else(|| {
                Error::Usage(format!(
                    "the format of {name} is not told by its name; say it with --format, one of \
                     rows, jsonl, csv, tsv and msgpack"
                ))
            })?;
            self.check_options(format, &name)?;
            let digest_of = expected.as_ref().map(|expected| expected.index.clone());
            all.inputs.push(Input { source, format, digest_of });
            let sidecar = expected.as_ref().map_or_else(String::new, Expected::says);
            all.are.push(InputIs { name, format, bytes, modified, sidecar: Some(sidecar) });
            all.expected.push(expected);
        }
        Ok(all)
    }

    /// The sources that a name on the command line stands for.
    fn sources_of(&self, name: &str) -> Result<Vec<Source>, Error> {
        if name == "-" {
            return Ok(vec![Source::Stdin]);
        }
        let path = PathBuf::from(name);
        if path.exists() || !name.contains(['*', '?', '[']) {
            return Ok(vec![Source::File(path)]);
        }
        let wrong = |error: String| Error::Usage(format!("{name} is no pattern of files: {error}"));
        let own: Vec<PathBuf> =
            self.rejects.iter().cloned().chain(self.checkpoint_file().paths()).collect();
        let paths = glob::glob(name).map_err(|error| wrong(error.to_string()))?;
        let (mut files, mut directories) = (Vec::new(), Vec::new());
        for path in paths {
            let path = path.map_err(|error| Error::Failed(error.to_string()))?;
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            // What an export says of a file is not one of the files, nor is what this import writes.
            let is_said = path.to_string_lossy().ends_with(Sidecar::SUFFIX);
            let is_ours = own.iter().any(|own| is_same(own, &path));
            if path.is_file() && !is_said && !is_ours {
                files.push(Source::File(path));
            }
        }
        if let [first, others @ ..] = directories.as_slice() {
            let first = first.display();
            match others.len() {
                0 => say!("{name} matches a directory, which is passed over: {first}"),
                count => say!(
                    "{name} matches directories, which are passed over: {first} and {}",
                    show_count(count, "other")
                ),
            }
        }
        if files.is_empty() {
            return Err(Error::Failed(format!("no file matches {name}")));
        }
        Ok(files)
    }

    fn check_options(&self, format: Format, name: &str) -> Result<(), Error> {
        if self.key.is_some() && format == Format::Rows {
            return Err(Error::Usage(format!(
                "--key is for objects, and {name} has rows, whose keys are in front"
            )));
        }
        if !self.schema.is_empty() && !matches!(format, Format::Csv | Format::Tsv) {
            let format = format.name();
            return Err(Error::Usage(format!(
                "--schema is for columns, and {name} is {format}, which has types"
            )));
        }
        Ok(())
    }
}

/// How long a file is, and when it was changed last, in nanoseconds since 1970.
pub(super) fn length_and_time(path: &Path) -> Result<(u64, u64), Error> {
    let metadata = std::fs::metadata(path).map_err(Error::file("read", path))?;
    let since = metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    Ok((metadata.len(), since.map_or(0, |since| since.as_nanos() as u64)))
}

/// Whether two names are of one file, which may not be there yet.
pub(super) fn is_same(one: &Path, other: &Path) -> bool {
    let file = |path: &Path| std::fs::metadata(path).map(|it| (it.dev(), it.ino())).ok();
    match (file(one), file(other)) {
        (Some(one), Some(other)) => one == other,
        (None, None) => std::path::absolute(one).ok() == std::path::absolute(other).ok(),
        _ => false,
    }
}
