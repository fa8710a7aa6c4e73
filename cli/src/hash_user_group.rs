use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, ValueEnum};

use crate::exit::{self, Failure, Status};
use crate::names;
use mailaffinity::mapping::{MAX_VHOSTS, VnodeRing, modulo_vnode};

/// Print the vnode of each user among a number of vnodes
///
/// The two functions of hash_user_group.c (INFN-16-11/CCR): vnodes are numbered
/// from 0, and usernames are hashed as they stand. For the Director's own mapping,
/// which knows the hosts, see mailaffinity(1).
///
/// Each line of output is the user, a tab and the vnode.
#[derive(Parser)]
#[command(name = "hash_user_group", version, after_long_help = after_help())]
struct Arguments {
    /// Number of vnodes
    #[arg(long, short = 'n', value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_VHOSTS)))]
    vnodes: u32,

    /// How users are shared out: director_consistent_hashing yes (ring) or no (modulo)
    #[arg(long, short, value_enum, default_value_t = Strategy::Ring)]
    strategy: Strategy,

    /// Users; without any, one on each line of standard input
    users: Vec<OsString>,
}

fn after_help() -> String {
    format!(
        "\
{}
Examples:
  The vnodes of two users among three:
      hash_user_group --vnodes 3 anna bert
  How evenly the accounts of a system are shared out:
      getent passwd | cut -d: -f1 | hash_user_group --vnodes 3 | cut -f2 | sort | uniq -c",
        Status::help(&[Status::Usage, Status::IoError])
    )
}

#[derive(Clone, Copy, ValueEnum)]
enum Strategy {
    Ring,
    Modulo,
}

/// Its command line.
pub(crate) fn command() -> clap::Command {
    Arguments::command()
}

/// The command `hash_user_group`.
pub fn hash_user_group() -> ExitCode {
    exit::run(|arguments: Arguments| -> Result<ExitCode, Failure> {
        let Arguments {
            vnodes,
            strategy,
            users,
        } = arguments;
        let print = |vnode_of: &dyn Fn(&[u8]) -> Option<u32>| {
            names::print(|out| {
                let users = names::given(users);
                users.try_for_each(|user| names::write_line(out, user, vnode_of(user).as_slice()))
            })
        };
        match strategy {
            Strategy::Ring => {
                let ring = VnodeRing::new(vnodes);
                print(&|user| ring.vnode(user))
            }
            Strategy::Modulo => print(&|user| modulo_vnode(user, vnodes)),
        }
    })
}
