//! Webmail: a PHP-FPM whose workers load pages as SquirrelMail does, all the time.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use support::built;
use support::machines::PASSWORD;
use support::php::{MODULE, VERSION};
use support::sendmail::{program, wait_for};
use tempfile::TempDir;

use super::site::node_at;

/// How long a page waits for its node, in seconds.
const PATIENCE: &str = "5";

/// Kinds of FastCGI's records.
const BEGIN: u8 = 1;
const END: u8 = 3;
const PARAMETERS: u8 = 4;
const INPUT: u8 = 5;
const OUTPUT: u8 = 6;

/// Where a page was loaded: the node that PHP was told, from which port, and what came of it.
pub(crate) type Loaded = (usize, u16, Result<(), String>);

/// A PHP-FPM. It ends with this.
pub(crate) struct Web {
    fpm: Child,
    folder: TempDir,
}

impl Web {
    /// Starts it with so many workers. `config` is mailaffinity's.
    pub(crate) fn start(config: &Path, workers: usize) -> Web {
        let folder = TempDir::with_prefix_in("web", built::tmp()).unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let text = format!(
            "[global]
error_log = {}
daemonize = no
[webmail]
user = root
group = root
listen = {}
pm = static
pm.max_children = {workers}
php_admin_value[mailaffinity.config] = {}
php_admin_value[error_log] = {}
php_admin_flag[log_errors] = on
",
            path("fpm.log"),
            path("socket"),
            config.display(),
            path("php.log"),
        );
        fs::write(path("fpm.conf"), text).unwrap();
        File::create(path("php.log")).unwrap();
        // Files of this site are for root alone.
        let fpm = program(&[&format!("php-fpm{}", *VERSION), "php-fpm"], "php-fpm");
        let fpm = Command::new(fpm)
            .args(["-n", "-R", "-F", "-y", &path("fpm.conf")])
            .args(["-d", &format!("extension={}", MODULE.display())])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let web = Web { fpm, folder };
        wait_for("PHP-FPM", || UnixStream::connect(web.socket()).is_ok());
        web
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// Loads a page of a user.
    pub(crate) fn load(&self, user: &str) -> Loaded {
        // That a worker is gone is in the log.
        let mut tries = (0..3).map(|_| self.ask(user));
        let text = tries.find_map(Result::ok).expect("PHP-FPM answers");
        let (_, line) = text.split_once("\r\n\r\n").unwrap_or_default();
        let words: Vec<&str> = line.trim_end().splitn(3, ' ').collect();
        let [host, port, said] = words[..] else {
            panic!("PHP: {text:?}")
        };
        let node = node_at(host).unwrap_or_else(|| panic!("PHP: {text:?}"));
        let result = match said {
            "loaded" => Ok(()),
            _ => Err(said.to_owned()),
        };
        (node, port.parse().expect("a port"), result)
    }

    /// What a web server says and hears, by FastCGI.
    fn ask(&self, user: &str) -> io::Result<String> {
        let script = built::root()
            .join("tests/dovecot_2_4/soak/pages.php")
            .canonicalize()?;
        let parameters = [
            ("REQUEST_METHOD", "GET"),
            ("SCRIPT_NAME", "/pages.php"),
            ("SCRIPT_FILENAME", script.to_str().expect("a path in UTF-8")),
            ("MAIL_USER", user),
            ("MAIL_PASSWORD", PASSWORD),
            ("PATIENCE", PATIENCE),
        ];
        let mut content = Vec::new();
        for (name, value) in parameters {
            for text in [name, value] {
                let length = u32::try_from(text.len()).expect("a short text") | 1 << 31;
                content.extend(length.to_be_bytes());
            }
            content.extend([name, value].concat().bytes());
        }
        let mut stream = UnixStream::connect(self.socket())?;
        // A responder, without more requests to come.
        let begin = [0, 1, 0, 0, 0, 0, 0, 0];
        for (kind, content) in [
            (BEGIN, &begin[..]),
            (PARAMETERS, &content),
            (PARAMETERS, &[]),
            (INPUT, &[]),
        ] {
            let [high, low] = u16::try_from(content.len()).expect("it is short").to_be_bytes();
            stream.write_all(&[&[1, kind, 0, 1, high, low, 0, 0], content].concat())?;
        }
        let mut said = Vec::new();
        loop {
            let mut header = [0; 8];
            stream.read_exact(&mut header)?;
            let [_, kind, _, _, high, low, padding, _] = header;
            let mut content = vec![0; usize::from(u16::from_be_bytes([high, low]))];
            stream.read_exact(&mut content)?;
            stream.read_exact(&mut vec![0; usize::from(padding)])?;
            match kind {
                OUTPUT => said.extend(content),
                END => return String::from_utf8(said).map_err(io::Error::other),
                _ => {}
            }
        }
    }

    /// Workers that died, and what PHP did not like.
    pub(crate) fn faults(&self) -> Vec<String> {
        let read = |name: &str| fs::read_to_string(self.folder.path().join(name)).unwrap();
        let (fpm, php) = (read("fpm.log"), read("php.log"));
        let died = fpm.lines().filter(|line| !line.contains("] NOTICE: "));
        // The module's own words are no errors of PHP's.
        let errors = php.lines().filter(|line| line.contains("] PHP "));
        died.chain(errors).map(str::to_owned).collect()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        let _ = self.fpm.kill();
        let _ = self.fpm.wait();
    }
}
