//! PHP behind web servers of the test's own: PHP-FPM behind nginx, Apache's mod_php, and
//! CGI under Apache.

use std::fs::{self, File, Permissions};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tempfile::TempDir;

use crate::browser::Browser;
use support::php;
use support::sendmail::program;

/// Far more than anything here takes: reached only when something hangs.
const DEADLINE: Duration = Duration::from_secs(60);

const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// How many processes run PHP.
pub(crate) const WORKERS: usize = 4;

/// As whom they run if root starts them: Debian's user for that.
const WEB_USER: (&str, u32, u32) = ("www-data", 33, 33);

/// PHP's extensions that webmail needs, in an order in which they load.
const EXTENSIONS: [&str; 14] = [
    "ctype",
    "dom",
    "fileinfo",
    "gettext",
    "iconv",
    "intl",
    "mbstring",
    "pdo",
    "pdo_sqlite",
    "posix",
    "simplexml",
    "tokenizer",
    "xml",
    "xmlwriter",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sapi {
    Fpm,
    Apache,
    Cgi,
}

/// Where `mailaffinity.config` is set. CGI has it in `php.ini` alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Set {
    /// For an FPM pool, or by Apache's configuration.
    ByServer,
    /// In `php.ini`, so that PHP knows it when it starts.
    InPhpIni,
}

/// A web server that runs PHP with the module.
pub(crate) struct Web {
    sapi: Sapi,
    port: u16,
    /// Of mailaffinity.
    config: PathBuf,
    set: Set,
    /// Whether each worker serves one request and ends.
    one_request_each: bool,
    /// The first of them runs PHP.
    servers: Vec<Server>,
    folder: TempDir,
}

impl Web {
    /// Serves a folder.
    ///
    /// # Panics
    /// When it does not, and when it is not installed.
    pub(crate) fn start(sapi: Sapi, document_root: &Path, config: &Path) -> Web {
        Web::serve(Web::prepare(sapi, config, Some("")), document_root)
    }

    /// Serves a folder with workers that end after one request each, so that all are new.
    pub(crate) fn start_with_new_workers(sapi: Sapi, document_root: &Path, config: &Path, set: Set) -> Web {
        let directive = match set {
            Set::ByServer => String::new(),
            Set::InPhpIni => format!("mailaffinity.config={}\n", config.display()),
        };
        let web = Web {
            set,
            one_request_each: true,
            ..Web::prepare(sapi, config, Some(&directive))
        };
        Web::serve(web, document_root)
    }

    /// Serves a folder with a PHP that does not have the module.
    pub(crate) fn start_without_module(sapi: Sapi, document_root: &Path, config: &Path) -> Web {
        Web::serve(Web::prepare(sapi, config, None), document_root)
    }

    fn serve(mut web: Web, document_root: &Path) -> Web {
        let sapi = web.sapi;
        let mark = web.folder.path().display().to_string();
        fs::write(document_root.join("mark.php"), &mark).unwrap();
        // Somebody else may take a free port before the server does.
        for _ in 0..5 {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
            web.port = listener.local_addr().expect("a socket").port();
            drop(listener);
            web.servers = match sapi {
                Sapi::Fpm => vec![web.fpm(), web.nginx(document_root)],
                Sapi::Apache | Sapi::Cgi => vec![web.apache(document_root)],
            };
            let begun = Instant::now();
            while web.servers.iter_mut().all(Server::runs) {
                if Browser::new(web.port).get_if_served("/mark.php") == Some(mark.clone()) {
                    return web;
                }
                assert!(
                    begun.elapsed() < DEADLINE,
                    "{sapi:?} does not serve:\n{}",
                    web.log()
                );
                thread::sleep(POLL_INTERVAL);
            }
        }
        panic!("{sapi:?} does not start:\n{}", web.log());
    }

    pub(crate) fn browser(&self) -> Browser {
        Browser::new(self.port)
    }

    /// Lets all workers be replaced by new ones, as administrators do it: those that are
    /// at work finish.
    pub(crate) fn reload(&self) {
        match self.sapi {
            Sapi::Fpm => {
                self.servers[0].signal(Signal::USR2);
                self.servers[1].signal(Signal::HUP);
            }
            Sapi::Apache | Sapi::Cgi => self.servers[0].signal(Signal::USR1),
        }
    }

    /// What PHP logged.
    pub(crate) fn php_log(&self) -> String {
        fs::read_to_string(self.path("php.log")).unwrap()
    }

    /// What all logged.
    pub(crate) fn log(&self) -> String {
        ["php.log", "fpm.log", "nginx.log", "apache.log", "output"]
            .iter()
            .filter_map(|name| fs::read(self.path(name)).ok())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .collect()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What all kinds need. Notices of what PHP will not have any more are hidden, as in the
    /// `php.ini` that PHP recommends and Debian has. With the module, there are directives of it.
    fn prepare(sapi: Sapi, config: &Path, module: Option<&str>) -> Web {
        let folder = TempDir::with_prefix("web").expect("a temporary directory");
        let web = Web {
            sapi,
            port: 0,
            config: config.to_owned(),
            set: Set::ByServer,
            one_request_each: false,
            servers: Vec::new(),
            folder,
        };
        fs::set_permissions(web.folder.path(), Permissions::from_mode(0o755)).unwrap();
        File::create(web.path("php.log")).unwrap();
        fs::create_dir(web.path("sessions")).unwrap();
        for name in ["php.log", "sessions"] {
            give_away(&web.path(name));
        }
        let module = module.map_or(String::new(), |directives| {
            // Who runs PHP may not enter where it was built.
            let file = web.path("mailaffinity.so");
            fs::copy(&*php::MODULE, &file).unwrap();
            format!("extension={}\n{directives}", file.display())
        });
        let extensions: String = EXTENSIONS
            .iter()
            .map(|extension| format!("extension={extension}\n"))
            .collect();
        fs::write(
            web.path("php.ini"),
            format!(
                "{module}zend_extension=opcache\n{extensions}opcache.enable=1\nopcache.file_update_protection=0\nlog_errors=1\n\
                 display_errors=0\nerror_reporting=E_ALL & ~E_DEPRECATED\nerror_log={}\nsession.save_path={}\n",
                web.path("php.log").display(),
                web.path("sessions").display(),
            ),
        )
        .unwrap();
        web
    }

    fn fpm(&self) -> Server {
        let folder = self.folder.path().display();
        let user = if is_root() {
            format!("user = {0}\ngroup = {0}\nlisten.owner = {0}\n", WEB_USER.0)
        } else {
            String::new()
        };
        let processes = match self.one_request_each {
            // As Debian has it, but that each worker is new.
            true => format!(
                "pm = dynamic\npm.start_servers = 2\npm.min_spare_servers = 1\npm.max_spare_servers = {WORKERS}\n\
                 pm.max_requests = 1\n"
            ),
            false => "pm = static\n".into(),
        };
        let directive = match self.set {
            Set::ByServer => format!(
                "php_admin_value[mailaffinity.config] = {}\n",
                self.config.display()
            ),
            Set::InPhpIni => String::new(),
        };
        let text = format!(
            "[global]
error_log = {folder}/fpm.log
daemonize = no
; Without it, a reload ends workers that are at work.
process_control_timeout = 60s
[webmail]
{user}listen = {folder}/fpm
pm.max_children = {WORKERS}
{processes}{directive}"
        );
        fs::write(self.path("fpm.conf"), text).unwrap();
        let fpm = program(&[&format!("php-fpm{}", *php::VERSION), "php-fpm"], "php-fpm");
        self.spawn(
            Command::new(fpm)
                .arg("-F")
                .arg("-c")
                .arg(self.path("php.ini"))
                .arg("-y")
                .arg(self.path("fpm.conf")),
        )
    }

    fn nginx(&self, document_root: &Path) -> Server {
        let folder = self.folder.path().display();
        let user = if is_root() {
            format!("user {};\n", WEB_USER.0)
        } else {
            String::new()
        };
        let text = format!(
            "{user}daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/nginx-body;
    fastcgi_temp_path {folder}/nginx-fastcgi;
    proxy_temp_path {folder}/nginx-proxy;
    scgi_temp_path {folder}/nginx-scgi;
    uwsgi_temp_path {folder}/nginx-uwsgi;
    server {{
        listen 127.0.0.1:{port};
        root {root};
        index index.php;
        location ~ \\.php$ {{
            include /etc/nginx/fastcgi.conf;
            fastcgi_pass unix:{folder}/fpm;
        }}
    }}
}}
",
            port = self.port,
            root = document_root.display(),
        );
        fs::write(self.path("nginx.conf"), text).unwrap();
        let nginx = program(&["nginx"], "nginx");
        self.spawn(
            Command::new(nginx)
                .arg("-e")
                .arg(self.path("nginx.log"))
                .arg("-c")
                .arg(self.path("nginx.conf")),
        )
    }

    fn apache(&self, document_root: &Path) -> Server {
        let folder = self.folder.path().display();
        let modules = "/usr/lib/apache2/modules";
        let user = if is_root() {
            format!("User {0}\nGroup {0}\n", WEB_USER.0)
        } else {
            String::new()
        };
        let mut php = match self.sapi {
            Sapi::Cgi => self.cgi(modules),
            _ => format!(
                "LoadModule php_module {modules}/libphp{}.so\nPHPIniDir {folder}\n",
                *php::VERSION
            ),
        };
        if (self.sapi, self.set) == (Sapi::Apache, Set::ByServer) {
            php += &format!("php_admin_value mailaffinity.config {}\n", self.config.display());
        }
        // Apache replaces workers that have ended once a second.
        let (workers, requests) = match self.one_request_each {
            true => (16 * WORKERS, 1),
            false => (WORKERS, 0),
        };
        let text = format!(
            "{user}ServerRoot {folder}
ServerName 127.0.0.1
Listen 127.0.0.1:{port}
PidFile {folder}/apache.pid
Mutex file:{folder}
ErrorLog {folder}/apache.log
LoadModule mpm_prefork_module {modules}/mod_mpm_prefork.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule dir_module {modules}/mod_dir.so
{php}StartServers {workers}
MinSpareServers {workers}
MaxSpareServers {workers}
MaxRequestWorkers {workers}
MaxConnectionsPerChild {requests}
DocumentRoot {root}
DirectoryIndex index.php
<FilesMatch \"\\.php$\">
    SetHandler application/x-httpd-php
</FilesMatch>
",
            port = self.port,
            root = document_root.display(),
        );
        fs::write(self.path("apache.conf"), text).unwrap();
        let apache = program(&["apache2"], "apache2-bin");
        self.spawn(
            Command::new(apache)
                .arg("-DFOREGROUND")
                .arg("-f")
                .arg(self.path("apache.conf")),
        )
    }

    /// Apache's lines for PHP as a program that is started for each request.
    fn cgi(&self, modules: &str) -> String {
        let script = self.path("php-cgi");
        let php_cgi = program(&[&format!("php-cgi{}", *php::VERSION), "php-cgi"], "php-cgi");
        let folder = self.folder.path().display();
        let text = format!(
            "#!/bin/sh\nPHPRC={folder} PHP_INI_SCAN_DIR= exec {}\n",
            php_cgi.display()
        );
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
        format!(
            "LoadModule alias_module {modules}/mod_alias.so
LoadModule actions_module {modules}/mod_actions.so
LoadModule cgi_module {modules}/mod_cgi.so
ScriptAlias /php-cgi {}
Action application/x-httpd-php /php-cgi
",
            script.display()
        )
    }

    fn spawn(&self, command: &mut Command) -> Server {
        let output = File::options()
            .create(true)
            .append(true)
            .open(self.path("output"))
            .unwrap();
        let child = command
            // No other configuration of PHP than that of the folder.
            .env("PHP_INI_SCAN_DIR", "")
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Server(child)
    }
}

/// A server in a process group of its own, which ends when this is dropped.
struct Server(Child);

impl Server {
    fn runs(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
        let _ = self.0.wait();
    }
}

/// Lets the web servers' user write something.
pub(crate) fn give_away(path: &Path) {
    if is_root() {
        let (_, uid, gid) = WEB_USER;
        chown(path, Some(uid), Some(gid)).unwrap();
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}
