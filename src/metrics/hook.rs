//! The phases of a hook, measured as it goes through them.

use std::time::Instant;

use super::{HookResult, Metrics, Phase};

/// How far a hook's allocation is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Its job's words have been read.
    pub read: bool,
    /// Every source that it needs is attached.
    pub attached: bool,
    /// Its bindings' record survives a power cut.
    pub recorded: bool,
    /// Every binding is made and proved.
    pub bound: bool,
}

/// When a hook came through its phases.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    asked: Instant,
    read: Option<Instant>,
    attached: Option<Instant>,
    recorded: Option<Instant>,
    bound: Option<Instant>,
}

impl Times {
    /// Of a hook that asks now.
    pub fn begin() -> Self {
        Self { asked: Instant::now(), read: None, attached: None, recorded: None, bound: None }
    }

    /// Notes the phases that are over. One that is over stays so, whatever changes afterwards.
    pub fn note(&mut self, progress: Progress) {
        self.note_at(progress, Instant::now());
    }

    fn note_at(&mut self, progress: Progress, now: Instant) {
        let over = |phase: &mut Option<Instant>, is_over: bool| {
            if is_over && phase.is_none() {
                *phase = Some(now);
            }
        };
        over(&mut self.read, progress.read);
        over(&mut self.attached, self.read.is_some() && progress.attached);
        over(&mut self.recorded, self.attached.is_some() && progress.recorded);
        over(&mut self.bound, self.attached.is_some() && progress.bound);
    }

    /// Tells what each phase took, once the hook is answered. Those that were over were well; what the others took is
    /// counted under the answer's result.
    pub fn tell(&self, metrics: &Metrics, result: HookResult) {
        self.tell_at(metrics, result, Instant::now());
    }

    fn tell_at(&self, metrics: &Metrics, result: HookResult, now: Instant) {
        let phases = [
            (Phase::Read, Some(self.asked), self.read),
            (Phase::Attach, self.read, self.attached),
            (Phase::Record, self.attached, self.recorded),
            (Phase::Bind, self.attached, self.bound),
        ];
        for (phase, begun, over) in phases {
            match (begun, over) {
                (Some(begun), Some(over)) => metrics.hook_phase(phase, HookResult::Ready, over - begun),
                (Some(begun), None) => metrics.hook_phase(phase, result, now - begun),
                // It never came so far.
                (None, _) => {}
            }
        }
        metrics.hook_phase(Phase::Whole, result, now - self.asked);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus_client::encoding::text::encode;

    use super::*;

    fn told(metrics: &Metrics, what: &str) -> Option<String> {
        let mut text = String::new();
        encode(&mut text, metrics.registry()).unwrap();
        let line = text.lines().find(|line| line.starts_with(&format!("saddlebag_hook_duration_seconds_{what} ")))?;
        line.rsplit(' ').next().map(str::to_owned)
    }

    #[test]
    fn the_phases_of_a_hook_that_is_answered_make_up_its_whole() {
        let metrics = Metrics::new();
        let mut times = Times::begin();
        let at = |milliseconds| times.asked + Duration::from_millis(milliseconds);
        let (read, attached, bound, recorded, answered) = (at(1), at(3), at(7), at(8), at(8));
        times.note_at(Progress { read: true, ..Progress::default() }, read);
        times.note_at(Progress { read: true, attached: true, ..Progress::default() }, attached);
        times.note_at(Progress { read: true, attached: true, bound: true, recorded: false }, bound);
        // What a fault undoes is measured no second time.
        times.note_at(Progress { read: true, attached: false, bound: false, recorded: true }, recorded);
        times.tell_at(&metrics, HookResult::Ready, answered);
        for (phase, took) in
            [("read", "0.001"), ("attach", "0.002"), ("record", "0.005"), ("bind", "0.004"), ("whole", "0.008")]
        {
            let sum = told(&metrics, &format!("sum{{phase=\"{phase}\",result=\"ready\"}}"));
            assert_eq!(sum.as_deref(), Some(took), "{phase}");
        }
    }

    #[test]
    fn a_hook_that_waits_in_vain_for_its_source_is_counted_where_it_waited() {
        let metrics = Metrics::new();
        let mut times = Times::begin();
        times.note(Progress { read: true, ..Progress::default() });
        times.tell_at(&metrics, HookResult::TimedOut, times.asked + Duration::from_secs(45));
        assert_eq!(told(&metrics, "count{phase=\"read\",result=\"ready\"}").as_deref(), Some("1"));
        assert_eq!(told(&metrics, "count{phase=\"attach\",result=\"timed_out\"}").as_deref(), Some("1"));
        assert_eq!(told(&metrics, "count{phase=\"whole\",result=\"timed_out\"}").as_deref(), Some("1"));
        assert_eq!(told(&metrics, "count{phase=\"bind\",result=\"timed_out\"}"), None);
    }
}
