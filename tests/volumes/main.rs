//! Volumes as things with a life, by the verbs of the command line on an agent that runs: without any Nomad, which none
//! of them needs. Tasks that use a volume are in `tests/nomad/volumes.rs`.

#[path = "../support/skip.rs"]
mod skip;

mod life;
mod node;
mod refusals;
mod steps;

/// Where a program is.
fn tool(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|candidate| candidate.is_file())
}
