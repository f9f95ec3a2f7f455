//! Nomad's spelling of flags: `-json` for `--json`, `-timeout=5s` for `--timeout=5s`.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

/// Every long flag of every verb. A word that is not among them keeps its single dash, so that a cluster of short
/// flags or a value that begins with a dash is not bent into something else.
pub const WORDS: &[&str] = &[
    "alloc",
    "backend",
    "destination",
    "dynamic",
    "force",
    "name",
    "on-failure",
    "part",
    "read-only",
    "config",
    "help",
    "job",
    "json",
    "keeper",
    "stop",
    "log-format",
    "log-level",
    "namespace",
    "run-dir",
    "socket",
    "task",
    "timeout",
    "version",
    "watch",
];

/// The arguments with a second dash where a known word has only one; what follows `--` is left as it is.
pub fn with_double_dashes(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut only_values = false;
    let normalised = args.into_iter().map(|arg| {
        only_values |= arg.as_bytes() == b"--";
        if only_values || !is_known_word(arg.as_bytes()) {
            return arg;
        }
        let mut doubled = b"-".to_vec();
        doubled.extend_from_slice(arg.as_bytes());
        OsString::from_vec(doubled)
    });
    normalised.collect()
}

/// Whether it is a known word behind exactly one dash, with or without `=value`.
fn is_known_word(arg: &[u8]) -> bool {
    let Some(word) = arg.strip_prefix(b"-") else { return false };
    let name = word.split(|byte| *byte == b'=').next().unwrap_or_default();
    WORDS.iter().any(|known| known.as_bytes() == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn a_known_word_may_have_one_dash_or_two() {
        let typed = ["saddlebag", "mount", "-alloc=x", "--task", "y", "-h", "-V", "-unknown", "--", "-json"];
        let read = with_double_dashes(typed.map(OsString::from));
        let wanted = ["saddlebag", "mount", "--alloc=x", "--task", "y", "-h", "-V", "-unknown", "--", "-json"];
        assert_eq!(read, wanted.map(OsString::from));
    }

    #[test]
    fn every_flag_of_every_verb_is_a_known_word() {
        fn collect(command: &clap::Command, found: &mut BTreeSet<String>) {
            found.extend(command.get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned)));
            command.get_subcommands().for_each(|verb| collect(verb, found));
        }
        let mut command = crate::cli::args::Cli::command();
        command.build();
        let mut found = BTreeSet::new();
        collect(&command, &mut found);
        assert_eq!(found, WORDS.iter().map(|word| (*word).to_owned()).collect());
    }
}
