//! Volumes as things with a life, by the verbs of the command line on an agent that runs: without any Nomad, which none
//! of them needs. Tasks that use a volume are in `tests/nomad/volumes.rs`.

mod life;
mod node;
mod refusals;
