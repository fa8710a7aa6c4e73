//! The command `mailaffinity`.

fn main() -> std::process::ExitCode {
    mailaffinity::cli::mailaffinity()
}
