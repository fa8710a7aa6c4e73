//! The command `hash_user_group`.

fn main() -> std::process::ExitCode {
    mailaffinity_cli::hash_user_group()
}
