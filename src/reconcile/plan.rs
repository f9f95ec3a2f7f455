//! The plan: from what is desired, recorded and observed to the next steps. Pure, and tested by properties.
//!
//! A step is what can be done now. What depends on another step's outcome comes with the plan that follows it, so the
//! plan holds no order but this: an intent is on disk before its mount is made, a source is attached before a
//! directory of it is bound, and a page of the ledger is removed last.

use std::collections::BTreeSet;

use super::binding::BindingKey;
use crate::backend::SourceKey;

/// What is wanted of a binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// It is to be there: a task uses it or is going to.
    Bound,
    /// Its task is over.
    Gone,
}

/// What the kernel says of a binding's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observed {
    /// Nobody has looked yet.
    Unseen,
    /// No mount is there.
    Missing,
    /// The right directory of the right source is mounted there.
    Proper,
    /// A mount of ours is there, and its source is no longer: nothing can be read through it.
    Stale,
    /// The right mount is there, and something else is mounted over it.
    Covered,
    /// Something is mounted there that is not ours. It is left alone, and the binding fails and says so; only when the
    /// task is over is it unmounted like ours, since Nomad would otherwise delete what is in it.
    Foreign,
}

/// How far the ledger knows the binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// Not at all.
    No,
    /// It was about to be made.
    Intended,
    /// It was made.
    Mounted,
}

/// One binding as the plan sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindingView {
    /// Which.
    pub key: BindingKey,
    /// Its source.
    pub source: SourceKey,
    /// Whether that source is attached now.
    pub source_attached: bool,
    /// Desired.
    pub wanted: Wanted,
    /// Recorded.
    pub recorded: Recorded,
    /// Observed.
    pub observed: Observed,
    /// Whether its task is known to run: whatever is wanted, its mount then stays.
    pub used: bool,
    /// Whether a dead mount stays dead, since the job would rather lose its task than go on with lost files.
    pub given_up: bool,
    /// Whether the containers of its task have to be looked into.
    pub look_inside: bool,
}

/// Something to do now.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Write into the ledger that these are about to be made.
    Intend(Vec<BindingKey>),
    /// Attach a source, or find it attached.
    Attach(SourceKey),
    /// Look at the binding's place, and compare what is mounted there with the volume.
    Observe(BindingKey),
    /// Make it.
    Bind(BindingKey),
    /// Take a dead mount of ours away, and make it anew.
    Replace(BindingKey),
    /// Take away what is mounted over it.
    Uncover(BindingKey),
    /// Look into the containers of its task, and mend what they see of it.
    MendInside(BindingKey),
    /// Write into the ledger that it is made.
    Complete(BindingKey),
    /// Unmount it, and remove the directory beneath if it is empty.
    Unbind(BindingKey),
    /// Remove the allocation's page from the ledger.
    Forget,
}

/// The next steps for one allocation; none when nothing is wrong.
pub fn plan(bindings: &[BindingView], has_page: bool) -> Vec<Step> {
    let mut steps = BTreeSet::new();
    let unrecorded: Vec<BindingKey> = bindings
        .iter()
        .filter(|view| view.wanted == Wanted::Bound && view.recorded == Recorded::No)
        .map(|view| view.key.clone())
        .collect();
    for view in bindings {
        match view.wanted {
            Wanted::Bound => steps.extend(bring(view)),
            Wanted::Gone => steps.extend(take(view)),
        }
    }
    if !unrecorded.is_empty() {
        steps.insert(Step::Intend(unrecorded));
    } else if has_page && bindings.iter().all(is_over) {
        steps.insert(Step::Forget);
    }
    steps.into_iter().collect()
}

fn bring(view: &BindingView) -> Option<Step> {
    if view.recorded == Recorded::No {
        // A cold source comes up while the intent is written.
        return (!view.source_attached).then(|| Step::Attach(view.source.clone()));
    }
    match view.observed {
        Observed::Foreign => None,
        Observed::Proper if view.recorded == Recorded::Intended => Some(Step::Complete(view.key.clone())),
        Observed::Proper => view.look_inside.then(|| Step::MendInside(view.key.clone())),
        _ if !view.source_attached => Some(Step::Attach(view.source.clone())),
        Observed::Unseen => Some(Step::Observe(view.key.clone())),
        Observed::Missing => Some(Step::Bind(view.key.clone())),
        Observed::Stale => (!view.given_up).then(|| Step::Replace(view.key.clone())),
        Observed::Covered => Some(Step::Uncover(view.key.clone())),
    }
}

fn take(view: &BindingView) -> Option<Step> {
    (!view.used && view.recorded != Recorded::No).then(|| Step::Unbind(view.key.clone()))
}

fn is_over(view: &BindingView) -> bool {
    view.wanted == Wanted::Gone && view.recorded == Recorded::No
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::job::Destination;

    /// The world as the steps change it.
    #[derive(Debug, Clone)]
    struct World {
        views: Vec<BindingView>,
        has_page: bool,
    }

    impl World {
        fn apply(&mut self, step: &Step) {
            let attach = |views: &mut Vec<BindingView>, source: &SourceKey| {
                for view in views.iter_mut().filter(|view| view.source == *source) {
                    view.source_attached = true;
                }
            };
            match step {
                Step::Attach(source) => attach(&mut self.views, source),
                Step::Intend(keys) => {
                    self.has_page = true;
                    for key in keys {
                        self.view(key).recorded = Recorded::Intended;
                    }
                }
                Step::Observe(key) => {
                    let view = self.view(key);
                    assert!(view.source_attached);
                    // What a look finds depends on the world; a mount that was made is found.
                    view.observed =
                        if view.recorded == Recorded::Mounted { Observed::Proper } else { Observed::Missing };
                }
                Step::Bind(key) => {
                    let view = self.view(key);
                    assert!(view.source_attached, "bound a directory of a source that is not attached");
                    assert_ne!(view.recorded, Recorded::No, "mounted before the intent was on disk");
                    assert_eq!(view.observed, Observed::Missing, "mounted twice");
                    view.observed = Observed::Proper;
                }
                Step::Replace(key) => {
                    let view = self.view(key);
                    assert_eq!(view.observed, Observed::Stale);
                    view.observed = Observed::Proper;
                }
                Step::Uncover(key) => {
                    let view = self.view(key);
                    assert_eq!(view.observed, Observed::Covered);
                    view.observed = Observed::Proper;
                }
                Step::MendInside(key) => {
                    let view = self.view(key);
                    assert_eq!(view.observed, Observed::Proper, "mended a container with a mount that is not proved");
                    view.look_inside = false;
                }
                Step::Complete(key) => self.view(key).recorded = Recorded::Mounted,
                Step::Unbind(key) => {
                    let view = self.view(key);
                    assert!(!view.used, "unmounted what a running task uses");
                    assert_eq!(view.wanted, Wanted::Gone);
                    view.recorded = Recorded::No;
                    if view.observed != Observed::Foreign {
                        view.observed = Observed::Missing;
                    }
                }
                Step::Forget => {
                    assert!(self.views.iter().all(|view| view.recorded == Recorded::No), "forgot a mount");
                    self.has_page = false;
                }
            }
        }

        fn view(&mut self, key: &BindingKey) -> &mut BindingView {
            self.views.iter_mut().find(|view| view.key == *key).expect("the plan names what it was shown")
        }

        fn next(&self) -> Vec<Step> {
            plan(&self.views, self.has_page)
        }
    }

    fn a_view() -> impl Strategy<Value = BindingView> {
        (
            0..3u8,
            any::<bool>(),
            prop_oneof![Just(Wanted::Bound), Just(Wanted::Gone)],
            prop_oneof![Just(Recorded::No), Just(Recorded::Intended), Just(Recorded::Mounted)],
            prop_oneof![
                Just(Observed::Unseen),
                Just(Observed::Missing),
                Just(Observed::Proper),
                Just(Observed::Stale),
                Just(Observed::Covered),
                Just(Observed::Foreign)
            ],
            any::<(bool, bool, bool)>(),
        )
            .prop_map(|(source, attached, wanted, recorded, observed, (used, given_up, look_inside))| {
                BindingView {
                    key: BindingKey { task: String::new(), destination: Destination("local".into()) },
                    source: SourceKey(format!("host-{source}")),
                    source_attached: attached,
                    wanted,
                    recorded,
                    observed,
                    used,
                    given_up,
                    look_inside,
                }
            })
    }

    fn a_world() -> impl Strategy<Value = World> {
        prop::collection::vec(a_view(), 0..6).prop_map(|mut views| {
            for (number, view) in views.iter_mut().enumerate() {
                view.key.task = format!("task-{number}");
            }
            // A source is attached or not, whoever looks.
            let attached: BTreeSet<SourceKey> =
                views.iter().filter(|view| view.source_attached).map(|view| view.source.clone()).collect();
            for view in &mut views {
                view.source_attached = attached.contains(&view.source);
            }
            let has_page = views.iter().any(|view| view.recorded != Recorded::No);
            World { views, has_page }
        })
    }

    proptest! {
        #[test]
        fn applying_the_plan_converges(mut world in a_world(), order in any::<prop::sample::Index>()) {
            for _ in 0..64 {
                let steps = world.next();
                if steps.is_empty() {
                    break;
                }
                // The agent may be killed between any two steps: one at a time, in any order, must do.
                let step = order.get(&steps).clone();
                world.apply(&step);
            }
            prop_assert_eq!(world.next(), vec![]);
            for view in &world.views {
                match view.wanted {
                    Wanted::Bound if view.observed == Observed::Foreign => {}
                    Wanted::Bound if view.observed == Observed::Stale => prop_assert!(view.given_up),
                    Wanted::Bound => {
                        prop_assert_eq!(view.observed, Observed::Proper);
                        prop_assert_eq!(view.recorded, Recorded::Mounted);
                        prop_assert!(!(view.used && view.look_inside), "a container was not looked into");
                    }
                    Wanted::Gone if view.used => {}
                    Wanted::Gone => prop_assert_eq!(view.recorded, Recorded::No),
                }
            }
            if world.views.iter().all(|view| view.wanted == Wanted::Gone && !view.used) {
                prop_assert!(!world.has_page);
            }
        }

        #[test]
        fn what_a_running_task_uses_is_never_unmounted(world in a_world()) {
            for step in world.next() {
                if let Step::Unbind(key) = step {
                    let view = world.views.iter().find(|view| view.key == key).expect("named");
                    prop_assert!(!view.used && view.wanted == Wanted::Gone);
                }
            }
        }

        #[test]
        fn nothing_is_planned_when_nothing_is_wrong(count in 0..5usize) {
            let views: Vec<BindingView> = (0..count).map(|number| BindingView {
                key: BindingKey { task: format!("task-{number}"), destination: Destination("local/a".into()) },
                source: SourceKey("host-0".into()),
                source_attached: true,
                wanted: Wanted::Bound,
                recorded: Recorded::Mounted,
                observed: Observed::Proper,
                used: true,
                given_up: false,
                look_inside: false,
            }).collect();
            prop_assert_eq!(plan(&views, count > 0), if count > 0 { vec![] } else { Vec::<Step>::new() });
        }
    }

    #[test]
    fn a_foreign_mount_is_left_alone() {
        let view = BindingView {
            key: BindingKey { task: "db".into(), destination: Destination("local/a".into()) },
            source: SourceKey("host-0".into()),
            source_attached: true,
            wanted: Wanted::Bound,
            recorded: Recorded::Intended,
            observed: Observed::Foreign,
            used: false,
            given_up: false,
            look_inside: true,
        };
        assert_eq!(plan(&[view], true), vec![]);
    }
}
