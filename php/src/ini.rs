//! The directives of `php.ini`. Both are `PHP_INI_SYSTEM`: scripts cannot set them.

use std::ffi::{CStr, OsString};
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use ext_php_rs::ffi::zend_ini_entry;
use ext_php_rs::flags::IniEntryPermission;
use ext_php_rs::types::Zval;
use ext_php_rs::zend::{ExecutorGlobals, IniEntryDef, IniEntryDefs, php_sapi_name};
use mailaffinity::config::{DEFAULT_PATH, check_host};

use crate::ffi::php_get_temporary_directory;

/// The configuration file.
const CONFIG: &CStr = c"mailaffinity.config";
/// The host where there is no node.
const FALLBACK: &CStr = c"mailaffinity.fallback";
/// The host where not even the fallback is one.
const LAST_RESORT: &str = "localhost";

static DEFINITIONS: IniEntryDefs<3> = IniEntryDefs::new([
    IniEntryDef::new(CONFIG, c"/etc/mailaffinity.toml", IniEntryPermission::System),
    IniEntryDef::new(FALLBACK, c"localhost", IniEntryPermission::System),
    IniEntryDef::end(),
]);

/// Registers the directives; to be called at start-up.
pub(crate) fn register(module_number: i32) {
    IniEntryDef::register(DEFINITIONS.as_slice(), module_number);
}

/// The configuration file; the usual one where the directive is empty.
pub(crate) fn config_path() -> PathBuf {
    match value(CONFIG) {
        path if path.is_empty() => DEFAULT_PATH.into(),
        path => OsString::from_vec(path).into(),
    }
}

/// The fallback host, and what is wrong with the directive, if anything.
pub(crate) fn fallback_host() -> (String, Option<String>) {
    let value = String::from_utf8_lossy(&value(FALLBACK)).into_owned();
    match check_host(&value) {
        Ok(()) => (value, None),
        Err(problem) => (
            LAST_RESORT.into(),
            Some(format!("mailaffinity.fallback: {problem}")),
        ),
    }
}

/// The folder for temporary files (`sys_temp_dir`), where PHP serves a web server. On a
/// command line, each process stands for itself: whoever types it wants to be told.
pub(crate) fn folder_of_workers() -> Option<PathBuf> {
    if php_sapi_name().is_none_or(|name| name == "cli") {
        return None;
    }
    // SAFETY: PHP gives a string that it keeps, or null.
    let folder = unsafe { php_get_temporary_directory() };
    // SAFETY: as above.
    let folder = (!folder.is_null()).then(|| unsafe { CStr::from_ptr(folder) })?;
    Some(OsString::from_vec(folder.to_bytes().to_vec()).into())
}

/// A directive as it stands now. PHP-FPM sets those of a pool after the module has
/// started, and Apache may set others for each directory.
fn value(name: &CStr) -> Vec<u8> {
    let globals = ExecutorGlobals::get();
    // SAFETY: PHP sets the pointer before it loads modules; the table lives as
    // long as PHP, and what is in it changes only outside of this function.
    let directives = unsafe { globals.ini_directives.as_ref() };
    directives
        .zip(name.to_str().ok())
        .and_then(|(directives, name)| directives.get(name))
        .and_then(entry_value)
        .unwrap_or_default()
}

fn entry_value(entry: &Zval) -> Option<Vec<u8>> {
    // SAFETY: the table of directives holds pointers to entries, which live as
    // long as the table.
    let entry = unsafe { entry.ptr::<zend_ini_entry>()?.as_ref() }?;
    // SAFETY: an entry's value is null or a string that the entry owns.
    let value = unsafe { entry.value.as_ref() }?;
    Some(value.as_bytes().to_vec())
}
