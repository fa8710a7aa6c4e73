//! What PHP exports and ext-php-rs has no binding for. The declarations are those
//! of PHP 8.1 to 8.5.

use std::ffi::{c_char, c_int};

use ext_php_rs::types::ZendStr;
use ext_php_rs::zend::{ClassEntry, ModuleEntry};

unsafe extern "C" {
    /// main/php.h
    pub(crate) fn php_log_err_with_severity(message: *const c_char, severity: c_int);

    /// main/php_ini.h
    pub(crate) fn display_ini_entries(module: *mut ModuleEntry);

    /// main/php_open_temporary_file.h
    pub(crate) fn php_get_temporary_directory() -> *const c_char;

    /// Zend/zend_operators.h
    pub(crate) fn zend_double_to_str(number: f64) -> *mut ZendStr;

    /// ext/spl/spl_exceptions.h
    pub(crate) static spl_ce_RuntimeException: *mut ClassEntry;
}
