//! Nothing is ever lost: whatever ends, dies or hangs while Nomad removes an allocation.
//!
//! In each test a fleet of jobs (docker, exec and raw_exec, each with a volume of the host's and one of SeaweedFS) lives
//! through it, and in the end every volume has what it had, and nothing else is left: no directory of an allocation, no
//! page of the ledger, no mount, no binding.
//!
//! Two worlds are shared by the tests: in the calm one an agent runs whenever Nomad removes something, so Nomad must
//! not have logged one failure; in the rough one it is away.

pub mod fleet;
mod scene;

mod agent_away;
mod closed;
mod collection;
mod hang;
mod instant;
mod restarts;
mod visitors;
