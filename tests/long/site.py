"""The site behind the guarded Squid: site.py DIRECTORY. Serves the files of DIRECTORY on 127.0.0.1:8080.

Below /private and /dav it wants the password of `user`, which is `right`; below /api a token. /login and /wp-login.php answer as
WordPress does: 302 to the right password, the form again to a wrong one. /dav is a small WebDAV share.
"""

import base64
import email.utils
import html
import http.server
import mimetypes
import pathlib
import shutil
import sys
import urllib.parse

ROOT = pathlib.Path(sys.argv[1]).resolve()
BASIC = "Basic " + base64.b64encode(b"user:right").decode()
PAGES = {"/item", "/search", "/find", "/xmlrpc.php"}
FORMS = {"/login", "/wp-login.php"}
PAGE = b'<html><body><p>login failed</p><a href="/item?id=1">x</a><a href="/search?q=a&amp;page=2">s</a>\
<form action="/find"><input name="term"></form></body></html>'


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urllib.parse.unquote(self.path.split("?")[0])
        file = (ROOT / path.lstrip("/")).resolve()
        authorization = self.headers.get("Authorization")
        if path.startswith(("/private", "/dav")) and authorization != BASIC:
            return self.send(401, {"WWW-Authenticate": 'Basic realm="members"'})
        if path.startswith("/api") and authorization != "Bearer right":
            return self.send(401, {"WWW-Authenticate": 'Bearer error="invalid_token"'})
        if not file.is_relative_to(ROOT):
            return self.send(400)
        if path.startswith("/dav") and self.command not in ("GET", "HEAD"):
            return self.dav(path, file, body)
        if path in FORMS and self.command == "POST" and b"right" in body:
            return self.send(302, {"Location": "/"})
        if path in PAGES | FORMS or path.startswith("/api"):
            return self.send(200, {"Content-Type": "text/html"}, PAGE)
        if file.is_dir():
            file /= "index.html"
        if not file.is_file():
            return self.send(404, {"Content-Type": "text/html"}, b"<html><body>no such page</body></html>")
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        modified = email.utils.formatdate(file.stat().st_mtime, usegmt=True)
        self.send(200, {"Content-Type": kind, "Last-Modified": modified}, file.read_bytes())

    def dav(self, path, file, body):
        if self.command == "OPTIONS":
            return self.send(200, {"DAV": "1", "Allow": "OPTIONS, GET, HEAD, PUT, DELETE, MKCOL, PROPFIND"})
        if self.command == "PUT" and file.parent.is_dir():
            file.write_bytes(body)
            return self.send(201)
        if self.command == "MKCOL" and file.parent.is_dir():
            file.mkdir(exist_ok=True)
            return self.send(201)
        if not file.exists():
            return self.send(404)
        if self.command == "DELETE":
            shutil.rmtree(file) if file.is_dir() else file.unlink()
            return self.send(204)
        if self.command != "PROPFIND":
            return self.send(405)
        found = [file] + (sorted(file.iterdir()) if file.is_dir() and self.headers.get("Depth") != "0" else [])
        self.send(207, {"Content-Type": "application/xml"}, multistatus(found))

    def send(self, code, headers=(), body=b""):
        self.send_response(code)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PROPFIND", "MKCOL"):
    setattr(Handler, "do_" + method, Handler.answer)


def multistatus(files):
    """The properties of these files, as PROPFIND wants them."""
    entries = []
    for file in files:
        name = "/" + str(file.relative_to(ROOT)) + ("/" if file.is_dir() else "")
        kind = "<D:collection/>" if file.is_dir() else ""
        entries.append(
            f"<D:response><D:href>{html.escape(urllib.parse.quote(name))}</D:href><D:propstat><D:prop><D:resourcetype>{kind}"
            f"</D:resourcetype><D:getcontentlength>{file.stat().st_size}</D:getcontentlength></D:prop>"
            "<D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>"
        )
    return f'<?xml version="1.0"?><D:multistatus xmlns:D="DAV:">{"".join(entries)}</D:multistatus>'.encode()


http.server.ThreadingHTTPServer.request_queue_size = 256
http.server.ThreadingHTTPServer(("127.0.0.1", 8080), Handler).serve_forever()
