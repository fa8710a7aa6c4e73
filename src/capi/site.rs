//! Sites: what is on disk, followed for as long as a program runs.

use std::ffi::{c_char, c_int};
use std::mem::MaybeUninit;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Instant;

use super::cluster::Cluster;
use super::error::Error;
use super::ffi;
use crate::rate_limit::RateLimit;
use crate::site::{self, InForce};

/// A configuration, the node state and the access map or published answers that it names,
/// followed while they change.
pub struct Site {
    path: PathBuf,
    /// Of the thread that reads files; nobody waits for it who has an answer without. `None`
    /// meanwhile, and after a bug.
    followed: Mutex<Option<site::Site>>,
    /// What is in force. Nobody has it for long.
    current: Mutex<Option<Cluster>>,
    told: Mutex<RateLimit>,
    opened: Instant,
}

/// Threads may share a site, as the header says.
const _: fn(&Site) -> &(dyn Send + Sync) = |site| site;

/// Opens a site, for a program that runs for long: each lookup finds what its files say
/// then, and what breaks does not count.
///
/// `config_path` must be absolute; NULL stands for "/etc/mailaffinity.toml". On success the
/// site is in `*site_out`; close it with `mailaffinity_site_close`. A configuration that
/// cannot be used, and has no last good copy, is no error here: `detail` says so, and lookups
/// fail until it is mended.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mailaffinity_site_open(
    config_path: *const c_char,
    site_out: Option<&mut MaybeUninit<Box<Site>>>,
    detail: *mut c_char,
    detail_size: usize,
) -> c_int {
    let body = || {
        let site_out = ffi::required("site_out", site_out)?;
        // SAFETY: the string is as the header's rules have it.
        let path = ffi::config_path(unsafe { ffi::string(config_path) });
        if !path.is_absolute() {
            // The folder that it would be relative to is whatever the program changes to.
            let problem = format!("{} is not an absolute path", path.display());
            return Err(Error::InvalidArgument(problem));
        }
        let site = Site {
            path: path.to_owned(),
            followed: Mutex::default(),
            current: Mutex::default(),
            told: Mutex::default(),
            opened: Instant::now(),
        };
        let notices = site.refresh()?;
        let due = site.due(&notices);
        site_out.write(Box::new(site));
        Ok(due)
    };
    // SAFETY: `detail` is as the header's rules have it.
    unsafe { ffi::status_with_notice(detail, detail_size, body) }
}

/// Finds the node that serves a user now: the one that the access map names, by its published
/// answers if there are any, unless it is down; else the one that the mapping gives among those
/// that are up and have the configuration's default tag. Users who move between nodes that live
/// have the old one until the moment that the node state names.
///
/// On success, `*cluster_out` is a cluster of what is in force, which the caller frees with
/// `mailaffinity_cluster_free`, at any time, and `*node_out` the number of the node there.
/// `detail` has what the administrator should know all the same, at most once a minute, and
/// is mostly empty: which file is broken and what is in force instead, or why the node is
/// not the one of the map. It names no user.
///
/// Costs two `stat` calls while no file has changed, and three with published answers. An
/// access map that is not published is read each time, and waited for as the configuration
/// says while others rebuild it. What another thread is reading then is not waited for, once
/// anything good was read: what was in force before counts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mailaffinity_site_lookup(
    site: Option<&Site>,
    user: *const c_char,
    user_len: usize,
    cluster_out: Option<&mut MaybeUninit<Box<Cluster>>>,
    node_out: Option<&mut MaybeUninit<usize>>,
    detail: *mut c_char,
    detail_size: usize,
) -> c_int {
    let body = || {
        let cluster_out = ffi::required("cluster_out", cluster_out)?;
        let node_out = ffi::required("node_out", node_out)?;
        // SAFETY: the string is as the header's rules have it.
        let user = unsafe { ffi::bytes("user", user, user_len)? };
        let (cluster, node, due) = ffi::required("site", site)?.node_of(user)?;
        node_out.write(node);
        cluster_out.write(Box::new(cluster));
        Ok(due)
    };
    // SAFETY: `detail` is as the header's rules have it.
    unsafe { ffi::status_with_notice(detail, detail_size, body) }
}

/// The cluster that is in force at a site now, as `mailaffinity_cluster_load` has it, for all
/// that can be asked of one: its nodes, and the mapping's own answers, with any tag.
///
/// On success it is in `*cluster_out`; the caller frees it with `mailaffinity_cluster_free`, at
/// any time. `detail` and the cost are those of `mailaffinity_site_lookup`, without a map.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mailaffinity_site_cluster(
    site: Option<&Site>,
    cluster_out: Option<&mut MaybeUninit<Box<Cluster>>>,
    detail: *mut c_char,
    detail_size: usize,
) -> c_int {
    let body = || {
        let cluster_out = ffi::required("cluster_out", cluster_out)?;
        let site = ffi::required("site", site)?;
        let (cluster, _, notices) = site.now()?;
        let due = site.due(&notices);
        cluster_out.write(Box::new(cluster));
        Ok(due)
    };
    // SAFETY: `detail` is as the header's rules have it.
    unsafe { ffi::status_with_notice(detail, detail_size, body) }
}

/// Closes a site, but frees no cluster that it gave. NULL is allowed.
#[unsafe(no_mangle)]
pub extern "C" fn mailaffinity_site_close(site: Option<Box<Site>>) {
    ffi::guard((), || drop(site));
}

impl Site {
    /// A user's node, and what is due to be told.
    fn node_of(&self, user: &[u8]) -> Result<(Cluster, usize, String), Error> {
        let (cluster, in_force, mut notices) = self.now()?;
        let found = in_force.node_of(user, |notice| notices.push(notice));
        let number = found.map(|node| in_force.config.nodes.index_of(&node.node.name));
        match number {
            Ok(Some(number)) => Ok((cluster, number, self.due(&notices))),
            Ok(None) => Err(Error::Panic),
            Err(problem) => {
                notices.insert(0, problem.to_string());
                Err(Error::NoNodeOf(problem, notices.join("; ")))
            }
        }
    }

    /// What is in force now, and notices of the files.
    fn now(&self) -> Result<(Cluster, Arc<InForce>, Vec<String>), Error> {
        let notices = self.refresh()?;
        let current = lock(&self.current);
        let in_force = |cluster: &Cluster| Some((cluster.share(), Arc::clone(cluster.in_force()?)));
        match current.as_ref().and_then(in_force) {
            Some((cluster, in_force)) => Ok((cluster, in_force, notices)),
            None => Err(Error::Config(notices.join("; "))),
        }
    }

    /// Reads what has changed on disk, unless another thread does so.
    fn refresh(&self) -> Result<Vec<String>, Error> {
        let has_answer = lock(&self.current).is_some();
        let mut followed = match self.followed.try_lock() {
            Ok(followed) => followed,
            Err(TryLockError::Poisoned(after_a_bug)) => after_a_bug.into_inner(),
            Err(TryLockError::WouldBlock) if has_answer => return Ok(Vec::new()),
            Err(TryLockError::WouldBlock) => lock(&self.followed),
        };
        // Taken out while it changes: a panic leaves nothing half-done behind.
        let mut site = followed.take().unwrap_or_else(|| site::Site::new(&self.path));
        let notices = site.refresh();
        if let Some(in_force) = site.in_force() {
            let mut current = lock(&self.current);
            let known = current.as_ref().and_then(|cluster| cluster.in_force());
            if !known.is_some_and(|known| Arc::ptr_eq(known, in_force)) {
                *current = Some(Cluster::of_site(in_force)?);
            }
        }
        *followed = Some(site);
        Ok(notices)
    }

    /// Those notices that were not told for a while.
    fn due(&self, notices: &[String]) -> String {
        if notices.is_empty() {
            return String::new();
        }
        let (mut told, now) = (lock(&self.told), self.opened.elapsed().as_secs());
        let due: Vec<String> = notices
            .iter()
            .filter_map(|notice| told.admit(b"", notice, now))
            .collect();
        due.join("; ")
    }
}

/// Nobody panics half-way through changing what is locked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::fs;
    use std::path::Path;
    use std::ptr;

    use super::super::error::MAILAFFINITY_OK;
    use super::*;

    fn open(path: &Path) -> Box<Site> {
        let path = CString::new(path.to_str().unwrap()).unwrap();
        let mut site = MaybeUninit::uninit();
        // SAFETY: a string, and no detail.
        let status = unsafe { mailaffinity_site_open(path.as_ptr(), Some(&mut site), ptr::null_mut(), 0) };
        assert_eq!(status, MAILAFFINITY_OK);
        // SAFETY: it is written on success.
        unsafe { site.assume_init() }
    }

    /// The name of a user's node.
    fn node_of(site: &Site) -> Result<String, String> {
        let (cluster, number, _) = site.node_of(b"user1").map_err(|error| error.to_string())?;
        Ok(cluster.mapping().nodes()[number].name.clone())
    }

    #[test]
    fn nobody_waits_for_files_that_another_thread_reads() {
        let folder = tempfile::tempdir().unwrap();
        let [config, new] = ["mailaffinity.toml", "new"].map(|name| folder.path().join(name));
        let replace = |node: &str| {
            let state = folder.path().join("nodes.toml");
            let text =
                format!("node_state = {state:?}\n[[node]]\nname = \"{node}\"\naddress = \"10.0.0.1\"\n");
            fs::write(&new, text).unwrap();
            fs::rename(&new, &config).unwrap();
        };
        replace("node1");
        let site = open(&config);
        replace("node2");
        let reads = lock(&site.followed);
        assert_eq!(node_of(&site).unwrap(), "node1", "what was in force before");
        drop(reads);
        assert_eq!(node_of(&site).unwrap(), "node2");
    }

    #[test]
    fn a_bug_leaves_what_is_in_force() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("mailaffinity.toml");
        fs::write(&config, "[[node]]\nname = \"node1\"\naddress = \"10.0.0.1\"\n").unwrap();
        let site = open(&config);
        let poisoned = std::thread::scope(|scope| {
            let bug = scope.spawn(|| {
                let _site = lock(&site.followed).take();
                let _reads = lock(&site.followed);
                panic!("for the test");
            });
            bug.join()
        });
        assert!(poisoned.is_err());
        fs::write(&config, "nonsense").unwrap();
        assert_eq!(node_of(&site).unwrap(), "node1");
    }
}
