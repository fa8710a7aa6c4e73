//! The command `hash_user_group`.

fn main() -> std::process::ExitCode {
    mailaffinity::cli::hash_user_group()
}
