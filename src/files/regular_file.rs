//! Files as they should be: anything else under the same name must not make a web
//! server wait or fill its memory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// More than any configuration or node state has, with millions of users moved.
const LONGEST_TEXT: u64 = 64 << 20;

/// Opens a regular file for reading.
///
/// # Errors
/// As for [`File::open`]; also when the name stands for a folder, pipe or device.
pub fn open(path: &Path) -> io::Result<File> {
    // Without O_NONBLOCK, opening a pipe waits for somebody to write to it.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    checked(file)
}

/// Lets a file through that is a regular one.
///
/// # Errors
/// When it is not, or cannot be looked at.
pub fn checked(file: File) -> io::Result<File> {
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(no_regular_file()),
    }
}

/// The error for whatever else stands under a file's name.
pub fn no_regular_file() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")
}

/// Reads a text.
///
/// # Errors
/// As for [`open`]; also when it is not UTF-8 or endless.
pub fn read_text(path: &Path) -> io::Result<String> {
    text_of(&open(path)?)
}

/// Reads the text of a file that was opened.
///
/// # Errors
/// When it cannot be read, is not UTF-8 or endless.
pub fn text_of(file: &File) -> io::Result<String> {
    String::from_utf8(bytes_of(file, LONGEST_TEXT)?).map_err(|error| {
        let good = error.as_bytes().iter().take(error.utf8_error().valid_up_to());
        let line = 1 + good.filter(|&&byte| byte == b'\n').count();
        io::Error::new(io::ErrorKind::InvalidData, format!("line {line} is not UTF-8"))
    })
}

/// Reads all of a file.
///
/// # Errors
/// As for [`open`]; also when it has more than `longest` bytes.
pub fn read(path: &Path, longest: u64) -> io::Result<Vec<u8>> {
    bytes_of(&open(path)?, longest)
}

fn bytes_of(file: &File, longest: u64) -> io::Result<Vec<u8>> {
    let size = file.metadata()?.len().min(longest).saturating_add(1);
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
    file.take(longest.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > longest {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too long"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_are_read() {
        for path in ["/", "/dev/zero", "/dev/null"] {
            let error = read_text(Path::new(path)).unwrap_err();
            assert_eq!(error.to_string(), "it is not a regular file", "{path}");
        }
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        assert!(read_text(&pipe).is_err());
    }

    #[test]
    fn the_line_that_is_not_text_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"one\ntwo\xff\n").unwrap();
        assert_eq!(
            read_text(file.path()).unwrap_err().to_string(),
            "line 2 is not UTF-8"
        );
    }

    #[test]
    fn endless_texts_are_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 40).unwrap();
        assert_eq!(read_text(file.path()).unwrap_err().to_string(), "it is too long");
    }
}
