//! A storage server that accepts and never answers, and one whose network is gone: a SeaweedFS of the test's own, in a
//! network of its own.

use super::scene::{Stopped, Writer, hangs, local, pid_of, probes, seaweedfs, wait_mounted, wait_source, writers};
use crate::support::{PATIENCE, World, require, tool};
use anyhow::Context as _;
use nix::unistd::Pid;
use std::path::Path;
use std::process::Command;

/// The host's end of the link, and the server's.
const NEAR: &str = "198.51.100.9";
const FAR: &str = "198.51.100.10";

/// A SeaweedFS behind a link that can be taken down. The link goes with the server's network, which goes with it.
struct FarServer {
    pid: Pid,
    link: String,
}

impl FarServer {
    fn start(world: &World) -> anyhow::Result<Self> {
        let data = world.directory().join("far");
        std::fs::create_dir(&data)?;
        let weed = tool("weed").context("no weed")?;
        // The process is the one that unshare(1) becomes, and then weed itself.
        let script = format!(
            "ip link set lo up; until ip -4 addr show far 2>/dev/null | grep -q {FAR}; do sleep 0.05; done; \
             exec {} server -filer -ip={FAR} -ip.bind=0.0.0.0 -dir={} -master.volumeSizeLimitMB=64 -volume.max=50 -volume.preStopSeconds=0",
            weed.display(),
            data.display()
        );
        world.run("far", Path::new("/usr/bin/unshare"), &["--net", "sh", "-c", &script])?;
        let started = std::fs::read_to_string(world.directory().join("far.pid"))?;
        let pid: i32 = started.split(' ').next().unwrap_or_default().parse()?;
        let link = format!("sb{pid}");
        world.wait_until("a network of its own", PATIENCE, || {
            let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net"));
            Ok((of(&pid.to_string())? != of("self")?).then_some(()))
        })?;
        let number = pid.to_string();
        run("ip", &["link", "add", &link, "type", "veth", "peer", "name", "far", "netns", &number])?;
        run("ip", &["addr", "add", &format!("{NEAR}/30"), "dev", &link])?;
        run("ip", &["link", "set", &link, "up"])?;
        run("nsenter", &["-t", &number, "-n", "ip", "link", "set", "far", "up"])?;
        run("nsenter", &["-t", &number, "-n", "ip", "addr", "add", &format!("{FAR}/30"), "dev", "far"])?;
        let server = Self { pid: Pid::from_raw(pid), link };
        // The filer answers seconds before the volume server has joined; only a write tells.
        world.wait_until("a SeaweedFS that stores a file", PATIENCE, || {
            let at = format!("http://{FAR}:8888/ready/");
            let form = format!("file=@{}", world.log("far").display());
            let stored = Command::new("curl")
                .args(["-sf", "--noproxy", "*", "--max-time", "5", "-o", "/dev/null", "-F", &form, &at])
                .status()?;
            Ok(stored.success().then_some(()))
        })?;
        Ok(server)
    }
}

fn run(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let done = Command::new(program).args(arguments).output().with_context(|| format!("starting {program}"))?;
    anyhow::ensure!(done.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// A link that is down until this is dropped.
struct Cut<'a>(&'a FarServer);

impl<'a> Cut<'a> {
    fn of(server: &'a FarServer) -> anyhow::Result<Self> {
        run("ip", &["link", "set", &server.link, "down"])?;
        Ok(Self(server))
    }
}

impl Drop for Cut<'_> {
    fn drop(&mut self) {
        let link = &self.0.link;
        let up = run("ip", &["link", "set", link, "up"]);
        assert!(up.is_ok() || std::thread::panicking(), "{up:?}");
    }
}

#[test]
fn a_filer_that_never_answers_and_a_network_that_is_gone_hold_up_their_own_volumes_only() -> anyhow::Result<()> {
    require!("root", "nomad", "dockerd", "docker", "weed", "fusermount3", "ip", "unshare", "nsenter");
    let world = World::new("far")?;
    let server = FarServer::start(&world)?;
    let near = world.lab().filer.clone();
    let configuration = [
        "hook_timeout = \"20s\"\nprobe_interval = \"2s\"\n".to_owned(),
        seaweedfs(&world, &format!("{FAR}:8888"), "far", "")?,
        seaweedfs(&world, &near, "near", "")?,
        local(&world)?,
    ]
    .concat();
    world.start_agent(&configuration)?;
    let writing = writers(&world, "far", Writer::launch_patient)?;
    let beside = Writer::launch(&world, "exec", "near-0")?.wait(&world)?;
    let mounts = || writing.iter().map(|writer| writer.mount_id(&world)).collect::<anyhow::Result<Vec<_>>>();
    let (weed, before) = (pid_of(&wait_source(&world, "far", &["attached"])?)?, mounts()?);
    // On a busy machine a server may have been silent for the two seconds that a probe waits.
    let known = hangs(&world, "far")?;

    // The kernel accepts connections for a stopped process, and nobody answers them.
    let stopped = Stopped::stop(server.pid)?;
    world.wait_until("a source that hangs", PATIENCE, || Ok((hangs(&world, "far")? > known).then_some(())))?;
    let said = wait_source(&world, "far", &["hung"])?;
    assert!(said["reason"].as_str().is_some_and(|reason| reason.contains("not answered")), "{said:#}");
    Writer::launch(&world, "docker", "disk-0")?.wait(&world)?;
    beside.assert_whole(&world)?;
    drop(stopped);
    go_on(&world, &writing)?;
    let after = Writer::launch(&world, "exec", "far-3")?.wait(&world)?;

    let cut = Cut::of(&server)?;
    let said = wait_source(&world, "far", &["hung", "unreachable"])?;
    assert!(
        said["reason"].as_str().is_some_and(|reason| reason.contains(FAR) || reason.contains("not answered")),
        "{said:#}"
    );
    let states = super::scene::bindings(&world, &after.alloc)?;
    assert!(states.iter().all(|binding| binding["state"] != "mounted"), "never called healthy: {states:#?}");
    Writer::launch(&world, "exec", "near-1")?.wait(&world)?;
    beside.assert_whole(&world)?;
    drop(cut);
    go_on(&world, &writing)?;
    assert_eq!(pid_of(&wait_source(&world, "far", &["attached"])?)?, weed, "the same program");
    assert_eq!(mounts()?, before, "the same mounts");
    Writer::launch(&world, "docker", "far-4")?.wait(&world)?;
    world.wait_until("no probe that is left", PATIENCE, || Ok(probes(&world)?.is_empty().then_some(())))
}

fn go_on(world: &World, writing: &[Writer]) -> anyhow::Result<()> {
    wait_source(world, "far", &["attached"])?;
    for writer in writing {
        wait_mounted(world, writer)?;
        // `weed mount` gives a call up that has been tried again for some seconds (its -readRetryTime, 6 s, is for every
        // call), and its task sees that one fail. What did not fail is there.
        writer.assert_kept(world)?;
    }
    Ok(())
}
