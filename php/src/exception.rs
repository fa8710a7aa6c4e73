//! `MailaffinityException`, a `RuntimeException` without members of its own.

use ext_php_rs::builders::ClassBuilder;
use ext_php_rs::error::Result;
use ext_php_rs::exception::PhpException;
use ext_php_rs::zend::{ClassEntry, ce};

use crate::ffi::spl_ce_RuntimeException;

const NAME: &str = "MailaffinityException";

/// Registers the class; to be called at start-up.
pub(crate) fn register() -> Result<()> {
    // The `php_class` macro would give it a constructor without arguments.
    ClassBuilder::new(NAME)
        .extends((runtime_exception, "RuntimeException"))
        .registration(|_, _| ())
        .register()
}

/// The exception that says what is wrong.
pub(crate) fn exception(problem: String) -> PhpException {
    PhpException::new(
        problem,
        0,
        ClassEntry::try_find(NAME).unwrap_or_else(ce::exception),
    )
}

fn runtime_exception() -> &'static ClassEntry {
    // SAFETY: PHP sets the pointer once, when SPL starts; SPL is always built in,
    // and so starts before this module.
    unsafe { &*spl_ce_RuntimeException }
}
