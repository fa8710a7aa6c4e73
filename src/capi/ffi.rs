//! Pointers and panics: all that is not safe about being called from C.

use std::ffi::{CStr, OsStr, c_char, c_int};
use std::os::unix::ffi::OsStrExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::{ptr, slice};

use super::error::{Error, MAILAFFINITY_OK};
use crate::config::DEFAULT_PATH;

/// Runs the body of a function that cannot fail. A panic, which must not unwind into
/// C, becomes `neutral`.
///
/// Unwind safety: a call changes its caller's data by its last step alone.
pub(super) fn guard<T>(neutral: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(neutral)
}

/// Runs the body of a function that returns an error number.
pub(super) fn status(body: impl FnOnce() -> Result<(), Error>) -> c_int {
    match guarded(body) {
        Ok(()) => MAILAFFINITY_OK,
        Err(error) => error.number(),
    }
}

/// Runs the body of a function that returns an error number, and words for it.
///
/// # Safety
/// `detail` is NULL, or `detail_size` bytes there can be written.
pub(super) unsafe fn status_with_detail(
    detail: *mut c_char,
    detail_size: usize,
    body: impl FnOnce() -> Result<(), Error>,
) -> c_int {
    // SAFETY: as the caller of this function promises.
    unsafe { status_with_notice(detail, detail_size, || body().map(|()| String::new())) }
}

/// As [`status_with_detail`], for a body that has words for success too.
///
/// # Safety
/// `detail` is NULL, or `detail_size` bytes there can be written.
pub(super) unsafe fn status_with_notice(
    detail: *mut c_char,
    detail_size: usize,
    body: impl FnOnce() -> Result<String, Error>,
) -> c_int {
    let outcome = guarded(body);
    let text = guard(String::new(), || match &outcome {
        Ok(notice) => notice.clone(),
        Err(error) => error.to_string(),
    });
    // SAFETY: as the caller of this function promises.
    unsafe { copy_text(&text, detail, detail_size) };
    status(|| outcome.map(drop))
}

/// A panic as an error, which is made only then: its drop would be a part of each lookup.
fn guarded<T>(body: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(outcome) => outcome,
        Err(_) => Err(Error::Panic),
    }
}

/// Copies as many whole characters as fit, and a NUL behind them.
///
/// # Safety
/// `buffer` is NULL, or `size` bytes there can be written.
unsafe fn copy_text(text: &str, buffer: *mut c_char, size: usize) {
    if buffer.is_null() || size == 0 {
        return;
    }
    let room = text.len().min(size - 1);
    let len = (0..=room)
        .rev()
        .find(|&end| text.is_char_boundary(end))
        .unwrap_or(0);
    // SAFETY: len < size, so text and NUL fit; a text of ours is not the caller's buffer.
    unsafe {
        ptr::copy_nonoverlapping(text.as_ptr().cast(), buffer, len);
        buffer.add(len).write(0);
    }
}

/// An argument that must not be NULL.
pub(super) fn required<T>(name: &'static str, argument: Option<T>) -> Result<T, Error> {
    match argument {
        Some(argument) => Ok(argument),
        None => Err(Error::Null(name)),
    }
}

/// A NUL-terminated string; `None` for NULL.
///
/// # Safety
/// `string` is NULL, or a NUL-terminated string that nobody changes during `'a`.
pub(super) unsafe fn string<'a>(string: *const c_char) -> Option<&'a CStr> {
    // SAFETY: not NULL, else as the caller of this function promises.
    (!string.is_null()).then(|| unsafe { CStr::from_ptr(string) })
}

/// A configuration's path; the usual one for NULL.
pub(super) fn config_path(path: Option<&CStr>) -> &Path {
    path.map_or(Path::new(DEFAULT_PATH), |path| {
        Path::new(OsStr::from_bytes(path.to_bytes()))
    })
}

/// A string that must be UTF-8.
pub(super) fn utf8<'a>(name: &'static str, string: &'a CStr) -> Result<&'a str, Error> {
    string
        .to_str()
        .map_err(|_| Error::InvalidArgument(format!("{name} is not UTF-8")))
}

/// Bytes and their number; (NULL, 0) is none.
///
/// # Safety
/// `bytes` is NULL, or `len` bytes there can be read and nobody changes them during
/// `'a`.
pub(super) unsafe fn bytes<'a>(
    name: &'static str,
    bytes: *const c_char,
    len: usize,
) -> Result<&'a [u8], Error> {
    if len == 0 {
        return Ok(&[]);
    }
    if bytes.is_null() {
        return Err(Error::Null(name));
    }
    if isize::try_from(len).is_err() {
        return Err(Error::InvalidArgument(format!(
            "the length of {name} is larger than any object"
        )));
    }
    // SAFETY: not NULL, no longer than an object can be, else as the caller promises.
    Ok(unsafe { slice::from_raw_parts(bytes.cast(), len) })
}

#[cfg(test)]
mod tests {
    use super::super::error::{MAILAFFINITY_ERROR_NO_NODE, MAILAFFINITY_ERROR_PANIC};
    use super::*;

    fn copied(text: &str, size: usize) -> Vec<u8> {
        let mut buffer = [b'#'; 8];
        // SAFETY: every size below is at most that of the buffer.
        unsafe { copy_text(text, buffer.as_mut_ptr().cast(), size) };
        buffer.to_vec()
    }

    #[test]
    fn text_is_cut_at_whole_characters() {
        assert_eq!(copied("aé€", 0), b"########");
        assert_eq!(copied("aé€", 1), b"\0#######");
        assert_eq!(copied("aé€", 2), b"a\0######");
        assert_eq!(copied("aé€", 3), b"a\0######");
        assert_eq!(copied("aé€", 4), b"a\xc3\xa9\0####");
        assert_eq!(copied("aé€", 6), b"a\xc3\xa9\0####");
        assert_eq!(copied("aé€", 7), b"a\xc3\xa9\xe2\x82\xac\0#");
        assert_eq!(copied("", 8), b"\0#######");
    }

    #[test]
    fn panics_end_here() {
        assert_eq!(guard(-1, || panic!("for the test")), -1);
        assert_eq!(status(|| panic!("for the test")), MAILAFFINITY_ERROR_PANIC);
        let mut detail = [b'#'; 64];
        // SAFETY: the size is that of the buffer.
        let number = unsafe {
            status_with_detail(detail.as_mut_ptr().cast(), detail.len(), || {
                panic!("for the test")
            })
        };
        assert_eq!(number, MAILAFFINITY_ERROR_PANIC);
        assert!(detail.starts_with(b"internal error in mailaffinity\0"));
    }

    #[test]
    fn numbers() {
        assert_eq!(status(|| Ok(())), MAILAFFINITY_OK);
        assert_eq!(status(|| Err(Error::NoNode)), MAILAFFINITY_ERROR_NO_NODE);
    }
}
