//! A stand-in for the command line, for the guard's tests: `saddlebag guard --run-dir DIR [--keeper]`.

use std::process::ExitCode;

use saddlebag::guard::{GuardOptions, run};

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let mut options = GuardOptions { run_dir: "/run/saddlebag".into(), keeper: false };
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("guard") => {}
            Some("--keeper") => options.keeper = true,
            Some("--run-dir") => options.run_dir = args.next().unwrap_or_default().into(),
            _ => return ExitCode::from(64),
        }
    }
    match run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}: {:?}", std::error::Error::source(&error));
            ExitCode::FAILURE
        }
    }
}
