"""Prints the shell commands of a documentation page: commands.py PAGE [MARK] [--first "## HEADING"] [--language toml].

A block may have a comment in front of it, its mark. Without MARK it prints the blocks that have no comment.
--first limits it to the section below the first heading that starts with that text.
"""

import re
import sys

arguments = sys.argv[1:]
heading = None
if "--first" in arguments:
    at = arguments.index("--first")
    heading = arguments[at + 1]
    del arguments[at : at + 2]
language = "sh"
if "--language" in arguments:
    at = arguments.index("--language")
    language = arguments[at + 1]
    del arguments[at : at + 2]
page, mark = arguments[0], arguments[1] if len(arguments) > 1 else ""
text = open(page, encoding="utf-8").read()
if heading:
    start = re.search("^" + re.escape(heading), text, re.M)
    assert start, f"{page} has no {heading}"
    end = re.search("^## ", text[start.end() :], re.M)
    text = text[start.start() : start.end() + (end.start() if end else len(text))]
blocks = re.findall(r"(?:^<!-- ([^\n]*) -->\n)?^```" + language + r"\n(.*?)^```$", text, re.M | re.S)
found = [commands for comment, commands in blocks if comment == mark]
assert found, f"{page} has no {language} marked {mark!r} below {heading}"
print("".join(found), end="")
