"""What an application is for tests/long/applications, and the attacks that many have in common."""

import collections
import contextlib
import dataclasses
import subprocess
import urllib.request

SERVER = "198.51.100.1"
SITE_NAME = "www.example.test"
# Each application has this account.
USER, PASSWORD = "admin", "Right-password-1"
WRONG = "Wrong-password-1"
CHROME = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36"

# `run(site)` attacks. `counts`: which requests count, all of them or those that guess. `limit`: how many may be served.
Scanner = collections.namedtuple("Scanner", "name title run limit counts", defaults=["requests"])


@dataclasses.dataclass
class Application:
    """`prepare` sets it up, with the database running and before Apache starts. `use(site)` is one user's work, and raises if the
    application does not do it. `servers`: commands of servers that it has besides Apache."""

    name: str
    title: str
    prepare: object
    use: object
    apache: str = ""
    servers: tuple = ()
    scanners: tuple = ()


def word_list(path):
    """A scanner with a browser's name that looks for dirb's common names below `path`, one after the other."""

    def run(site):
        words = "/usr/share/dirb/wordlists/common.txt"
        subprocess.run(["gobuster", "dir", "-q", "-k", "-t", "1", "-a", CHROME, "-u", f"{site}{path}", "-w", words], check=False)

    return Scanner("words", "a word list, browser's name", run, 40)


def guesses(path, form):
    """Hydra on a login form with a browser's name: `form` has ^USER^ and ^PASS^. None of its passwords is right."""

    def run(_site):
        passwords = "/tmp/guesses"
        with open(passwords, "w", encoding="ascii") as file:
            file.writelines(f"guess{number}\n" for number in range(1, 301))
        name = CHROME.replace(":", "\\:")
        where = f"{path}:{form}:H=User-Agent\\: {name}:S=Log out"
        subprocess.run(["hydra", "-I", "-t", "4", "-l", USER, "-P", passwords, SITE_NAME, "http-post-form", where], check=False)

    return Scanner("passwords", "hydra, browser's name, 4 connections", run, 20, "posts")


def ask(url, method="GET", headers=()):
    """One request of a scanner with a browser's name, which follows redirections. Whatever the answer is, it goes on."""
    request = urllib.request.Request(url, method=method, headers={"User-Agent": CHROME, **dict(headers)})
    with contextlib.suppress(OSError), urllib.request.urlopen(request) as answer:
        answer.read()


def database(name):
    """An empty database with an account of the same name and password."""
    sql(f"create database {name}; grant all on {name}.* to {name}@localhost identified by '{name}'")


def sql(statements, name=""):
    subprocess.run(["mariadb", *([name] if name else [])], input=statements, text=True, check=True)



def run(*command):
    subprocess.run(command, check=True)
