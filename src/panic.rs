//! Panics: a bug must not keep users from logging in.

use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook};
use std::sync::Mutex;

/// Where the last panic was. Not what it said: that could hold a user's name.
static PLACE: Mutex<String> = Mutex::new(String::new());

/// Keeps panics from being printed; for a module to call when it is loaded.
///
/// The hook is that of this module alone, which has a standard library of its own.
pub fn silence() {
    set_hook(Box::new(note_place));
}

/// Runs `f`; of a panic it says where it was.
pub fn guarded<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|_| {
        let place = PLACE
            .lock()
            .map(|mut place| std::mem::take(&mut *place))
            .unwrap_or_default();
        format!("internal error at {place}; please report it")
    })
}

fn note_place(info: &PanicHookInfo<'_>) {
    if let (Some(location), Ok(mut place)) = (info.location(), PLACE.lock()) {
        *place = format!("{}:{}", location.file(), location.line());
    }
}
