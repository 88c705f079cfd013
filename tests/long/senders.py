"""Ordinary senders of mail: senders.py SERVER KIND. Fails if the server refuses anything but an unknown recipient or a wrong password."""

import contextlib
import smtplib
import ssl
import sys

SERVER, KIND = sys.argv[1:]
MESSAGE = b"From: a@example.org\r\nTo: user@example.test\r\nSubject: hello\r\n\r\nhello\r\n"


@contextlib.contextmanager
def connection():
    with smtplib.SMTP(SERVER, 25, local_hostname="mail.example.org", timeout=60) as smtp:
        yield smtp


def send(smtp, recipients=("user@example.test",)):
    smtp.sendmail("a@example.org", recipients, MESSAGE)


def log_in(port):
    """A mail program with an old password, whose user then types the new one."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for password in ("old", "old", "right"):
        with smtplib.SMTP_SSL(SERVER, port, context=context) if port == 465 else smtplib.SMTP(SERVER, port) as smtp:
            if port == 587:
                smtp.starttls(context=context)
            try:
                smtp.login("user", password)
            except smtplib.SMTPAuthenticationError as error:
                assert error.smtp_code == 535 and password != "right", error
            else:
                send(smtp)


if KIND == "one":
    with connection() as smtp:
        send(smtp)
elif KIND == "newsletter":
    for turn in range(60):
        with connection() as smtp:
            send(smtp)
elif KIND == "provider":
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(connection()) for turn in range(4)]
        for turn in range(50):
            for smtp in connections:
                send(smtp)
elif KIND == "list":
    with connection() as smtp:
        for turn in range(20):
            send(smtp, ["user@example.test"] + (["stale@example.test"] if turn < 10 else []))
elif KIND == "program":
    log_in(465)
    log_in(587)
else:
    sys.exit(f"found the kind {KIND!r}, expected one, newsletter, provider, list or program")
