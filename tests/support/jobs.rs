//! Jobs and allocations of a world's Nomad.

use super::files::output;
use super::lab::tool;
use super::world::{PATIENCE, World};
use anyhow::Context as _;
use serde_json::Value;
use std::path::PathBuf;

/// What the word `PRESTART` stands for in the text of a job: a prestart task that has the host's binary ask for the
/// volumes at the host's socket. The job declares the variables `saddlebag` and `socket`.
pub const PRESTART: &str = r#"task "storage" {
      driver = "raw_exec"
      lifecycle {
        hook = "prestart"
      }
      env {
        SADDLEBAG_SOCKET = var.socket
      }
      config {
        command = var.saddlebag
        args    = ["mount"]
      }
      logs {
        disabled = true
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }"#;

impl World {
    /// Registers a job: the path of a file, or its text where there is a line break in it. Returns the job's id.
    /// [`PRESTART`] in a text is replaced.
    ///
    /// `variables` are given by `-var`. Of these, those that the job declares are given without being named here:
    /// `saddlebag` (the binary's path on the host; a docker task has it with
    /// `volumes = ["${var.saddlebag}:/usr/local/bin/saddlebag:ro"]`), `socket` (the agent's, on the host), `image` (a
    /// busybox with curl) and `filer`.
    ///
    /// # Errors
    /// Where Nomad refuses the job, with its words.
    pub fn run_job(&self, job: &str, variables: &[(&str, &str)]) -> anyhow::Result<String> {
        let (path, text) = if job.contains('\n') {
            let written = self.directory.join("job.nomad.hcl");
            let text = job.replace("PRESTART", PRESTART);
            std::fs::write(&written, &text)?;
            (written, text)
        } else {
            (PathBuf::from(job), std::fs::read_to_string(job).with_context(|| format!("reading {job}"))?)
        };
        let (saddlebag, socket) = (self.saddlebag_path(), self.run_dir().join("saddlebag.sock"));
        let usual = [
            ("saddlebag", saddlebag.to_str().context("a path in UTF-8")?),
            ("socket", socket.to_str().context("a path in UTF-8")?),
            ("image", "saddlebag-test:1"),
            ("filer", &self.lab.filer),
        ];
        let declared = |name: &str| text.contains(&format!("variable \"{name}\""));
        let named = |name: &str| variables.iter().any(|(given, _)| *given == name);
        let mut command = self.command(&tool("nomad").context("no nomad")?);
        command.args(["job", "run", "-detach"]);
        for (name, value) in usual.iter().filter(|(name, _)| declared(name) && !named(name)).chain(variables) {
            command.args(["-var", &format!("{name}={value}")]);
        }
        output(command.arg(path))?;
        let id = text.lines().find_map(|line| line.trim_start().strip_prefix("job \"")?.split('"').next());
        Ok(id.context("the text names its job")?.to_owned())
    }

    /// The job's allocations as Nomad lists them, the newest first.
    pub fn allocations(&self, job: &str) -> anyhow::Result<Vec<Value>> {
        let Value::Array(mut listed) = self.api("GET", &format!("/v1/job/{job}/allocations"))? else {
            anyhow::bail!("allocations of {job} are no list");
        };
        listed.sort_by_key(|allocation| std::cmp::Reverse(allocation["CreateIndex"].as_u64()));
        Ok(listed)
    }

    /// One allocation, whole.
    pub fn allocation(&self, id: &str) -> anyhow::Result<Value> {
        self.api("GET", &format!("/v1/allocation/{id}"))
    }

    /// Waits until the job's newest allocation runs: at least one task of it runs, and of its prestart tasks none that
    /// must end first. Returns its id.
    ///
    /// # Errors
    /// After a minute, and at once where the allocation failed, with the events of its tasks.
    pub fn wait_running(&self, job: &str) -> anyhow::Result<String> {
        self.wait_until(&format!("a running allocation of {job}"), PATIENCE, || {
            let Some(newest) = self.allocations(job)?.into_iter().next() else { return Ok(None) };
            let id = newest["ID"].as_str().context("an allocation has an id")?;
            match newest["ClientStatus"].as_str() {
                Some("failed" | "lost") => anyhow::bail!("{job} failed:\n{}", self.events(id)?),
                Some("running") if self.main_task_runs(id)? => Ok(Some(id.to_owned())),
                _ => Ok(None),
            }
        })
    }

    fn main_task_runs(&self, id: &str) -> anyhow::Result<bool> {
        let allocation = self.allocation(id)?;
        let groups = allocation["Job"]["TaskGroups"].as_array().context("a job has groups")?;
        let group = groups.iter().find(|group| group["Name"] == allocation["TaskGroup"]).context("its group")?;
        let mut tasks = group["Tasks"].as_array().context("a group has tasks")?.iter();
        Ok(tasks.any(|task| {
            let main = task["Lifecycle"].is_null();
            let name = task["Name"].as_str().unwrap_or_default();
            main && allocation["TaskStates"][name]["State"] == "running"
        }))
    }

    /// Waits until a task runs again after so many restarts, by Nomad's own word.
    ///
    /// A task's first line may be there before Nomad calls it running, and Nomad passes over a task that is not when it
    /// is told to restart all of an allocation's tasks.
    pub fn wait_restarted(&self, alloc: &str, task: &str, restarts: u64) -> anyhow::Result<()> {
        self.wait_until(&format!("{task} of {alloc} running after {restarts} restarts"), PATIENCE, || {
            let state = &self.allocation(alloc)?["TaskStates"][task];
            Ok((state["State"] == "running" && state["Restarts"] == restarts).then_some(()))
        })
    }

    /// Waits until the job's newest allocation has one of the client's states (`complete`, `failed` …). Returns its id.
    pub fn wait_for_status(&self, job: &str, wanted: &[&str]) -> anyhow::Result<String> {
        self.wait_until(&format!("an allocation of {job} that is {}", wanted.join(" or ")), PATIENCE, || {
            let Some(newest) = self.allocations(job)?.into_iter().next() else { return Ok(None) };
            let id = newest["ID"].as_str().context("an allocation has an id")?;
            let reached = newest["ClientStatus"].as_str().is_some_and(|status| wanted.contains(&status));
            Ok(reached.then(|| id.to_owned()))
        })
    }

    /// Waits until no task of any of the job's allocations runs or may still start. A purged job may be asked for too.
    pub fn wait_dead(&self, job: &str) -> anyhow::Result<()> {
        self.wait_until(&format!("the end of {job}"), PATIENCE, || {
            let over = |allocation: &Value| {
                matches!(allocation["ClientStatus"].as_str(), Some("complete" | "failed" | "lost"))
            };
            Ok(self.allocations(job)?.iter().all(over).then_some(()))
        })
    }

    /// Stops a job.
    pub fn stop(&self, job: &str) -> anyhow::Result<()> {
        self.nomad(&["job", "stop", "-detach", job]).map(drop)
    }

    /// Stops a job and removes it, as `nomad job stop -purge` does. Does not wait for its tasks.
    pub fn stop_purge(&self, job: &str) -> anyhow::Result<()> {
        self.nomad(&["job", "stop", "-detach", "-purge", job]).map(drop)
    }

    /// Collects every terminal allocation, on the servers and so on the client.
    pub fn system_gc(&self) -> anyhow::Result<()> {
        self.api("PUT", "/v1/system/gc").map(drop)
    }

    /// The directory of an allocation on this host.
    pub fn alloc_dir(&self, id: &str) -> PathBuf {
        self.directory.join("nomad/alloc").join(id)
    }

    /// Waits until Nomad, or saddlebag after it, has removed an allocation's directory.
    pub fn wait_alloc_dir_gone(&self, id: &str) -> anyhow::Result<()> {
        let directory = self.alloc_dir(id);
        self.wait_until(&format!("the removal of {}", directory.display()), PATIENCE, || {
            Ok((!directory.try_exists()?).then_some(()))
        })
    }

    /// What a task wrote to its standard output and then to its standard error, read from the allocation's own log
    /// files: there also where the job turned Nomad's log collection off and the task wrote them itself.
    pub fn alloc_logs(&self, id: &str, task: &str) -> anyhow::Result<String> {
        let directory = self.alloc_dir(id).join("alloc/logs");
        let mut names: Vec<_> = std::fs::read_dir(&directory)?.flatten().map(|entry| entry.file_name()).collect();
        names.sort();
        let mut text = String::new();
        for kind in ["stdout", "stderr"] {
            for name in names.iter().filter_map(|name| name.to_str()) {
                if name.starts_with(&format!("{task}.{kind}.")) {
                    text.push_str(&String::from_utf8_lossy(&std::fs::read(directory.join(name))?));
                }
            }
        }
        Ok(text)
    }

    /// The events of an allocation's tasks, one a line: what `nomad alloc status` shows.
    pub fn events(&self, id: &str) -> anyhow::Result<String> {
        let allocation = self.allocation(id)?;
        let mut text = String::new();
        for (task, state) in allocation["TaskStates"].as_object().into_iter().flatten() {
            for event in state["Events"].as_array().into_iter().flatten() {
                let said = event["DisplayMessage"].as_str().unwrap_or_default();
                text.push_str(&format!("{task}: {}: {said}\n", event["Type"].as_str().unwrap_or_default()));
            }
            text.push_str(&self.alloc_logs(id, task).unwrap_or_default());
        }
        Ok(text)
    }
}
