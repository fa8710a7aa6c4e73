//! The command `mailaffinity`.

fn main() -> std::process::ExitCode {
    mailaffinity_cli::mailaffinity()
}
