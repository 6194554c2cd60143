//! What was measured, and a table of it.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

use crate::SUBJECTS;
use crate::trace::Mix;

pub(crate) struct Cell {
    pub(crate) mix: Mix,
    pub(crate) percent: u32,
    pub(crate) name: &'static str,
    pub(crate) ratio: f64,
    pub(crate) bytes: f64,
}

pub(crate) struct Results {
    pub(crate) cells: Vec<Cell>,
    /// Where they are kept, a line each.
    path: Option<PathBuf>,
}

impl Results {
    pub(crate) fn load(path: Option<PathBuf>) -> Self {
        let text = path.as_ref().and_then(|path| std::fs::read_to_string(path).ok());
        let cells = text.iter().flat_map(|text| text.lines()).map(|line| {
            let [mix, percent, name, ratio, bytes] =
                line.split('\t').collect::<Vec<_>>().try_into().unwrap();
            Cell {
                mix: Mix::ALL.into_iter().find(|of| of.name() == mix).unwrap(),
                percent: percent.parse().unwrap(),
                name: SUBJECTS.into_iter().find(|(of, _)| *of == name).unwrap().0,
                ratio: ratio.parse().unwrap(),
                bytes: bytes.parse().unwrap(),
            }
        });
        Self { cells: cells.collect(), path }
    }

    pub(crate) fn add(&mut self, cell: Cell) {
        if let Some(path) = &self.path {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
            let Cell { mix, percent, name, ratio, bytes } = &cell;
            writeln!(file.unwrap(), "{}\t{percent}\t{name}\t{ratio}\t{bytes}", mix.name()).unwrap();
        }
        self.cells.push(cell);
    }

    pub(crate) fn get(&self, mix: Mix, percent: u32, name: &str) -> Option<&Cell> {
        self.cells
            .iter()
            .find(|cell| cell.mix == mix && cell.percent == percent && cell.name == name)
    }

    /// The limits that there are results of, in their order.
    pub(crate) fn limits(&self) -> Vec<u32> {
        let mut limits: Vec<u32> = self.cells.iter().map(|cell| cell.percent).collect();
        limits.sort_unstable();
        limits.dedup();
        limits
    }

    /// In Markdown, in percent.
    pub(crate) fn table(&self) -> String {
        let mut table = String::from("| accesses | limit |");
        for (name, _) in SUBJECTS {
            _ = write!(table, " {name} |");
        }
        table += "\n| --- | --- |";
        table += &" --- |".repeat(SUBJECTS.len());
        for mix in Mix::ALL {
            for &percent in &self.limits() {
                _ = write!(table, "\n| {} | {percent} % |", mix.name());
                let cells = SUBJECTS.map(|(name, _)| self.get(mix, percent, name));
                let best = cells.iter().flatten().map(|cell| cell.ratio).fold(0.0, f64::max);
                for cell in cells {
                    _ = match cell {
                        None => write!(table, " |"),
                        Some(cell) if cell.ratio == best => {
                            write!(table, " **{:.2}** |", cell.ratio * 100.0)
                        }
                        Some(cell) => write!(table, " {:.2} |", cell.ratio * 100.0),
                    };
                }
            }
        }
        table
    }
}
