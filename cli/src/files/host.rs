//! Which machine this is, where several share a folder.

use md5::{Digest as _, Md5};

/// Its name, for people.
pub(crate) fn name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "?".into(), |name| name.trim().into())
}

/// What tells it from others, also after it was started anew: a digest of its name and of its
/// machine-id(5), which is not for everybody to know.
pub(super) fn id() -> String {
    let machine = std::fs::read("/etc/machine-id").unwrap_or_default();
    let digest = Md5::digest([b"mailaffinity\n", name().as_bytes(), b"\n", &machine].concat());
    let start = digest.iter().take(8);
    start.map(|byte| format!("{byte:02x}")).collect()
}
