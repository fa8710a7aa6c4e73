//! The C functions, in any order and with any arguments that the header allows: they read and
//! write what is theirs (AddressSanitizer watches), and keep what the header promises.
#![no_main]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::{env, fs, ptr};

use libfuzzer_sys::arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use mailaffinity::mapping::{MailHost, parse_mail_servers};

// As a C compiler reads them in the header.
unsafe extern "C" {
    fn mailaffinity_builder_new(
        strategy: c_int,
        username_hash: *const c_char,
        builder_out: *mut *mut c_void,
        detail: *mut c_char,
        detail_size: usize,
    ) -> c_int;
    fn mailaffinity_builder_add_node(
        builder: *mut c_void,
        name: *const c_char,
        address: *const c_char,
        vhost_count: u32,
        tag: *const c_char,
        state: *const c_char,
        detail: *mut c_char,
        detail_size: usize,
    ) -> c_int;
    fn mailaffinity_builder_build(
        builder: *const c_void,
        cluster_out: *mut *mut c_void,
        detail: *mut c_char,
        detail_size: usize,
    ) -> c_int;
    fn mailaffinity_builder_free(builder: *mut c_void);
    fn mailaffinity_cluster_load(
        config_path: *const c_char,
        cluster_out: *mut *mut c_void,
        detail: *mut c_char,
        detail_size: usize,
    ) -> c_int;
    fn mailaffinity_cluster_from_mail_servers(
        mail_servers: *const c_char,
        strategy: c_int,
        username_hash: *const c_char,
        cluster_out: *mut *mut c_void,
        detail: *mut c_char,
        detail_size: usize,
    ) -> c_int;
    fn mailaffinity_cluster_free(cluster: *mut c_void);
    fn mailaffinity_lookup(
        cluster: *const c_void,
        user: *const c_char,
        user_len: usize,
        tag: *const c_char,
        node_out: *mut usize,
    ) -> c_int;
    fn mailaffinity_lookup_hash(
        cluster: *const c_void,
        hash: u32,
        tag: *const c_char,
        node_out: *mut usize,
    ) -> c_int;
    fn mailaffinity_node_count(cluster: *const c_void) -> usize;
    fn mailaffinity_node_name(cluster: *const c_void, node: usize) -> *const c_char;
    fn mailaffinity_node_address(cluster: *const c_void, node: usize) -> *const c_char;
    fn mailaffinity_node_tag(cluster: *const c_void, node: usize) -> *const c_char;
    fn mailaffinity_node_host(cluster: *const c_void, node: usize) -> *const c_char;
    fn mailaffinity_node_queue_group(cluster: *const c_void, node: usize) -> *const c_char;
    fn mailaffinity_node_vhost_count(cluster: *const c_void, node: usize) -> u32;
    fn mailaffinity_node_state(cluster: *const c_void, node: usize) -> *const c_char;
    fn mailaffinity_site_open(
        config_path: *const c_char,
        site_out: *mut *mut c_void,
        detail: *mut c_char,
        detail_size: usize,
    ) -> c_int;
    fn mailaffinity_site_lookup(
        site: *const c_void,
        user: *const c_char,
        user_len: usize,
        cluster_out: *mut *mut c_void,
        node_out: *mut usize,
        detail: *mut c_char,
        detail_size: usize,
    ) -> c_int;
    fn mailaffinity_site_cluster(
        site: *const c_void,
        cluster_out: *mut *mut c_void,
        detail: *mut c_char,
        detail_size: usize,
    ) -> c_int;
    fn mailaffinity_site_close(site: *mut c_void);
    fn mailaffinity_username_hash(
        format: *const c_char,
        user: *const c_char,
        user_len: usize,
        hash_out: *mut u32,
        detail: *mut c_char,
        detail_size: usize,
    ) -> c_int;
    fn mailaffinity_strerror(error: c_int) -> *const c_char;
    fn mailaffinity_abi_version() -> u32;
    fn mailaffinity_version() -> *const c_char;
    fn hash_user_group_modulo(user: *const c_char, vnodes: c_int) -> c_int;
    fn hash_user_group_ring(user: *const c_char, vnodes: c_int) -> c_int;
}

const OK: c_int = 0;
const ERROR_NULL: c_int = 1;
const ERROR_NO_NODE: c_int = 8;
const ERROR_PANIC: c_int = 9;

/// What comes in place of arbitrary bytes, which would seldom get further than a parser.
const TEXTS: [&CStr; 16] = [
    c"",
    c"10.0.0.1",
    c"10.0.0.2",
    c"10.0.0.3",
    c"2001:db8::1",
    c"10.0.0.1-10.0.0.5 10.0.0.9@east",
    c"10.0.0.1@east 2001:db8::2@west",
    c"up",
    c"down",
    c"east",
    c"west",
    c"node1",
    c"%Lu",
    c"%Ln",
    c"%{sha1:user | lower}",
    c"%8Mu%{if;%d;eq;;a;b}",
];

/// Configurations and node states that are good, for the same reason.
const CONFIGS: [&str; 2] = [
    "[[node]]\nname = \"node1\"\naddress = \"10.0.0.1\"\nqueue_group = \"a\"\n[[node]]\nname = \"node2\"\naddress = \"10.0.0.2\"\ntag = \"east\"\n",
    "tag = \"east\"\nusername_hash = \"%Ln\"\nauth_master_user_separator = \"*\"\n[[node]]\nname = \"node1\"\naddress = \"::1\"\ntag = \"east\"\nhost = \"imap\"\n",
];
const STATES: [&str; 2] = [
    "[node.node1]\nstate = \"down\"\nsince = \"2026-11-23T20:45:00Z\"\n",
    "[node.node1]\nvhost_count = 7\nmoved = \"24c9e15e 00000001=2026-11-27T22:00:00Z\"\n",
];

/// Beside this program, where only its user writes.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = env::current_exe().expect("a path").with_extension("tmp");
    fs::create_dir_all(&folder).expect("a folder");
    folder
});

/// A cluster, and the texts of its nodes when it was made: they stay as they are.
struct Cluster {
    pointer: *mut c_void,
    texts: Vec<[Option<CString>; 6]>,
    is_loaded: bool,
}

/// What a program has.
#[derive(Default)]
struct Program {
    builders: Vec<*mut c_void>,
    clusters: Vec<Cluster>,
    sites: Vec<*mut c_void>,
}

/// Room for words, of just the size that is told.
struct Detail(Option<Box<[u8]>>);

impl Detail {
    fn new(input: &mut Unstructured) -> Result<Detail> {
        let size = input.int_in_range(0..=200)?;
        let has_any = input.ratio(7, 8)?;
        Ok(Detail(has_any.then(|| vec![b'#'; size].into())))
    }

    /// The two arguments.
    fn arguments(&mut self) -> (*mut c_char, usize) {
        match &mut self.0 {
            Some(bytes) => (bytes.as_mut_ptr().cast(), bytes.len()),
            None => (ptr::null_mut(), 0),
        }
    }

    fn check(&self, status: c_int, is_silent: bool) {
        assert!((OK..ERROR_PANIC).contains(&status), "{status}");
        if let Some(bytes) = &self.0
            && !bytes.is_empty()
        {
            let text = CStr::from_bytes_until_nul(bytes).expect("a NUL");
            assert!(text.to_str().is_ok());
            let must_be_empty = status == OK && is_silent;
            assert!(text.is_empty() == must_be_empty || bytes.len() < 5 || !is_silent);
        }
    }
}

/// NULL, a text, or anything.
fn string(input: &mut Unstructured) -> Result<Option<CString>> {
    Ok(match input.int_in_range(0..=7u8)? {
        0 => None,
        1..=5 => Some(input.choose(&TEXTS)?.to_owned().to_owned()),
        _ => Some(CString::arbitrary(input)?),
    })
}

/// As [`string`]; but a format may ask for a million rounds, which is slow and no fault.
fn format(input: &mut Unstructured) -> Result<Option<CString>> {
    let is_slow = |format: &CString| format.as_bytes().windows(7).any(|word| word == b"rounds=");
    Ok(string(input)?.filter(|format| !is_slow(format)))
}

/// As [`string`]; but names would be asked of the system, and long ranges are slow.
fn mail_servers(input: &mut Unstructured) -> Result<Option<CString>> {
    let is_harmless = |text: &CString| {
        let servers = text.to_str().ok().and_then(|text| parse_mail_servers(text).ok());
        servers.is_none_or(|servers| {
            servers.len() < 20
                && servers.iter().all(|server| {
                    matches!(
                        server.host,
                        MailHost::Address(_) | MailHost::Range(_, std::net::IpAddr::V4(_))
                    )
                })
        })
    };
    Ok(string(input)?.filter(is_harmless))
}

fn pointer(text: &Option<CString>) -> *const c_char {
    text.as_ref().map_or(ptr::null(), |text| text.as_ptr())
}

/// A string that the library lends, read to its NUL.
fn lent(text: *const c_char) -> Option<CString> {
    // SAFETY: the header promises NULL or a string.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_owned())
}

/// What C reads of a node.
fn texts(cluster: *const c_void, node: usize) -> [Option<CString>; 6] {
    // SAFETY: the cluster is one that was not freed, or NULL; any number is allowed.
    let texts = unsafe {
        [
            mailaffinity_node_name(cluster, node),
            mailaffinity_node_address(cluster, node),
            mailaffinity_node_tag(cluster, node),
            mailaffinity_node_host(cluster, node),
            mailaffinity_node_state(cluster, node),
            mailaffinity_node_queue_group(cluster, node),
        ]
    };
    texts.map(lent)
}

/// The text of a file: absent, one of these, or anything.
fn write(input: &mut Unstructured, path: &Path, start: &str, good: &[&str]) -> Result<()> {
    let text = match input.int_in_range(0..=7u8)? {
        0 => {
            let _ = fs::remove_file(path);
            return Ok(());
        }
        1..=5 => input.choose(good)?.as_bytes().to_vec(),
        _ => Vec::arbitrary(input)?,
    };
    fs::write(path, [start.as_bytes(), &text].concat()).expect("write");
    Ok(())
}

/// Another configuration and node state; the path of the former.
fn write_site(input: &mut Unstructured) -> Result<CString> {
    let (config, state) = (FOLDER.join("mailaffinity.toml"), FOLDER.join("nodes.toml"));
    write(input, &config, &format!("node_state = {state:?}\n"), &CONFIGS)?;
    write(input, &state, "", &STATES)?;
    Ok(CString::new(config.into_os_string().into_encoded_bytes()).expect("no NUL"))
}

impl Program {
    /// One that there is; now and then NULL.
    fn builder(&self, input: &mut Unstructured) -> Result<*mut c_void> {
        if self.builders.is_empty() || input.ratio(1, 16)? {
            return Ok(ptr::null_mut());
        }
        input.choose(&self.builders).copied()
    }

    /// Likewise.
    fn site(&self, input: &mut Unstructured) -> Result<*mut c_void> {
        if self.sites.is_empty() || input.ratio(1, 16)? {
            return Ok(ptr::null_mut());
        }
        input.choose(&self.sites).copied()
    }

    fn cluster(&self, input: &mut Unstructured) -> Result<Option<&Cluster>> {
        if self.clusters.is_empty() || input.ratio(1, 16)? {
            return Ok(None);
        }
        input.choose(&self.clusters).map(Some)
    }

    fn made(&mut self, status: c_int, pointer: *mut c_void, is_loaded: bool) {
        assert_eq!(status == OK, !pointer.is_null());
        if status == OK {
            // SAFETY: it was just made.
            let nodes = unsafe { mailaffinity_node_count(pointer) };
            assert!(nodes > 0);
            self.clusters.push(Cluster {
                pointer,
                texts: (0..nodes).map(|node| texts(pointer, node)).collect(),
                is_loaded,
            });
        }
    }

    fn step(&mut self, input: &mut Unstructured) -> Result<()> {
        let mut detail = Detail::new(input)?;
        let (words, size) = detail.arguments();
        // Where an output goes; now and then nowhere.
        let mut new = ptr::null_mut();
        let out: *mut *mut c_void = if input.ratio(1, 32)? {
            ptr::null_mut()
        } else {
            &mut new
        };
        match input.int_in_range(0..=12u8)? {
            0 => {
                let (strategy, format) = (input.int_in_range(-1..=2)?, format(input)?);
                // SAFETY: all of these are NULL or live until the call is over, here and below.
                let status =
                    unsafe { mailaffinity_builder_new(strategy, pointer(&format), out, words, size) };
                detail.check(status, true);
                assert_eq!(status == OK, !new.is_null());
                self.builders.extend((status == OK).then_some(new));
            }
            1 | 2 => {
                let builder = self.builder(input)?;
                let [name, address, tag, state] =
                    [string(input)?, string(input)?, string(input)?, string(input)?];
                let vhosts = if input.ratio(1, 16)? {
                    u32::arbitrary(input)?
                } else {
                    input.int_in_range(0..=300)?
                };
                let [name, address, tag, state] = [&name, &address, &tag, &state].map(pointer);
                // SAFETY: as above.
                let status = unsafe {
                    mailaffinity_builder_add_node(builder, name, address, vhosts, tag, state, words, size)
                };
                detail.check(status, true);
                assert!(status != OK || !builder.is_null() && !address.is_null());
            }
            3 => {
                let builder = self.builder(input)?;
                // SAFETY: as above.
                let status = unsafe { mailaffinity_builder_build(builder, out, words, size) };
                detail.check(status, true);
                self.made(status, new, false);
            }
            4 => {
                let (servers, strategy, format) =
                    (mail_servers(input)?, input.int_in_range(-1..=2)?, format(input)?);
                // SAFETY: as above.
                let status = unsafe {
                    let (servers, format) = (pointer(&servers), pointer(&format));
                    mailaffinity_cluster_from_mail_servers(servers, strategy, format, out, words, size)
                };
                detail.check(status, true);
                self.made(status, new, false);
            }
            5 => {
                let path = write_site(input)?;
                // SAFETY: as above.
                let status = unsafe { mailaffinity_cluster_load(path.as_ptr(), out, words, size) };
                detail.check(status, false);
                self.made(status, new, true);
            }
            10 => {
                let path = write_site(input)?;
                // SAFETY: as above.
                let status = unsafe { mailaffinity_site_open(path.as_ptr(), out, words, size) };
                detail.check(status, false);
                assert_eq!(status == OK, !new.is_null());
                self.sites.extend((status == OK).then_some(new));
            }
            11 => {
                let site = self.site(input)?;
                let user = <Box<[u8]>>::arbitrary(input)?;
                let mut node = usize::MAX;
                // SAFETY: as above.
                let status = unsafe {
                    let user_pointer = user.as_ptr().cast();
                    mailaffinity_site_lookup(site, user_pointer, user.len(), out, &mut node, words, size)
                };
                detail.check(status, false);
                assert!(status != OK || !site.is_null());
                self.made(status, new, true);
                let texts = self.clusters.last().filter(|_| status == OK);
                assert!(texts.map_or(node == usize::MAX, |cluster| node < cluster.texts.len()));
            }
            12 => {
                let site = self.site(input)?;
                // SAFETY: as above.
                let status = unsafe { mailaffinity_site_cluster(site, out, words, size) };
                detail.check(status, false);
                self.made(status, new, true);
            }
            6 => {
                if !self.builders.is_empty() && input.arbitrary()? {
                    let index = input.choose_index(self.builders.len())?;
                    // SAFETY: it is freed once.
                    unsafe { mailaffinity_builder_free(self.builders.swap_remove(index)) };
                } else if !self.sites.is_empty() && input.arbitrary()? {
                    let index = input.choose_index(self.sites.len())?;
                    // SAFETY: likewise.
                    unsafe { mailaffinity_site_close(self.sites.swap_remove(index)) };
                } else if !self.clusters.is_empty() {
                    let index = input.choose_index(self.clusters.len())?;
                    self.clusters.swap_remove(index).free();
                }
            }
            7 | 8 => {
                let tag = string(input)?;
                let user = <Box<[u8]>>::arbitrary(input)?;
                let hash = input.ratio(1, 4)?.then(|| u32::arbitrary(input)).transpose()?;
                let cluster = self.cluster(input)?;
                look_up(cluster, &user, hash, &tag, !out.is_null());
            }
            _ => {
                let (format, user) = (format(input)?, <Box<[u8]>>::arbitrary(input)?);
                let mut hash = 0;
                let vnodes = input.int_in_range(-1..=300)?;
                let name = CString::arbitrary(input)?;
                let error = c_int::arbitrary(input)?;
                // SAFETY: as above.
                unsafe {
                    let user_pointer = user.as_ptr().cast();
                    let status = mailaffinity_username_hash(
                        pointer(&format),
                        user_pointer,
                        user.len(),
                        &mut hash,
                        words,
                        size,
                    );
                    detail.check(status, true);
                    assert_eq!(status == OK, hash != 0);
                    for vnode in [
                        hash_user_group_modulo(name.as_ptr(), vnodes),
                        hash_user_group_ring(name.as_ptr(), vnodes),
                    ] {
                        assert!(if vnodes < 1 {
                            vnode == -1
                        } else {
                            (0..vnodes).contains(&vnode)
                        });
                    }
                    assert_eq!(hash_user_group_ring(ptr::null(), vnodes), -1);
                    assert!(lent(mailaffinity_strerror(error)).is_some());
                    assert!(lent(mailaffinity_version()).is_some());
                    mailaffinity_abi_version();
                }
            }
        }
        Ok(())
    }
}

/// A node has the tag and is up, or none is.
fn look_up(cluster: Option<&Cluster>, user: &[u8], hash: Option<u32>, tag: &Option<CString>, has_out: bool) {
    let handle = cluster.map_or(ptr::null_mut(), |cluster| cluster.pointer);
    let mut node = usize::MAX;
    let out: *mut usize = if has_out { &mut node } else { ptr::null_mut() };
    // SAFETY: all of these are NULL or live until the call is over.
    let status = unsafe {
        match hash {
            Some(hash) => mailaffinity_lookup_hash(handle, hash, pointer(tag), out),
            None => mailaffinity_lookup(handle, user.as_ptr().cast(), user.len(), pointer(tag), out),
        }
    };
    assert!((OK..ERROR_PANIC).contains(&status), "{status}");
    assert_eq!(status == OK, node != usize::MAX);
    let Some(cluster) = cluster.filter(|_| has_out) else {
        assert_eq!(status, ERROR_NULL);
        return;
    };
    if status == OK {
        assert!(node < cluster.texts.len());
    }
    if !cluster.is_loaded {
        let tag = tag.as_deref().unwrap_or(c"");
        let takes_users = |node: usize| {
            let [_, _, its_tag, _, state, _] = &cluster.texts[node];
            // SAFETY: the cluster was not freed.
            let vhosts = unsafe { mailaffinity_node_vhost_count(handle, node) };
            its_tag.as_deref() == Some(tag) && state.as_deref() == Some(c"up") && vhosts > 0
        };
        match status {
            OK => assert!(takes_users(node)),
            ERROR_NO_NODE => assert!(!(0..cluster.texts.len()).any(takes_users)),
            // A user without a hash, or a tag that is no text.
            _ => {}
        }
    }
}

impl Cluster {
    /// Once all it lent was read again.
    fn free(self) {
        for (node, texts_before) in self.texts.iter().enumerate() {
            assert!(texts(self.pointer, node) == *texts_before);
        }
        let beyond = [self.texts.len(), usize::MAX];
        assert!(
            beyond
                .iter()
                .all(|node| texts(self.pointer, *node).iter().all(Option::is_none))
        );
        // SAFETY: it is freed once.
        unsafe { mailaffinity_cluster_free(self.pointer) };
    }
}

fuzz_target!(|input: &[u8]| {
    let mut input = Unstructured::new(input);
    let mut program = Program::default();
    while !input.is_empty() && program.step(&mut input).is_ok() {}
    // First: the clusters that they gave stay as they are.
    for site in program.sites.into_iter().chain([ptr::null_mut()]) {
        // SAFETY: each is closed once, and NULL is allowed.
        unsafe { mailaffinity_site_close(site) };
    }
    program.clusters.into_iter().for_each(Cluster::free);
    for builder in program.builders.into_iter().chain([ptr::null_mut()]) {
        // SAFETY: each is freed once, and NULL is allowed.
        unsafe { mailaffinity_builder_free(builder) };
    }
    // SAFETY: NULL is allowed.
    unsafe { mailaffinity_cluster_free(ptr::null_mut()) };
});
