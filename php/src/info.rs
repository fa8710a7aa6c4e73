//! The module's table in `phpinfo()`.

use ext_php_rs::zend::ModuleEntry;
use ext_php_rs::{info_table_end, info_table_header, info_table_row, info_table_start};
use mailaffinity::panic;
use mailaffinity::site::InForce;

use crate::ffi::display_ini_entries;
use crate::site::Answer;
use crate::{ini, log, site};

/// Prints the table. PHP calls it for `phpinfo()` and `php --ri mailaffinity`.
pub(crate) extern "C" fn print(module: *mut ModuleEntry) {
    // A panic here would end PHP: nothing else catches it.
    let rows = panic::guarded(rows).unwrap_or_else(|bug| vec![("Problem", bug)]);
    print_table(&rows);
    // SAFETY: PHP gives the module that it asks about.
    unsafe { display_ini_entries(module) };
}

/// Whose rules the strategies follow.
const MAPPING_RULES: &str = "Dovecot Director 2.3.19.1 (ring), 2.2.36 (modulo)";

type Row = (&'static str, String);

fn rows() -> Vec<Row> {
    let Answer { value, problems } = site::ask(|in_force, _| site_rows(in_force));
    let good = value.is_some() && problems.is_empty();
    let mut rows = vec![
        ("Version", env!("CARGO_PKG_VERSION").into()),
        ("Mapping rules", MAPPING_RULES.into()),
        ("Configuration", ini::config_path().display().to_string()),
        ("Configuration is good", if good { "yes" } else { "no" }.into()),
    ];
    rows.extend(problems.into_iter().map(|problem| ("Problem", problem)));
    rows.extend(value.into_iter().flatten());
    let (fallback, problem) = ini::fallback_host();
    rows.push(("Fallback host", fallback));
    rows.extend(problem.map(|problem| ("Problem", problem)));
    rows
}

fn site_rows(in_force: &InForce) -> Vec<Row> {
    let config = &in_force.config;
    let (down, up): (Vec<&str>, Vec<&str>) = config
        .nodes
        .iter()
        .map(|node| node.node.name.as_str())
        .partition(|name| in_force.state.is_down(name));
    let map = config.access_map.as_ref().map_or("none", |map| map.map.spec());
    vec![
        ("Strategy", config.strategy.to_string()),
        (
            "Username hash",
            config.username_hash.format().escape_ascii().to_string(),
        ),
        ("Nodes up", list(&up)),
        ("Nodes down", list(&down)),
        ("Access map", map.into()),
    ]
}

fn list(names: &[&str]) -> String {
    if names.is_empty() {
        "none".into()
    } else {
        names.join(", ")
    }
}

fn print_table(rows: &[Row]) {
    info_table_start!();
    info_table_header!("User/node affinity", "enabled");
    for (name, value) in rows {
        info_table_row!(*name, log::printable(value));
    }
    info_table_end!();
}
