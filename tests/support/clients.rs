//! Who logs in to read mail, and who delivers it.

use std::io::{self, BufRead as _, BufReader, ErrorKind, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

/// Far more than anything here takes: reached only when something hangs.
const DEADLINE: Duration = Duration::from_secs(60);

const LMTP_PORT: u16 = 24;

/// The protocols that users log in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    Imap,
    Pop3,
    ManageSieve,
    Submission,
}

impl Protocol {
    pub const ALL: [Protocol; 4] = [
        Protocol::Imap,
        Protocol::Pop3,
        Protocol::ManageSieve,
        Protocol::Submission,
    ];

    pub fn port(self) -> u16 {
        match self {
            Protocol::Imap => 143,
            Protocol::Pop3 => 110,
            Protocol::ManageSieve => 4190,
            Protocol::Submission => 587,
        }
    }

    /// Dovecot's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Imap => "imap",
            Protocol::Pop3 => "pop3",
            Protocol::ManageSieve => "sieve",
            Protocol::Submission => "submission",
        }
    }

    fn ends_greeting(self, line: &str) -> bool {
        match self {
            Protocol::Imap | Protocol::Pop3 => true,
            Protocol::ManageSieve => line.starts_with("OK"),
            Protocol::Submission => line.starts_with("220 "),
        }
    }

    /// What logs in by SASL's PLAIN.
    fn command(self, response: &str) -> String {
        match self {
            Protocol::Imap => format!("a AUTHENTICATE PLAIN {response}\r\n"),
            Protocol::Pop3 => format!("AUTH PLAIN {response}\r\n"),
            Protocol::ManageSieve => format!("AUTHENTICATE \"PLAIN\" \"{response}\"\r\n"),
            Protocol::Submission => format!("AUTH PLAIN {response}\r\n"),
        }
    }

    /// Whether this line is the answer to that, and says yes.
    fn answer(self, line: &str) -> Option<bool> {
        match self {
            Protocol::Imap => Some(line.strip_prefix("a ")?.starts_with("OK")),
            Protocol::Pop3 => Some(line.starts_with("+OK")),
            Protocol::ManageSieve => match line.split([' ', '\r']).next() {
                Some("OK") => Some(true),
                Some("NO" | "BYE") => Some(false),
                _ => None,
            },
            Protocol::Submission => Some(line.starts_with("235")),
        }
    }
}

/// A connection, line by line.
pub struct Connection(BufReader<TcpStream>);

impl Connection {
    fn open(server: SocketAddr) -> io::Result<Connection> {
        let stream = TcpStream::connect_timeout(&server, DEADLINE)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_nodelay(true)?;
        Ok(Connection(BufReader::new(stream)))
    }

    pub fn send(&mut self, text: &str) -> io::Result<()> {
        self.0.get_mut().write_all(text.as_bytes())
    }

    /// A line, with its end.
    pub fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.0.read_line(&mut line)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(line),
        }
    }

    /// Whether the server says something within this time, or is gone.
    pub fn hears(&mut self, wait: Duration) -> io::Result<bool> {
        self.0.get_ref().set_read_timeout(Some(wait))?;
        let heard = match self.0.fill_buf() {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(false),
            Err(error) => Err(error),
        };
        self.0.get_ref().set_read_timeout(Some(DEADLINE))?;
        heard
    }

    /// Says something by IMAP, with this tag, and reads what is said up to the answer, which must
    /// be OK.
    pub fn command(&mut self, tag: &str, command: &str) -> io::Result<String> {
        self.send(&format!("{tag} {command}\r\n"))?;
        self.answer(tag)
    }

    /// What is said up to the answer to what had this tag, which must be OK.
    pub fn answer(&mut self, tag: &str) -> io::Result<String> {
        let mut said = String::new();
        loop {
            let line = self.line()?;
            if let Some(answer) = line.strip_prefix(tag).and_then(|line| line.strip_prefix(' ')) {
                return match answer.starts_with("OK") {
                    true => Ok(said),
                    false => Err(io::Error::other(line)),
                };
            }
            said += &line;
        }
    }

    /// The last line of a reply by SMTP or LMTP, which must be this one.
    fn expect(&mut self, code: &str) -> io::Result<String> {
        loop {
            let line = self.line()?;
            if line.as_bytes().get(3) != Some(&b'-') {
                return match line.starts_with(code) {
                    true => Ok(line),
                    false => Err(io::Error::other(line)),
                };
            }
        }
    }
}

/// Logs a user in. The session lasts as long as the connection; an error of the kind `Other`
/// has what the server says.
pub fn log_in(protocol: Protocol, server: IpAddr, user: &str, password: &str) -> io::Result<Connection> {
    let mut connection = Connection::open((server, protocol.port()).into())?;
    while !protocol.ends_greeting(&connection.line()?) {}
    if protocol == Protocol::Submission {
        connection.send("EHLO client.example.org\r\n")?;
        connection.expect("250")?;
    }
    let response = base64(format!("\0{user}\0{password}").as_bytes());
    connection.send(&protocol.command(&response))?;
    loop {
        let line = connection.line()?;
        match protocol.answer(&line) {
            Some(true) => return Ok(connection),
            Some(false) => return Err(io::Error::other(line)),
            None => {}
        }
    }
}

/// Delivers a message by LMTP: what the server says of each recipient.
pub fn deliver(server: IpAddr, recipients: &[impl AsRef<str>]) -> io::Result<Vec<String>> {
    deliver_to((server, LMTP_PORT).into(), recipients)
}

/// The same at another port.
pub fn deliver_to(server: SocketAddr, recipients: &[impl AsRef<str>]) -> io::Result<Vec<String>> {
    deliver_message(server, recipients, "Subject: test\r\n\r\nText.\r\n")
}

/// The same with a message of lines none of which is a dot.
pub fn deliver_message(
    server: SocketAddr,
    recipients: &[impl AsRef<str>],
    message: &str,
) -> io::Result<Vec<String>> {
    let mut lmtp = Connection::open(server)?;
    lmtp.expect("220")?;
    for command in ["LHLO client.example.org\r\n", "MAIL FROM:<>\r\n"] {
        lmtp.send(command)?;
        lmtp.expect("250")?;
    }
    let mut answers: Vec<Option<String>> = Vec::new();
    for recipient in recipients {
        lmtp.send(&format!("RCPT TO:<{}>\r\n", recipient.as_ref()))?;
        answers.push(
            lmtp.expect("250")
                .map_or_else(|refused| Some(refused.to_string()), |_| None),
        );
    }
    if answers.iter().any(Option::is_none) {
        lmtp.send("DATA\r\n")?;
        lmtp.expect("354")?;
        lmtp.send(&format!("{message}.\r\n"))?;
        for answer in answers.iter_mut().filter(|answer| answer.is_none()) {
            *answer = Some(lmtp.line()?);
        }
    }
    lmtp.send("QUIT\r\n")?;
    Ok(answers.into_iter().flatten().collect())
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let number = (0..3).fold(0, |number, index| {
            number << 8 | usize::from(*group.get(index).unwrap_or(&0))
        });
        let digits = (0..4).map(|index| char::from(DIGITS[number >> (18 - 6 * index) & 63]));
        text.extend(digits.take(group.len() + 1));
        text.extend((group.len()..3).map(|_| '='));
    }
    text
}
