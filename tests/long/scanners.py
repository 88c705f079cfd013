"""The stage and the runs of tests/long/scanners: scanners.py PROGRAMS [--answers] [NAME...]. Needs network and process namespaces of its own.

Squid has conf-examples/squid-failopen.conf, the daemon conf-examples/strikeout.toml, and Exim the connect ACL and the incidents ACL of
conf-examples; only paths differ. Each client comes from an address of its own. With --answers, Squid asks before it sends a 404, by the commented lines of
that example.
"""

import collections
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

import scanners_clients as clients

TOP = pathlib.Path(__file__).resolve().parents[2]
SERVER = clients.SERVER
# A scanner that has not noticed that it is refused is ended.
RUN_SECONDS = 90
SQUID = """http_port {server}:80 accel defaultsite=www.example.test no-vhost
http_port {server}:3128
never_direct allow all
cache_peer 127.0.0.1 parent 8080 0 no-query no-digest originserver login=PASSTHRU connect-fail-limit=1000000
cache deny all
pid_filename {work}/squid/squid.pid
cache_log {work}/squid/cache.log
coredump_dir {work}/squid
netdb_filename none
pinger_enable off
shutdown_lifetime 0 seconds
visible_hostname www.example.test
logformat measured %>a %>Hs %rm
access_log stdio:{work}/squid/measured.log logformat=measured
{fragment}
http_access allow all
"""
EXIM = """primary_hostname = mx.example.test
spool_directory = {work}/exim
log_file_path = {work}/exim/%slog
pid_file_path = {work}/exim/exim.pid
daemon_smtp_ports = 25 : 465 : 587
tls_on_connect_ports = 465
tls_certificate = {work}/exim/certificate
tls_privatekey = {work}/exim/key
tls_advertise_hosts = *
local_interfaces = {server}
keep_environment =
host_lookup =
rfc1413_hosts =
queue_only
smtp_accept_max = 500
smtp_connect_backlog = 500
acl_smtp_connect = {connect}
acl_smtp_rcpt = take
acl_smtp_auth = {incidents}
acl_smtp_quit = {incidents}
acl_smtp_notquit = {incidents}
{event}
begin acl
take:
  require acl = {incidents}
  accept authenticated = *
  accept local_parts = postmaster : user
  deny message = Unknown user
begin routers
begin transports
begin retry
begin rewrite
begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${{if eq{{$auth3}}{{right}}}}
login:
  driver = plaintext
  public_name = LOGIN
  server_prompts = Username:: : Password::
  server_condition = ${{if eq{{$auth2}}{{right}}}}
"""


def replaced(text, changes):
    """Replaces each text, which must be there."""
    for old, new in changes.items():
        assert old in text, f"found no {old!r} in the example, expected one"
        text = text.replace(old, new)
    return text


def example(name, changes):
    return replaced((TOP / "conf-examples" / name).read_text(), changes)


def wait_until(what, condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"not within a minute: {what}"
        time.sleep(0.05)


def listens(address, port):
    with socket.socket() as probe:
        return probe.connect_ex((address, port)) == 0


class Stage:
    """The servers at one address, and a network namespace of the clients at the other end of a cable."""

    squid_conf = SQUID

    def __init__(self, programs, work, asks_before_answers=False):
        self.work = work
        self.asks_before_answers = asks_before_answers
        self.processes = []
        self.strikeout = work / "strikeout"
        for name in ("squid", "exim", "site", "home"):
            (work / name).mkdir()
        for name in ("strikeout", "ext_strikeout_acl"):
            # The build may lie where Squid's user cannot go.
            (work / name).write_bytes((pathlib.Path(programs) / name).read_bytes())
            (work / name).chmod(0o755)
        subprocess.run(["chown", "proxy", work / "squid"], check=True)
        subprocess.run(["chown", "Debian-exim", work / "exim"], check=True)
        self.make_network()
        self.start_site()
        self.start_daemon()
        self.start_squid()
        self.start_exim()

    def make_network(self):
        self.holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo inside; exec sleep infinity"], stdout=subprocess.PIPE)
        self.holder.stdout.readline()
        run = lambda command: subprocess.run(command.split(), check=True)
        run("ip link set lo up")
        run(f"ip link add cable type veth peer name uplink netns {self.holder.pid}")
        run(f"ip address add {SERVER}/24 dev cable")
        run("ip link set cable up")
        inside = f"nsenter --target {self.holder.pid} --net ip "
        run(inside + "link set lo up")
        for last in range(2, 255):
            run(inside + f"address add 198.51.100.{last}/24 dev uplink")
        run(inside + "link set uplink up")

    def start(self, name, command):
        output = (self.work / f"{name}.out").open("wb")
        self.processes.append(subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL))

    def start_site(self):
        clients.make_site(self.work / "site")
        self.start("site", [sys.executable, TOP / "tests/long/site.py", self.work / "site"])
        wait_until("the site listens", lambda: listens("127.0.0.1", 8080))

    def start_daemon(self):
        self.socket = self.work / "strikeout.sock"
        self.config = self.work / "strikeout.toml"
        self.config.write_text(
            example(
                "strikeout.toml",
                {
                    '#socket = "/run/strikeout/strikeout.sock"': f'socket = "{self.socket}"',
                    '#mode = "0660"': 'mode = "0666"',
                    '#group = "strikeout"': 'group = "proxy"',
                    '#state = "/var/lib/strikeout/strikeout.db"': f'state = "{self.work}/strikeout.db"',
                    "/var/log/squid/": f"{self.work}/squid/",
                    "/var/log/exim4/": f"{self.work}/exim/",
                },
            )
        )
        self.start("daemon", [self.strikeout, "serve", "--config", self.config])
        wait_until("the daemon listens", self.socket.exists)

    def start_squid(self):
        fragment = example(
            "squid-failopen.conf",
            {
                "/usr/lib/squid/ext_strikeout_acl": f"{self.work}/ext_strikeout_acl",
                "/run/strikeout/strikeout.sock": str(self.socket),
                "/var/log/squid/": f"{self.work}/squid/",
            },
        )
        if self.asks_before_answers:
            begin, end = fragment.index("#external_acl_type strikeout_answer"), fragment.index("# A log of refusals")
            fragment = fragment[:begin] + fragment[begin:end].replace("#", "") + fragment[end:]
        config = self.work / "squid.conf"
        config.write_text(self.squid_conf.format(work=self.work, server=SERVER, fragment=fragment))
        self.start("squid", ["squid", "-N", "-n", f"strikeout{os.getpid()}", "-f", config])
        wait_until("Squid listens", lambda: listens(SERVER, 80) and listens(SERVER, 3128))

    def start_exim(self):
        late = f"{self.work}/./strikeout.sock"
        connect, incidents = self.work / "connect.acl", self.work / "incidents.acl"
        connect.write_text(example("exim-readsocket.acl", {"/run/strikeout/strikeout.sock": str(self.socket)}))
        text = example("exim-incidents.acl", {"/run/strikeout/./strikeout.sock": late})
        incidents.write_text(text)
        event = re.search("^#   (event_action = .*)$", text, re.M)[1]
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=mx.example.test"]
            + ["-keyout", self.work / "exim/key", "-out", self.work / "exim/certificate"],
            check=True,
            stderr=subprocess.DEVNULL,
        )
        subprocess.run(["chown", "Debian-exim", self.work / "exim/key", self.work / "exim/certificate"], check=True)
        config = self.work / "exim.conf"
        config.write_text(EXIM.format(work=self.work, server=SERVER, connect=connect, incidents=incidents, event=event))
        self.start("exim", ["exim4", "-C", config, "-bdf"])
        wait_until("Exim listens", lambda: all(listens(SERVER, port) for port in (25, 465, 587)))

    def assert_running(self):
        for process in self.processes:
            assert process.poll() is None, f"a server ended with {process.returncode}: {process.args}"

    def run(self, name, address, command, seconds=RUN_SECONDS):
        """Runs a command as the client `address`. Returns its status and output."""
        inside = ["nsenter", "--target", str(self.holder.pid), "--net", f"--wd={self.work / 'home'}"]
        subprocess.run(inside + ["ip", "route", "change", "198.51.100.0/24", "dev", "uplink", "src", address], check=True)
        output = self.work / f"run-{re.sub('[^a-z0-9]+', '-', name.lower())}.out"
        home = {"HOME": str(self.work / "home"), "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "STRIKEOUT_WORK": str(self.work)}
        with output.open("wb") as file:
            child = subprocess.Popen(inside + command, stdout=file, stderr=file, stdin=subprocess.DEVNULL, env=home, start_new_session=True)
            try:
                child.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        return child.returncode, output

    def web(self, address, posts=False):
        """Whether each request, or each POST, was refused, in the order of the answers."""
        lines = [line.split() for line in (self.work / "squid/measured.log").read_text().splitlines()]
        return [status == "429" for client, status, method in lines if client == address and (method == "POST" or not posts)]

    def mail(self, address):
        """The same for passwords, connections and recipients that Exim turned down: a password is served if it was checked."""
        lines = [line for line in (self.work / "exim/mainlog").read_text().splitlines() if f"[{address}]" in line]
        return ["strikeout: " in line for line in lines if "strikeout: " in line or "535 Incorrect" in line or " <= " in line]

    def why(self, address):
        """The rule that refuses this client, or under which it has strikes."""
        command = [self.strikeout, "why", address, "--json", "--config", self.config]
        answer = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
        first = answer.get("ban") or next(iter(answer.get("strikes") or []), {})
        return first.get("rule", "none")


Row = collections.namedtuple("Row", "name before served refused limit rule fault")


def scanner_row(stage, scanner, address):
    stage.run(scanner.name, address, scanner.command)
    refusals = stage.mail(address) if scanner.counts == "passwords" else stage.web(address, scanner.counts == "posts")
    before = refusals.index(True) if True in refusals else len(refusals)
    served = refusals.count(False)
    fault = ""
    if True not in refusals:
        fault = "never refused"
    elif served > scanner.limit:
        fault = "served too often"
    return Row(scanner.name, before, served, refusals.count(True), scanner.limit, stage.why(address), fault)


def innocent_row(stage, innocent, address):
    status, output = stage.run(innocent.name, address, innocent.command)
    refusals = stage.web(address) + stage.mail(address)
    fault = ""
    if True in refusals:
        fault = f"refused by {stage.why(address)}"
    elif status != 0 or len(refusals) < innocent.least:
        fault = f"status {status} after {len(refusals)} requests, expected 0 after {innocent.least}: " + output.read_text()[-300:]
    return Row(innocent.name, len(refusals), refusals.count(False), refusals.count(True), 0, "", fault)


def end(faults):
    """Ends the program, with the status that says whether there were faults."""
    for fault in faults:
        print(f"FAILED: {fault}", file=sys.stderr)
    sys.exit(1 if faults else 0)


def main():
    programs, wanted = sys.argv[1], [name for name in sys.argv[2:] if name != "--answers"]
    asks_before_answers = "--answers" in sys.argv
    chosen = lambda runs: [run for run in runs if not wanted or run.name in wanted]
    with tempfile.TemporaryDirectory(prefix="strikeout-scanners.", dir="/tmp", ignore_cleanup_errors=True) as directory:
        work = pathlib.Path(directory)
        work.chmod(0o755)
        stage = Stage(programs, work, asks_before_answers)
        addresses = (f"198.51.100.{last}" for last in range(2, 250))
        faults = []
        print("| scanner | served before the first refusal | served in all | refused | limit | rule |\n|---|---|---|---|---|---|")
        for scanner in chosen(clients.scanners(work)):
            row = scanner_row(stage, scanner, next(addresses))
            print(f"| {row.name} | {row.before} | {row.served} | {row.refused} | {row.limit} | `{row.rule}` |", flush=True)
            faults += [f"{row.name}: {row.fault}"] if row.fault else []
        print("\n| ordinary client | requests | refused |\n|---|---|---|")
        for innocent in chosen(clients.innocents(work)):
            row = innocent_row(stage, innocent, next(addresses))
            print(f"| {row.name} | {row.before} | {row.refused} |", flush=True)
            faults += [f"{row.name}: {row.fault}"] if row.fault else []
        keep = os.environ.get("STRIKEOUT_KEEP")
        if keep:
            subprocess.run(["cp", "-r", work, keep], check=True)
        stage.assert_running()
    end(faults)


if __name__ == "__main__":
    main()
