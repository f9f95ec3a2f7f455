//! What is printed: medians, their ratios, and targets that are met or missed.

use serde::{Deserialize, Serialize};

/// One line of the tables.
#[derive(Debug, Serialize, Deserialize)]
pub struct Row {
    pub section: String,
    pub what: String,
    pub median: f64,
    /// The highest, or nothing for a single figure.
    pub most: Option<f64>,
    pub samples: usize,
    pub unit: String,
    /// How many times the section's first line, where that says something.
    pub ratio: Option<f64>,
}

/// What is promised, and what this run has found.
#[derive(Debug, Serialize, Deserialize)]
pub struct Target {
    pub what: String,
    pub wanted: String,
    pub found: String,
    pub is_met: bool,
}

/// All that a run has found.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Report {
    pub rows: Vec<Row>,
    pub targets: Vec<Target>,
}

/// The middle one; 0 of nothing.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        count if count % 2 == 1 => sorted[count / 2],
        count => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
    }
}

impl Report {
    /// Adds a line of samples. Its ratio is to the first line of its section, of whatever comes there first.
    pub fn samples(&mut self, section: &str, what: &str, unit: &str, values: &[f64]) -> f64 {
        let middle = median(values);
        let first = self.rows.iter().find(|row| row.section == section && row.unit == unit).map(|row| row.median);
        self.rows.push(Row {
            section: section.to_owned(),
            what: what.to_owned(),
            median: middle,
            most: values.iter().copied().reduce(f64::max).filter(|_| values.len() > 1),
            samples: values.len(),
            unit: unit.to_owned(),
            ratio: first.filter(|first| *first > 0.0).map(|first| middle / first),
        });
        middle
    }

    /// Adds a target.
    pub fn target(&mut self, what: &str, wanted: &str, found: String, is_met: bool) {
        self.targets.push(Target { what: what.to_owned(), wanted: wanted.to_owned(), found, is_met });
    }

    /// Prints everything as Markdown.
    pub fn print(&self) {
        let mut sections: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !sections.contains(&row.section.as_str()) {
                sections.push(&row.section);
            }
        }
        let place = |row: &&Row| sections.iter().position(|section| *section == row.section);
        let mut rows: Vec<&Row> = self.rows.iter().collect();
        rows.sort_by_key(place);
        let mut section = "";
        for row in rows {
            if row.section != section {
                section = &row.section;
                println!(
                    "\n{section}\n\n| | median | most | samples | to the first |\n| --- | ---: | ---: | ---: | ---: |"
                );
            }
            let figure = |value: f64| format!("{value:.*} {}", if value < 10.0 { 2 } else { 1 }, row.unit);
            let most = row.most.map(figure).unwrap_or_default();
            let ratio = row.ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
            println!("| {} | {} | {most} | {} | {ratio} |", row.what, figure(row.median), row.samples);
        }
        println!("\nTargets\n\n| | wanted | found | |\n| --- | --- | --- | --- |");
        for target in &self.targets {
            let word = if target.is_met { "met" } else { "MISSED" };
            println!("| {} | {} | {} | {word} |", target.what, target.wanted, target.found);
        }
    }
}
