//! A browser, as far as it takes to log in: forms, cookies, and redirections.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

/// Far more than any page takes: reached only when something hangs.
const DEADLINE: Duration = Duration::from_secs(60);

/// A browser that talks to one web server on this machine.
pub(crate) struct Browser {
    port: u16,
    cookies: BTreeMap<String, String>,
}

#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) status: u16,
    /// Where it was found in the end.
    pub(crate) path: String,
    pub(crate) body: String,
}

impl Browser {
    pub(crate) fn new(port: u16) -> Browser {
        Browser {
            port,
            cookies: BTreeMap::new(),
        }
    }

    /// A page, or that to which it redirects.
    #[track_caller]
    pub(crate) fn get(&mut self, path: &str) -> Page {
        self.follow("GET", path, "")
    }

    /// The page that answers a form, or that to which it redirects.
    #[track_caller]
    pub(crate) fn post(&mut self, path: &str, form: &[(&str, &str)]) -> Page {
        let fields: Vec<String> = form
            .iter()
            .map(|(name, value)| format!("{}={}", encoded(name), encoded(value)))
            .collect();
        self.follow("POST", path, &fields.join("&"))
    }

    /// The text at a path, if a web server gives one.
    pub(crate) fn get_if_served(&mut self, path: &str) -> Option<String> {
        let answer = self.request("GET", path, "").ok()?;
        (answer.status == 200).then_some(answer.body)
    }

    #[track_caller]
    fn follow(&mut self, method: &str, path: &str, body: &str) -> Page {
        let (mut method, mut path, mut body) = (method, path.to_owned(), body);
        for _ in 0..10 {
            let answer = self
                .request(method, &path, body)
                .unwrap_or_else(|error| panic!("{method} {path}: {error}"));
            match answer.location {
                Some(location) => path = resolved(&path, &location),
                None => {
                    return Page {
                        status: answer.status,
                        path,
                        body: answer.body,
                    };
                }
            }
            (method, body) = ("GET", "");
        }
        panic!("{path} redirects for ever");
    }

    /// One request. HTTP 1.0, so that the body ends with the connection.
    fn request(&mut self, method: &str, path: &str, body: &str) -> io::Result<Answer> {
        let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        connection.set_read_timeout(Some(DEADLINE))?;
        let mut head = format!("{method} {path} HTTP/1.0\r\nHost: 127.0.0.1:{}\r\n", self.port);
        if method == "POST" {
            write!(
                head,
                "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n",
                body.len()
            )
            .unwrap();
        }
        if !self.cookies.is_empty() {
            let cookies: Vec<String> = self
                .cookies
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            write!(head, "Cookie: {}\r\n", cookies.join("; ")).unwrap();
        }
        connection.write_all(format!("{head}\r\n{body}").as_bytes())?;
        let mut bytes = Vec::new();
        connection.read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let lost = || io::Error::other(format!("no whole answer: {text:?}"));
        let (head, body) = text.split_once("\r\n\r\n").ok_or_else(lost)?;
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let mut location = None;
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap_or((line, ""));
            match name.to_ascii_lowercase().as_str() {
                "location" => location = Some(value.to_owned()),
                "set-cookie" => self.set_cookie(value),
                _ => {}
            }
        }
        Ok(Answer {
            status: status.ok_or_else(lost)?,
            location,
            body: body.to_owned(),
        })
    }

    fn set_cookie(&mut self, cookie: &str) {
        let (pair, attributes) = cookie.split_once(';').unwrap_or((cookie, ""));
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let ends = attributes.to_ascii_lowercase().contains("max-age=0");
        match ends || ["", "deleted", "-del-"].contains(&value) {
            true => self.cookies.remove(name),
            false => self.cookies.insert(name.to_owned(), value.to_owned()),
        };
    }
}

impl Page {
    /// The value of a form's field.
    #[track_caller]
    pub(crate) fn field(&self, name: &str) -> &str {
        let tag = self
            .body
            .split('<')
            .find(|tag| tag.starts_with("input") && tag.contains(&format!("name=\"{name}\"")))
            .unwrap_or_else(|| panic!("no field {name} in {self:?}"));
        let (_, value) = tag.split_once("value=\"").expect("a value");
        value.split('"').next().expect("a value")
    }
}

struct Answer {
    status: u16,
    location: Option<String>,
    body: String,
}

/// As a form is encoded.
pub(crate) fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// The path of a redirection from a page.
fn resolved(from: &str, location: &str) -> String {
    if let Some((_, rest)) = location.split_once("://") {
        let (_, path) = rest.split_once('/').unwrap_or((rest, ""));
        return format!("/{path}");
    }
    if location.starts_with('/') {
        return location.to_owned();
    }
    let folder = from.split('?').next().unwrap_or(from);
    let (folder, _) = folder.rsplit_once('/').unwrap_or(("", ""));
    format!("{folder}/{}", location.trim_start_matches("./"))
}
