//! A Nomad client in a machine: the package, a Nomad, a SeaweedFS, and jobs whose tasks write numbered records.

use crate::container::Container;
use crate::machine::{self, Machine};
use crate::qemu::Qemu;
use crate::setup;
use crate::support::{PATIENCE, tool, wait_until};
use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use std::path::Path;

/// Where Nomad keeps its allocations in the machine.
pub const ALLOCS: &str = "/var/lib/nomad/alloc";

/// What runs beside Nomad.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum With {
    /// No configuration: volumes are in the state directory.
    Default,
    /// Directories of the machine only.
    Host,
    /// And the trial SeaweedFS of the units.
    Seaweedfs,
    /// And NFS, of servers in network namespaces of the machine.
    Nfs,
}

impl With {
    fn image(self) -> &'static str {
        if self == Self::Nfs { machine::DEBIAN_WITH_NFS } else { machine::DEBIAN }
    }
}

/// A machine with Nomad.
pub struct Node<M = Container> {
    /// The machine.
    pub machine: M,
    with: With,
}

/// What no death of agent or guard may change.
#[derive(Debug, PartialEq, Eq)]
pub struct Look {
    /// The mount ids and places of bindings and sources.
    pub mounts: Vec<(u64, String)>,
    /// The same within each task that has a mount namespace of its own.
    pub within: Vec<(String, Vec<(u64, String)>)>,
    /// The guard's lineage.
    pub lineage: String,
}

impl Node {
    /// Boots a container with the package installed and Nomad ready for jobs.
    pub fn ready(with: With) -> anyhow::Result<Self> {
        let mut node = Self::prepare(with)?;
        node.machine.boot()?;
        node.machine.run("mkdir -p /srv/volumes")?;
        if with == With::Default {
            // A volume without a definition is root's, and exec tasks are nobody's.
            node.machine.run("install -d -m 0711 /var/lib/saddlebag /var/lib/saddlebag/volumes")?;
            node.machine.run("install -d -o 65534 -g 65534 /var/lib/saddlebag/volumes/near")?;
        }
        if with == With::Seaweedfs {
            node.machine
                .run("systemctl enable --quiet --now --no-block seaweedfs-master seaweedfs-volume seaweedfs-filer")?;
        }
        node.install("1.0.0")?;
        node.start_nomad()?;
        if with == With::Seaweedfs {
            node.wait_for_filer()?;
        }
        Ok(node)
    }

    /// Starts Nomad, now and at each boot.
    pub fn start_nomad(&self) -> anyhow::Result<()> {
        self.machine.run("systemctl daemon-reload; systemctl enable --quiet --now nomad")?;
        self.wait_for_nomad()
    }
}

impl Node<Qemu> {
    /// Boots a machine out of an image in which the package and all else were installed before.
    pub fn imaged() -> anyhow::Result<Self> {
        let mut node = Self::prepare(With::Seaweedfs)?;
        node.machine.write("/etc/systemd/system/seaweedfs-.service.d/durable.conf", setup::DURABLE)?;
        node.machine.change_image(
            "mkdir -p /srv/volumes
             DEBIAN_FRONTEND=noninteractive dpkg -i /opt/packages/saddlebag_1.0.0_*.deb
             systemctl enable nomad seaweedfs-master seaweedfs-volume seaweedfs-filer",
        )?;
        node.machine.boot()?;
        node.wait_for_nomad()?;
        node.wait_for_filer()?;
        // Nomad does not sync the file of its server's identity, and does not start with an empty one. What comes after
        // this is each writer's own to sync.
        node.machine.run("sync")?;
        Ok(node)
    }
}

impl<M: Machine> Node<M> {
    /// Makes a machine with everything but saddlebag. It is not booted yet.
    pub fn prepare(with: With) -> anyhow::Result<Self> {
        let binary = |name: &str| tool(name).and_then(|path| path.canonicalize().ok()).context("make tools");
        let rootfs = tool("weed").context("make tools")?.with_file_name("../rootfs").canonicalize()?.join("rootfs");
        let mut files = vec![
            // The folder: Nomad's exec driver looks at its own file through an overlay, which sees no bind mount of it.
            (binary("nomad")?.parent().context("a folder")?.to_owned(), "/opt/nomad"),
            (rootfs, "/opt/rootfs"),
            (setup::packages()?.to_owned(), "/opt/packages"),
        ];
        if with == With::Seaweedfs {
            files.push((binary("weed")?, "/usr/local/bin/weed"));
        }
        let machine = M::prepare(with.image(), &files)?;
        machine.write("/etc/systemd/system/nomad.service", setup::NOMAD_UNIT)?;
        machine.write("/etc/nomad.d/nomad.hcl", setup::NOMAD)?;
        machine.write("/opt/tasks/writer", &format!("{}write_records {}\n", setup::WRITER, M::ACKNOWLEDGE))?;
        if with != With::Default {
            machine.write("/etc/saddlebag/conf.d/disk.hcl", setup::AGENT)?;
        }
        if with == With::Seaweedfs {
            machine.write("/etc/saddlebag/conf.d/main.hcl", setup::SEAWEEDFS)?;
            let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
            for unit in ["seaweedfs-master.service", "seaweedfs-volume.service", "seaweedfs-filer.service"] {
                let text = std::fs::read_to_string(units.join(unit))?;
                machine.write(&format!("/etc/systemd/system/{unit}"), &text)?;
            }
        }
        Ok(Self { machine, with })
    }

    /// Installs a version of the package, as `dpkg -i` does.
    pub fn install(&self, version: &str) -> anyhow::Result<String> {
        self.machine.run(&format!(
            "DEBIAN_FRONTEND=noninteractive dpkg -i /opt/packages/saddlebag_{version}_*.deb </dev/null 2>&1"
        ))
    }

    /// Waits until Nomad places jobs here.
    pub fn wait_for_nomad(&self) -> anyhow::Result<()> {
        self.machine.wait("Nomad's node is ready with both drivers", || {
            let Ok(nodes) = self.ask_nomad("GET", "/nodes", "") else { return Ok(None) };
            let node = &nodes[0];
            let healthy = |driver: &str| node["Drivers"][driver]["Healthy"] == true;
            Ok((node["Status"] == "ready" && healthy("exec") && healthy("raw_exec")).then_some(()))
        })
    }

    /// Waits until SeaweedFS stores files: the filer answers seconds before a volume server has joined.
    pub fn wait_for_filer(&self) -> anyhow::Result<()> {
        self.machine.wait_for(
            "SeaweedFS stores a file",
            "chroot /opt/rootfs /usr/bin/curl -sf -F file=@/etc/hosts http://127.0.0.1:8888/probe/",
        )
    }

    /// Registers a job of one task that writes to a volume, and waits until its records come.
    pub fn run_writer(&self, job: &str, driver: &str, volume: &str) -> anyhow::Result<()> {
        self.register(job, driver, volume)?;
        self.wait_for_more_than(0, volume)
    }

    /// Registers such a job.
    pub fn register(&self, job: &str, driver: &str, volume: &str) -> anyhow::Result<()> {
        let text = json!({ "JobHCL": setup::job(job, driver, volume) });
        let job = self.ask_nomad("POST", "/jobs/parse", &text.to_string())?;
        self.ask_nomad("POST", "/jobs", &json!({ "Job": job }).to_string()).map(drop)
    }

    /// What Nomad's HTTP API answers, on a way that costs a slow machine less than Nomad's command does.
    pub fn ask_nomad(&self, verb: &str, path: &str, body: &str) -> anyhow::Result<Value> {
        let curl = format!("chroot /opt/rootfs /usr/bin/curl -sS --fail-with-body -X {verb} -d @-");
        let said = self.machine.run(&format!("{curl} 'http://127.0.0.1:4646/v1{path}' <<'BODY'\n{body}\nBODY\n"))?;
        // Some answers are empty.
        if said.is_empty() { Ok(Value::Null) } else { Ok(serde_json::from_str(&said)?) }
    }

    /// Waits until the task of a volume has written another record.
    pub fn wait_for_records(&self, volume: &str) -> anyhow::Result<()> {
        self.wait_for_more_than(self.records(volume).len(), volume)
    }

    /// Waits until there are more records than these.
    pub fn wait_for_more_than(&self, before: usize, volume: &str) -> anyhow::Result<()> {
        let what = format!("more than {before} records are in {volume}");
        self.machine.wait(&what, || Ok((self.records(volume).len() > before).then_some(())))
    }

    /// The numbers of the records in a volume.
    pub fn records(&self, volume: &str) -> Vec<u64> {
        let text = self.log(volume).unwrap_or_default();
        text.lines().filter_map(|line| line.split(' ').next()?.parse().ok()).collect()
    }

    /// The records in a volume: each the number of the record and that of the task's start.
    pub fn log(&self, volume: &str) -> anyhow::Result<String> {
        self.machine.run(&format!("cat {}/log", self.data(volume)))
    }

    /// The records in a volume as its storage has them, with nothing of saddlebag in between.
    pub fn stored(&self, volume: &str) -> anyhow::Result<String> {
        let filer = "chroot /opt/rootfs /usr/bin/curl -sSf http://127.0.0.1:8888/volumes";
        if volume == "far" { self.machine.run(&format!("{filer}/far/log")) } else { self.log(volume) }
    }

    /// Every record of a volume is there once and in order: nothing was lost and nothing went elsewhere.
    pub fn assert_whole(&self, volume: &str) -> anyhow::Result<()> {
        let records = self.records(volume);
        ensure!(!records.is_empty(), "{volume} is empty");
        let wanted: Vec<u64> = (1..=records.len() as u64).collect();
        ensure!(records == wanted, "{volume}: {records:?}");
        Ok(())
    }

    /// How often a task has started on a volume.
    pub fn starts(&self, volume: &str) -> usize {
        self.machine.run(&format!("cat {}/starts", self.data(volume))).unwrap_or_default().lines().count()
    }

    /// Where a volume's data is in the machine, on a way that no task takes.
    fn data(&self, volume: &str) -> String {
        match (volume, self.with) {
            ("far", _) => "/var/lib/saddlebag/sources/*/volumes/far".to_owned(),
            (_, With::Default) => format!("/var/lib/saddlebag/volumes/{volume}"),
            _ => format!("/srv/volumes/{volume}"),
        }
    }

    /// Where a job's task has its volume, on the host.
    pub fn place_of(&self, job: &str) -> anyhow::Result<String> {
        Ok(format!("{ALLOCS}/{}/main/local/vol", self.allocation(job)?["ID"].as_str().context("an id")?))
    }

    /// The unit of the one mount program.
    pub fn mount_program(&self) -> anyhow::Result<String> {
        let units = self.machine.run("systemctl list-units --plain --no-legend 'saddlebag-source-*'")?;
        ensure!(units.lines().count() == 1, "one mount program: {units}");
        Ok(units.split_whitespace().next().context("a unit")?.to_owned())
    }

    /// Looks at all mounts that saddlebag has made and at the guard.
    pub fn look(&self) -> anyhow::Result<Look> {
        let mut mounts = self.bindings()?;
        mounts.extend(self.sources()?);
        let jobs = self.ask_nomad("GET", "/jobs", "")?;
        let mut within = Vec::new();
        for job in jobs.as_array().into_iter().flatten() {
            let job = job["ID"].as_str().context("a job")?;
            within.push((job.to_owned(), self.seen_by_task(job)?));
        }
        Ok(Look { mounts, within, lineage: self.lineage()? })
    }

    /// Every mount is the very same as at that look, no task was restarted, each writes on, and no record is missing.
    pub fn assert_unchanged(&self, before: &Look) -> anyhow::Result<()> {
        let now = self.look()?;
        ensure!(now == *before, "{before:#?}\n{now:#?}");
        for (job, _) in &before.within {
            ensure!(self.restarts(job)? == 0, "{job} was restarted");
            let volume = job.rsplit('-').next().context("a volume")?;
            self.wait_for_records(volume)?;
            self.assert_whole(volume)?;
        }
        Ok(())
    }

    /// The newest allocation of a job.
    pub fn allocation(&self, job: &str) -> anyhow::Result<Value> {
        let all = self.ask_nomad("GET", &format!("/job/{job}/allocations"), "")?;
        let newest = all.as_array().into_iter().flatten().max_by_key(|alloc| alloc["CreateIndex"].as_u64());
        newest.cloned().with_context(|| format!("an allocation of {job}"))
    }

    /// How often Nomad has restarted a job's main task.
    pub fn restarts(&self, job: &str) -> anyhow::Result<u64> {
        // Its client tells the servers of a task a little after the task has begun to write.
        wait_until(&format!("what Nomad says of the tasks of {job}"), PATIENCE, &[], || {
            Ok(self.allocation(job)?["TaskStates"]["main"]["Restarts"].as_u64())
        })
    }

    /// What saddlebag has mounted for tasks, as the machine's process 1 sees it: mount id and mount point.
    pub fn bindings(&self) -> anyhow::Result<Vec<(u64, String)>> {
        let mut found = self.machine.mounts()?;
        found.retain(|(_, at)| {
            at.ends_with("/vol") && (at.starts_with(ALLOCS) || at.starts_with("/var/lib/saddlebag/bindings/"))
        });
        Ok(found)
    }

    /// Where the sources are mounted, with their mount ids.
    pub fn sources(&self) -> anyhow::Result<Vec<(u64, String)>> {
        let mut found = self.machine.mounts()?;
        found.retain(|(_, at)| at.starts_with("/var/lib/saddlebag/sources/"));
        Ok(found)
    }

    /// What a task's own mount namespace has at its volume.
    pub fn seen_by_task(&self, job: &str) -> anyhow::Result<Vec<(u64, String)>> {
        let alloc = self.allocation(job)?["ID"].as_str().context("an id")?.to_owned();
        let script = format!(
            "for pid in $(pgrep -f /opt/tasks/writer); do \
               if tr '\\0' '\\n' </proc/$pid/environ | grep -qx NOMAD_ALLOC_ID={alloc}; then cat /proc/$pid/mountinfo && break; fi; done; true"
        );
        let table = self.machine.run(&script)?;
        let words = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        words
            .filter(|words| words[4].ends_with("/vol"))
            .map(|words| Ok((words[0].parse()?, words[4].to_owned())))
            .collect()
    }

    /// What lies beneath each mounted binding has mode 0, refuses writes, and is empty.
    pub fn assert_nothing_beneath(&self) -> anyhow::Result<()> {
        for (_, at) in self.bindings()? {
            // Unmounted in a namespace of its own, where it disturbs nobody.
            let script = format!(
                "unshare --mount --propagation private /bin/sh -euc '
                   umount -l {at}
                   stat -c %a {at}; lsattr -d {at} | cut -d\" \" -f1 | tr -dc i; echo; ls -A {at}'"
            );
            let beneath = self.machine.run(&script)?;
            ensure!(beneath == "0\ni\n", "beneath {at}: {beneath:?}");
        }
        Ok(())
    }

    /// A property of a unit.
    pub fn property(&self, unit: &str, name: &str) -> anyhow::Result<String> {
        Ok(self.machine.run(&format!("systemctl show --value --property={name} {unit}"))?.trim().to_owned())
    }

    /// The guard's lineage, which goes on only while no mark was lost.
    pub fn lineage(&self) -> anyhow::Result<String> {
        let state: Value = serde_json::from_str(&self.machine.run("cat /run/saddlebag/guard.json")?)?;
        Ok(state["lineage"].as_str().context("a lineage")?.to_owned())
    }

    /// What `saddlebag status` says.
    pub fn status(&self) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.machine.run("saddlebag status --json")?)?)
    }

    /// Waits until every volume is mounted, for this many tasks.
    pub fn wait_for_mounted(&self, count: usize) -> anyhow::Result<()> {
        self.machine.wait(&format!("{count} volumes are mounted"), || {
            let Ok(status) = self.status() else { return Ok(None) };
            let bindings = status["bindings"].as_array().cloned().unwrap_or_default();
            let mounted = bindings.iter().filter(|binding| binding["state"] == "mounted").count();
            Ok((mounted == count).then_some(()))
        })
    }
}
