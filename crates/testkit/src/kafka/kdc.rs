//! A real Kerberos for tests: MIT's KDC on 127.0.0.1, with realms, principals, keytabs and ticket caches of its own.
//!
//! It takes Debian's packages `krb5-kdc`, `krb5-admin-server` and `krb5-user`, which are installed where they are missing if this process is root
//! and has `apt-get`. Nothing outside of the KDC's own folder is read or written.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::sync::{Mutex, OnceCell};
use tokio::time::Instant;

use super::error::{KafkaError, KafkaErrorKind};
use super::guard::Guard;
use super::process::new_folder;
use super::settings::free_port;

/// How long a KDC may take from its start to the first connection.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Where it writes what it was asked, in its folder.
const REQUESTS: &str = "requests.log";

/// What a KDC is to be.
#[derive(Debug, Clone)]
pub struct KdcOptions {
    /// The realms, the first one being the default. Default `TEST.MILENA`.
    pub realms: Vec<String>,
    /// Pairs of realms of which the second trusts the clients of the first. Default none.
    pub trusts: Vec<(String, String)>,
    /// The types of new keys. Default all four with AES.
    pub enctypes: String,
    /// How long tickets last at most, as Kerberos writes it. Default `1h`.
    pub max_life: String,
    /// Which realms hosts are in, for `krb5.conf`. Default: `localhost` and `127.0.0.1` in the first realm.
    pub hosts: Vec<(String, String)>,
}

impl Default for KdcOptions {
    fn default() -> Self {
        Self {
            realms: vec!["TEST.MILENA".to_owned()],
            trusts: Vec::new(),
            enctypes: "aes256-cts-hmac-sha1-96:normal aes128-cts-hmac-sha1-96:normal \
                       aes256-cts-hmac-sha384-192:normal aes128-cts-hmac-sha256-128:normal"
                .to_owned(),
            max_life: "1h".to_owned(),
            hosts: Vec::new(),
        }
    }
}

/// A KDC that runs. Dropping it ends the process and removes its folder.
#[derive(Debug)]
pub struct Kdc {
    folder: PathBuf,
    realms: Vec<String>,
    port: u16,
    process: Mutex<Option<Child>>,
    guard: std::sync::Mutex<Guard>,
}

impl Kdc {
    /// Starts a KDC and waits until it takes connections.
    ///
    /// # Errors
    /// [`KafkaErrorKind::Absent`] if the programs are missing and cannot be installed, [`KafkaErrorKind::Start`] if they fail.
    ///
    /// # Cancellation
    /// What was started is ended and removed.
    pub async fn start(options: &KdcOptions) -> Result<Self, KafkaError> {
        install().await?;
        let folder = new_folder().map_err(|error| KafkaError::system("a folder for the KDC", error))?;
        let guard = Guard::of_process(&folder).map_err(|error| KafkaError::system("sh", error))?;
        let kdc = Self {
            folder,
            realms: options.realms.clone(),
            port: free_port()?,
            process: Mutex::new(None),
            guard: std::sync::Mutex::new(guard),
        };
        kdc.write("krb5.conf", &kdc.client_configuration(options))?;
        kdc.write("kdc.conf", &kdc.server_configuration(options))?;
        kdc.write("kadm5.acl", "")?;
        for realm in &options.realms {
            kdc.run("kdb5_util", &["create", "-s", "-r", realm, "-P", "master"]).await?;
        }
        for (from, to) in &options.trusts {
            for realm in [from, to] {
                kdc.admin(realm, &format!("addprinc -pw shared krbtgt/{to}@{from}")).await?;
            }
        }
        kdc.launch().await?;
        Ok(kdc)
    }

    fn write(&self, name: &str, text: &str) -> Result<(), KafkaError> {
        fs::write(self.folder.join(name), text).map_err(|error| KafkaError::system(name, error))
    }

    fn client_configuration(&self, options: &KdcOptions) -> String {
        let first = self.realm();
        let mut text = format!(
            "[libdefaults]\n  default_realm = {first}\n  dns_lookup_kdc = false\n  dns_lookup_realm = false\n  \
             dns_canonicalize_hostname = false\n  rdns = false\n  ticket_lifetime = {}\n[realms]\n",
            options.max_life
        );
        for realm in &options.realms {
            let _ = writeln!(text, "  {realm} = {{\n    kdc = {}\n  }}", self.address());
        }
        text.push_str("[domain_realm]\n");
        for (host, realm) in &options.hosts {
            let _ = writeln!(text, "  {host} = {realm}");
        }
        if options.hosts.is_empty() {
            let _ = writeln!(text, "  localhost = {first}\n  127.0.0.1 = {first}");
        }
        text
    }

    fn server_configuration(&self, options: &KdcOptions) -> String {
        let folder = self.folder.display();
        let address = self.address();
        let mut text = format!(
            "[kdcdefaults]\n  kdc_listen = {address}\n  kdc_tcp_listen = {address}\n[logging]\n  kdc = FILE:{folder}/{REQUESTS}\n[realms]\n"
        );
        for realm in &options.realms {
            let _ = writeln!(
                text,
                "  {realm} = {{\n    database_name = {folder}/{realm}.db\n    key_stash_file = {folder}/{realm}.stash\n    \
                 acl_file = {folder}/kadm5.acl\n    max_life = {}\n    max_renewable_life = 1d\n    \
                 supported_enctypes = {}\n  }}",
                options.max_life, options.enctypes
            );
        }
        text
    }

    async fn launch(&self) -> Result<(), KafkaError> {
        let log = File::create(self.folder.join("kdc.log"))
            .map_err(|error| KafkaError::system("the log", error))?;
        let mut command = self.command("krb5kdc");
        command.arg("-n");
        for realm in &self.realms {
            command.args(["-r", realm]);
        }
        let child = command
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .spawn()
            .map_err(|error| KafkaError::system("krb5kdc", error))?;
        let watched = self.guard.lock().map(|mut guard| guard.watch(Some(child.id())));
        *self.process.lock().await = Some(child);
        if let Ok(Err(error)) = watched {
            return Err(KafkaError::system("the clean-up process", error));
        }
        let started = Instant::now();
        while started.elapsed() < START_TIMEOUT {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let log = fs::read_to_string(self.folder.join("kdc.log")).unwrap_or_default();
        Err(KafkaError::new(KafkaErrorKind::Start, format!("the KDC does not come up:\n{log}")))
    }

    /// Ends the KDC. Its data stays for [`Kdc::restart`].
    ///
    /// # Cancellation
    /// The KDC is ended all the same.
    pub async fn stop(&self) {
        if let Some(mut child) = self.process.lock().await.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts the KDC again after [`Kdc::stop`].
    ///
    /// # Errors
    /// As [`Kdc::start`].
    ///
    /// # Cancellation
    /// The KDC may run or not; call again.
    pub async fn restart(&self) -> Result<(), KafkaError> {
        self.stop().await;
        self.launch().await
    }

    /// The first realm.
    pub fn realm(&self) -> &str {
        self.realms.first().map_or("", String::as_str)
    }

    /// Where it listens, over UDP and TCP.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The `krb5.conf` of its clients.
    pub fn configuration(&self) -> PathBuf {
        self.folder.join("krb5.conf")
    }

    /// The folder of all its files, for more of them.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Makes a principal, with a password or a random key.
    ///
    /// # Errors
    /// [`KafkaErrorKind::System`] with what `kadmin.local` says.
    ///
    /// # Cancellation
    /// The principal may be there or not.
    pub async fn add_principal(&self, name: &str, password: Option<&str>) -> Result<(), KafkaError> {
        let key = password.map_or_else(|| "-randkey".to_owned(), |password| format!("-pw {password}"));
        self.admin(
            realm_of(name).unwrap_or(self.realm()),
            &format!("addprinc {key} +requires_preauth {name}"),
        )
        .await
    }

    /// Any request of `kadmin.local` in a realm.
    ///
    /// # Errors
    /// [`KafkaErrorKind::System`] with what it says.
    ///
    /// # Cancellation
    /// The request may have been carried out.
    pub async fn admin(&self, realm: &str, query: &str) -> Result<(), KafkaError> {
        self.run("kadmin.local", &["-r", realm, "-q", query]).await
    }

    /// Writes the principal's present keys to a keytab of this name, after those that are there, and gives its path.
    ///
    /// # Errors
    /// [`KafkaErrorKind::System`] with what `kadmin.local` says.
    ///
    /// # Cancellation
    /// The keytab may be there or not.
    pub async fn keytab(&self, principal: &str, name: &str) -> Result<PathBuf, KafkaError> {
        let path = self.folder.join(name);
        let query = format!("ktadd -norandkey -k {} {principal}", path.display());
        self.admin(realm_of(principal).unwrap_or(self.realm()), &query).await?;
        Ok(path)
    }

    /// Gets a ticket-granting ticket with a keytab into a new ticket cache of this name, and gives its path. `options` are `kinit`'s.
    ///
    /// # Errors
    /// [`KafkaErrorKind::System`] with what `kinit` says.
    ///
    /// # Cancellation
    /// The ticket cache may be there or not.
    pub async fn kinit(
        &self,
        keytab: &Path,
        principal: &str,
        options: &[&str],
        name: &str,
    ) -> Result<PathBuf, KafkaError> {
        let path = self.folder.join(name);
        let (keytab, cache) = (keytab.display().to_string(), format!("FILE:{}", path.display()));
        let mut arguments = vec!["-k", "-t", &keytab, "-c", &cache];
        arguments.extend(options);
        arguments.push(principal);
        self.run("kinit", &arguments).await?;
        Ok(path)
    }

    /// What the KDC gave out so far, a line each: `AS_REQ` or `TGS_REQ`, and `CLIENT for SERVICE` in it.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        let log = fs::read_to_string(self.folder.join(REQUESTS)).unwrap_or_default();
        log.lines().filter(|line| line.contains(" ISSUE: ")).map(str::to_owned).collect()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(find(program).unwrap_or_else(|| PathBuf::from(program)));
        command
            .env("KRB5_CONFIG", self.configuration())
            .env("KRB5_KDC_PROFILE", self.folder.join("kdc.conf"))
            .env_remove("KRB5CCNAME")
            .current_dir(&self.folder)
            .stdin(Stdio::null());
        command
    }

    async fn run(&self, program: &str, arguments: &[&str]) -> Result<(), KafkaError> {
        let mut command = self.command(program);
        command.args(arguments);
        let output = tokio::process::Command::from(command)
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|error| KafkaError::system(program, error))?;
        let said = String::from_utf8_lossy(&output.stderr);
        // kadmin.local succeeds whatever becomes of its request; its complaints have the form "addprinc: .. while ..".
        if output.status.success() && !said.contains(" while ") {
            return Ok(());
        }
        Err(KafkaError::new(KafkaErrorKind::System, format!("{program} {}: {said}", arguments.join(" "))))
    }
}

impl Drop for Kdc {
    fn drop(&mut self) {
        if let Some(mut child) = self.process.get_mut().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn realm_of(principal: &str) -> Option<&str> {
    principal.split_once('@').map(|(_, realm)| realm)
}

/// The path of a program, also where daemons are, which are not on every user's path.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// Sees to it that the programs are there, once for the process.
async fn install() -> Result<(), KafkaError> {
    static INSTALLED: OnceCell<Result<(), KafkaError>> = OnceCell::const_new();
    INSTALLED.get_or_init(try_install).await.clone()
}

async fn try_install() -> Result<(), KafkaError> {
    const PROGRAMS: [&str; 4] = ["krb5kdc", "kdb5_util", "kadmin.local", "kinit"];
    let missing = || PROGRAMS.into_iter().filter(|program| find(program).is_none()).collect::<Vec<_>>();
    if missing().is_empty() {
        return Ok(());
    }
    let is_root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    let mut why = "needs root and apt-get to install them".to_owned();
    if is_root && find("apt-get").is_some() {
        let script = "apt-get -qq update; DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 \
                      install krb5-kdc krb5-admin-server krb5-user";
        let output =
            tokio::process::Command::new("sh").args(["-c", script]).kill_on_drop(true).output().await;
        why = match output {
            Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(error) => error.to_string(),
        };
    }
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    let text = format!(
        "no MIT Kerberos on this machine: {} missing (Debian: krb5-kdc krb5-admin-server krb5-user): {why}",
        missing.join(", ")
    );
    Err(KafkaError::new(KafkaErrorKind::Absent, text))
}
