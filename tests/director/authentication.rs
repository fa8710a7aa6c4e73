//! What authentication makes of a name: only a login shows it, and `mailaffinity agreement`
//! finds it out by one.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;
use support::configuration::{Configuration, Node};
use support::director::{Director, Settings};
use support::imap::{ImapNodes, PASSWORD};
use support::site::Site;

/// A Director that users can log in to by IMAP, and a site that holds itself against it.
struct Peers {
    director: Director,
    nodes: ImapNodes,
    site: Site,
}

impl Peers {
    fn start(passdb: &str, more: &[(&str, &str)]) -> Peers {
        let nodes = ImapNodes::start(3);
        let [one, two, three] = [0, 1, 2].map(|node| ImapNodes::address(node).to_string());
        let director = Director::start(Settings {
            mail_servers: &format!("{one} {two} {three}@far"),
            imap: true,
            imap_port: nodes.port(),
            passdb: &format!("password={PASSWORD} {passdb}"),
            more,
            ..Settings::default()
        });
        let site = Site::new();
        fs::write(site.path("password"), PASSWORD).unwrap();
        fs::set_permissions(site.path("password"), Permissions::from_mode(0o600)).unwrap();
        fs::write(site.path("users"), "anna\nbert\n").unwrap();
        Peers {
            director,
            nodes,
            site,
        }
    }

    /// What `agreement` finds wrong about the Director, with these keys of the
    /// configuration and a test login by this name.
    fn problems(&self, user: &str, keys: &[(&str, &str)]) -> Vec<String> {
        let nodes = (0..3).map(|node| {
            let address = ImapNodes::address(node).to_string();
            let tag = if node == 2 { "far" } else { "" };
            Node::new(&format!("node{node}"), &address).tag(tag)
        });
        let configuration = Configuration::of(nodes)
            .users(self.site.path("users"))
            .set("sendmail.command", vec!["/bin/false"])
            .set_path("agreement.director", self.director.admin_socket())
            .set_path("agreement.login_imap", self.director.socket("imap"))
            .set_path("agreement.login_password_file", self.site.path("password"))
            .set("agreement.login_user", user);
        let configuration = keys
            .iter()
            .fold(configuration, |all, (name, value)| all.set(name, *value));
        self.site.configure(configuration);
        let output = self.site.run(&["agreement", "--json"], b"");
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        let rows = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        let row = rows.into_iter().find(|row| row["part"] == "Director");
        let row = row.unwrap_or_else(|| panic!("{output:?}"));
        assert_eq!(row["differ"], 0, "{row:#}");
        let problems = row["problems"].as_array().unwrap().iter();
        problems
            .map(|problem| problem.as_str().unwrap().to_owned())
            .collect()
    }

    #[track_caller]
    fn finds(&self, user: &str, keys: &[(&str, &str)], words: &str) {
        match &self.problems(user, keys)[..] {
            [one] if one.contains(words) => {}
            other => panic!("{words}: {other:?}\n{}", self.director.log()),
        }
    }

    #[track_caller]
    fn finds_nothing(&self, user: &str, keys: &[(&str, &str)]) {
        assert_eq!(self.problems(user, keys), [""; 0], "{}", self.director.log());
    }
}

#[test]
fn a_test_login_shows_the_format() {
    let peers = Peers::start("", &[("auth_username_format", "%Ln")]);
    let user = "Anna@example.org";
    peers.finds(
        user,
        &[],
        "test login of Anna@example.org: the Director has the user as by auth_username_format = %Ln, while the \
         configuration has auth_username_format = \"%Lu\"",
    );
    // The user is in the table by now, and each further login shows all the same.
    for _ in 0..2 {
        peers.finds_nothing(user, &[("auth_username_format", "%Ln")]);
    }
    peers.finds_nothing("bert", &[]);
}

#[test]
fn a_test_login_shows_what_no_format_says() {
    let peers = Peers::start("user=u1001", &[]);
    peers.finds(
        "anna",
        &[],
        "no user anna came to the Director: authentication makes another name",
    );
    peers.finds_nothing("U1001", &[]);
}

#[test]
fn a_test_login_goes_by_the_master_user() {
    let peers = Peers::start("", &[("auth_master_user_separator", "*")]);
    let user = "anna*admin";
    peers.finds(user, &[], "no user anna*admin came to the Director");
    peers.finds_nothing(user, &[("auth_master_user_separator", "*")]);
}

#[test]
fn a_test_login_that_cannot_be_says_why() {
    let peers = Peers::start("", &[]);
    let password = peers.site.path("password");
    fs::write(&password, "wrong\n").unwrap();
    peers.finds("anna", &[], "login_user or the password is wrong");
    let at_node = format!("{}:{}", ImapNodes::address(0), peers.nodes.port());
    peers.finds(
        "anna",
        &[("agreement.login_imap", &at_node)],
        "login_user or the password is wrong",
    );
    let nobody = [("agreement.login_imap", "/nonexistent/imap")];
    peers.finds("anna", &nobody, "/nonexistent/imap: No such file");
    fs::set_permissions(&password, Permissions::from_mode(0o640)).unwrap();
    peers.finds(
        "anna",
        &[],
        "others than its owner can read the password; chmod 600 it",
    );
}

/// Those who are logged in show it too.
#[test]
fn the_table_shows_the_format() {
    let mut peers = Peers::start("", &[("auth_username_format", "%Ln")]);
    fs::write(
        peers.site.path("users"),
        "anna@example.org\nbert@example.org\ncarla@example.org\n",
    )
    .unwrap();
    for user in ["anna@example.org", "Bert@example.org"] {
        peers.director.log_in_anew(user.as_bytes());
    }
    let words = "the Director's table has 2 of these users as by auth_username_format = %Ln, and 0 as by the \
                 configuration's auth_username_format = \"%Lu\"";
    peers.finds("dieter", &[], words);
    peers.finds_nothing("dieter", &[("auth_username_format", "%Ln")]);
}

/// `USER-LOOKUP` is told a tag, and a login has that of the passdb.
#[test]
fn users_with_another_tag_are_seen() {
    let mut peers = Peers::start("director_tag=far", &[]);
    peers.finds("carla", &[], "test login of carla: the Director has the user on");
    let far = peers.director.log_in_anew(b"Anna");
    assert_eq!(far, ImapNodes::address(2).to_string());
    let problems = peers.problems("carla", &[]);
    let [tags, login] = &problems[..] else {
        panic!("{problems:?}")
    };
    let words = format!(
        "the Director has 1 of these users with another tag than \"\", such as anna on {far} with the tag \"far\""
    );
    assert!(tags.contains(&words), "{tags}");
    assert!(login.contains("with the tag \"far\", and not on"), "{login}");
    let far = [("tag", "far")];
    peers.finds_nothing("carla", &far);
}
