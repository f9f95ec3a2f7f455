//! One volume's definition, told to an agent that runs: the same block as in its files, read by the same code.

use super::blocks;
use super::cross;
use super::read::Invalid;
use super::{Config, Volume};
use crate::hcl::{Document, Problem, Source, nearest};

/// The most text of one definition, in bytes.
pub const LARGEST_DEFINITION: usize = 16 << 10;

impl Config {
    /// Reads a text that holds one `volume` block and nothing else. The name is for its mistakes.
    ///
    /// # Errors
    /// [`Invalid`] with every mistake: of the block, of what is beside it, a backend that this configuration does not
    /// have, a name that its files define already.
    pub fn read_volume(&self, text: &str, file: &str) -> Result<Volume, Invalid> {
        let source = Source { name: file, text };
        let mut problems = Vec::new();
        let volume = self.read_block(text, &mut problems);
        let mut problems: Vec<_> = problems.into_iter().map(|problem| source.locate(problem)).collect();
        match volume {
            Some(volume) if problems.is_empty() => Ok(volume),
            _ => {
                problems.sort();
                Err(Invalid { problems })
            }
        }
    }

    fn read_block(&self, text: &str, problems: &mut Vec<Problem>) -> Option<Volume> {
        let document = match Document::parse(text, LARGEST_DEFINITION) {
            Ok(document) => document,
            Err(problem) => {
                problems.push(problem);
                return None;
            }
        };
        let mut section = document.section();
        let mut found = section.blocks("volume", &["NAME"]).into_iter();
        let first = found.next();
        for (_, second) in found {
            let problem = Problem::new(second.span(), "this is a second volume");
            section.problem(problem.hint("register each volume by a file of its own"));
        }
        let before = problems.len();
        section.finish(problems);
        let Some((labels, block)) = first else {
            // Where something else is wrong, that is why.
            if problems.len() == before {
                let hint = "write volume \"NAME\" { backend = \"NAME\" } on lines of their own";
                problems.push(Problem::new(0..0, "there is no volume block").hint(hint));
            }
            return None;
        };
        let at = block.span();
        let volume = blocks::volume(&labels, block, problems)?.1.value;
        if !self.backends.contains_key(&volume.backend) {
            let (name, wanted) = (&volume.name, &volume.backend);
            let message = format!("volume {name:?} is on a backend {wanted:?}, which does not exist");
            let known: Vec<&str> = self.backends.keys().map(String::as_str).collect();
            problems.push(match nearest(wanted, known.iter().copied()) {
                Some(near) => Problem::new(at.clone(), message).hint(format!("did you mean {near:?}?")),
                None => {
                    Problem::new(at.clone(), message).hint(format!("this agent's backends are {}", known.join(", ")))
                }
            });
        }
        if let Some((message, hint)) = self.backends.get(&volume.backend).and_then(|of| cross::find_fault(&volume, of))
        {
            problems.push(Problem::new(at.clone(), message).hint(hint));
        }
        if let Some(place) = self.places.get(&volume.name) {
            problems.push(Problem::new(at, format!("volume {:?} is defined twice, first at {place}", volume.name)));
        }
        Some(volume)
    }
}
