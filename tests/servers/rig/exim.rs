//! A real Exim on loopback, with its own configuration, spool and logs. It learns client addresses by the PROXY protocol.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use super::process::Process;
use crate::harness::{Stage, free_port, program, wait_for};

static NAMES: AtomicU32 = AtomicU32::new(0);

/// A running Exim.
pub(crate) struct Exim {
    process: Process,
    config: PathBuf,
    port: u16,
    submission: u16,
    dir: PathBuf,
}

impl Exim {
    /// Starts Exim with `acl` as its connect ACL. One port stands for both submission ports: `465:587` in the ACL and the options becomes that port.
    pub(crate) fn start(stage: &Stage, acl: &str) -> Self {
        Self::start_with(stage, acl, "")
    }

    /// The same, with more lines for the main part of the configuration.
    pub(crate) fn start_with(stage: &Stage, acl: &str, options: &str) -> Self {
        Self::start_whole(stage, acl, options, "accept", "")
    }

    /// The same, with statements of the RCPT ACL, and with authenticators.
    pub(crate) fn start_whole(stage: &Stage, acl: &str, options: &str, recipients: &str, authenticators: &str) -> Self {
        let name = format!("exim{}", NAMES.fetch_add(1, Ordering::SeqCst));
        let dir = stage.make(&name, Some("Debian-exim"));
        let spool = stage.make(&format!("{name}/spool"), Some("Debian-exim"));
        let logs = stage.make(&format!("{name}/log"), Some("Debian-exim"));
        let (port, submission) = (free_port(), free_port());
        let with_port = |text: &str| text.replace("465:587", &submission.to_string());
        let (acl, options) = (stage.write(&format!("{name}.acl"), &with_port(acl)), with_port(options));
        let groups = if rustix::process::geteuid().is_root() {
            String::new()
        } else {
            // Exim lets an ordinary user start a daemon only as its administrator, and must not change to another user.
            let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
            format!("admin_groups = {group}\nexim_user = {user}\nexim_group = {group}\n")
        };
        // Exim looks up the host name of every client that comes by the PROXY protocol; an empty host_lookup_order prevents it.
        let config = stage.write(
            &format!("{name}.conf"),
            &format!(
                "primary_hostname = mx.example.test\n\
                 spool_directory = {spool}\n\
                 log_file_path = {logs}/%slog\n\
                 pid_file_path = {own}/exim.pid\n\
                 daemon_smtp_ports = {port} : {submission}\n\
                 local_interfaces = 127.0.0.1\n\
                 hosts_proxy = 127.0.0.1\n\
                 {no_tls}\
                 keep_environment =\n\
                 host_lookup =\n\
                 rfc1413_hosts =\n\
                 host_lookup_order =\n\
                 queue_only\n\
                 smtp_accept_max = 500\n\
                 smtp_connect_backlog = 500\n\
                 acl_smtp_connect = {acl}\n\
                 acl_smtp_rcpt = take\n\
                 {groups}{options}\n\
                 begin acl\n\
                 take:\n  {recipients}\n\
                 begin routers\n\
                 begin transports\n\
                 begin retry\n\
                 begin rewrite\n\
                 begin authenticators\n\
                 {authenticators}\n",
                spool = spool.display(),
                no_tls = if options.contains("tls_advertise_hosts") { "" } else { "tls_advertise_hosts =\n" },
                logs = logs.display(),
                own = dir.display(),
                acl = acl.display(),
            ),
        );
        let mut command = Command::new(program("exim4").expect("exim4"));
        command.arg("-C").arg(&config).arg("-bdf");
        let process = Process::start("exim", &mut command, vec![dir.join("output"), logs.join("mainlog"), logs.join("paniclog")]);
        let mut exim = Self { process, config, port, submission, dir };
        wait_for("Exim listens", || {
            exim.process.assert_running();
            exim.mainlog().contains("listening for SMTP").then_some(())
        });
        exim
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Its configuration file.
    pub(crate) fn config(&self) -> &Path {
        &self.config
    }

    /// The port that stands for 465 and 587.
    pub(crate) fn submission(&self) -> u16 {
        self.submission
    }

    /// The file with Exim's main log. Run by an ordinary user, Exim logs to stderr.
    pub(crate) fn mainlog_path(&self) -> PathBuf {
        self.dir.join(if self.logs_by_itself() { "log/mainlog" } else { "output" })
    }

    /// Whether Exim opens its log files itself, as in production.
    pub(crate) fn logs_by_itself(&self) -> bool {
        rustix::process::geteuid().is_root()
    }

    pub(crate) fn mainlog(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.mainlog_path()).unwrap_or_default()).into_owned()
    }

    /// Exim's paniclog, which is empty unless something is badly wrong.
    pub(crate) fn paniclog(&self) -> String {
        fs::read_to_string(self.dir.join("log/paniclog")).unwrap_or_default()
    }
}
