//! The program: run the command, print the error, choose the exit code.

fn main() -> std::process::ExitCode {
    brooklet::cli::main(std::env::args_os())
}
