//! One owner of all state. On every event (Nomad's news, a hook, a worker's result, a question of the guard, a timer)
//! it computes the [`plan`] of the allocations concerned and hands the steps to [`worker`]s; it never waits itself.
//!
//! * [`binding`]: what is to be mounted where; the ledger's pages.
//! * [`entry`], [`live`] and [`source`]: what is known of one allocation, of one binding and of one source.
//! * [`plan`]: from desired, recorded and observed to steps. Pure.
//! * [`ledger`]: a durable file for each allocation.
//! * [`definitions`]: a durable file for each volume that was registered while an agent ran.
//! * [`execute`]: the steps that change mounts.
//! * [`events`]: what workers and watchers report, and timers.
//! * [`reconciler`]: the loop; `hooks`, `orders`, `steps`, `mending`, `pages`, `sources`, `layers`, `sizes`, `volumes`, `probes`, `questions`, `news` are its parts,
//!   `recovery` is for what the ledger does not tell, `report` what it says, `measure` what it tells
//!   Prometheus, `follow` who hears of each change.

pub mod binding;
pub mod definitions;
pub mod entry;
pub mod error;
pub mod events;
pub mod execute;
mod follow;
mod hooks;
mod layers;
pub mod ledger;
pub mod live;
mod measure;
mod mending;
mod news;
mod orders;
mod pages;
pub mod plan;
mod probes;
mod questions;
pub mod reconciler;
mod recovery;
mod report;
mod sizes;
pub mod source;
mod sources;
mod steps;
mod volumes;
pub mod worker;

pub use orders::{Order, Selection, What};
pub use volumes::VolumeAsk;

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::api::types::{DetachReply, Explanation, MountReply, Status};
use crate::api::volumes::{VolumeList, VolumeReply};
use crate::guard::question::{Answer, Question};
use crate::job::{Kind, Refusal, Wish};
use crate::metrics::snapshot::Snapshot;
use crate::nomad::model::AllocId;

/// What is asked of the reconciler.
pub enum Ask {
    /// Mount an allocation's volumes.
    Mount {
        /// The allocation.
        alloc: AllocId,
        /// The task that asks.
        task: Option<String>,
        /// Answered when all is proved, or when it is refused.
        reply: oneshot::Sender<Result<MountReply, Refusal>>,
    },
    /// Attach a volume to tasks that run, or take one away.
    Order {
        /// The beginning of the allocation's id.
        prefix: String,
        /// What is wanted.
        what: What,
    },
    /// How everything stands, or one allocation.
    Status {
        /// Only this one.
        alloc: Option<AllocId>,
        /// The answer.
        reply: oneshot::Sender<Status>,
    },
    /// How everything stands, once that is another than it was.
    Follow {
        /// The index of what was told last.
        index: u64,
        /// How long at most to wait for a change.
        wait: Duration,
        /// The answer.
        reply: oneshot::Sender<Result<Status, Refusal>>,
    },
    /// How everything stands, in numbers.
    Measure {
        /// The answer.
        reply: oneshot::Sender<Snapshot>,
    },
    /// The way of an allocation's volumes.
    Explain {
        /// Its id or the beginning of it.
        prefix: String,
        /// The answer.
        reply: oneshot::Sender<Result<Explanation, Refusal>>,
    },
    /// What an operator wants of volumes as such.
    Volume(VolumeAsk),
    /// The guard holds Nomad's agent at a directory.
    Question {
        /// Which.
        question: Question,
        /// The answer.
        reply: oneshot::Sender<Answer>,
    },
}

/// How the sockets reach the reconciler.
#[derive(Clone)]
pub struct Handle(mpsc::Sender<Ask>);

impl Handle {
    /// A handle, and what the reconciler reads.
    pub fn new() -> (Self, mpsc::Receiver<Ask>) {
        let (sender, receiver) = mpsc::channel(1024);
        (Self(sender), receiver)
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, Refusal> {
        let stopping = || Refusal {
            kind: Kind::TryAgain,
            message: "the agent is stopping".into(),
            hint: Some("it is asked again when it is back".into()),
        };
        let (reply, answer) = oneshot::channel();
        self.0.send(ask(reply)).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }

    /// Mounts an allocation's volumes.
    ///
    /// # Errors
    /// The refusal that its job is told.
    pub async fn mount(&self, alloc: AllocId, task: Option<String>) -> Result<MountReply, Refusal> {
        self.ask(|reply| Ask::Mount { alloc, task, reply }).await?
    }

    /// Attaches a volume to tasks that run.
    ///
    /// # Errors
    /// The refusal that the operator is told; nothing is attached then.
    pub async fn attach(&self, prefix: String, wish: Wish) -> Result<MountReply, Refusal> {
        self.ask(|reply| Ask::Order { prefix, what: What::Attach { wish, reply } }).await?
    }

    /// Takes an attached volume away from tasks that run.
    ///
    /// # Errors
    /// The refusal that the operator is told; all stays attached then.
    pub async fn detach(&self, prefix: String, selection: Selection) -> Result<DetachReply, Refusal> {
        self.ask(|reply| Ask::Order { prefix, what: What::Detach { selection, reply } }).await?
    }

    /// Registers a volume, or changes its definition; and makes its directory.
    ///
    /// # Errors
    /// The refusal that the operator is told.
    pub async fn register(&self, file: String, text: String, make: bool) -> Result<VolumeReply, Refusal> {
        self.ask(|reply| Ask::Volume(VolumeAsk::Register { file, text, make, reply })).await?
    }

    /// Forgets a volume's definition.
    ///
    /// # Errors
    /// The refusal that the operator is told; it stays as it is then.
    pub async fn deregister(&self, name: String) -> Result<VolumeReply, Refusal> {
        self.ask(|reply| Ask::Volume(VolumeAsk::Deregister { name, reply })).await?
    }

    /// Takes a volume's directory out of the way, and forgets its definition.
    ///
    /// # Errors
    /// The refusal that the operator is told.
    pub async fn delete(&self, name: String, dynamic: bool) -> Result<VolumeReply, Refusal> {
        self.ask(|reply| Ask::Volume(VolumeAsk::Delete { name, dynamic, reply })).await?
    }

    /// Every volume that this node knows.
    ///
    /// # Errors
    /// Only when the agent is stopping.
    pub async fn volumes(&self) -> Result<VolumeList, Refusal> {
        self.ask(|reply| Ask::Volume(VolumeAsk::List { reply })).await
    }

    /// How everything stands, or one allocation.
    ///
    /// # Errors
    /// Only when the agent is stopping.
    pub async fn status(&self, alloc: Option<AllocId>) -> Result<Status, Refusal> {
        self.ask(|reply| Ask::Status { alloc, reply }).await
    }

    /// How everything stands, once that is another than the status with this index, or after that wait.
    ///
    /// # Errors
    /// When too many follow already, or the agent is stopping.
    pub async fn follow(&self, index: u64, wait: Duration) -> Result<Status, Refusal> {
        self.ask(|reply| Ask::Follow { index, wait, reply }).await?
    }

    /// How everything stands, in numbers.
    ///
    /// # Errors
    /// Only when the agent is stopping.
    pub async fn measure(&self) -> Result<Snapshot, Refusal> {
        self.ask(|reply| Ask::Measure { reply }).await
    }

    /// The way of an allocation's volumes.
    ///
    /// # Errors
    /// Where no allocation, or more than one, has an id that begins so.
    pub async fn explain(&self, prefix: String) -> Result<Explanation, Refusal> {
        self.ask(|reply| Ask::Explain { prefix, reply }).await?
    }

    /// Answers the guard.
    pub async fn question(&self, question: Question) -> Answer {
        self.ask(|reply| Ask::Question { question, reply }).await.unwrap_or(Answer::InUse)
    }
}
