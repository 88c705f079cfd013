//! A name server of the test's own (dnsmasq), in a network namespace whose resolver asks it and nobody else.

use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::process::end;
use super::{Namespace, Stage, has, wait_until};

/// The namespace and its server. Processes that [`Dns::command`] starts look names up there.
pub(crate) struct Dns {
    namespace: Namespace,
    /// Where its configuration is.
    stage: Stage,
    server: Option<Child>,
}

impl Dns {
    /// Starts it with these lines of dnsmasq.conf(5); `None` where it cannot be made: then the test is skipped.
    pub(crate) fn start(records: &[&str]) -> Option<Self> {
        let mut dns = Self::dead()?;
        dns.answer(records);
        Some(dns)
    }

    /// A namespace whose name server does not run.
    pub(crate) fn dead() -> Option<Self> {
        if !(has("dnsmasq", "dnsmasq-base") && has("getent", "libc-bin") && Namespace::can_be_made()) {
            return None;
        }
        let stage = Stage::new();
        // A server that is silent for longer than this is a failure; it is asked once.
        let resolver = stage.write("resolv.conf", "nameserver 127.0.0.1\noptions timeout:30 attempts:1\n");
        let (services, hosts) = (stage.write("nsswitch.conf", "hosts: files dns\n"), stage.write("hosts", "127.0.0.1 localhost\n"));
        let namespace =
            Namespace::with_files(&[(&resolver, "/etc/resolv.conf"), (&services, "/etc/nsswitch.conf"), (&hosts, "/etc/hosts")]);
        Some(Self { namespace, stage, server: None })
    }

    /// Answers with these records from now on, and says of any other name that there is none.
    #[track_caller]
    pub(crate) fn answer(&mut self, records: &[&str]) {
        self.stop();
        let fixed = "no-resolv\nno-hosts\nuser=root\npid-file\nlisten-address=127.0.0.1\nbind-interfaces\nlocal=//\nlocal=/net/\nlocal=/com/\n\
                     local=/example/\nlocal=/arpa/\nhost-record=ready.example,192.0.2.1\n";
        let config = self.stage.write("dnsmasq.conf", &format!("{fixed}{}\n", records.join("\n")));
        let mut dnsmasq = self.command("dnsmasq");
        dnsmasq.arg("--keep-in-foreground").arg(format!("--conf-file={}", config.display()));
        self.server = Some(dnsmasq.stdout(Stdio::null()).spawn().unwrap());
        wait_until("dnsmasq answers", || self.namespace.try_run("getent hosts ready.example"));
    }

    /// Ends the server: questions fail at once.
    pub(crate) fn stop(&mut self) {
        self.server.take().iter_mut().for_each(end);
    }

    /// Lets the server fall silent, or answer what it was asked meanwhile.
    pub(crate) fn is_silent(&self, silent: bool) {
        let server = Pid::from_child(self.server.as_ref().unwrap());
        kill_process(server, if silent { Signal::STOP } else { Signal::CONT }).unwrap();
    }

    /// A command that runs `program` in the namespace.
    pub(crate) fn command(&self, program: &str) -> Command {
        let words = self.namespace.wrapper();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(program);
        command
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.stop();
    }
}
