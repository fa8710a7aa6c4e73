//! What Prometheus' node_exporter makes of the watcher's metrics.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use support::sendmail::{program, wait_for};

use crate::site::{Site, Watcher};

const FILE: &str = "prom/mailaffinity.prom";

/// It reads what is in a folder whenever it is asked.
struct NodeExporter {
    child: Child,
    address: SocketAddr,
}

impl NodeExporter {
    fn start(folder: &Path) -> NodeExporter {
        let mut child = Command::new(program(&["prometheus-node-exporter"], "prometheus-node-exporter"))
            .args(["--collector.disable-defaults", "--collector.textfile"])
            .arg(format!("--collector.textfile.directory={}", folder.display()))
            .arg("--web.listen-address=127.0.0.1:0")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap())
            .lines()
            .map(Result::unwrap);
        let address = lines.find_map(|line| {
            let (_, address) = line.split_once("address=127.0.0.1:")?;
            Some(([127, 0, 0, 1], address.trim_matches('"').parse().ok()?).into())
        });
        thread::spawn(move || lines.for_each(drop));
        let address = address.expect("it listens");
        NodeExporter { child, address }
    }

    /// What Prometheus gets of it: of mailaffinity, and how well the file could be read.
    fn scrape(&self) -> BTreeMap<String, String> {
        let mut connection = TcpStream::connect(self.address).unwrap();
        connection.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.0 200 "), "{answer}");
        let lines = answer.lines().filter_map(|line| line.rsplit_once(' '));
        let ours = lines.filter(|(name, _)| name.contains("mailaffinity") || name.contains("_scrape_error"));
        ours.map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }
}

impl Drop for NodeExporter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn node_exporter_has_them() {
    let site = Site::new();
    let odd = "no\"de\\4{}";
    fs::write(site.path("up").join(odd), "").unwrap();
    fs::create_dir(site.path("prom")).unwrap();
    let configuration = site
        .checked_by_files()
        .set_path("watch.metrics", site.path(FILE))
        .set("watch.falls_per_hour", 2)
        .set("watch.on_change", vec![vec!["/bin/true".to_owned()]]);
    // It has no users.
    let node = format!("[[node]]\nname = '{odd}'\naddress = \"127.0.0.4\"\nvhost_count = 0\n");
    site.site.configure(format!("{configuration}\n{node}"));
    let exporter = NodeExporter::start(&site.path("prom"));
    let watcher = Watcher::start(&site);
    site.wait_for_map();
    let metric = |name: &str| exporter.scrape().get(name).cloned();
    let wait_for_metric = |name: &str, value: &str| {
        wait_for(&format!("{name} {value}"), || {
            metric(name).as_deref() == Some(value)
        });
    };
    let of = |name: &str, node: &str| format!("mailaffinity_{name}{{node=\"{node}\"}}");
    wait_for_metric("mailaffinity_update_success", "1");
    let found = exporter.scrape();
    assert_eq!(found["node_textfile_scrape_error"], "0", "{found:#?}");
    assert_eq!(found[&of("node_up", "node2")], "1");
    assert_eq!(found[&of("node_up", "no\\\"de\\\\4{}")], "1", "{found:#?}");
    assert_eq!(found[&of("node_falls_total", "node2")], "0");
    assert_eq!(found["mailaffinity_problems"], "0");
    assert_eq!(found["# TYPE mailaffinity_node_falls_total"], "counter");
    assert!(!found.contains_key(&of("node_since_timestamp_seconds", "node2")));

    // As soon as something changes.
    for falls in ["1", "2"] {
        site.set_up(2, false);
        wait_for_metric(&of("node_falls_total", "node2"), falls);
        let since = site.site.state().mark_of("node2").unwrap().since.unwrap();
        let written: f64 = metric(&of("node_since_timestamp_seconds", "node2"))
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(written, since.as_second() as f64);
        assert_eq!(metric(&of("node_up", "node2")).as_deref(), Some("0"));
        site.set_up(2, true);
        if falls == "1" {
            wait_for_metric(&of("node_up", "node2"), "1");
        }
    }
    wait_for_metric("mailaffinity_problems", "1");
    let (user, node) = match &*site.computed()["user1"] {
        "node1group" => ("user1", "node3"),
        _ => ("user1", "node1"),
    };
    site.site.must(&["move", user, node]);
    wait_for_metric(&of("node_moved_users", node), "1");
    let steps = ["node_state", "update", "on_change"];
    wait_for("each step", || {
        let found = exporter.scrape();
        let step = |step: &str| found.contains_key(&format!("mailaffinity_step_seconds{{step=\"{step}\"}}"));
        steps.into_iter().all(step)
    });

    // Each of them is on its page.
    let page = fs::read_to_string("doc/watch.md").unwrap();
    let found = exporter.scrape();
    let ours = found
        .keys()
        .filter_map(|name| name.strip_prefix("# TYPE mailaffinity_"));
    let ours: Vec<&str> = ours.collect();
    for name in &ours {
        assert!(page.contains(&format!("`mailaffinity_{name}")), "{name}");
    }
    let text = fs::read_to_string(site.path(FILE)).unwrap();
    assert_eq!(text.matches("# TYPE ").count(), ours.len());

    // A folder that is not there is told, and nothing else waits for it.
    fs::remove_dir_all(site.path("prom")).unwrap();
    site.site.must(&["down", "node3"]);
    site.wait_for_problem("metrics: ");
    fs::create_dir(site.path("prom")).unwrap();
    site.site.must(&["auto", "node3"]);
    wait_for_metric(&of("node_up", "node3"), "1");
    let names = fs::read_dir(site.path("prom")).unwrap();
    assert_eq!(names.count(), 1, "nothing is left beside it");
    assert!(watcher.end().contains("metrics: "));
}
