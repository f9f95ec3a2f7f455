//! One scrape: the reconciler's numbers, the guard's, the processes' and what was counted, as text.
//!
//! It waits for nobody but the reconciler, which waits for nobody: no file system is asked anything. The guard has a
//! deadline, and while one question to it has no answer it is not asked another.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prometheus_client::encoding::text::{encode_eof, encode_registry};
use tokio::sync::Mutex;

use super::snapshot::gauges;
use super::{Metrics, text};
use crate::guard::{GuardClient, Hello};
use crate::job::{Kind, Refusal};
use crate::reconcile::Handle;

/// How long the guard may take to say how it stands; Prometheus itself waits for 10 s.
const GUARD_WITHIN: Duration = Duration::from_secs(1);

/// Answers scrapes, one at a time.
#[derive(Clone)]
pub struct Scraper {
    metrics: Metrics,
    handle: Handle,
    guard: GuardClient,
    guard_is_asked: Arc<AtomicBool>,
    turn: Arc<Mutex<()>>,
}

impl Scraper {
    /// Tells what is counted in `metrics`, and how the reconciler and the guard stand.
    pub fn new(metrics: Metrics, handle: Handle, guard: GuardClient) -> Self {
        Self { metrics, handle, guard, guard_is_asked: Arc::default(), turn: Arc::default() }
    }

    /// The text and its content type, for a request with this `Accept` header.
    ///
    /// # Errors
    /// When the agent is stopping.
    pub async fn scrape(&self, accept: Option<&str>) -> Result<(&'static str, String), Refusal> {
        let _turn = self.turn.lock().await;
        let snapshot = self.handle.measure().await?;
        let guard = self.ask_guard().await;
        let (metrics, is_open) = (self.metrics.clone(), text::wants_open_metrics(accept));
        // Not on the one thread that everything else waits on: with many bindings it takes milliseconds.
        let written = tokio::task::spawn_blocking(move || {
            let mut open = String::new();
            encode_registry(&mut open, metrics.registry())?;
            encode_registry(&mut open, &gauges(&snapshot, guard.as_ref()))?;
            encode_eof(&mut open)?;
            Ok::<_, std::fmt::Error>(if is_open {
                (text::OPEN_METRICS, open)
            } else {
                (text::CONTENT_TYPE, text::from_open_metrics(&open))
            })
        });
        let failed = |message: String| Refusal { kind: Kind::Unavailable, message, hint: None };
        written
            .await
            .map_err(|error| failed(format!("the metrics were not written: {error}")))?
            .map_err(|error| failed(format!("the metrics cannot be written: {error}")))
    }

    async fn ask_guard(&self) -> Option<Hello> {
        if self.guard_is_asked.swap(true, Ordering::AcqRel) {
            return None;
        }
        let (guard, is_asked) = (self.guard.clone(), Arc::clone(&self.guard_is_asked));
        let asked = tokio::task::spawn_blocking(move || {
            let hello = guard.hello(GUARD_WITHIN).ok();
            is_asked.store(false, Ordering::Release);
            hello
        });
        // Connecting to a guard that is stopped can take longer than its deadline.
        tokio::time::timeout(GUARD_WITHIN * 2, asked).await.ok()?.ok().flatten()
    }
}
