//! sendmail's queue groups: their directories, and how sendmail is told about them.

use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use crate::files::place::folder_of;
use mailaffinity::config::{Config, NodeConfig};

/// The `QUEUE_GROUP` lines of a node's `.mc` file, one for each node that has a queue
/// group and path: its own group has queue runners there, the others none.
///
/// Names have quotes of their own: m4 reads the arguments once more, and would take `dnl`
/// in a path for its own.
pub fn mc_lines(config: &Config, this_node: &NodeConfig) -> String {
    let sendmail = &config.sendmail;
    let (runners, interval, flags) = (*sendmail.runners, &*sendmail.interval, &*sendmail.flags);
    let mut lines = String::new();
    for node in &config.nodes {
        let (Some(group), Some(path)) = (&node.queue_group, &node.queue_path) else {
            continue;
        };
        let flags = if flags.is_empty() {
            String::new()
        } else {
            format!("Flags={flags}, ")
        };
        let runners = if node.node.name == this_node.node.name {
            format!("Runners={runners}, Interval={interval}")
        } else {
            "Runners=0".into()
        };
        lines += &format!(
            "QUEUE_GROUP(``{group}'', `{flags}Path=`{}', {runners}')dnl\n",
            path.display()
        );
    }
    lines
}

/// The directories of a queue path: itself or, where it ends in `*`, all directories
/// and links to directories whose names begin so, in order.
///
/// # Errors
/// When there is none, or it cannot be told.
pub fn directories(queue_path: &Path) -> io::Result<Vec<PathBuf>> {
    let Some(prefix) = queue_path.as_os_str().as_bytes().strip_suffix(b"*") else {
        return match fs::metadata(queue_path)?.is_dir() {
            true => Ok(vec![queue_path.to_owned()]),
            false => Err(io::Error::from(io::ErrorKind::NotADirectory)),
        };
    };
    let prefix = PathBuf::from(std::ffi::OsString::from_vec(prefix.to_vec()));
    let (folder, name) = match prefix.as_os_str().as_bytes().ends_with(b"/") {
        true => (prefix.as_path(), b"".as_slice()),
        false => (
            folder_of(&prefix),
            prefix.file_name().unwrap_or_default().as_bytes(),
        ),
    };
    let mut directories = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().as_bytes().starts_with(name) && entry.path().is_dir() {
            directories.push(entry.path());
        }
    }
    directories.sort();
    if directories.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "no directory has a name that begins so",
        ));
    }
    Ok(directories)
}

/// The ids of the messages that wait in a queue directory, in order: those with a `qf`
/// file. Quarantined (`hf`) and broken (`Qf`) ones do not count, nor does what is no file;
/// queue runs pass them over.
///
/// # Errors
/// When the directory cannot be read.
pub fn message_ids(directory: &Path) -> io::Result<Vec<String>> {
    // sendmail keeps the files in directories of their own where those are there.
    let separate = directory.join("qf");
    let directory = if separate.is_dir() { &separate } else { directory };
    let mut ids = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if let Some(id) = entry.file_name().as_bytes().strip_prefix(b"qf")
            && !id.is_empty()
            && id.iter().all(u8::is_ascii_alphanumeric)
            && entry.file_type().is_ok_and(|kind| kind.is_file())
        {
            ids.push(String::from_utf8_lossy(id).into_owned());
        }
    }
    ids.sort();
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_a_node() {
        let mut text = String::from("[sendmail]\nrunners = 2\ninterval = \"7s\"\n");
        for number in 1..=3 {
            text += &format!(
                "[[node]]\nname = \"node{number}\"\naddress = \"10.0.0.{number}\"\nqueue_group = \"node{number}group\"\n"
            );
            if number < 3 {
                text += &format!("queue_path = \"/mnt/gfs2/mqueue/q{number}\"\n");
            }
        }
        let config = Config::parse(&text, Path::new("x")).unwrap();
        assert_eq!(
            mc_lines(&config, &config.nodes[1]),
            "QUEUE_GROUP(``node1group'', `Flags=f, Path=`/mnt/gfs2/mqueue/q1', Runners=0')dnl\n\
             QUEUE_GROUP(``node2group'', `Flags=f, Path=`/mnt/gfs2/mqueue/q2', Runners=2, Interval=7s')dnl\n"
        );
    }

    #[test]
    fn directories_and_ids() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["q1a", "q1a/qfABC4", "q1b", "q1b/qf", "other"] {
            fs::create_dir(path(name)).unwrap();
        }
        for name in [
            "q1file",
            "q1a/qfABC1",
            "q1a/dfABC1",
            "q1a/qf",
            "q1a/qfx.y",
            "q1a/hfABC2",
            "q1b/qfABC9",
            "q1b/qf/qfABC3",
        ] {
            fs::write(path(name), "").unwrap();
        }
        assert_eq!(directories(&path("q1*")).unwrap(), [path("q1a"), path("q1b")]);
        assert_eq!(directories(&path("*")).unwrap().len(), 3);
        assert_eq!(directories(&path("q1a")).unwrap(), [path("q1a")]);
        assert!(directories(&path("q2*")).is_err());
        assert!(directories(&path("q1file")).is_err());
        assert!(directories(&path("none")).is_err());
        assert_eq!(message_ids(&path("q1a")).unwrap(), ["ABC1"]);
        assert_eq!(message_ids(&path("q1b")).unwrap(), ["ABC3"]);
    }
}
