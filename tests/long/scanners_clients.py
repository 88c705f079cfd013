"""The clients of tests/long/scanners: which scanners and which ordinary clients run, with what commands; and the site that they find."""

import collections
import hashlib
import os
import pathlib
import subprocess
import zipfile

SERVER = "198.51.100.1"
SITE = f"http://{SERVER}"
PROXY = f"http://{SERVER}:3128"
BROWSER = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36"
HERE = pathlib.Path(__file__).resolve().parent

# Requests that each may be served in all. A scanner with several connections may be served as many more: what they have asked for when
# the ban comes is answered. On an idle machine that is less.
NAMES = 40
QUERY = 10
PASSWORDS = 20

# `limit`: how many may be served. `counts`: which requests count, all of them or those that guess.
Scanner = collections.namedtuple("Scanner", "name command limit counts", defaults=["requests"])
# `least`: requests or messages without which the client did not do its work.
Innocent = collections.namedtuple("Innocent", "name command least")


def scanners(work):
    debian = "/usr/share/dirb/wordlists/common.txt"
    words = work / "words"
    # A list without a single name that a rule knows.
    letters = "abcdefghijklmnopqrstuvwxyz"
    words.write_text("".join(f"p{a}{b}{c}x\n" for a in letters for b in letters for c in letters[:5]))
    words = str(words)
    guesses = work / "guesses"
    guesses.write_text("".join(f"guess{number}\n" for number in range(1, 301)))
    hydra = ["hydra", "-I", "-l", "user", "-P", str(guesses)]
    header = "H=User-Agent\\: " + BROWSER.split(" (")[0]
    sqlmap = ["sqlmap", "-u", SITE + "/item?id=1", "--batch", "--flush-session"]
    form = "user=^USER^&p=^PASS^"
    return [
        Scanner("dirb, its list", ["dirb", SITE + "/", debian, "-S", "-r"], NAMES),
        Scanner("dirb, plain words", ["dirb", SITE + "/", words, "-S", "-r"], NAMES),
        Scanner("gobuster, dirb's list", ["gobuster", "dir", "-q", "-u", SITE + "/", "-w", debian], NAMES),
        Scanner(
            "gobuster, browser's name, plain words, 10 connections",
            ["gobuster", "dir", "-q", "-a", BROWSER, "-u", SITE + "/", "-w", words],
            NAMES + 10,
        ),
        Scanner("ffuf, dirb's list", ["ffuf", "-s", "-u", SITE + "/FUZZ", "-w", debian], NAMES),
        Scanner(
            "ffuf, browser's name, plain words, 40 connections",
            ["ffuf", "-s", "-H", f"User-Agent: {BROWSER}", "-u", SITE + "/FUZZ", "-w", words],
            NAMES + 40,
        ),
        Scanner("wfuzz, dirb's list", ["wfuzz", "-w", debian, SITE + "/FUZZ"], NAMES),
        Scanner(
            "wfuzz, browser's name, plain words, 10 connections",
            ["wfuzz", "-H", f"User-Agent: {BROWSER}", "-w", words, SITE + "/FUZZ"],
            NAMES + 10,
        ),
        Scanner("wapiti", ["wapiti", "-u", SITE + "/", "--flush-session", "-v", "1", "-f", "txt", "-o", str(work / "wapiti")], NAMES),
        Scanner("whatweb, aggressive", ["whatweb", "-a", "3", SITE + "/"], NAMES),
        Scanner("nmap, http scripts", ["nmap", "-Pn", "-p", "80", "--script", "http-enum,http-sql-injection,http-vuln*", SERVER], NAMES),
        Scanner(
            "nmap, browser's name",
            ["nmap", "-Pn", "-p", "80", "--script", "http-enum", "--script-args", f"http.useragent={BROWSER}", SERVER],
            NAMES,
        ),
        Scanner("sqlmap", sqlmap, QUERY),
        Scanner("sqlmap --random-agent", sqlmap + ["--random-agent"], QUERY),
        Scanner("sqlmap --random-agent --skip-waf", sqlmap + ["--random-agent", "--skip-waf"], QUERY),
        Scanner("hydra, Basic, 16 connections", hydra + [SERVER, "http-get", "/private/"], PASSWORDS),
        Scanner("hydra, Basic, 4 connections", hydra + ["-t", "4", SERVER, "http-get", "/private/"], PASSWORDS),
        # Hydra asks for the form before each guess, which is no try.
        Scanner("hydra, form", hydra + [SERVER, "http-post-form", f"/login:{form}:failed"], PASSWORDS, "posts"),
        Scanner("hydra, form, browser's name", hydra + [SERVER, "http-post-form", f"/login:{form}:{header}:failed"], PASSWORDS, "posts"),
        Scanner(
            "hydra, wp-login.php, browser's name",
            hydra + [SERVER, "http-post-form", f"/wp-login.php:log=^USER^&pwd=^PASS^:{header}:failed"],
            PASSWORDS,
            "posts",
        ),
        Scanner("hydra, SMTP, port 25", hydra + [SERVER, "smtp"], PASSWORDS, "passwords"),
        Scanner("hydra, SMTP, port 465, 4 connections", hydra + ["-t", "4", "-S", "-s", "465", SERVER, "smtp"], PASSWORDS, "passwords"),
        Scanner("hydra, SMTP, port 587, 4 connections", hydra + ["-t", "4", "-s", "587", SERVER, "smtp", "TLS"], PASSWORDS, "passwords"),
        # The first password of each connection is checked before any failure is known.
        Scanner("hydra, SMTP, port 465, 16 connections", hydra + ["-S", "-s", "465", SERVER, "smtp"], PASSWORDS, "passwords"),
        Scanner("hydra, SMTP, port 587, 16 connections", hydra + ["-s", "587", SERVER, "smtp", "TLS"], PASSWORDS, "passwords"),
    ]


def innocents(work):
    curl = "curl --silent --output /dev/null"
    feeds = (
        f"import feedparser\nfor turn in range(30): assert feedparser.parse('{SITE}/feed.xml').entries\n"
        f"for turn in range(30): feedparser.parse('{SITE}/old/feed.xml')"
    )
    readers = "FreshRSS/1.24 Feedly/1.0 Miniflux/2.1 NetNewsWire Tiny-Tiny-RSS/23 Newsboat/2.32 inoreader.com Thunderbird/128.0"
    crawlers = "Googlebot/2.1 bingbot/2.0 Applebot/0.1 DuckDuckBot/1.1 YandexBot/3.0 archive.org_bot GPTBot/1.2 CCBot/2.0"
    chromium = f"chromium --headless --no-sandbox --disable-gpu --user-data-dir={work}/chromium --virtual-time-budget=3000 --dump-dom"
    apt = f"apt-get -q -c {work}/apt/apt.conf"
    pip = f"pip3 --disable-pip-version-check --no-cache-dir download --no-deps --proxy {PROXY} --index-url http://pypi.example.test/simple/ \
        --trusted-host pypi.example.test --dest {work}/pip --retries 0"
    (work / "share").write_text(
        "ls\nmkcol notes\nmkcol .git\nput project/config .git/config\nput project/config notes/.env\ncd .git\nls\nget config got\nquit\n"
    )
    queries = (HERE.parent / "data/queries-ordinary.tsv").read_text().splitlines()
    searches = [query.removeprefix("search\t") for query in queries if query.startswith("search\t")]
    (work / "searches").write_text("".join(f'url = "{SITE}/search?{query}"\n' for query in searches[:12]))
    shell = lambda script: ["bash", "-euc", script]
    senders = lambda kind: ["/usr/bin/python3", str(HERE / "senders.py"), SERVER, kind]
    return [
        Innocent("wget --mirror, 40 broken links", ["bash", "-c", f"wget -q --mirror -P {work}/mirror {SITE}/archive/; [ $? = 8 ]"], 60),
        Innocent(
            "HTTrack, 40 broken links",
            ["httrack", SITE + "/archive/", "-O", str(work / "httrack"), "--quiet", "--disable-security-limits", "--max-rate=0", "-%c50"],
            60,
        ),
        Innocent(
            "Chromium, pages and 60 broken pictures",
            shell(f"for page in / /gallery.html /admin /gallery.html /search?q=a; do {chromium} {SITE}$page; done"),
            60,
        ),
        Innocent("feedparser, a feed and an old one, 60 times", ["/usr/bin/python3", "-c", feeds], 60),
        Innocent(
            "feed readers by name, 8 behind one address",
            shell(
                f"for turn in 1 2 3 4 5; do for name in {readers}; do "
                f"{curl} -A $name {SITE}/feed.xml; {curl} -A $name {SITE}/old/feed.xml; done; done"
            ),
            80,
        ),
        Innocent("cadaver, .git/config on WebDAV", shell(f"cd {work}/home; HOME={work}/member cadaver {SITE}/dav/ <{work}/share"), 8),
        Innocent(
            "git over HTTP",
            shell(
                f"for turn in 1 2 3; do git clone --quiet {SITE}/project.git {work}/clone$turn; "
                f"git -C {work}/clone$turn pull --quiet; done"
            ),
            15,
        ),
        Innocent("apt through the proxy", shell(f"cd {work}/apt; {apt} update; {apt} download example; {apt} update"), 4),
        Innocent(
            "pip through the proxy, 3 packages missing",
            shell(f"{pip} example; for name in absent1 absent2 absent3; do ! {pip} $name; done"),
            5,
        ),
        Innocent(
            "crawlers by name, 15 old addresses in a minute",
            shell(
                f"for name in {crawlers}; do {curl} -A $name {SITE}/robots.txt; {curl} -A $name {SITE}/old/$name; done; "
                f"for page in a b c d e f g; do {curl} -A Googlebot/2.1 {SITE}/old/$page; done"
            ),
            20,
        ),
        Innocent("a developer's 12 searches for attacks and code", shell(f"{curl} --globoff --config {work}/searches"), 12),
        Innocent(
            "a person who mistypes, Basic and form",
            shell(
                f"for turn in 1 2; do for wrong in 1 2 3 4; do "
                f"{curl} -u user:wrong$wrong {SITE}/private/; {curl} -d p=wrong {SITE}/login; done; "
                f"{curl} -u user:right {SITE}/private/; {curl} -d p=right {SITE}/login; done"
            ),
            20,
        ),
        Innocent(
            "curl --anyauth, 40 pages below a password",
            shell(f"for page in $(seq 40); do {curl} --anyauth -u user:right {SITE}/private/; done"),
            80,
        ),
        Innocent(
            "an API client with an expired token",
            shell(
                f"for page in $(seq 50); do {curl} -H 'Authorization: Bearer old' {SITE}/api/$page; done; "
                f"{curl} --fail -H 'Authorization: Bearer right' {SITE}/api/"
            ),
            51,
        ),
        Innocent("a mail server with one message", senders("one"), 1),
        Innocent("a newsletter, 60 connections in a row", senders("newsletter"), 60),
        Innocent("a large provider, 200 messages on 4 connections", senders("provider"), 200),
        Innocent("a mailing list with 10 stale members", senders("list"), 20),
        Innocent("a mail program with an old password, on 465 and 587", senders("program"), 2),
    ]


def make_site(root):
    """Writes the site's files, and those that the clients take along."""
    work = root.parent
    links = "".join(f'<a href="/archive/page{number}.html">page</a>' for number in range(20))
    broken = "".join(f'<a href="/archive/gone/page{number}.html">old</a>' for number in range(40))
    forms = '<a href="/item?id=1">x</a><a href="/search?q=a&amp;page=2">s</a><form action="/find"><input name="term"></form>'
    page = lambda body: f"<!DOCTYPE html><html><head><title>Example</title></head><body>{body}</body></html>"
    (root / "index.html").write_text(page(forms))
    # What a mirror takes. The front page does not link there: a scanner that crawls first would be served these pages as well.
    (root / "archive").mkdir()
    (root / "archive/index.html").write_text(page(links + broken))
    for number in range(20):
        (root / f"archive/page{number}.html").write_text(page(f'<p>Page {number}</p><img src="/archive/pictures/{number}.png">'))
    (root / "gallery.html").write_text(page("".join(f'<img src="/pictures/gone{number}.png">' for number in range(60))))
    (root / "robots.txt").write_text("User-agent: *\nDisallow:\n")
    entry = f"<item><title>News</title><link>{SITE}/archive/page1.html</link></item>"
    (root / "feed.xml").write_text(f'<?xml version="1.0"?><rss version="2.0"><channel><title>Example</title>{entry}</channel></rss>')
    for name in ("private", "dav"):
        (root / name).mkdir()
        (root / name / "index.html").write_text(page("members"))
    (work / "member").mkdir()
    (work / "member/.netrc").write_text(f"machine {SERVER}\nlogin user\npassword right\n")
    (work / "member/.netrc").chmod(0o600)
    make_repository(root, work)
    make_packages(root, work)


def quietly(*command, **options):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)


def make_repository(root, work):
    project = work / "home/project"
    quietly("git", "init", project)
    (project / "README").write_text("example\n")
    (project / "config").write_text("[core]\n")
    quietly("git", "-C", project, "add", ".")
    quietly("git", "-C", project, "-c", "user.name=a", "-c", "user.email=a@example.test", "commit", "-m", "Add a file")
    quietly("git", "clone", "--bare", project, root / "project.git")
    quietly("git", "-C", root / "project.git", "update-server-info")


def make_packages(root, work):
    """A repository for apt and an index for pip, each with one package."""
    control = work / "package/DEBIAN/control"
    control.parent.mkdir(parents=True)
    control.write_text("Package: example\nVersion: 1\nArchitecture: all\nMaintainer: A <a@example.test>\nDescription: example\n")
    (root / "debian").mkdir()
    package = root / "debian/example_1_all.deb"
    quietly("dpkg-deb", "--build", work / "package", package)
    content = package.read_bytes()
    (root / "debian/Packages").write_text(
        f"{control.read_text()}Filename: ./{package.name}\nSize: {len(content)}\nSHA256: {hashlib.sha256(content).hexdigest()}\n"
    )
    apt = work / "apt"
    for part in ("lists/partial", "cache/archives/partial", "empty"):
        os.makedirs(apt / part)
    (apt / "status").touch()
    (apt / "sources.list").write_text("deb [trusted=yes] http://deb.example.test/debian ./\n")
    (apt / "apt.conf").write_text(
        f'Dir::State::Lists "{apt}/lists";\nDir::State::Status "{apt}/status";\nDir::Cache "{apt}/cache";\n'
        f'Dir::Etc::SourceList "{apt}/sources.list";\nDir::Etc::SourceParts "{apt}/empty";\n'
        f'APT::Sandbox::User "root";\nAcquire::http::Proxy "{PROXY}";\n'
    )
    index = root / "simple/example"
    os.makedirs(index)
    wheel = index / "example-1-py3-none-any.whl"
    (index / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>')
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("example.py", "")
        archive.writestr("example-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: example\nVersion: 1\n")
        archive.writestr("example-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("example-1.dist-info/RECORD", "")
