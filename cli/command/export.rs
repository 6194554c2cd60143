//! `sherd export`: an index, or all of them, into files or to standard output.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use sherd_client::Client;
use sherd_protocol::{RING_SIZE, Range};

use crate::error::Error;
use crate::export::{DEFAULT_JOBS, OfAll, Sidecar, Wanted, summary, to_file, to_stdout};
use crate::file::{beside, sync_dir};
use crate::formats::{Compression, Format};
use crate::interrupt::unless_interrupted;
use crate::output::{Output, say, say_json};

use super::{Context, parse_index};

/// Write the documents of an index to a file or to standard output
///
/// In ring order, each document that is there all the time exactly once. JSON lines and MessagePack have all of
/// a document: types, binary data, version and time of expiry; rows and tables have what they can.
///
/// FILE is there when it is whole: until then it is FILE.partial, and --resume goes on with that after a crash, a
/// full disk or a shard that was away. Beside it, FILE.digest.json says how many documents it has and their
/// digest, the same that `sherd digest` prints if nothing was written meanwhile; `sherd import` checks it.
/// Without -o the same is said on standard error.
#[derive(Debug, Args)]
pub(crate) struct Export {
    /// The index
    #[arg(value_name = "INDEX", value_parser = parse_index, required_unless_present = "all")]
    index: Option<String>,
    /// All indexes, each into a file of its own in the directory of -o, which must not be there yet
    #[arg(long, conflicts_with = "index", requires = "output")]
    all: bool,
    /// The file; with --all the directory [standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The format [by the name of FILE; to standard output and with --all jsonl]
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// Compress [as the name of FILE says]
    #[arg(long, value_name = "COMPRESSION")]
    compress: Option<Compression>,
    /// The columns of csv and tsv after the key: the fields of the documents, all of them and in their order,
    /// parted by commas [one column with the whole document as JSON, version and time of expiry]
    #[arg(long, value_name = "FIELD,…", value_delimiter = ',')]
    columns: Option<Vec<String>>,
    /// Leave out when documents expire, for formats that cannot hold it
    #[arg(long)]
    without_expiry: bool,
    /// Only keys that begin so
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// Only this part of the ring, its ends as fractions, such as 0.25..0.5
    #[arg(long, value_name = "START..END", value_parser = parse_range)]
    range: Option<Range>,
    /// Go on with an export of the same that was interrupted; begin where there is none
    #[arg(long, requires = "output")]
    resume: bool,
    /// How many ranges of the ring are read at the same time
    #[arg(long, value_name = "N", default_value_t = DEFAULT_JOBS, value_parser = parse_jobs)]
    jobs: usize,
}

impl Export {
    /// Exports.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Error> {
        let form = self.form()?;
        let client = context.connect().await?;
        match (&self.index, &self.output) {
            (Some(index), None) => self.to_stdout(context, &client, index, form).await,
            (Some(index), Some(path)) => {
                let begun = Instant::now();
                let wanted = self.wanted(&client, index, form).await?;
                let work = to_file(&client, &wanted, path, self.resume);
                let left = || {
                    format!(
                        "interrupted; what there is of {} stays, and --resume goes on with it",
                        path.display()
                    )
                };
                print(context, &unless_interrupted(work, left).await?, path, begun)
            }
            (None, Some(dir)) => {
                // Without a slash at its end, behind which ".partial" would be in it.
                let dir = &dir.components().collect::<PathBuf>();
                let left = || {
                    format!(
                        "interrupted; what there is stays in {}.partial, and --resume goes on with it",
                        dir.display()
                    )
                };
                unless_interrupted(self.all(context, &client, dir, form), left).await
            }
            (None, None) => Err(Error::Usage("name an index, or use --all".to_owned())),
        }
    }

    async fn to_stdout(
        &self,
        context: &Context,
        client: &Client,
        index: &str,
        form: (Format, Compression),
    ) -> Result<(), Error> {
        let begun = Instant::now();
        let wanted = self.wanted(client, index, form).await?;
        let left = || format!("interrupted; what was written is not all of {index:?}");
        let sidecar = unless_interrupted(to_stdout(client, &wanted), left).await?;
        if context.json {
            return say_json(&sidecar);
        }
        say!("{}", summary(&sidecar, None, begun));
        Ok(())
    }

    /// Exports all indexes to a directory, which gets its name when they are all there.
    async fn all(
        &self,
        context: &Context,
        client: &Client,
        dir: &Path,
        form: (Format, Compression),
    ) -> Result<(), Error> {
        if dir.exists() {
            return Err(Error::Usage(format!(
                "{} is there already: name a directory that is not",
                dir.display()
            )));
        }
        let partial = beside(dir, ".partial");
        let cluster = client.map().await?.cluster;
        let indexes = client.indexes().await?;
        let all = indexes.iter().map(|index| self.wanted_of(&index.name, index.id, form));
        let all: Vec<_> = all.collect();
        all.iter().try_for_each(Wanted::check)?;
        match fs::create_dir(&partial) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && self.resume => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                return Err(Error::Failed(format!(
                    "{} is of an export that was interrupted: go on with it with --resume, or \
                     remove it",
                    partial.display()
                )));
            }
            result => result.map_err(Error::file("create", partial.as_path()))?,
        }
        OfAll::new(cluster, &all).begin_or_go_on(&partial)?;
        for wanted in &all {
            let begun = Instant::now();
            let name = format!("{}.{}{}", wanted.index, form.0.name(), suffix(form.1));
            let path = partial.join(&name);
            if Sidecar::is_beside(&path) {
                // Whole since an earlier attempt.
                continue;
            }
            let exported = to_file(client, wanted, &path, self.resume).await;
            let sidecar = exported.inspect_err(|_| OfAll::remove_unused(&partial))?;
            print(context, &sidecar, &dir.join(name), begun)?;
        }
        fs::rename(&partial, dir).map_err(Error::file("rename to", dir))?;
        OfAll::remove(dir)?;
        sync_dir(dir)
    }

    /// Format and compression: as the options say, or the name of the file.
    ///
    /// # Errors
    /// When the name does not tell, or tells of another compression, and when the format has no columns.
    fn form(&self) -> Result<(Format, Compression), Error> {
        if self.output.as_deref().is_some_and(|path| path == "-") {
            let why = "- is no file: leave -o out for standard output, or say ./- for a file of that name";
            return Err(Error::Usage(why.to_owned()));
        }
        let form = match self.output.as_deref().filter(|_| !self.all) {
            Some(path) => self.form_of(path)?,
            None => {
                (self.format.unwrap_or(Format::Jsonl), self.compress.unwrap_or(Compression::Plain))
            }
        };
        if self.columns.is_some() && !matches!(form.0, Format::Csv | Format::Tsv) {
            return Err(Error::Usage(format!(
                "--columns is for csv and tsv, and this is to be {}, which has all of a document",
                form.0.name()
            )));
        }
        Ok(form)
    }

    fn form_of(&self, path: &Path) -> Result<(Format, Compression), Error> {
        if let Some(other) = Compression::other_of_path(path) {
            return Err(Error::Usage(format!(
                "{} cannot be compressed as its name says: {other} is none of gzip (.gz) and zstd (.zst)",
                path.display()
            )));
        }
        let format = self.format.or_else(|| Format::of_path(path)).ok_or_else(|| {
            Error::Usage(format!(
                "the format of {} is not told by its name; say it with --format, one of rows, jsonl, \
                 csv, tsv and msgpack",
                path.display()
            ))
        })?;
        Ok((format, self.compress.unwrap_or_else(|| Compression::of_path(path))))
    }

    async fn wanted(
        &self,
        client: &Client,
        index: &str,
        form: (Format, Compression),
    ) -> Result<Wanted, Error> {
        Ok(self.wanted_of(index, Wanted::id_of(client, index).await?, form))
    }

    fn wanted_of(
        &self,
        index: &str,
        id: u32,
        (format, compression): (Format, Compression),
    ) -> Wanted {
        Wanted {
            index: index.to_owned(),
            id,
            format,
            compression,
            columns: self.columns.clone(),
            without_expiry: self.without_expiry,
            prefix: self.prefix.clone(),
            range: self.range.unwrap_or(Range::FULL),
            jobs: self.jobs,
        }
    }
}

/// How the names of files end that are compressed so.
fn suffix(compression: Compression) -> &'static str {
    match compression {
        Compression::Plain => "",
        Compression::Gzip => ".gz",
        Compression::Zstd => ".zst",
    }
}

/// Says what is in a file.
fn print(context: &Context, sidecar: &Sidecar, path: &Path, begun: Instant) -> Result<(), Error> {
    let mut output = Output::new();
    if context.json {
        output.json(sidecar)?;
    } else {
        output.line(summary(sidecar, Some(path), begun))?;
    }
    output.flush()
}

/// Parses a part of the ring.
fn parse_range(text: &str) -> Result<Range, String> {
    let fraction = |text: &str| {
        let at = text.parse::<f64>().ok().filter(|at| (0.0..=1.0).contains(at));
        at.map(|at| (at * f64::from(RING_SIZE)).round() as u32)
    };
    let ends =
        text.split_once("..").and_then(|(start, end)| Some((fraction(start)?, fraction(end)?)));
    match ends {
        Some((start, end)) if start < end => Ok(Range { start, end }),
        _ => {
            Err("use two fractions of the ring, the lower one first, such as 0.25..0.5".to_owned())
        }
    }
}

/// Parses how many ranges are read at the same time.
fn parse_jobs(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(jobs @ 1..=64) => Ok(jobs),
        _ => Err("use a number from 1 to 64".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_two_fractions() {
        assert_eq!(parse_range("0..1"), Ok(Range::FULL));
        assert_eq!(parse_range("0.25..0.5"), Ok(Range { start: 2_500_000, end: 5_000_000 }));
        for text in
            ["", "0.5", "0.5..", "..0.5", "0.5..0.25", "0..1.5", "-1..1", "0.5..0.5", "a..b"]
        {
            assert!(parse_range(text).is_err(), "{text}");
        }
    }
}
