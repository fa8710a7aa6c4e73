//! What the installed C library answers, in a process of its own: see
//! `crate::agreement`.
#![allow(unsafe_code)]

use std::error::Error as _;
use std::ffi::{CStr, CString, OsString, c_char, c_int};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::ptr;

use clap::Args;
use libloading::{Library, Symbol};
use serde_json::json;

use crate::agreement::{Facts, NodeFacts};
use crate::exit::{Failure, Status};
use crate::names::{self, Users};

/// The ABI that is called here.
const ABI_VERSION: u32 = 0;

const OK: c_int = 0;

/// Print what a C library answers for the users on standard input
#[derive(Args)]
#[command(hide = true)]
pub(crate) struct CLibrary {
    /// The library, as the program loader finds it
    library: OsString,
}

/// `mailaffinity_cluster` of `mailaffinity.h`.
#[repr(C)]
struct Cluster {
    _private: [u8; 0],
}

/// The functions that are asked, as `mailaffinity.h` declares them.
struct Functions<'l> {
    version: Symbol<'l, unsafe extern "C" fn() -> *const c_char>,
    load: Symbol<'l, unsafe extern "C" fn(*const c_char, *mut *mut Cluster, *mut c_char, usize) -> c_int>,
    lookup: Symbol<
        'l,
        unsafe extern "C" fn(*const Cluster, *const c_char, usize, *const c_char, *mut usize) -> c_int,
    >,
    node_count: Symbol<'l, unsafe extern "C" fn(*const Cluster) -> usize>,
    node_name: Symbol<'l, unsafe extern "C" fn(*const Cluster, usize) -> *const c_char>,
    node_address: Symbol<'l, unsafe extern "C" fn(*const Cluster, usize) -> *const c_char>,
    node_state: Symbol<'l, unsafe extern "C" fn(*const Cluster, usize) -> *const c_char>,
    free: Symbol<'l, unsafe extern "C" fn(*mut Cluster)>,
}

impl CLibrary {
    pub(crate) fn run(self, config: &Path) -> Result<ExitCode, Failure> {
        // The loader's own words are the source of the error.
        let failed = |error: libloading::Error| match error.source() {
            Some(source) => Failure::new(Status::Unavailable, source),
            None => Failure::new(Status::Unavailable, error),
        };
        // SAFETY: the library runs nothing when it is loaded, and is not unloaded before
        // its symbols are forgotten.
        let library = unsafe { Library::new(&self.library) }.map_err(failed)?;
        // SAFETY: this function has this type in every version of the library.
        let abi_version: Symbol<'_, unsafe extern "C" fn() -> u32> =
            unsafe { library.get("mailaffinity_abi_version") }.map_err(failed)?;
        // SAFETY: as above; it takes nothing.
        let abi_version = unsafe { abi_version() };
        if abi_version != ABI_VERSION {
            let message = format!(
                "{} has version {abi_version} of the ABI, and not {ABI_VERSION}",
                self.library.display()
            );
            return Err(Failure::new(Status::Unavailable, message));
        }
        // SAFETY: the library has the ABI that the types are of.
        let functions = unsafe { Functions::of(&library) }.map_err(failed)?;
        let cluster = LoadedCluster::load(&functions, config)?;
        names::print(|out| {
            serde_json::to_writer(&mut *out, &cluster.facts(config))?;
            out.write_all(b"\n")?;
            Users::OnStdin.try_for_each(|user| writeln!(out, "{}", json!({"node": cluster.node_of(user)})))
        })
    }
}

impl<'l> Functions<'l> {
    /// # Safety
    /// The library must have the ABI [`ABI_VERSION`].
    unsafe fn of(library: &'l Library) -> Result<Functions<'l>, libloading::Error> {
        // SAFETY: the caller vouches for the types.
        unsafe {
            Ok(Functions {
                version: library.get("mailaffinity_version")?,
                load: library.get("mailaffinity_cluster_load")?,
                lookup: library.get("mailaffinity_lookup")?,
                node_count: library.get("mailaffinity_node_count")?,
                node_name: library.get("mailaffinity_node_name")?,
                node_address: library.get("mailaffinity_node_address")?,
                node_state: library.get("mailaffinity_node_state")?,
                free: library.get("mailaffinity_cluster_free")?,
            })
        }
    }
}

/// A cluster of the library's.
struct LoadedCluster<'l> {
    functions: &'l Functions<'l>,
    cluster: *mut Cluster,
}

impl<'l> LoadedCluster<'l> {
    fn load(functions: &'l Functions<'l>, config: &Path) -> Result<LoadedCluster<'l>, Failure> {
        let path = CString::new(config.as_os_str().as_bytes()).map_err(Failure::config)?;
        let mut cluster = ptr::null_mut();
        let mut detail = [0u8; 1024];
        // SAFETY: the path ends in NUL, the cluster is written to, and the buffer is as
        // long as is said.
        let status = unsafe {
            (functions.load)(
                path.as_ptr(),
                &raw mut cluster,
                detail.as_mut_ptr().cast(),
                detail.len(),
            )
        };
        if status != OK {
            let detail = CStr::from_bytes_until_nul(&detail).unwrap_or_default();
            return Err(Failure::config(detail.to_string_lossy()));
        }
        Ok(LoadedCluster { functions, cluster })
    }

    fn facts(&self, config: &Path) -> Facts {
        // SAFETY: it takes nothing.
        let version = unsafe { (self.functions.version)() };
        // SAFETY: the cluster was loaded, and is freed when this is dropped.
        let count = unsafe { (self.functions.node_count)(self.cluster) };
        let nodes = (0..count).map(|node| NodeFacts {
            name: self.name(node),
            // SAFETY: the string is of a node of the cluster, which is there.
            address: unsafe { text((self.functions.node_address)(self.cluster, node)) },
            // SAFETY: as above.
            state: unsafe { text((self.functions.node_state)(self.cluster, node)) },
        });
        Facts {
            // SAFETY: the string is valid as long as the library is loaded.
            version: unsafe { text(version) },
            config: config.to_owned(),
            nodes: nodes.collect(),
        }
    }

    fn node_of(&self, user: &[u8]) -> Option<String> {
        let mut node = 0;
        // SAFETY: the name has as many bytes as is said; no tag is given.
        let status = unsafe {
            (self.functions.lookup)(
                self.cluster,
                user.as_ptr().cast(),
                user.len(),
                ptr::null(),
                &raw mut node,
            )
        };
        (status == OK).then(|| self.name(node))
    }

    fn name(&self, node: usize) -> String {
        // SAFETY: the string is of a node of the cluster, which is there.
        unsafe { text((self.functions.node_name)(self.cluster, node)) }
    }
}

impl Drop for LoadedCluster<'_> {
    fn drop(&mut self) {
        // SAFETY: it was loaded, and nobody has it any more.
        unsafe { (self.functions.free)(self.cluster) }
    }
}

/// # Safety
/// NULL, or a string that ends in NUL and stays until this returns.
unsafe fn text(string: *const c_char) -> String {
    if string.is_null() {
        return String::new();
    }
    // SAFETY: the caller vouches for it.
    unsafe { CStr::from_ptr(string) }.to_string_lossy().into_owned()
}
