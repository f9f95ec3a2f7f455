//! What happens in a soak, and when: a pure function of its seed, length and size.
//!
//! The plan keeps count of what it has begun (which jobs run, how many bindings they have, who is away), so it needs no
//! look at the world. How far a slow machine is behind it changes nothing of what comes next.

use std::collections::BTreeMap;
use std::time::Duration;

/// Registered volumes of the two sources of SeaweedFS, and names on the host's disk.
pub const VOLUMES: [(&str, usize); 3] = [("disk", 16), ("main", 16), ("beside", 8)];

/// What a run is a function of.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub seed: u64,
    pub seconds: u64,
    pub bindings: usize,
}

/// One of those that are killed, or held up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    Agent,
    Guard,
    Nomad,
    /// The SeaweedFS that only `main` is on.
    Filer,
    /// The mount program of that.
    Main,
    /// The mount program of the SeaweedFS that nobody kills.
    Beside,
}

/// One thing that is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Does {
    Launch(Job),
    /// `nomad job stop`.
    Stop(String),
    /// `nomad job stop -purge`, of a job that may run.
    Purge(String),
    /// `nomad system gc`.
    Collect,
    /// SIGKILL, to all of them at once, in this order.
    Kill(Vec<Who>),
    /// Who does not come back by itself is started again.
    Start(Who),
    /// SIGSTOP to a mount program, and the end of that.
    Hold(Who),
    Release(Who),
}

/// When it is done, from the beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    pub at: Duration,
    pub does: Does,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    pub name: String,
    pub groups: Vec<Group>,
    pub fate: Fate,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Every task has all of them.
    pub volumes: Vec<String>,
    /// The driver of each task.
    pub tasks: Vec<&'static str>,
}

/// What becomes of a job that nobody stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Runs,
    /// A batch job that ends well.
    Ends {
        seconds: u64,
    },
    /// Its tasks fail, are started again once, and fail for good.
    Fails {
        seconds: u64,
    },
    /// It asks for a volume that is not there.
    AsksForNothing,
    /// It says a word that means nothing.
    Misspells,
}

impl Job {
    pub fn bindings(&self) -> usize {
        if self.is_refused() {
            return 0;
        }
        self.groups.iter().map(|group| group.volumes.len() * group.tasks.len()).sum()
    }

    pub fn is_refused(&self) -> bool {
        matches!(self.fate, Fate::AsksForNothing | Fate::Misspells)
    }
}

/// Who is struck together; each is drawn once before any is drawn again.
const STRIKES: [&[Who]; 16] = [
    &[Who::Agent],
    &[Who::Guard],
    &[Who::Main],
    &[Who::Nomad],
    &[Who::Filer],
    &[Who::Agent, Who::Guard],
    &[Who::Beside],
    &[Who::Main, Who::Agent],
    &[Who::Guard, Who::Main, Who::Beside],
    &[Who::Nomad, Who::Agent],
    &[Who::Nomad, Who::Guard],
    &[Who::Agent, Who::Guard, Who::Main, Who::Beside],
    &[Who::Filer, Who::Main],
    &[Who::Nomad, Who::Main],
    &[Who::Filer, Who::Agent],
    &[Who::Nomad, Who::Agent, Who::Guard, Who::Beside, Who::Main],
];

/// For so long no filer is killed that has just been started: SeaweedFS takes its time to serve.
const FILER_STARTS: u64 = 20_000;

/// All that happens, in order.
pub fn plan(settings: Settings) -> Vec<Moment> {
    let mut moments = Planner::new(settings).run();
    // What happens at one time stays in its order.
    moments.sort_by_key(|moment| moment.at);
    moments
}

struct Planner {
    random: Random,
    settings: Settings,
    moments: Vec<Moment>,
    /// Milliseconds from the beginning.
    now: u64,
    /// Jobs that have bindings, as far as anybody knows.
    running: BTreeMap<String, Job>,
    /// Jobs that were stopped, or end by themselves.
    over: Vec<String>,
    away: BTreeMap<Who, u64>,
    held: BTreeMap<Who, u64>,
    deck: Vec<&'static [Who]>,
    number: usize,
    next_strike: u64,
}

impl Planner {
    fn new(settings: Settings) -> Self {
        Self {
            random: Random(settings.seed),
            settings,
            moments: Vec::new(),
            now: 0,
            running: BTreeMap::new(),
            over: Vec::new(),
            away: BTreeMap::new(),
            held: BTreeMap::new(),
            deck: Vec::new(),
            number: 0,
            next_strike: 3_000,
        }
    }

    fn run(mut self) -> Vec<Moment> {
        let end = self.settings.seconds * 1000;
        // Something is there before the first blow.
        while self.bindings() < self.settings.bindings / 3 {
            self.launch();
        }
        while self.now < end {
            self.now += self.random.below(1200);
            self.come_back();
            if self.now >= self.next_strike {
                self.next_strike = self.now + 1_000 + self.random.below(7_000);
                self.strike(self.now >= end - end / 4);
            } else if !self.away.contains_key(&Who::Nomad) {
                self.ask_nomad();
            }
        }
        // Nobody stays away.
        self.now = u64::MAX / 2;
        self.come_back();
        self.moments
    }

    fn does(&mut self, at: u64, does: Does) {
        self.moments.push(Moment { at: Duration::from_millis(at), does });
    }

    fn bindings(&self) -> usize {
        self.running.values().map(Job::bindings).sum()
    }

    fn come_back(&mut self) {
        let mut due: Vec<(u64, Who, bool)> = self.away.iter().map(|(who, at)| (*at, *who, true)).collect();
        due.extend(self.held.iter().map(|(who, at)| (*at, *who, false)));
        due.retain(|(at, ..)| *at <= self.now);
        due.sort_unstable();
        for (at, who, was_killed) in due {
            if was_killed {
                self.away.remove(&who);
                // A filer that has just been started counts as away for a while, and has been started by then.
                if who != Who::Filer {
                    self.does(at, Does::Start(who));
                }
            } else {
                self.held.remove(&who);
                self.does(at, Does::Release(who));
            }
        }
    }

    fn strike(&mut self, is_late: bool) {
        // Agent and guard live through the last quarter: what they leak is seen at the end.
        let may_strike = |this: &Self, who: &Who| {
            let lives_on = is_late && matches!(who, Who::Agent | Who::Guard);
            !(lives_on || this.away.contains_key(who) || this.held.contains_key(who))
        };
        if self.random.below(6) == 0 {
            let who = [Who::Main, Who::Beside][self.random.index(2)];
            if may_strike(self, &who) {
                let until = self.now + 1_000 + self.random.below(5_000);
                self.held.insert(who, until);
                self.does(self.now, Does::Hold(who));
                return;
            }
        }
        if self.deck.is_empty() {
            self.deck = STRIKES.to_vec();
            self.random.shuffle(&mut self.deck);
        }
        let Some(strike) = self.deck.pop() else { return };
        let mut whom: Vec<Who> = strike.iter().filter(|who| may_strike(self, who)).copied().collect();
        self.random.shuffle(&mut whom);
        if whom.is_empty() {
            return;
        }
        for who in &whom {
            match who {
                Who::Agent | Who::Nomad => {
                    let until = self.now + self.random.below(6_000);
                    self.away.insert(*who, until);
                }
                Who::Filer => {
                    let started = self.now + self.random.below(5_000);
                    self.away.insert(Who::Filer, started + FILER_STARTS);
                }
                Who::Guard | Who::Main | Who::Beside => {}
            }
        }
        let filer = self.away.get(&Who::Filer).filter(|_| whom.contains(&Who::Filer)).map(|at| at - FILER_STARTS);
        self.does(self.now, Does::Kill(whom));
        if let Some(at) = filer {
            self.does(at, Does::Start(Who::Filer));
        }
    }

    fn ask_nomad(&mut self) {
        let (bindings, most) = (self.bindings(), self.settings.bindings);
        let wants_more = match bindings {
            few if few < most / 2 => 80,
            some if some < most => 50,
            _ => 0,
        };
        match self.random.below(100) {
            dice if dice < wants_more => self.launch(),
            dice if dice < 90 => self.end_one(),
            _ => self.does(self.now, Does::Collect),
        }
    }

    fn end_one(&mut self) {
        if !self.over.is_empty() && self.random.below(3) == 0 {
            let job = self.over.swap_remove(self.random.index(self.over.len()));
            return self.does(self.now, Does::Purge(job));
        }
        if self.running.is_empty() {
            return;
        }
        let name = self.running.keys().nth(self.random.index(self.running.len())).cloned().unwrap_or_default();
        let Some(job) = self.running.remove(&name) else { return };
        match job.fate {
            // It has ended by now, or does so soon.
            Fate::Ends { .. } | Fate::Fails { .. } if self.random.below(2) == 0 => self.over.push(name),
            _ if self.random.below(3) == 0 => {
                self.over.push(name.clone());
                self.does(self.now, Does::Stop(name));
            }
            _ => self.does(self.now, Does::Purge(name)),
        }
    }

    fn launch(&mut self) {
        let job = self.job();
        if job.is_refused() {
            self.over.push(job.name.clone());
        } else {
            self.running.insert(job.name.clone(), job.clone());
        }
        self.does(self.now, Does::Launch(job));
    }

    fn job(&mut self) -> Job {
        self.number += 1;
        let fate = match self.random.below(100) {
            0..60 => Fate::Runs,
            60..75 => Fate::Ends { seconds: 1 + self.random.below(20) },
            75..88 => Fate::Fails { seconds: 1 + self.random.below(10) },
            88..94 => Fate::AsksForNothing,
            _ => Fate::Misspells,
        };
        let groups = if self.random.below(4) == 0 { 2 } else { 1 };
        let groups = (0..groups).map(|_| self.group()).collect();
        Job { name: format!("job-{}", self.number), groups, fate }
    }

    fn group(&mut self) -> Group {
        let mut all: Vec<String> = VOLUMES
            .iter()
            .flat_map(|(kind, count)| (0..*count).map(move |number| format!("{kind}-{number}")))
            .collect();
        self.random.shuffle(&mut all);
        all.truncate(1 + self.random.index(5));
        let tasks = if self.random.below(3) == 0 { 2 } else { 1 };
        let drivers = (0..tasks).map(|_| match self.random.below(100) {
            0..45 => "raw_exec",
            45..85 => "exec",
            _ => "docker",
        });
        Group { volumes: all, tasks: drivers.collect() }
    }
}

/// Vigna's splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mix = self.0;
        mix = (mix ^ (mix >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mix = (mix ^ (mix >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mix ^ (mix >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn index(&mut self, length: usize) -> usize {
        (self.next() % length.max(1) as u64) as usize
    }

    fn shuffle<T>(&mut self, all: &mut [T]) {
        for last in (1..all.len()).rev() {
            all.swap(last, self.index(last + 1));
        }
    }
}

#[test]
fn a_seed_decides_all_of_a_soak() {
    let settings = Settings { seed: 7, seconds: 1200, bindings: 300 };
    let first = plan(settings);
    assert_eq!(first, plan(settings));
    assert_ne!(first, plan(Settings { seed: 8, ..settings }));
    assert!(first.iter().any(|moment| matches!(moment.does, Does::Kill(_))));
    // Who is killed and does not come back by itself is started once, each time.
    for who in [Who::Agent, Who::Nomad, Who::Filer] {
        let mut is_away = false;
        for moment in first.clone() {
            match moment.does {
                Does::Kill(whom) if whom.contains(&who) => assert!(!std::mem::replace(&mut is_away, true), "{who:?}"),
                Does::Start(whom) if whom == who => assert!(std::mem::replace(&mut is_away, false), "{who:?}"),
                _ => {}
            }
        }
        assert!(!is_away, "{who:?}");
    }
}
