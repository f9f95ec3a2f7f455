//! What can be typed after `saddlebag volume`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::SocketArgs;

const REGISTER_EXAMPLE: &str = r#"Examples:
  saddlebag volume register pgdata.hcl
  saddlebag volume register - <<'EOF'
  volume "pgdata" {
    backend = "main"
    path    = "/volumes/pgdata"
    size    = "20GiB"
  }
  EOF"#;

const CREATE_EXAMPLE: &str = "\
Examples:
  saddlebag volume create pgdata.hcl
  saddlebag volume create --json - < pgdata.hcl";

const DEREGISTER_EXAMPLE: &str = "\
Example:
  saddlebag volume deregister pgdata";

const DELETE_EXAMPLE: &str = "\
Examples:
  saddlebag volume delete pgdata
  saddlebag volume delete scratch --dynamic";

const LIST_EXAMPLE: &str = "\
Examples:
  saddlebag volume list
  saddlebag volume list --json | jq '.volumes[] | select(.used_by == [])'";

const VOLUME_STATUS_EXAMPLE: &str = "\
Example:
  saddlebag volume status pgdata";

const ATTACH_EXAMPLE: &str = "\
Examples:
  saddlebag volume attach 8f1c9b52 dumps
  saddlebag volume attach 8f1c9b52 dumps --task db --destination local/dumps --read-only
  saddlebag volume attach 8f1c9b52 seaweedfs://filer.example.com:8888/backups --name old";

const DETACH_EXAMPLE: &str = "\
Examples:
  saddlebag volume detach 8f1c9b52 dumps
  saddlebag volume detach 8f1c9b52 local/dumps --task db --force";

/// `saddlebag volume`.
#[derive(Debug, Clone, Args)]
#[command(arg_required_else_help = true)]
pub struct VolumeArgs {
    /// What to do with it.
    #[command(subcommand)]
    pub verb: VolumeVerb,
}

/// The verbs of `saddlebag volume`.
#[derive(Debug, Clone, Subcommand)]
pub enum VolumeVerb {
    /// Register a volume on this node, or change its definition
    ///
    /// Reads a file with one volume block, as the agent's configuration has it, and has the agent of this node know
    /// it from then on, also after a restart: without one. Nothing is made on the storage system. A definition that
    /// is there in the same words stays as it is; another one takes its place, unless a task uses the volume. Other
    /// nodes are not told. May be asked again at any time.
    #[command(after_help = REGISTER_EXAMPLE)]
    Register(DefinitionArgs),

    /// Register a volume and make its directory now
    ///
    /// As register, and then makes the volume's directory on its storage system, with the owner, mode and size of its
    /// definition. A directory that is there keeps its owner and mode, and all that is in it. May be asked again at
    /// any time.
    #[command(after_help = CREATE_EXAMPLE)]
    Create(DefinitionArgs),

    /// Forget a registered volume; its data stays where it is
    ///
    /// Refused while a task uses the volume. May be asked again at any time.
    #[command(after_help = DEREGISTER_EXAMPLE)]
    Deregister(NameArgs),

    /// Take a volume's directory out of the way, and forget the volume
    ///
    /// Renames the directory on its storage system into the folder .saddlebag-deleted, which only root can enter, under
    /// the volume's name and the time, and forgets the definition. Nothing is removed: the answer says where the data
    /// lies and how to remove it for good. Refused while a task uses the volume. May be asked again at any time.
    #[command(after_help = DELETE_EXAMPLE)]
    Delete(DeleteArgs),

    /// List the volumes that this node knows
    ///
    /// Those of the agent's configuration, those that were registered, and those of the dynamic backend that are in
    /// use, each with its place, its size and whether anything keeps it to that, and who uses it.
    #[command(after_help = LIST_EXAMPLE)]
    List(ListArgs),

    /// Show one volume, and every task that uses it
    #[command(after_help = VOLUME_STATUS_EXAMPLE)]
    Status(VolumeStatusArgs),

    /// Attach a volume to tasks of an allocation that run
    ///
    /// Mounts the volume on the host and inside each container of the tasks, by the rules that a job's words have, and
    /// ends when it is proved there. The tasks are not restarted. From then on it is like any other volume of
    /// theirs: mended when it is lost, there again after a restart of the task or of the host, and detached when the
    /// task is over. The job does not know of it: the next allocation does not get it. May be asked again at any time.
    #[command(after_help = ATTACH_EXAMPLE)]
    Attach(AttachArgs),

    /// Take an attached volume away from tasks that run
    ///
    /// Takes the volume out of each container of the tasks and off the host; what it holds is not touched. While a
    /// process has something of it open it stays, and the process is named. Volumes that the job itself asks for
    /// are never taken away from under it. May be asked again at any time.
    #[command(after_help = DETACH_EXAMPLE)]
    Detach(DetachArgs),
}

/// How an answer of the agent is waited for and shown.
#[derive(Debug, Clone, Args)]
pub struct AnswerArgs {
    /// How long to wait for the agent and for the storage system, in all
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
    /// Print what was done as JSON
    #[arg(long)]
    pub json: bool,
    /// Where the agent is.
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// `saddlebag volume register` and `saddlebag volume create`.
#[derive(Debug, Clone, Args)]
pub struct DefinitionArgs {
    /// A file with one volume block; - for standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// How the answer is waited for and shown.
    #[command(flatten)]
    pub answer: AnswerArgs,
}

/// `saddlebag volume deregister`.
#[derive(Debug, Clone, Args)]
pub struct NameArgs {
    /// The volume's name
    #[arg(value_name = "NAME")]
    pub name: String,
    /// How the answer is waited for and shown.
    #[command(flatten)]
    pub answer: AnswerArgs,
}

/// `saddlebag volume delete`.
#[derive(Debug, Clone, Args)]
pub struct DeleteArgs {
    /// The volume's name
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Also where nobody has defined it: the directory of that name on the dynamic backend
    #[arg(long)]
    pub dynamic: bool,
    /// How the answer is waited for and shown.
    #[command(flatten)]
    pub answer: AnswerArgs,
}

/// `saddlebag volume list`.
#[derive(Debug, Clone, Args)]
pub struct ListArgs {
    /// Print all that is known as JSON
    #[arg(long)]
    pub json: bool,
    /// Where the agent is.
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// `saddlebag volume status`.
#[derive(Debug, Clone, Args)]
pub struct VolumeStatusArgs {
    /// The volume's name
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Print it as JSON
    #[arg(long)]
    pub json: bool,
    /// Where the agent is.
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// What attaching and detaching have in common.
#[derive(Debug, Clone, Args)]
pub struct OrderArgs {
    /// The allocation's id, or its first characters (at least 4)
    #[arg(value_name = "ALLOC")]
    pub alloc: String,
    /// The task; may be given several times [default: to attach, the only task that runs; to detach, every task that has
    /// the volume]
    #[arg(long, value_name = "NAME")]
    pub task: Vec<String>,
    /// How long to wait for the agent and for the volume, in all
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
    /// Print what was done as JSON
    #[arg(long)]
    pub json: bool,
    /// Where the agent is.
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// `saddlebag volume attach`.
#[derive(Debug, Clone, Args)]
pub struct AttachArgs {
    /// What attaching and detaching have in common.
    #[command(flatten)]
    pub order: OrderArgs,
    /// The volume's name, or a URL that the agent's configuration allows
    #[arg(value_name = "VOLUME")]
    pub volume: String,
    /// A label to know it by [default: the volume's name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Where, below the task's directory [default: local/NAME]
    #[arg(long, value_name = "PATH")]
    pub destination: Option<String>,
    /// Read-only, whatever the volume's definition allows
    #[arg(long)]
    pub read_only: bool,
    /// What to do when the mount is lost under the task
    #[arg(long, value_name = "WHAT", default_value = "reattach")]
    pub on_failure: WhenLost,
}

/// What is done when a mount is lost under its task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WhenLost {
    /// Mount it again under the running task.
    Reattach,
    /// And have Nomad restart the task.
    Restart,
    /// Have Nomad stop the allocation and place it anew.
    Fail,
}

/// `saddlebag volume detach`.
#[derive(Debug, Clone, Args)]
pub struct DetachArgs {
    /// What attaching and detaching have in common.
    #[command(flatten)]
    pub order: OrderArgs,
    /// The volume's label, or its path below the task's directory
    #[arg(value_name = "VOLUME")]
    pub volume: String,
    /// Also while processes have it open; what these have open they keep
    #[arg(long)]
    pub force: bool,
}
