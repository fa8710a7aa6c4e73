//! What whole logins through a proxy take: with a passdb that always names one node, which is
//! the floor, with ours, and with a script over SQL. `make bench` runs it.

use std::array;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::slice;
use std::thread;
use std::time::Instant;

use mailaffinity::config::Config;
use mailaffinity::node_state::NodeState;
use support::clients::{Protocol, log_in};
use support::configuration::{Configuration, Node};
use support::machines::{Machine, NETWORK, Network, PASSWORD, SHARED};
use support::namespace;

use crate::home::Logs;

/// Of the cluster: each has a row in the table.
const USERS: usize = 1_000_000;
const WARM_UP: usize = 30;
/// Logins one after the other, in turns through each proxy.
const LOGINS: usize = 500;
/// Rounds in which several log in at once through each proxy.
const ROUNDS: usize = 15;
const CLIENTS: usize = 8;
const OF_A_CLIENT: usize = 6;

const PROXIES: [&str; 3] = ["passdb static", "mailaffinity", "Lua over SQL"];

const NODE: &str = "
login_trusted_networks = 10.24.0.0/24
service imap-login {
  restart_request_count = unlimited
  client_limit = 1000
  process_min_avail = 2
}
";

/// What all have but for the lookup. Without TLS to the node, which takes longer than all else.
const PROXY: &str = "
login_trusted_networks = 10.24.0.0/24
login_proxy_max_reconnects = 0
login_proxy_timeout = 60s
service imap-login {
  restart_request_count = unlimited
  client_limit = 1000
}
";

const STATIC: &str = "
passdb static {
  fields {
    proxy = y
    host = node1.example.org
    hostip = 10.24.0.1
    proxy_no_multiplex = y
  }
}
";

const MAILAFFINITY: &str = "
passdb static {
  result_success = continue-ok
}
!include /usr/share/mailaffinity/mailaffinity-proxy.conf
passdb mailaffinity {
  lua_settings {
    starttls = no
  }
}
";

const SQL: &str = "
passdb static {
  result_success = continue-ok
}
passdb lua {
  skip = unauthenticated
  lua_file = /srv/cluster/sql.lua
  result_internalfail = return-fail
}
";

/// As sites write it.
const SQL_SCRIPT: &str = r#"
local DBI = require "DBI"
local database, query

function script_init()
  database = assert(DBI.Connect("SQLite3", "/srv/cluster/hosts.sqlite"))
  query = assert(database:prepare("SELECT host, ip FROM hosts WHERE user = ?"))
  return 0
end

function auth_password_verify(request)
  query:execute(request.user)
  local row = query:fetch(true)
  if not row then return dovecot.auth.PASSDB_RESULT_USER_UNKNOWN, "no host" end
  return dovecot.auth.PASSDB_RESULT_OK, {
    noauthenticate = "y", proxy = "y", host = row.host, hostip = row.ip, proxy_no_multiplex = "y",
  }
end
"#;

/// The users of node1, who all go there through whichever proxy: only the lookup differs.
fn users_of_node1(configuration: &Configuration, table: &Path) -> Vec<String> {
    let config = Config::parse(&configuration.to_string(), Path::new("mailaffinity.toml")).unwrap();
    let cluster = config.cluster(&NodeState::default()).unwrap();
    let mut sql = BufWriter::new(File::create(table).unwrap());
    writeln!(
        sql,
        "BEGIN; CREATE TABLE hosts (user TEXT PRIMARY KEY, host TEXT, ip TEXT);"
    )
    .unwrap();
    let mut of_node1 = Vec::new();
    for user in (0..USERS).map(|number| format!("user{number}")) {
        let index = cluster
            .index_of_hash(config.hash_of(user.as_bytes()).unwrap(), "")
            .unwrap();
        let node = index + 1;
        writeln!(
            sql,
            "INSERT INTO hosts VALUES ('{user}', 'node{node}.example.org', '{NETWORK}.{node}');"
        )
        .unwrap();
        if index == 0 {
            of_node1.push(user);
        }
    }
    writeln!(sql, "COMMIT;").unwrap();
    sql.into_inner().unwrap();
    of_node1
}

/// In milliseconds.
fn time(work: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    work();
    begun.elapsed().as_secs_f64() * 1e3
}

fn of_sorted(times: &[f64], part: f64) -> f64 {
    times[((times.len() - 1) as f64 * part).round() as usize]
}

/// The median of what each took beside the first, round by round.
fn ratio(times: &[Vec<f64>; 3], which: usize) -> f64 {
    let mut ratios: Vec<f64> = times[which]
        .iter()
        .zip(&times[0])
        .map(|(own, floor)| own / floor)
        .collect();
    ratios.sort_unstable_by(f64::total_cmp);
    of_sorted(&ratios, 0.5)
}

fn print(what: &str, times: &[Vec<f64>; 3]) {
    println!("{what}");
    let sorted = times.clone().map(|mut times| {
        times.sort_unstable_by(f64::total_cmp);
        times
    });
    for (which, name) in PROXIES.iter().enumerate() {
        let [median, p95] = [0.5, 0.95].map(|part| of_sorted(&sorted[which], part));
        let [of_median, of_rounds] = [median / of_sorted(&sorted[0], 0.5), ratio(times, which)];
        println!(
            "  {name:14} median {median:7.2} ms   p95 {p95:7.2} ms   {of_median:.2}   of rounds {of_rounds:.2}"
        );
    }
}

#[test]
#[ignore = "a benchmark, for root"]
fn of_logins() {
    namespace::run_with_network("bench::of_logins", || {
        let network = Network::new();
        let configuration = Configuration::of(
            (1..=3).map(|number| Node::numbered(number, NETWORK).host(&format!("node{number}.example.org"))),
        );
        network.configure(&configuration);
        let node = network.start("node1", 1);
        node.start_dovecot(NODE);
        let users = users_of_node1(&configuration, &network.shared("hosts.sql"));
        node.run(
            "sh",
            &[
                "-c",
                &format!("sqlite3 {SHARED}/hosts.sqlite <{SHARED}/hosts.sql"),
            ],
        );
        fs::write(network.shared("sql.lua"), SQL_SCRIPT).unwrap();
        let proxies: [Machine; 3] = array::from_fn(|which| {
            let proxy = network.start(&format!("proxy{which}"), 11 + which as u8);
            proxy.start_dovecot(&format!("{}{PROXY}", [STATIC, MAILAFFINITY, SQL][which]));
            proxy
        });
        let log_in_at = |proxy: &Machine, user: &str| {
            log_in(Protocol::Imap, proxy.address(), user, PASSWORD)
                .unwrap_or_else(|error| panic!("{user}: {error}"));
        };
        // Nobody comes twice.
        let mut users = users.iter();
        let mut next = || users.next().unwrap().as_str();
        for proxy in &proxies {
            (0..WARM_UP).for_each(|_| log_in_at(proxy, next()));
        }

        let mut one = [(); 3].map(|()| Vec::new());
        for turn in 0..LOGINS {
            for place in 0..3 {
                let which = (turn + place) % 3;
                let user = next();
                one[which].push(time(|| log_in_at(&proxies[which], user)));
            }
        }
        print("an IMAP login through a proxy, of 1,000,000 users", &one);

        let mut many = [(); 3].map(|()| Vec::new());
        for turn in 0..ROUNDS {
            for place in 0..3 {
                let which = (turn + place) % 3;
                let clients: Vec<Vec<&str>> = (0..CLIENTS)
                    .map(|_| (0..OF_A_CLIENT).map(|_| next()).collect())
                    .collect();
                let all = time(|| {
                    thread::scope(|scope| {
                        for client in clients {
                            let proxy = &proxies[which];
                            scope.spawn(move || client.into_iter().for_each(|user| log_in_at(proxy, user)));
                        }
                    });
                });
                many[which].push(all / (CLIENTS * OF_A_CLIENT) as f64);
            }
        }
        print("each of many, by 8 clients at once", &many);

        let all = 3 * (WARM_UP + LOGINS + ROUNDS * CLIENTS * OF_A_CLIENT);
        let landed = Logs::of(slice::from_ref(&node)).landed(all);
        assert_eq!(landed.len(), all, "not all landed on node1");
    });
}
