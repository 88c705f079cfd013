"""The runs of tests/long/applications: applications.py PROGRAMS ROOT [NAME...]. Needs mount, network and process namespaces of its own.

ROOT is a Debian with the applications; it is mounted beside itself below a layer for what they write. Squid and the daemon run outside it, as in
tests/long/scanners. tests/long/webapps has a file for each application: how it is set up, what its users do, and who attacks it.
"""

import collections
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import scanners
from webapps import APPLICATIONS, SERVER, SITE_NAME

ROOT = pathlib.Path(sys.argv[2]).with_name("mount")
# The first pages of an application are slow: PHP compiles it.
USER_SECONDS = 300
SCANNER_SECONDS = 90
APACHE = """ServerName {name}
ServerRoot /etc/apache2
PidFile /run/apache2.pid
Listen 127.0.0.1:8080
Listen [::1]:8080
User www-data
Group www-data
ErrorLog /var/log/apache2/error.log
LogLevel warn
IncludeOptional mods-enabled/*.load
IncludeOptional mods-enabled/*.conf
AccessFileName .htaccess
DocumentRoot /var/www/html
SetEnvIf Front-End-Https On HTTPS=on
php_value max_execution_time 240
<Directory />
  Options FollowSymLinks
  AllowOverride None
  Require all denied
</Directory>
<Directory /usr/share>
  Require all granted
</Directory>
"""


class Stage(scanners.Stage):
    squid_conf = scanners.SQUID.replace("login=PASSTHRU", "login=PASSTHRU front-end-https=auto") + (
        "https_port {server}:443 accel defaultsite=www.example.test no-vhost tls-cert={work}/certificate tls-key={work}/key\n"
    )

    def start_site(self):
        self.mount()
        self.make_certificate()
        inside = ["chroot", ROOT]
        run = lambda *command: subprocess.run([*inside, *command], check=True, stdout=sys.stderr)
        run("install", "-d", "-o", "mysql", "/run/mysqld")
        self.start("database", [*inside, "mariadbd", "--user=mysql", "--skip-networking"])
        scanners.wait_until("the database listens", (ROOT / "run/mysqld/mysqld.sock").exists)
        apache = APACHE.format(name=SITE_NAME)
        for application in self.chosen:
            run("python3", "-B", "-m", "webapps", "prepare", application.name)
            apache += application.apache
            for number, command in enumerate(application.servers):
                self.start(f"{application.name}-{number}", [*inside, *command])
        (ROOT / "etc/apache2/apache2.conf").write_text(apache)
        run("a2enmod", "-q", "rewrite")
        self.start("apache", [*inside, "apache2", "-DFOREGROUND"])
        scanners.wait_until("Apache listens", lambda: scanners.listens("127.0.0.1", 8080))

    def start_exim(self):
        pass

    def mount(self):
        ROOT.mkdir(exist_ok=True)
        layers = self.work / "layers"
        for name in ("upper", "work"):
            (layers / name).mkdir(parents=True)
        run = lambda command: subprocess.run(command.split(), check=True)
        run(f"mount -t overlay overlay -o lowerdir={self.lower},upperdir={layers}/upper,workdir={layers}/work {ROOT}")
        run(f"mount -t proc proc {ROOT}/proc")
        run(f"mount --rbind /dev {ROOT}/dev")
        run(f"mount -t tmpfs tmpfs {ROOT}/run")
        shutil.copytree(scanners.TOP / "tests/long/webapps", ROOT / "usr/lib/python3/dist-packages/webapps")
        (ROOT / "etc/hosts").write_text(f"127.0.0.1 localhost\n{SERVER} {SITE_NAME}\n")
        (ROOT / "etc/resolv.conf").write_text("")

    def make_certificate(self):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={SITE_NAME}"]
            + ["-addext", f"subjectAltName=DNS:{SITE_NAME}", "-keyout", self.work / "key", "-out", self.work / "certificate"],
            check=True,
            stderr=subprocess.DEVNULL,
        )
        shutil.copy(self.work / "certificate", ROOT / "usr/local/share/ca-certificates/site.crt")
        subprocess.run(["chroot", ROOT, "update-ca-certificates"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def act(self, name, address, what, seconds):
        """Runs `python3 -m webapps WHAT` in the chroot, as the client `address`."""
        command = ["chroot", str(ROOT), "env", "HOME=/root", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONUNBUFFERED=1"]
        return self.run(name, address, [*command, "python3", "-B", "-m", "webapps", *what], seconds)


Attack = collections.namedtuple("Attack", "before served")


def use(stage, application, scheme, address):
    """One user's work. Returns how many requests it took and what went wrong."""
    name = f"{application.name} {scheme}"
    status, output = stage.act(name, address, ["use", application.name, scheme], USER_SECONDS)
    refusals = stage.web(address)
    if True in refusals:
        return refusals, [f"{name}: {refusals.count(True)} requests refused by {stage.why(address)}: {output.read_text()[-600:]}"]
    if status != 0:
        return refusals, [f"{name}: status {status} after {len(refusals)} requests: {output.read_text()[-1500:]}"]
    return refusals, []


def attack(stage, application, scanner, address):
    name = f"{application.name} {scanner.name}"
    stage.act(name, address, ["attack", application.name, scanner.name], SCANNER_SECONDS)
    refusals = stage.web(address, scanner.counts == "posts")
    faults = []
    if True not in refusals:
        faults.append(f"{name}: never refused after {len(refusals)} requests")
    elif refusals.count(False) > scanner.limit:
        faults.append(f"{name}: served {refusals.count(False)} requests, expected at most {scanner.limit}")
    before = refusals.index(True) if True in refusals else len(refusals)
    return f"{before} | {refusals.count(False)} | `{stage.why(address)}`", faults


def main():
    programs, lower, wanted = sys.argv[1], sys.argv[2], sys.argv[3:]
    unknown = set(wanted) - {application.name for application in APPLICATIONS}
    assert not unknown, f"found no application {', '.join(unknown)}"
    Stage.lower = lower
    Stage.chosen = [application for application in APPLICATIONS if not wanted or application.name in wanted]
    with tempfile.TemporaryDirectory(prefix="strikeout-applications.", dir="/tmp", ignore_cleanup_errors=True) as directory:
        work = pathlib.Path(directory)
        work.chmod(0o755)
        stage = Stage(programs, work)
        addresses = (f"198.51.100.{last}" for last in range(2, 250))
        users, attacks, faults = [], [], []
        for application in Stage.chosen:
            requests, refused = [], 0
            for scheme in ("http", "https"):
                refusals, found = use(stage, application, scheme, next(addresses))
                requests.append(str(len(refusals)))
                refused += refusals.count(True)
                faults += found
            users.append(f"| {application.title} | {' | '.join(requests)} | {refused} |")
            print(users[-1], *faults[-2:], sep="\n", file=sys.stderr, flush=True)
            for scanner in application.scanners:
                row, found = attack(stage, application, scanner, next(addresses))
                attacks.append(f"| {application.title}: {scanner.title} | {row} |")
                faults += found
                print(attacks[-1], file=sys.stderr, flush=True)
        print("\n| application | a user's requests, HTTP | HTTPS | refused |\n|---|---|---|---|", *users, sep="\n")
        print("\n| scanner | served before the first refusal | served in all | rule |\n|---|---|---|---|", *attacks, sep="\n")
        keep = os.environ.get("STRIKEOUT_KEEP")
        if keep:
            pathlib.Path(keep).mkdir(exist_ok=True)
            for pattern in ("*.out", "squid/*.log"):
                for file in work.glob(pattern):
                    shutil.copy(file, keep)
        stage.assert_running()
    scanners.end(faults)


if __name__ == "__main__":
    main()
