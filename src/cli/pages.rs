//! `saddlebag completion` and the hidden `saddlebag man`: what a package has of the command line beside the program.
//! Made from the same words as the help, so that neither can be out of date.

use clap::CommandFactory as _;
use clap_complete::aot;

use crate::cli::args::{Cli, CompletionArgs, ManArgs, Shell};
use crate::cli::exit::{Failure, UNAVAILABLE};
use crate::cli::{Ended, exit};

/// Prints a shell's completion.
///
/// # Errors
/// A [`Failure`] where it cannot be written.
pub fn write_completion(args: &CompletionArgs) -> Ended {
    let shell = match args.shell {
        Shell::Bash => aot::Shell::Bash,
        Shell::Zsh => aot::Shell::Zsh,
        Shell::Fish => aot::Shell::Fish,
    };
    let mut script = Vec::new();
    aot::generate(shell, &mut Cli::command(), "saddlebag", &mut script);
    exit::print(String::from_utf8_lossy(&script).trim_end())
}

/// Writes `saddlebag.1` and a page for each verb into the folder.
///
/// # Errors
/// A [`Failure`] with exit code 69 where a page cannot be written.
pub fn write_man_pages(args: &ManArgs) -> Ended {
    clap_mangen::generate_to(Cli::command(), &args.folder).map_err(|error| {
        Failure::new(UNAVAILABLE, format!("cannot write man pages to {}: {error}", args.folder.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_that_is_shown_has_a_page() {
        let folder = tempfile::tempdir().unwrap();
        write_man_pages(&ManArgs { folder: folder.path().to_owned() }).unwrap();
        for verb in Cli::command().get_subcommands().filter(|verb| !verb.is_hide_set()) {
            let page = std::fs::read_to_string(folder.path().join(format!("saddlebag-{}.1", verb.get_name()))).unwrap();
            assert!(page.contains(".SH SYNOPSIS"), "{page}");
        }
        assert!(folder.path().join("saddlebag.1").is_file());
        assert!(!folder.path().join("saddlebag-man.1").exists());
    }
}
