//! The program: run the command, print the error, choose the exit code.

fn main() {}
