"""A server that speaks GitHub's release endpoints, as its documents describe them.

https://docs.github.com/en/rest/releases/releases and .../assets. What tests vary is in its attributes.
"""

import hashlib
import itertools
import json
import re
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, unquote, urlsplit

from loopback import Loopback

TOKEN = "ghs_test"
ROOT = "/repos/owner/guests/releases"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30

    def log_message(self, *_):
        pass

    def _any(self):
        parts = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.hub = self.server.owner
        length = int(self.headers.get("Content-Length", 0))
        self.may_write = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        for method, pattern, answer in ROUTES:
            found = re.fullmatch(pattern, parts.path)
            if method == self.command and found:
                if method != "GET" and not self.may_write:
                    self.rfile.read(length)
                    return self._say(401, {"message": "Bad credentials"})
                return answer(self, length, *map(unquote, found.groups()))
        return self._say(404, {"message": "Not Found"})

    do_GET = do_POST = do_PATCH = do_DELETE = _any

    def _say(self, status, value=None, **headers):
        data = json.dumps(value).encode() if value is not None else b""
        self._raw(status, data, **headers)

    def _raw(self, status, data, **headers):
        self.send_response_only(status)
        for name, one in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, one)
        self.end_headers()
        self.wfile.write(data)

    def _json(self, length):
        return json.loads(self.rfile.read(length))

    def _page(self, values):
        size, number = int(self.query["per_page"]), int(self.query["page"])
        self._say(200, values[size * (number - 1) : size * number])

    def _shown(self, release):
        base = f"http://{self.headers['Host']}"
        return {**{key: release[key] for key in ("id", "tag_name", "draft", "prerelease")},
                "upload_url": f"{base}/uploads{ROOT}/{release['id']}/assets{{?name,label}}"}  # fmt: skip

    def _asset(self, asset):
        return {key: value for key, value in asset.items() if key != "data"}

    # routes

    def releases(self, _):
        there = [one for one in self.hub.releases.values() if self.may_write or not one["draft"]]
        self._page([self._shown(one) for one in there])

    def make(self, length):
        given = self._json(length)
        release = {"id": next(self.hub.numbers), **given, "assets": {}}
        self.hub.releases[release["id"]] = release
        self._say(201, self._shown(release))

    def tagged(self, _, tag):
        self._one([one for one in self.hub.releases.values() if one["tag_name"] == tag and not one["draft"]])

    def latest(self, _):
        self._one([one for one in self.hub.releases.values() if not one["draft"] and not one["prerelease"]][-1:])

    def _one(self, found):
        self._say(200, self._shown(found[0])) if found else self._say(404, {"message": "Not Found"})

    def change(self, length, number):
        self.hub.releases[int(number)] |= self._json(length)
        self._say(200, self._shown(self.hub.releases[int(number)]))

    def assets(self, _, number):
        self._page([self._asset(one) for one in self.hub.releases[int(number)]["assets"].values()])

    def upload(self, length, number):
        assets = self.hub.releases[int(number)]["assets"]
        name = re.sub(r"[^A-Za-z0-9._-]", ".", self.query["name"])
        if any(one["name"] == name for one in assets.values()):
            self.rfile.read(length)
            return self._say(422, {"message": "Validation Failed", "errors": [{"code": "already_exists"}]})
        asset = {"id": next(self.hub.numbers), "name": name, "label": self.query.get("label"), "state": "starter",
                 "size": 0, "digest": None, "data": b""}  # fmt: skip
        assets[asset["id"]] = asset
        asset["data"] = self.rfile.read(length)  # cut, it stays as it is
        if len(asset["data"]) < length:
            self.close_connection = True
            return None
        digest = f"sha256:{hashlib.sha256(asset['data']).hexdigest()}" if self.hub.tells_digests else None
        asset |= {"state": "uploaded", "size": length, "digest": digest}
        return self._say(201, self._asset(asset))

    def _found(self, number):
        for release in self.hub.releases.values():
            if int(number) in release["assets"]:
                return release["assets"], int(number)
        raise KeyError(number)

    def remove(self, _, number):
        assets, key = self._found(number)
        del assets[key]
        self._say(204)

    def download(self, _, number):
        # GitHub keeps files elsewhere
        self._say(302, None, Location=f"http://127.0.0.1:{self.hub.elsewhere or self.hub.port}/storage/{number}")

    def stored(self, _, number):
        self.hub.storage_saw.append(self.headers.get("Authorization"))
        assets, key = self._found(number)
        data = assets[key]["data"]
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        more = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        self._raw(206 if start else 200, data[start:], **more)


ROUTES = (
    ("GET", ROOT, _Handler.releases),
    ("POST", ROOT, _Handler.make),
    ("GET", f"{ROOT}/tags/([^/]+)", _Handler.tagged),
    ("GET", f"{ROOT}/latest", _Handler.latest),
    ("PATCH", f"{ROOT}/([0-9]+)", _Handler.change),
    ("GET", f"{ROOT}/([0-9]+)/assets", _Handler.assets),
    ("POST", f"/uploads{ROOT}/([0-9]+)/assets", _Handler.upload),
    ("DELETE", f"{ROOT}/assets/([0-9]+)", _Handler.remove),
    ("GET", f"{ROOT}/assets/([0-9]+)", _Handler.download),
    ("GET", "/storage/([0-9]+)", _Handler.stored),
)


class Hub(Loopback):
    """The server, while its block lasts. `elsewhere` is the port of a proxy before its storage."""

    handler = _Handler

    def __init__(self):
        self.numbers = itertools.count(1)
        self.releases = {}
        self.tells_digests = True
        self.elsewhere = 0
        self.storage_saw = []

    def published(self):
        """What everybody sees: the files of each release by its tag."""
        return {
            one["tag_name"]: {asset["label"]: asset["data"] for asset in one["assets"].values()}
            for one in self.releases.values()
            if not one["draft"]
        }
