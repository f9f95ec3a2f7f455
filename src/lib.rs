//! saddlebag gives HashiCorp Nomad jobs their storage without CSI.
//!
//! This page is the map of the crate; each module's own first page says more.
//!
//! * [`agent`] starts the rooms below in order and ends them.
//! * [`job`] reads what a job's meta asks for. Pure: no I/O, no clock, no kernel.
//! * [`volume`] turns a name or URL of a job into a place on a backend, under the policy. Pure.
//! * [`config`] reads the agent's configuration; parsing is pure, loading is its only I/O.
//! * [`nomad`] is Nomad's HTTP API as far as the agent needs it.
//! * [`reconcile`] owns all state: a pure plan, the ledger, and the workers that carry steps out.
//! * [`backend`] prepares sources (a mounted file system of a storage system); knows no allocations.
//! * [`guard`] is the process that keeps Nomad's garbage collection out of volumes, and its client.
//! * [`metrics`] counts what happens, for Prometheus.
//! * [`api`] is the agent's sockets: the host's and one for each allocation.
//! * [`cli`] is the command line, a client of those sockets.
//! * [`doctor`] looks whether this client can serve volumes, and says what mends it where not.
//! * [`check`] is one thing that was looked at, and how it is. Pure.
//! * [`hcl`] reads HCL strictly, with the place of every mistake; jobs and configuration are read through it. Pure.
//! * [`sys`] is the kernel: mounts, paths, namespaces, processes. The only unsafe code.
//!
//! Dependencies point downwards in this order: `cli` and `api` above `reconcile`, that above
//! `backend`, `guard`, `nomad` and `volume`, those above `job`, `config` and `sys`.

pub mod agent;
pub mod api;
pub mod backend;
mod chance;
pub mod check;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod guard;
pub mod hcl;
pub mod job;
pub mod metrics;
pub mod nomad;
pub mod reconcile;
pub mod sys;
pub mod volume;
