//! What can be typed, and the help that goes with it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::doctor::part::Part;

mod volume;

pub use volume::{
    AnswerArgs, AttachArgs, DefinitionArgs, DeleteArgs, DetachArgs, ListArgs, NameArgs, OrderArgs, VolumeArgs,
    VolumeStatusArgs, VolumeVerb, WhenLost,
};

/// Where the agent's socket is when nothing else is said.
pub const HOST_SOCKET: &str = "/run/saddlebag/saddlebag.sock";

/// The environment variable that names the agent's socket.
pub const SOCKET_VARIABLE: &str = "SADDLEBAG_SOCKET";

const AFTER_HELP: &str = "\
Exit codes (sysexits.h):
  0   done
  64  the command line is wrong
  69  something that is needed is not there: the agent, a server, a program
  75  it may work when tried again
  77  not permitted
  78  the job or the configuration says something that cannot be

Flags may be written as Nomad writes them, too: -json for --json, -timeout=5s for --timeout=5s.";

/// Storage for Nomad jobs without CSI
///
/// One agent on each Nomad client binds volumes into the directories of allocations, as the jobs' meta asks, and keeps
/// Nomad's garbage collection out of them. A job names its volume in its meta (storage_volume = "pgdata") and runs
/// `saddlebag mount` in a prestart task, which ends when the volume is there.
#[derive(Debug, Parser)]
#[command(name = "saddlebag", version, after_help = AFTER_HELP, arg_required_else_help = true)]
#[command(disable_help_subcommand = true, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Mount the volumes that an allocation asks for (the prestart task runs this)
    ///
    /// Asks the agent of this Nomad client to mount the allocation's volumes into its tasks' directories, and ends when
    /// all of them are mounted and proved to answer. Run it as a prestart task: Nomad starts the main tasks
    /// only after it has ended well. It reads NOMAD_ALLOC_ID, NOMAD_TASK_NAME and NOMAD_ALLOC_DIR, which Nomad sets, so it
    /// needs no flags there. It may be run again at any time: what is mounted already stays as it is.
    ///
    /// The agent is looked for at $NOMAD_ALLOC_DIR/saddlebag.sock, the allocation's own socket, which works inside containers
    /// and chroots too, and then at the host's socket. Where the task's logs block says disabled = true, which makes jobs
    /// start faster, the lines it prints are still put where `nomad alloc logs` finds them.
    #[command(after_help = MOUNT_EXAMPLE)]
    Mount(MountArgs),

    /// Show the sources and volumes of this node
    ///
    /// Shows how the agent stands with Nomad and with its guard, the file systems (sources) that it has mounted for its
    /// volumes, and each volume in each task, with the reason where something is not well. On an allocation's own
    /// socket only that allocation is shown.
    #[command(after_help = STATUS_EXAMPLE)]
    Status(StatusArgs),

    /// Show each step on the way of an allocation's volumes, and what to do about one that failed
    ///
    /// Shows how far the agent came for one allocation, from the words in the job to the mount: what is done,
    /// what failed and why, what to do about it, and the last lines that a failed mount program wrote. An
    /// allocation that the agent does not know ends with exit code 69.
    #[command(after_help = EXPLAIN_EXAMPLE)]
    Explain(ExplainArgs),

    /// Register, create, list and delete volumes; attach them to tasks that run
    Volume(VolumeArgs),

    /// Run the agent: one on each Nomad client, as root
    ///
    /// Watches the allocations of this node, mounts the sources that they need, answers `saddlebag mount`, and takes
    /// volumes away from allocations that are over. It may be stopped, killed and upgraded at any time: mounts
    /// and tasks go on, and the next agent finds all of it again. Without a configuration it talks to Nomad on this
    /// machine and keeps volumes in directories of its own.
    #[command(after_help = AGENT_EXAMPLE)]
    Agent(AgentArgs),

    /// Run the guard, which keeps Nomad's garbage collection out of mounted volumes
    ///
    /// Nomad deletes the directory of an allocation that is over, and would delete what is in a volume that is still
    /// mounted there. The guard is asked by the kernel before Nomad's agent opens such a directory, and refuses. It
    /// is a small process of its own so that the agent can be restarted without it. Where systemd runs, the unit
    /// saddlebag-guard.service starts it; elsewhere the agent does. Nobody needs to start it by hand.
    #[command(after_help = GUARD_EXAMPLE)]
    Guard(GuardArgs),

    /// Look whether this client can serve volumes, and say what mends it where not
    ///
    /// Looks at the host (kernel, limits, disks, FUSE), Nomad (reach, the token's rights, drivers, the allocation
    /// directory), systemd's units, the agent and its guard, and each configured backend: its program, its servers, and
    /// a mount that is made, written to, read back and unmounted. Run it as root on the client, with or without a running
    /// agent. It changes nothing: a trial's mount is seen by nobody else and cannot outlive it, and of what it writes
    /// (one file of 64 KiB) nothing stays. A server that hangs is reported and not waited for.
    #[command(after_help = DOCTOR_EXAMPLE)]
    Doctor(DoctorArgs),

    /// Check the agent's configuration
    Config(ConfigArgs),

    /// Ask one source whether it answers; the agent runs this itself
    #[command(hide = true)]
    Probe(ProbeArgs),

    /// Write a shell's completion of this command line
    ///
    /// Writes to stdout what bash, zsh or fish reads to complete verbs and flags. The Debian package has these already.
    #[command(after_help = COMPLETION_EXAMPLE)]
    Completion(CompletionArgs),

    /// Write the man pages into a folder, one for each verb
    #[command(hide = true)]
    Man(ManArgs),

    /// Show the version
    ///
    /// Shows the version of this program and, where it is known, the commit that it was built from.
    #[command(after_help = "Example:\n  saddlebag version --json")]
    Version(VersionArgs),
}

const MOUNT_EXAMPLE: &str = r#"Example, in a job:
  task "storage" {
    lifecycle { hook = "prestart" }
    driver = "raw_exec"
    config {
      command = "/usr/bin/saddlebag"
      args    = ["mount"]
    }
    logs { disabled = true }
  }

Exit codes (Nomad's restart policy decides what follows a failure):
  0   all volumes are there
  64  the command line is wrong, or NOMAD_ALLOC_ID is missing
  69  the agent, or something that it needs, is not there
  75  it may work when tried again: no answer within --timeout
  77  not permitted
  78  the job asks for something that cannot be"#;

const STATUS_EXAMPLE: &str = "\
Examples:
  saddlebag status
  saddlebag status --namespace shop --job db
  saddlebag status --watch
  saddlebag status --json | jq '.bindings[] | select(.state == \"failed\")'";

const EXPLAIN_EXAMPLE: &str = "\
Examples:
  saddlebag explain 8f1c9b52
  saddlebag explain --json 8f1c9b52-5bd0-4c5a-b6a3-0f7a3c9f2f11";

const AGENT_EXAMPLE: &str = "\
Examples:
  saddlebag agent
  saddlebag agent --config /etc/saddlebag/agent.hcl --config /etc/saddlebag/conf.d --log-level debug";

const GUARD_EXAMPLE: &str = "\
Example:
  saddlebag guard --run-dir /run/saddlebag";

const VALIDATE_EXAMPLE: &str = "\
Examples:
  saddlebag config validate
  saddlebag config validate --config ./agent.hcl";

const DOCTOR_EXAMPLE: &str = "\
Examples:
  saddlebag doctor
  saddlebag doctor --backend main
  saddlebag doctor --json | jq '.checks[] | select(.outcome == \"problem\") | .mend'

Exit codes:
  0   all is well; warnings and what was skipped do not count
  64  the command line is wrong, or no backend has that name
  69  a program, a server or something of this host is not there or does not answer
  77  it was not run as root
  78  only configurations are wrong: the agent's, Nomad's, a token's rights";

const COMPLETION_EXAMPLE: &str = "\
Examples:
  saddlebag completion bash > /etc/bash_completion.d/saddlebag
  saddlebag completion fish > ~/.config/fish/completions/saddlebag.fish";

/// Where the agent is.
#[derive(Debug, Clone, Default, Args)]
pub struct SocketArgs {
    /// The agent's socket, and no other [default: SADDLEBAG_SOCKET, or else /run/saddlebag/saddlebag.sock]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

impl SocketArgs {
    /// The socket that was named, by the flag or else by the environment.
    pub fn named(&self) -> Option<PathBuf> {
        let variable = || std::env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
        self.socket.clone().or_else(variable)
    }

    /// The socket that was named, or else the host's.
    pub fn path(&self) -> PathBuf {
        self.named().unwrap_or_else(|| PathBuf::from(HOST_SOCKET))
    }
}

/// `saddlebag mount`.
#[derive(Debug, Clone, Args)]
pub struct MountArgs {
    /// The allocation's id [default: NOMAD_ALLOC_ID]
    #[arg(long, value_name = "ID")]
    pub alloc: Option<String>,
    /// The task that asks, which gets no volume itself [default: NOMAD_TASK_NAME]
    #[arg(long, value_name = "NAME")]
    pub task: Option<String>,
    /// How long to wait for the agent and for the volumes, in all
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
    /// The agent's socket, and no other [default: SADDLEBAG_SOCKET, or else the allocation's own socket and then
    /// /run/saddlebag/saddlebag.sock]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// `saddlebag status`.
#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// Only volumes of jobs in this namespace
    #[arg(long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Only volumes of this job
    #[arg(long, value_name = "ID")]
    pub job: Option<String>,
    /// Print all that the agent knows as JSON
    #[arg(long)]
    pub json: bool,
    /// Go on and show each change until Ctrl-C: the page drawn anew on a terminal, else a line for each thing that
    /// has changed; with --json a document on a line. An agent that is restarted is waited for.
    #[arg(long)]
    pub watch: bool,
    /// Where the agent is.
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// `saddlebag explain`.
#[derive(Debug, Clone, Args)]
pub struct ExplainArgs {
    /// The allocation's id, or its first characters (at least 4)
    #[arg(value_name = "ALLOC")]
    pub alloc: String,
    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
    /// Where the agent is.
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// The configuration's files.
#[derive(Debug, Clone, Default, Args)]
pub struct ConfigFiles {
    /// A configuration file, or a folder of *.hcl files; may be given several times [default:
    /// /etc/saddlebag/agent.hcl and /etc/saddlebag/conf.d, where they exist]
    #[arg(long, value_name = "PATH")]
    pub config: Vec<PathBuf>,
}

/// `saddlebag agent`.
#[derive(Debug, Clone, Args)]
pub struct AgentArgs {
    /// The configuration's files.
    #[command(flatten)]
    pub config: ConfigFiles,
    /// The least important messages that are written to stderr
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: LogLevel,
    /// How messages are written
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// How important a message must be to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// What failed.
    Error,
    /// And what may fail soon.
    Warn,
    /// And what changed.
    Info,
    /// And how.
    Debug,
    /// And everything else.
    Trace,
}

/// How a message is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people: one line each; where stderr is the journal, to the journal itself, with fields such as SADDLEBAG_ALLOC.
    Text,
    /// For programs: one JSON object on each line.
    Json,
}

/// `saddlebag guard`.
#[derive(Debug, Clone, Args)]
pub struct GuardArgs {
    /// The folder of the guard's socket; the agent's run_dir
    #[arg(long, value_name = "DIR", default_value = "/run/saddlebag")]
    pub run_dir: PathBuf,
    /// End the guard that runs, and all protection: what is still mounted is then open to Nomad's deletions. For the
    /// removal of saddlebag from a host without systemd, when `saddlebag status` shows no volume any more.
    #[arg(long)]
    pub stop: bool,
    /// Be the keeper of a guard's descriptors, which the guard starts itself where no systemd keeps them.
    #[arg(long, hide = true)]
    pub keeper: bool,
}

/// `saddlebag probe`, which the agent runs.
#[derive(Debug, Clone, Args)]
pub struct ProbeArgs {
    /// The source's directory, for whoever lists processes; what is asked comes by standard input.
    #[arg(value_name = "DIR")]
    pub root: PathBuf,
}

/// `saddlebag doctor`.
#[derive(Debug, Clone, Args)]
pub struct DoctorArgs {
    /// The configuration's files.
    #[command(flatten)]
    pub config: ConfigFiles,
    /// Only this backend
    #[arg(long, value_name = "NAME")]
    pub backend: Option<String>,
    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
    /// The agent's socket [default: SADDLEBAG_SOCKET, or else saddlebag.sock in the configuration's run_dir]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Look at one part and say what is found to doctor itself.
    #[arg(long, hide = true)]
    pub part: Option<Part>,
}

/// `saddlebag config`.
#[derive(Debug, Clone, Args)]
#[command(arg_required_else_help = true)]
pub struct ConfigArgs {
    /// What to do with it.
    #[command(subcommand)]
    pub verb: ConfigVerb,
}

/// The verbs of `saddlebag config`.
#[derive(Debug, Clone, Subcommand)]
pub enum ConfigVerb {
    /// Check configuration files and say where each error is
    ///
    /// Reads the files as the agent would and prints every error with its file, line and column, and what was
    /// probably meant. Nothing is asked of Nomad or of any server. Ends with 0 where all is well, else with 78.
    #[command(after_help = VALIDATE_EXAMPLE)]
    Validate(ConfigFiles),
}

/// `saddlebag completion`.
#[derive(Debug, Clone, Args)]
pub struct CompletionArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// A shell that can complete a command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// GNU Bash with bash-completion.
    Bash,
    /// The Z shell.
    Zsh,
    /// fish.
    Fish,
}

/// `saddlebag man`.
#[derive(Debug, Clone, Args)]
pub struct ManArgs {
    /// A folder that exists
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

/// `saddlebag version`.
#[derive(Debug, Clone, Args)]
pub struct VersionArgs {
    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
}
