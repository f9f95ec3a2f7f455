//! A SeaweedFS whose master, volume servers and filers are processes of their own, in a lab of its own, so that a test can
//! take one of them away.

use super::files::output;
use super::lab::{Keeper, lab, new_directory, tool};
use super::wait::wait_until;
use super::world::PATIENCE;
use anyhow::Context as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How a cluster is made.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How many volume servers.
    pub volumes: usize,
    /// How many filers; each has a store of its own, and they follow each other.
    pub filers: usize,
    /// How many copies of what is written there are besides the first.
    pub copies: usize,
}

impl Default for Plan {
    fn default() -> Self {
        Self { volumes: 1, filers: 1, copies: 0 }
    }
}

/// A running cluster. Dropping it ends and removes it.
pub struct Cluster {
    directory: PathBuf,
    plan: Plan,
    ports: Vec<u16>,
    environment: Vec<(String, String)>,
    keeper: Option<Keeper>,
}

impl Cluster {
    /// A cluster that stores files.
    ///
    /// # Errors
    /// Where a server does not come up, with the end of its log.
    pub fn start(plan: Plan) -> anyhow::Result<Self> {
        Self::start_with(plan, &[], |_| Ok(()))
    }

    /// The same of servers with further variables in their environment, after `prepare` has been in their directory. A
    /// `security.toml` there is theirs.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub fn start_with(
        plan: Plan,
        environment: &[(&str, &str)],
        prepare: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let directory = new_directory()?;
        let keeper = Some(Keeper::start(&directory, None)?);
        let count = (1 + plan.volumes + plan.filers).to_string();
        let ports = output(lab().arg("ports").arg(&directory).arg(count))?;
        let ports = ports.lines().map(str::parse).collect::<Result<_, _>>().context("ports")?;
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let cluster = Self { directory, plan, ports, environment, keeper };
        prepare(&cluster.directory)?;
        cluster.start_all()?;
        cluster.wait_until_it_stores()?;
        Ok(cluster)
    }

    /// Its directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The address of a filer.
    pub fn filer(&self, number: usize) -> String {
        format!("127.0.0.1:{}", self.ports[1 + self.plan.volumes + number])
    }

    /// The addresses of all filers, as a configuration has them.
    pub fn filers(&self) -> String {
        (0..self.plan.filers).map(|number| self.filer(number)).collect::<Vec<_>>().join(",")
    }

    fn master(&self) -> String {
        format!("127.0.0.1:{}", self.ports[0])
    }

    /// Starts every server.
    ///
    /// # Errors
    /// Where one cannot be started.
    pub fn start_all(&self) -> anyhow::Result<()> {
        self.start_server("master")?;
        for number in 0..self.plan.volumes {
            self.start_server(&format!("volume{number}"))?;
        }
        for number in 0..self.plan.filers {
            self.start_server(&format!("filer{number}"))?;
        }
        Ok(())
    }

    /// Starts a server, `master`, `volume0`, `filer1` and so on, on the data that it had.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn start_server(&self, name: &str) -> anyhow::Result<()> {
        let number: usize = name.trim_start_matches(char::is_alphabetic).parse().unwrap_or_default();
        let data = self.directory.join(name);
        std::fs::create_dir_all(&data)?;
        let (master, copies, data) = (self.master(), self.plan.copies, data.display());
        let own = |port: u16| ["-ip=127.0.0.1".into(), "-ip.bind=127.0.0.1".into(), format!("-port={port}")];
        let rest = match name.trim_end_matches(char::is_numeric) {
            "master" => vec![
                own(self.ports[0]).to_vec(),
                vec![
                    format!("-mdir={data}"),
                    "-volumeSizeLimitMB=64".into(),
                    format!("-defaultReplication=00{copies}"),
                ],
            ],
            "volume" => vec![
                own(self.ports[1 + number]).to_vec(),
                vec![
                    format!("-dir={data}"),
                    "-max=60".into(),
                    format!("-master={master}"),
                    "-preStopSeconds=0".into(),
                    "-index=memory".into(),
                ],
            ],
            _ => vec![
                own(self.ports[1 + self.plan.volumes + number]).to_vec(),
                vec![format!("-defaultStoreDir={data}"), format!("-master={master}")],
            ],
        };
        let mut command = lab();
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        // A new collection takes one volume, and not seven.
        command.env("WEED_MASTER_VOLUME_GROWTH_COPY_1", "1").env("WEED_MASTER_VOLUME_GROWTH_COPY_2", "1");
        command.arg("run").arg(&self.directory).arg(name).arg(tool("weed").context("no weed")?);
        command.arg(format!("-config_dir={}", self.directory.display()));
        command.arg(name.trim_end_matches(char::is_numeric)).args(rest.concat());
        output(&mut command).map(drop)
    }

    /// Ends a server by a signal and waits until it is gone.
    ///
    /// # Errors
    /// Where it does not end.
    pub fn end(&self, name: &str, signal: &str) -> anyhow::Result<()> {
        output(lab().arg("end").arg(&self.directory).args([name, signal])).map(drop)
    }

    /// Ends all servers, the filers first.
    ///
    /// # Errors
    /// Where one does not end.
    pub fn end_all(&self, signal: &str) -> anyhow::Result<()> {
        for number in 0..self.plan.filers {
            self.end(&format!("filer{number}"), signal)?;
        }
        for number in 0..self.plan.volumes {
            self.end(&format!("volume{number}"), signal)?;
        }
        self.end("master", signal)
    }

    /// Waits until each filer has stored a file on each of its copies.
    ///
    /// # Errors
    /// Where that does not come to be, with the ends of the logs.
    pub fn wait_until_it_stores(&self) -> anyhow::Result<()> {
        for number in 0..self.plan.filers {
            let filer = format!("filer{number}");
            let logs: Vec<PathBuf> =
                ["master", "volume0", &filer].iter().map(|name| self.directory.join(format!("{name}.log"))).collect();
            // A filer answers seconds before volume servers have joined; only a write tells, of as many as it has copies.
            let at = format!("http://{}/ready/{number}", self.filer(number));
            let form = format!("file=@{}", self.directory.join("master.log").display());
            wait_until("a cluster that stores files", PATIENCE * 2, &logs, || {
                let mut curl = Command::new("curl");
                curl.args(["-sf", "--noproxy", "*", "--max-time", "5", "-o", "/dev/null", "-F", &form, &at]);
                let stores = curl.status()?.success();
                if !stores {
                    // One of 4.48 that starts while another does may end by itself, and is started again as an operator's
                    // service manager would do it. One that runs is left alone: the lab refuses.
                    let _ = self.start_server(&filer);
                }
                Ok(stores.then_some(()))
            })?;
        }
        Ok(())
    }

    /// What `weed shell` says to these commands, by a filer.
    ///
    /// # Errors
    /// Where it ends with an error.
    pub fn shell(&self, commands: &str, filer: usize) -> anyhow::Result<String> {
        let mut command = Command::new("timeout");
        command.arg("20").arg(tool("weed").context("no weed")?);
        command.arg(format!("-config_dir={}", self.directory.display()));
        command.arg("shell").arg(format!("-master={}", self.master())).arg(format!("-filer={}", self.filer(filer)));
        let mut shell = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        {
            use std::io::Write;
            let mut input = shell.stdin.take().context("no input")?;
            input.write_all(commands.replace("; ", "\n").as_bytes())?;
            input.write_all(b"\nexit\n")?;
        }
        let said = shell.wait_with_output()?;
        let text = format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
        anyhow::ensure!(said.status.success(), "weed shell, {commands}: {text}");
        Ok(text)
    }

    /// Mounts the whole tree by `weed mount` itself, with these further options, at a directory of the cluster's own.
    ///
    /// # Errors
    /// Where it is not mounted in time.
    pub fn mount(&self, name: &str, filers: &str, options: &[&str]) -> anyhow::Result<PathBuf> {
        let at = self.directory.join(name);
        std::fs::create_dir_all(&at)?;
        let cache = self.directory.join(format!("{name}.cache"));
        std::fs::create_dir_all(&cache)?;
        let mut command = lab();
        command.arg("run").arg(&self.directory).arg(format!("mount-{name}")).arg(tool("weed").context("no weed")?);
        command.arg(format!("-config_dir={}", self.directory.display()));
        command.args(["mount", "-filer.path=/", "-dirAutoCreate=false"]);
        command.arg(format!("-filer={filers}")).arg(format!("-dir={}", at.display()));
        command.arg(format!("-cacheDir={}", cache.display())).args(options);
        output(&mut command)?;
        let log = self.directory.join(format!("mount-{name}.log"));
        wait_until("a mount", PATIENCE, &[log], || {
            Ok(super::mounts_below(&self.directory)?.iter().any(|mount| mount.ends_with(name)).then_some(()))
        })?;
        Ok(at)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let Some(keeper) = self.keeper.take() else { return };
        if let Err(error) = keeper.remove(&self.directory) {
            if std::thread::panicking() {
                eprintln!("{error:#}");
            } else {
                panic!("{error:#}");
            }
        }
    }
}
