//! The `saddlebag` program: everything it does is in the library, so that tests reach it.

use std::process::ExitCode;

fn main() -> ExitCode {
    saddlebag::cli::run(std::env::args_os())
}
