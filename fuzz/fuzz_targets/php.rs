//! What anybody posts, or PHP makes of it, gets of the PHP function the host that the library
//! says: nothing is thrown or printed. PHP runs beside this program, with the module of
//! `MAILAFFINITY_PHP_MODULE`, and is told a value a time.
#![no_main]

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::{env, fs};

use libfuzzer_sys::arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use mailaffinity::site::Site;

const FALLBACK: &str = "fallback.example.org";

/// Reads a kind, a length and a value; says whether it is a scalar, PHP's own text of it,
/// the host, and what went wrong.
const SCRIPT: &str = r#"
set_error_handler(function (int $level, string $message) { throw new ErrorException($message); });
function text(string $text): void { echo pack('P', strlen($text)), $text; }
while (strlen($head = fread(STDIN, 9)) === 9) {
    $value = stream_get_contents(STDIN, unpack('P', $head, 1)[1]);
    $posted = [];
    switch ($head[0]) {
        case 'i': $value = unpack('q', $value)[1]; break;
        case 'd': $value = unpack('e', $value)[1]; break;
        case 'b': $value = $value !== ''; break;
        case 'k': $value = array_key_first([$value => '']); break;
        case 'n': $value = null; break;
        case 'o': $value = new ArrayObject([$value]); break;
        // A form: user=anna, user[]=1, user[a][b]=2 and worse.
        case 'f': @parse_str($value, $posted); $value = $posted['user'] ?? null; break;
    }
    $problem = '';
    ob_start();
    try {
        $host = map_user_via_sendmail_access($value);
    } catch (Throwable $thrown) {
        [$host, $problem] = ['', get_class($thrown) . ': ' . $thrown->getMessage()];
    }
    $problem .= ob_get_clean();
    $is_scalar = is_scalar($value);
    echo $is_scalar ? 's' : 'o';
    text($is_scalar ? (string) $value : '');
    text($host);
    text($problem);
    flush();
}
"#;

/// Three nodes, one of them down; names as authentication leaves them; and a map.
fn files(folder: &Path) -> PathBuf {
    let (config, state, map) = (
        folder.join("mailaffinity.toml"),
        folder.join("nodes.toml"),
        folder.join("access"),
    );
    fs::create_dir_all(folder).expect("a folder");
    let nodes: String = (1..=3)
        .map(|node| {
            let host = if node == 3 { "2001:db8::3".into() } else { format!("node{node}.example.org") };
            format!("[[node]]\nname = \"node{node}\"\naddress = \"10.0.0.{node}\"\nhost = \"{host}\"\nqueue_group = \"group{node}\"\n")
        })
        .collect();
    let text = format!(
        "node_state = {state:?}\nauth_username_format = \"%Lu\"\nauth_master_user_separator = \"*\"\n\
         username_hash = \"%Ln\"\n[access_map]\nmap = \"text:{}\"\n{nodes}",
        map.display()
    );
    let entries = "QGRP:anna@\tgroup1\nQGRP:bert@\tgroup2\nQGRP:1@\tgroup3\nQGRP:example.org\tgroup1\n\
                   QGRP:carl+*@\tgroup3\nQGRP:dora@\tnowhere\n";
    fs::write(&config, text).expect("write");
    fs::write(&state, "[node.node2]\nstate = \"down\"\n").expect("write");
    fs::write(&map, entries).expect("write");
    config
}

/// PHP, and the library for the same files.
struct Edges {
    _php: Child,
    to: ChildStdin,
    from: ChildStdout,
    site: Site,
}

static EDGES: LazyLock<Mutex<Edges>> = LazyLock::new(|| {
    let folder = env::current_exe().expect("a path").with_extension("tmp");
    let config = files(&folder);
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../php/target/release/libmailaffinity_php.so");
    let module = env::var_os("MAILAFFINITY_PHP_MODULE").map_or(built, PathBuf::from);
    let mut php = Command::new(env::var_os("PHP").unwrap_or_else(|| "php".into()))
        .arg("-n")
        .args(["-d", &format!("extension={}", module.display())])
        .args(["-d", &format!("mailaffinity.config={}", config.display())])
        .args(["-d", &format!("mailaffinity.fallback={FALLBACK}")])
        .args(["-d", &format!("sys_temp_dir={}", folder.display())])
        .args(["-d", "error_log=/dev/null", "-r", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("run php");
    Mutex::new(Edges {
        to: php.stdin.take().expect("a pipe"),
        from: php.stdout.take().expect("a pipe"),
        _php: php,
        site: Site::new(config),
    })
});

impl Edges {
    fn read(&mut self) -> Vec<u8> {
        let mut length = [0; 8];
        self.from.read_exact(&mut length).expect("PHP has ended");
        let mut text = vec![0; u64::from_le_bytes(length) as usize];
        self.from.read_exact(&mut text).expect("PHP has ended");
        text
    }

    fn check(&mut self, kind: u8, value: &[u8]) {
        let length = (value.len() as u64).to_le_bytes();
        let question = [&[kind], &length[..], value].concat();
        self.to.write_all(&question).expect("PHP has ended");
        let mut is_scalar = [0];
        self.from.read_exact(&mut is_scalar).expect("PHP has ended");
        let (text, host, problem) = (self.read(), self.read(), self.read());
        assert!(problem.is_empty(), "{}", problem.escape_ascii());
        self.site.refresh();
        let node = self
            .site
            .in_force()
            .expect("the configuration is good")
            .node_of(&text, |_| ())
            .ok()
            .filter(|_| is_scalar == *b"s");
        let expected = node.map_or(FALLBACK, |node| &node.host);
        let expected = if expected.contains(':') {
            format!("[{expected}]")
        } else {
            expected.to_owned()
        };
        assert_eq!(host.escape_ascii().to_string(), expected);
        assert!(kind != b's' || text == value);
    }
}

/// A kind of value, and the bytes that it is made of.
fn value(mut input: Unstructured) -> Result<(u8, Vec<u8>)> {
    let kind = *input.choose(b"sssfffkidbon")?;
    Ok((
        kind,
        match kind {
            b'i' => i64::arbitrary(&mut input)?.to_ne_bytes().to_vec(),
            b'd' => f64::arbitrary(&mut input)?.to_le_bytes().to_vec(),
            b'n' => b"".to_vec(),
            b'b' => vec![b'1'; usize::from(bool::arbitrary(&mut input)?)],
            b'f' => [b"user", input.take_rest()].concat(),
            _ => input.take_rest().to_vec(),
        },
    ))
}

fuzz_target!(|input: &[u8]| {
    if let Ok((kind, value)) = value(Unstructured::new(input)) {
        let mut edges = EDGES.lock().unwrap_or_else(PoisonError::into_inner);
        edges.check(kind, &value);
    }
});
