//! The command line: verbs, tables and exit codes.
//!
//! * [`args`] says what can be typed, and with it the help texts; [`argv`] lets Nomad's `-word` be typed for `--word`.
//! * [`exit`] is how a verb ends: a sentence, a hint, an exit code of sysexits.h.
//! * [`client`] asks the agent: one request, one bounded answer, one deadline.
//! * [`mount`] is what a prestart task runs; [`task_log`] puts its lines where `nomad alloc logs` finds them.
//! * [`status`] and [`explain`] show what the agent knows, [`watch`] each change of it; [`text`] and [`table`] are how they look.
//! * [`volume`] attaches volumes to tasks that run, and takes them away; [`volumes`] registers, creates, lists and deletes
//!   them.
//! * [`daemons`] starts the agent and the guard; [`logging`] is the agent's log, [`journal`] its way
//!   to systemd's.
//! * [`doctor`] shows what [`crate::doctor`] found.
//! * [`config`] and [`version`] answer on their own; [`pages`] writes what a package has of the command line.
//!
//! No verb but `agent`, `guard` and `doctor` touches a mount.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

pub mod args;
pub mod argv;
pub mod client;
pub mod config;
pub mod daemons;
pub mod doctor;
pub mod exit;
pub mod explain;
pub mod journal;
pub mod logging;
pub mod mount;
pub mod pages;
pub mod status;
pub mod table;
pub mod task_log;
pub mod text;
pub mod version;
pub mod volume;
pub mod volumes;
pub mod watch;

use args::{Cli, ConfigVerb, Verb, VolumeVerb};
use exit::{Failure, USAGE};

/// Does what the arguments say and gives the exit code; the first argument is the program's own name.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(argv::with_double_dashes(args)) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too: they go to stdout and are no error. A pipe that nobody reads any
            // more is no reason for another message.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { USAGE } else { 0 });
        }
    };
    let ended = match cli.verb {
        Verb::Mount(args) => return mount::run(args),
        Verb::Status(args) => status::run(args),
        Verb::Explain(args) => explain::run(args),
        Verb::Volume(args) => match args.verb {
            VolumeVerb::Register(args) => volumes::register(&args),
            VolumeVerb::Create(args) => volumes::create(&args),
            VolumeVerb::Deregister(args) => volumes::deregister(&args),
            VolumeVerb::Delete(args) => volumes::delete(&args),
            VolumeVerb::List(args) => volumes::list(&args),
            VolumeVerb::Status(args) => volumes::status(&args),
            VolumeVerb::Attach(args) => volume::attach(args),
            VolumeVerb::Detach(args) => volume::detach(args),
        },
        Verb::Agent(args) => daemons::run_agent(args),
        Verb::Guard(args) => daemons::run_guard(args),
        Verb::Probe(args) => daemons::run_probe(&args),
        Verb::Config(args) => match args.verb {
            ConfigVerb::Validate(args) => config::validate(&args),
        },
        Verb::Doctor(args) => return doctor::run(&args),
        Verb::Completion(args) => pages::write_completion(&args),
        Verb::Man(args) => pages::write_man_pages(&args),
        Verb::Version(args) => version::run(args),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            exit::eprint(&failure.to_string());
            ExitCode::from(failure.code)
        }
    }
}

/// What a verb gives back.
pub type Ended = Result<(), Failure>;
