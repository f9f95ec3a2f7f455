//! What wakes the reconciler, beside what it is asked and Nomad's news.

use std::io;
use std::path::PathBuf;

use super::binding::{Binding, BindingKey};
use super::definitions::DefinitionError;
use super::error::{BindError, UnbindError};
use super::execute::inside::Found as FoundInside;
use super::execute::{Displaced, Force, Found, InsideError, Proved, TakeOutError};
use super::ledger::LedgerError;
use super::plan::Observed;
use super::volumes::{WorkError, Worked};
use crate::backend::prober::Report;
use crate::backend::{AttachError, Attached, DetachError, SizeError, SourceKey};
use crate::guard::wire::Hello;
use crate::nomad::model::AllocId;
use crate::sys::identity::Identity;
use crate::sys::removals::Removal;
use crate::sys::table_watch::TableEvent;

/// What a worker or a watcher reports.
pub enum Done {
    /// A source's attachment has ended.
    Attached(SourceKey, Result<Attached, AttachError>),
    /// A source's detachment has ended.
    Detached(SourceKey, Result<(), DetachError>),
    /// A volume's directory of a source was given its size, or not.
    Sized(SourceKey, PathBuf, u64, Result<(), SizeError>),
    /// A volume's definition is on the disk, or off it.
    DefinitionStored(String, Result<(), DefinitionError>),
    /// What an operator wants of a volume was done in its source; its size.
    VolumeWorked(String, Option<u64>, Result<Worked, WorkError>),
    /// A mount program has ended; whether the kernel killed it for want of memory.
    ProgramEnded(SourceKey, i32, bool),
    /// What a probe of a source found.
    Probed(SourceKey, Report),
    /// A binding's place has been looked at.
    Observed(AllocId, BindingKey, u64, Result<(Observed, Option<Identity>), BindError>),
    /// A binding has been made, or not.
    Bound(AllocId, BindingKey, Result<Identity, BindError>),
    /// A binding has been taken away, or not.
    Unbound(AllocId, BindingKey, Force, Result<(), UnbindError>),
    /// A binding is gone from a task that runs, or not.
    TakenOut(AllocId, BindingKey, Result<(), TakeOutError>),
    /// The next agent will find this generation of a page.
    Visible(AllocId, u64),
    /// This generation of a page survives a power cut, or could not be written.
    Saved(AllocId, u64, Result<(), LedgerError>),
    /// A page is removed.
    Forgotten(AllocId, Result<(), LedgerError>),
    /// Whether Nomad has begun to remove an allocation's directory.
    Looked(AllocId, bool),
    /// What is mounted and on no page.
    MountsFound(io::Result<Vec<Found>>),
    /// Whether the ledger can be written, after it could not.
    LedgerTried(Result<(), LedgerError>),
    /// Such a mount was compared with what a job asks for, by that task.
    Compared(PathBuf, String, Box<Binding>, Result<(Observed, Option<Identity>), BindError>),
    /// Why nothing can be mounted although Nomad answers.
    Obstacle(String),
    /// Directories that nobody knows were swept; whether it is worth doing again in a while.
    Swept(bool),
    /// Nothing that anybody waits for.
    Nothing,
    /// Something was removed from Nomad's allocation root.
    Removed(Removal),
    /// A mount table has changed.
    Table(TableEvent),
    /// These proved mounts are not what is seen at their places.
    Displaced(Vec<(Proved, Displaced)>),
    /// The containers of a binding's task have been looked into, with this mount of the host's.
    MendedInside(AllocId, BindingKey, u64, Identity, Result<FoundInside, InsideError>),
    /// Nomad has been asked to restart a task, or to stop the allocation.
    Pleaded(AllocId, Option<String>, Result<(), String>),
    /// A guard answers, or none.
    Guard(Result<Hello, String>),
}

/// What a timer wakes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// Deadlines and retries of an allocation.
    Allocation(AllocId),
    /// Retries and the end of a source's lingering.
    Source(SourceKey),
    /// The next probe of a source without anybody looking.
    Probe(SourceKey),
    /// Whoever looks has waited for fresh probes for long enough.
    Look(u64),
    /// A hook has waited for so long that its sources are asked whether they answer.
    Awaited(AllocId),
    /// A question's deadline.
    Question(u64),
    /// The deadline of a change of a volume.
    Volume(String),
    /// The end of the wait for what an earlier agent had mounted.
    Settle,
    /// Work for which no thread could be started.
    Resubmit,
    /// Empty directories that nobody has a record of are looked for.
    Sweep,
    /// Those who follow the status.
    Follow,
}
