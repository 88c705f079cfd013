"""Runs one part of one application: `prepare NAME`, `use NAME http|https` or `attack NAME SCANNER`."""

import sys

from . import APPLICATIONS, SITE_NAME


def main():
    what, name, *rest = sys.argv[1:]
    application = next(application for application in APPLICATIONS if application.name == name)
    if what == "prepare":
        application.prepare()
    elif what == "use":
        application.use(f"{rest[0]}://{SITE_NAME}")
    else:
        next(scanner for scanner in application.scanners if scanner.name == rest[0]).run(f"http://{SITE_NAME}")


main()
