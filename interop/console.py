#!/usr/bin/env python3
"""Opens the console in a browser, and checks that it shows what the node knows, live.

    interop/console.py [--dunlin PROGRAM] [--browser PROGRAM] [--pictures FOLDER] [--keep] [--skip-missing]

Headless Chromium opens the page that a node serves at `/`, with the address that `dunlin console` prints. The page
has to dial the node over WebSocket with Noise and Yamux, show a second node with its standing, and a segment of
what this machine did just now; to see the second node go; and to say what to do when it is not let in. No error may
stand in the browser's console, and nothing may have been tried that the page's policy forbids.

Before that, the page is made again from its sources: it has to be what is committed, byte for byte.
"""

import base64
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import nodes  # noqa: E402
from nodes import CACHE, CELL_S, HERE, Cells, Dunlin, Failed, Missing, Process, dunlin_program, until  # noqa: E402

# The longest that everything may take: building on a slow machine, and the cells.
ALL_S = 1800
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SOURCES = HERE.parent / "clients" / "console"
# Samples of this machine's load, and how long between two.
SAMPLES, SAMPLE_S = 40, 0.05
# An entity whose name would do something, were it taken for markup.
ENTITY = '<img src="/x" onerror="document.title=1">'


class Browser:
    """Headless Chromium, told what to do over a pipe by its DevTools protocol."""

    def __init__(self, program, folder):
        to_browser, self.commands = os.pipe()
        self.answers, from_browser = os.pipe()
        command = [
            program, "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
            # No name leads anywhere: what is not here is nowhere.
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", f"--user-data-dir={folder / 'profile'}",
            "about:blank",
        ]
        # The protocol is spoken on the descriptors 3 and 4.
        shell = ["sh", "-c", f'exec "$@" 3<&{to_browser} 4>&{from_browser}', "sh", *command]
        self.process = Process(shell, folder / "browser.log", pass_fds=(to_browser, from_browser))
        os.close(to_browser)
        os.close(from_browser)
        self.last, self.buffer, self.problems, self.session = 0, b"", [], None

    def open(self, url):
        """Opens a page in a new tab; what goes wrong in it stands in `problems` from then on."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = None
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.problems = []
        for domain in ("Runtime", "Log", "Page", "Audits"):
            self.ask(f"{domain}.enable")
        failure = self.ask("Page.navigate", url=url).get("errorText")
        if failure:
            raise Failed(f"the page cannot be opened: {failure}")

    def ask(self, method, **params):
        self.last += 1
        message = {"id": self.last, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        try:
            os.write(self.commands, json.dumps(message).encode() + b"\0")
        except OSError as cause:
            raise Failed(f"the browser is gone: {cause}") from cause
        end = time.monotonic() + CELL_S
        while True:
            answer = self.next_message(end)
            if answer.get("id") == self.last:
                if "error" in answer:
                    raise Failed(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self.note(answer)

    def next_message(self, end):
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.answers], [], [], max(0, end - time.monotonic()))
            part = os.read(self.answers, 1 << 20) if ready else b""
            if not part:
                raise Failed("the browser does not answer")
            self.buffer += part
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def note(self, event):
        """Remembers what a developer would see in red, and what the page's policy stopped."""
        params, method = event.get("params", {}), event.get("method")
        if method == "Runtime.exceptionThrown":
            self.problems.append(params["exceptionDetails"]["exception"].get("description", "an exception"))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.problems.append(" ".join(str(part.get("value")) for part in params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Audits.issueAdded" and "ContentSecurityPolicy" in params["issue"]["code"]:
            self.problems.append(json.dumps(params["issue"]["details"])[:400])

    def evaluate(self, expression):
        result = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise Failed(result["exceptionDetails"]["exception"].get("description", "an exception"))
        return result["result"].get("value")

    def check(self):
        # What the browser has said by now comes before the answer to this.
        self.evaluate("0")
        if self.problems:
            raise Failed(f"the browser complains: {'; '.join(self.problems)}")

    def picture(self, path, width, is_dark=False):
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}]
        self.ask("Emulation.setEmulatedMedia", features=scheme)
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        picture = self.ask("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(picture))


# What stands on the page, as a reader finds it.
READ = """({
  state: document.getElementById('state').textContent,
  problem: document.getElementById('problem').hidden ? null : document.getElementById('problem').textContent,
  form: !document.getElementById('enter').hidden,
  peers: [...document.querySelectorAll('#peers tbody tr')].map(row => [...row.cells].map(cell => cell.innerText)),
  segments: [...document.querySelectorAll('#segments tbody tr')].map(row => [...row.cells].map(cell => cell.innerText)),
  links: [...document.querySelectorAll('#segments a')].map(link => link.href),
  overflow: document.documentElement.scrollWidth > document.documentElement.clientWidth,
  title: document.title,
  hash: location.hash,
  images: document.querySelectorAll('td img').length,
})"""


class Console(Cells):
    """What is done with the page: each cell needs what the ones before left."""

    def __init__(self, program, browser, options, folder):
        super().__init__(folder, options.skip_missing)
        self.program, self.browser_program, self.pictures = program, browser, options.pictures or folder

    def run(self):
        self.ours, self.other = (self.dunlin(name) for name in ("ours", "other"))
        # A page that is open finds the node where it was, started anew or not.
        self.ours.api = f"127.0.0.1:{nodes.free_port()}"
        self.ours.start(everywhere=True, has_gateway=True)
        self.other.start(bootstrap=[self.ours.address])
        until("the nodes meet", lambda: self.ours.is_connected(self.other.peer))
        self.ingest()
        self.browser = Browser(self.browser_program, self.folder)
        self.cell("the page connects, and shows the second node and its standing", self.shows_peer)
        self.cell("it shows the newest segment, whose name is text", self.shows_segment)
        self.cell("it is no peer, and its pass stands in no address", self.is_no_peer)
        self.cell("it fits a narrow screen, light and dark", self.fits)
        self.cell("it sees the second node go, without being loaded again", self.sees_peer_go)
        self.cell("no error, and nothing that its policy forbids", self.checks_browser)
        self.cell("a pass is good once: the next page asks for the token", self.asks_for_token)
        self.cell("with the token it is let in, and again when the node was started anew", self.enters_again)
        self.cell("the page of a node without WebSocket says what to turn on", self.says_what_to_do)

    def check_browser(self):
        if not self.browser_program:
            raise Missing(f"none of {', '.join(BROWSERS)} is here")

    def dunlin(self, name):
        return Dunlin(self.program, self.folder_for(name))

    def ingest(self):
        """Takes in a file of what this machine has just done."""
        rows = ["t,load,running"]
        for _ in range(SAMPLES):
            load, _, _, running, _ = pathlib.Path("/proc/loadavg").read_text().split()
            rows.append(f"{time.time()},{load},{running.split('/')[0]}")
            time.sleep(SAMPLE_S)
        file = self.folder / "machine.csv"
        file.write_text("\n".join(rows) + "\n")
        self.command(self.ours, "ingest", file, "--collection", "machines", "--entity", ENTITY)
        self.ours.ask("POST", "/v1/collections/machines/seal", {"entity": ENTITY})

    def command(self, node, *arguments):
        command = [self.program, *arguments, "--data-dir", node.folder]
        done = subprocess.run(command, capture_output=True, timeout=CELL_S, text=True)
        if done.returncode:
            raise Failed(f"dunlin {arguments[0]}: {done.stderr.strip()[-300:]}")
        return done.stdout

    def read(self):
        return self.browser.evaluate(READ)

    def peer_row(self, page):
        return next((row for row in page["peers"] if row[0].startswith(self.other.peer)), None)

    def shows_peer(self):
        self.pass_url = self.command(self.ours, "console").split()[0]
        self.browser.open(self.pass_url)
        until("that the page is connected", lambda: self.read()["state"].startswith("connected"))
        # The round-trip time of a ping is the last to be known.
        row = until("the second node", lambda: (row := self.peer_row(self.read())) and "ms" in row[2] and row)
        who, where, latency, standing, traffic, speaks = (" ".join(cell.split()) for cell in row)
        for wanted, cell in (
            ("dunlin/", who), ("tcp, direct", where), ("probation", standing), ("KiB", traffic),
            ("/dunlin/segments/1", speaks),
        ):
            if wanted not in cell:
                raise Failed(f"{wanted!r} is not in {cell!r}")
        return f"{standing}, {latency}"

    def shows_segment(self):
        page = until("the segment", lambda: (page := self.read())["segments"] and page)
        collection, entity, since, _, count, cid = page["segments"][0]
        query = {"collection": "machines", "limit": 1000}
        known = self.ours.ask("POST", "/v1/query/segments", query)["segments"][-1]
        shown, real = (collection, entity, int(count), cid), ("machines", ENTITY, known["count"], known["cid"])
        if shown != real or not since.endswith("UTC"):
            raise Failed(f"{shown} is not {real}")
        if page["images"] or page["title"] != "Dunlin":
            raise Failed("a name was taken for markup")
        with_link = f"{self.ours.gateway}/ipfs/{cid}?format=html"
        if with_link not in page["links"]:
            raise Failed(f"{with_link} is not in {page['links']}")
        return f"{len(page['segments'])} segments"

    def is_no_peer(self):
        peers = self.ours.ask("GET", "/v1/peers")["peers"]
        if [peer["peer"] for peer in peers] != [self.other.peer]:
            raise Failed(f"the node's peers are {peers}")
        if self.read()["hash"]:
            raise Failed("the pass stands in the browser's address")

    def fits(self):
        for width in (1280, 360):
            for is_dark in (False, True):
                name = f"console-{width}-{'dark' if is_dark else 'light'}.png"
                self.browser.picture(self.pictures / name, width, is_dark)
                if self.read()["overflow"]:
                    raise Failed(f"at {width} pixels it is wider than the screen")
        self.browser.ask("Emulation.clearDeviceMetricsOverride")

    def sees_peer_go(self):
        self.browser.evaluate("window.isTheSame = true")
        other = self.other.peer
        self.other.end()
        gone = lambda: all(not row[0].startswith(other) for row in self.read()["peers"])  # noqa: E731
        until("that the node is gone from the list", gone)
        if not self.browser.evaluate("window.isTheSame === true"):
            raise Failed("the page was loaded again")

    def checks_browser(self):
        self.browser.check()
        # And were there something, it would be seen.
        self.browser.evaluate("fetch('http://127.0.0.1:1/').catch(() => 0)")
        if not any("Content Security Policy" in problem for problem in self.browser.problems):
            raise Failed(f"the browser told nothing of what the policy forbids: {self.browser.problems}")

    def asks_for_token(self):
        self.browser.open(self.pass_url)
        page = until("the form", lambda: (page := self.read())["form"] and page["problem"] and page)
        if page["peers"] or page["segments"]:
            raise Failed("it shows something all the same")
        return page["problem"]

    def enters_again(self):
        token = (self.ours.folder / "api.token").read_text().strip()
        self.give(token)
        until("that the page is connected", lambda: self.read()["state"].startswith("connected"))
        started = self.ours.ask("GET", "/v1/status")["pid"]
        self.ours.restart()
        until("that the page notices", lambda: not self.read()["state"].startswith("connected"))
        until("that the page is back", lambda: self.read()["state"].startswith("connected"), 2 * CELL_S)
        if self.ours.ask("GET", "/v1/status")["pid"] == started:
            raise Failed("the node was not started anew")
        stored = self.browser.evaluate("JSON.stringify([localStorage.length, sessionStorage.length, document.cookie])")
        if stored != '[0,0,""]' or token in self.browser.evaluate("document.documentElement.outerHTML"):
            raise Failed(f"the token may be kept: {stored}")

    def give(self, token):
        self.browser.evaluate(
            f"document.getElementById('token').value = {json.dumps(token)};"
            "document.querySelector('#enter button').click()")

    def says_what_to_do(self):
        self.other.start()
        self.browser.open(self.command(self.other, "console").split()[0])
        page = until("the problem", lambda: (page := self.read())["problem"] and page)
        if "network.listen" not in page["problem"]:
            raise Failed(page["problem"])


def make_again():
    """Makes the page from its sources; it has to be what is committed."""
    folder = CACHE / "console" / "clients" / "console"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE.parent / "LICENSE-APACHE", CACHE / "console" / "LICENSE-APACHE")
    for name in ("package.json", "package-lock.json", "build.mjs"):
        shutil.copy(SOURCES / name, folder / name)
    shutil.copytree(SOURCES / "src", folder / "src", dirs_exist_ok=True)
    nodes.build(["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"], folder)
    made = subprocess.run(["node", "build.mjs"], cwd=folder, capture_output=True, timeout=CELL_S, text=True)
    if made.returncode:
        raise Failed(made.stderr.strip()[-400:])
    made, committed = ({file.name: file.read_bytes() for file in (at / "dist").iterdir()} for at in (folder, SOURCES))
    other = sorted(name for name in made.keys() | committed.keys() if made.get(name) != committed.get(name))
    if other:
        raise Failed(f"{', '.join(other)} of clients/console/dist is not what its sources make; run `npm run build` there")
    return f"console.js of {len(committed['console.js'])} bytes"


def main():
    parser = nodes.options_parser(__doc__, ALL_S)
    parser.add_argument("--browser", help="the browser; Chromium where there is one")
    parser.add_argument("--pictures", type=pathlib.Path, help="where to put pictures of the page")
    options = parser.parse_args()
    browser = options.browser or next(filter(None, map(shutil.which, BROWSERS)), None)
    with nodes.workplace("console", options) as folder:
        console = Console(dunlin_program(options.dunlin), browser, options, folder)
        console.cell("made again, the page has the same bytes", make_again)
        console.cell("there is a browser", console.check_browser)
        try:
            if browser:
                console.run()
        except Failed as cause:
            console.cells.append(("the nodes", f"FAILED: {cause}"))
    return console.report()


if __name__ == "__main__":
    sys.exit(main())
