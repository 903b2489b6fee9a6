"""Nodes that `interop/run` and the benchmarks start, as strangers on this machine, and how they are told what to do.

Each kind of peer is installed from its public registry into `interop/.cache`. Every wait has an end, and every
process that was started is ended, with all that it started: also when the program is told to stop.
"""

import argparse
import base64
import contextlib
import functools
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
CACHE = HERE / ".cache"
# The longest that one cell may take.
CELL_S = 60
# The longest that an installation may take.
INSTALL_S = 1800
KUBO = "v0.41.0"
# Set once the program is to end: nothing is waited for any more.
stopping = threading.Event()


def varint(number):
    """Seven bits a byte, the lowest first."""
    head = bytearray()
    while number >= 0x80:
        head.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(head) + bytes([number])


class Failed(Exception):
    """Why something failed, in one line."""


class Missing(Failed):
    """Why a peer could not be installed."""


def log(text):
    print(f"   {text}", file=sys.stderr, flush=True)


def end_on_signals(seconds):
    """Ends the program by an exception, so that all is cleaned up: when it is told to, or after so long."""
    kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)

    def end(kind, _):
        # Once is enough: what is being cleaned up is not to be interrupted.
        for other in kinds:
            signal.signal(other, signal.SIG_IGN)
        stopping.set()
        why = f"not done within {seconds} s" if kind == signal.SIGALRM else f"signal {kind}"
        log(f"ends: {why}")
        raise SystemExit(128 + kind)

    for kind in kinds:
        signal.signal(kind, end)
    signal.alarm(seconds)


def options_parser(text, limit_s):
    """Returns a parser of what all programs here take."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dunlin", help="the program to test; built when there is none")
    parser.add_argument("--keep", action="store_true", help="keep the folders and logs of all nodes")
    parser.add_argument("--skip-missing", action="store_true", help="a peer that cannot be installed fails nothing")
    parser.add_argument("--limit", type=int, default=limit_s, help="seconds after which everything ends")
    return parser


@contextlib.contextmanager
def workplace(name, options):
    """A folder for all nodes. However the work in it ends, their processes end and the folder goes."""
    end_on_signals(options.limit)
    folder = pathlib.Path(tempfile.mkdtemp(prefix=f"dunlin-{name}-"))
    try:
        yield folder
    finally:
        Process.end_all()
        if options.keep:
            log(f"everything is in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
        signal.alarm(0)


def dunlin_program(named):
    """Returns the program to test, built when none is named."""
    if named:
        return pathlib.Path(named).resolve()
    root = HERE.parent
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", root / "target"))
    subprocess.run(["cargo", "build", "--package", "dunlin", "--locked"], cwd=root, check=True)
    return target / "debug" / "dunlin"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(what, look, seconds=CELL_S):
    """Looks again and again until there is something; a failure to look counts as nothing yet."""
    end, last = time.monotonic() + seconds, None
    while time.monotonic() < end and not stopping.is_set():
        try:
            found = look()
            if found:
                return found
        except (OSError, Failed, ValueError) as cause:
            last = cause
        time.sleep(0.1)
    raise Failed(f"{what} did not happen within {seconds} s{f': {last}' if last else ''}")


class Process:
    """A process with its log in a file, ended with everything that it started."""

    running = []

    def __init__(self, command, log_path, stdin=None, stdout=None, env=None, cwd=None, pass_fds=()):
        if stopping.is_set():
            raise Failed("the program ends")
        self.log = open(log_path, "ab")
        self.child = subprocess.Popen(
            [str(part) for part in command],
            stdin=stdin or subprocess.DEVNULL,
            stdout=stdout or self.log,
            stderr=self.log,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            pass_fds=pass_fds,
            start_new_session=True,
        )
        Process.running.append(self)

    def tell(self, kind):
        try:
            os.killpg(self.child.pid, kind)
        except ProcessLookupError:
            pass

    def end(self, kind=signal.SIGTERM):
        if self.child.poll() is None:
            self.tell(kind)
            try:
                self.child.wait(10)
            except subprocess.TimeoutExpired:
                pass
        # It may be gone and have left others behind.
        self.tell(signal.SIGKILL)
        self.child.wait(10)
        self.log.close()
        if self in Process.running:
            Process.running.remove(self)

    @staticmethod
    def end_all():
        for process in list(Process.running):
            process.end(signal.SIGKILL)


def build(command, folder, env=None):
    """Installs something, with its output in a log."""
    shown = " ".join(str(part) for part in command)
    log(f"installing: {shown}")
    started, path = time.monotonic(), folder / "install.log"
    path.unlink(missing_ok=True)
    try:
        process = Process(command, path, env=env, cwd=folder)
    except OSError as cause:
        raise Missing(f"cannot be installed: {cause}") from cause
    try:
        code = process.child.wait(INSTALL_S)
    except subprocess.TimeoutExpired as cause:
        raise Missing(f"cannot be installed within {INSTALL_S} s: {shown}") from cause
    finally:
        process.end(signal.SIGKILL)
    if code:
        raise Missing(f"cannot be installed: {path.read_text().strip()[-400:]}")
    log(f"installed in {time.monotonic() - started:.0f} s")


def call(request, seconds=CELL_S):
    try:
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            return answer.read()
    except urllib.error.HTTPError as cause:
        raise Failed(cause.read().decode(errors="replace")[:200]) from cause
    except urllib.error.URLError as cause:
        raise Failed(str(cause.reason)) from cause
    except TimeoutError as cause:
        raise Failed(f"no answer within {seconds} s") from cause


class Cells:
    """What is tried, one after the other, and what came of it."""

    def __init__(self, folder, skips):
        self.folder, self.skips, self.cells = folder, skips, []

    def cell(self, name, work):
        if stopping.is_set():
            return
        started = time.monotonic()
        try:
            detail = work()
            result = f"{time.monotonic() - started:5.1f} s{f', {detail}' if detail else ''}"
        except Missing as cause:
            result = f"{'SKIPPED' if self.skips else 'FAILED'}: {cause}"
        except Exception as cause:  # whatever fails, the other cells still say something
            result = f"FAILED: {type(cause).__name__}: {cause}"
        self.cells.append((name, result))
        log(f"{name}: {result}")

    def folder_for(self, name):
        folder = self.folder / name
        folder.mkdir()
        return folder

    def report(self):
        """Prints all of it; returns the exit code."""
        width = max(len(name) for name, _ in self.cells)
        for name, result in self.cells:
            print(f"{name:{width}}  {result}")
        failed, skipped = (sum(result.startswith(word) for _, result in self.cells) for word in ("FAILED", "SKIPPED"))
        print(f"{len(self.cells) - failed - skipped} passed, {failed} failed, {skipped} skipped")
        return 1 if failed else 0


class Dunlin:
    """A Dunlin node, told what to do through its HTTP API."""

    def __init__(self, program, folder, dht=""):
        self.program, self.folder, self.process = program, folder, None
        self.api = "127.0.0.1:0"
        self.port, self.websocket_port = free_port(), free_port()
        subprocess.run(
            [program, "init", "--data-dir", folder, "--network", "interop"],
            check=True, capture_output=True, timeout=CELL_S,
        )
        config = folder / "config.toml"
        text = config.read_text()
        address = f'"/ip4/127.0.0.1/tcp/{self.port}"'
        text = text.replace("external = []", f"external = [{address}]")
        text = text.replace('dht = ""', f'dht = "{dht}"')
        config.write_text(text.replace("mdns = true", "mdns = false"))

    def start(self, own=(), bootstrap=(), has_gateway=False, everywhere=False):
        """Starts it. `everywhere`: it listens on WebSocket and QUIC too."""
        self.settings = {
            "own": own, "bootstrap": bootstrap, "has_gateway": has_gateway, "everywhere": everywhere,
        }
        command = [self.program, "run", "--data-dir", self.folder, "--one-machine", "--api", self.api,
                   "--listen", f"/ip4/127.0.0.1/tcp/{self.port}"]
        command += [part for way in self.ways() if way != "TCP" for part in ("--listen", self.ways()[way])]
        command += [part for peer in own for part in ("--own-peer", peer)]
        command += [part for address in bootstrap for part in ("--bootstrap", address)]
        command += ["--gateway", "127.0.0.1:0", "--gateway-serve", "all"] if has_gateway else []
        self.process = Process(command, self.folder / "log")
        until("the API of Dunlin", lambda: self.ask("GET", "/v1/status"))
        return self

    def restart(self):
        self.process.end(signal.SIGKILL)
        for name in ("api.address", "gateway.address"):
            (self.folder / name).unlink(missing_ok=True)
        time.sleep(1)
        self.start(**self.settings)

    def ask(self, method, path, body=None):
        return self.ask_raw(method, path, None if body is None else json.dumps(body).encode())

    def ask_raw(self, method, path, data):
        address = (self.folder / "api.address").read_text().strip()
        token = (self.folder / "api.token").read_text().strip()
        request = urllib.request.Request(
            f"http://{address}{path}", data, method=method,
            headers={"authorization": f"Bearer {token}", "content-type": "application/json"},
        )
        answer = call(request, 2 * CELL_S)
        return json.loads(answer) if answer[:1] in (b"{", b"[") else answer

    @property
    def peer(self):
        return self.ask("GET", "/v1/status")["peer"]

    @property
    def address(self):
        return f"/ip4/127.0.0.1/tcp/{self.port}/p2p/{self.peer}"

    def ways(self):
        """Where it listens, by the transport."""
        ways = {"TCP": f"/ip4/127.0.0.1/tcp/{self.port}"}
        if self.settings["everywhere"]:
            ways["WebSocket"] = f"/ip4/127.0.0.1/tcp/{self.websocket_port}/ws"
            ways["QUIC"] = f"/ip4/127.0.0.1/udp/{self.port}/quic-v1"
        return ways

    @property
    def addresses(self):
        return {way: f"{address}/p2p/{self.peer}" for way, address in self.ways().items()}

    @property
    def gateway(self):
        address = until("the gateway", lambda: (self.folder / "gateway.address").read_text().strip())
        return f"http://{address}"

    def is_connected(self, peer):
        peers = self.ask("GET", "/v1/peers")["peers"]
        return any(other["peer"] == peer and other["connected"] for other in peers)

    def make_segments(self, count):
        """Seals a segment for each of so many entities, and waits until they are archived."""
        self.ask("POST", "/v1/collections", {"name": "interop", "dim": 2})
        names = [f"entity-{number}" for number in range(count)]
        observations = [
            {"entity": name, "timestamp_us": step * 1_000_000, "vector": [number / count, step / 8]}
            for number, name in enumerate(names) for step in range(4)
        ]
        self.ask("POST", "/v1/collections/interop/observations", {"observations": observations})
        for name in names:
            self.ask("POST", "/v1/collections/interop/seal", {"entity": name})
        until("archiving", lambda: self.ask("GET", "/v1/archive")["archived"] >= count)
        query = {"collection": "interop", "limit": 1000}
        return [segment["cid"] for segment in self.ask("POST", "/v1/query/segments", query)["segments"]]

    def block(self, cid):
        return self.ask("GET", f"/v1/blocks/{cid}")

    def fetch(self, cids, peers=(), gateways=(), dht=False):
        """Fetches segments; returns how many came from whom."""
        wish = {"cids": cids, "peers": list(peers), "gateways": list(gateways), "dht": dht}
        segments = self.ask("POST", "/v1/segments/fetch", wish)["segments"]
        missing = [part for part in segments if part["segment"] is None]
        if missing:
            attempts = missing[0]["attempts"]
            raise Failed(f"{len(missing)} of {len(cids)} missing; the first was tried so: {attempts}")
        served = {}
        for attempt in (attempt for part in segments for attempt in part["attempts"]):
            if attempt["outcome"] == "verified":
                served[attempt["peer"]] = served.get(attempt["peer"], 0) + 1
        return served

    def provide(self, cids):
        """Makes blocks public and has them found: what is private is never told to a DHT."""
        self.import_public(cids)
        self.ask("POST", "/v1/segments/provide", {"cids": cids})

    def import_public(self, cids):
        """Takes blocks of this node in again as a CAR file that strangers may have."""
        binary = {cid: base64.b32decode(cid[1:].upper() + "=" * (-len(cid[1:]) % 8)) for cid in cids}
        # {"roots": [the first one], "version": 1} as DAG-CBOR.
        root = b"\xd8\x2a\x58\x25\x00" + binary[cids[0]]
        sections = [b"\xa2\x65roots\x81" + root + b"\x67version\x01"]
        sections += [binary[cid] + self.block(cid) for cid in cids]
        self.ask_raw("POST", "/v1/archive/import?public=true", b"".join(
            varint(len(section)) + section for section in sections))

    def end(self):
        if self.process:
            self.process.end()


class Kubo:
    """Kubo, told what to do through its RPC."""

    name = "kubo"
    # Its DHT for local networks; the public one takes no loopback addresses.
    dht = "/ipfs/lan/kad/1.0.0"
    faults = {}

    @staticmethod
    def install():
        program = CACHE / "bin" / f"ipfs-{KUBO}"
        if not program.exists():
            folder = CACHE / "kubo"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "go.mod").write_text(f"module interop\n\ngo 1.26\n\nrequire github.com/ipfs/kubo {KUBO}\n")
            build(["go", "build", "-mod=mod", "-o", program, "github.com/ipfs/kubo/cmd/ipfs"], folder)
        return program

    def __init__(self, folder, has_quic=False):
        self.folder, self.process = folder, None
        self.api, self.port, self.gateway_port = free_port(), free_port(), free_port()
        self.gateway = f"http://127.0.0.1:{self.gateway_port}"
        self.program = self.install()
        self.run("init", "--profile=test")
        quic = [f"/ip4/127.0.0.1/udp/{self.port}/quic-v1"] if has_quic else []
        settings = {
            "Addresses.Swarm": [f"/ip4/127.0.0.1/tcp/{self.port}", *quic],
            "Addresses.API": f"/ip4/127.0.0.1/tcp/{self.api}",
            "Addresses.Gateway": f"/ip4/127.0.0.1/tcp/{self.gateway_port}",
            # It is asked for what it has, not for what it may find.
            "Gateway.NoFetch": True,
            "Bootstrap": [],
            "Discovery.MDNS.Enabled": False,
            "Routing.Type": "dhtserver",
            # Without it a DHT whose nodes are all on one machine takes no records.
            "Routing.LoopbackAddressesOnLanDHT": True,
            "AutoTLS.Enabled": False,
            "AutoConf.Enabled": False,
            # Only what it is told to provide.
            "Provide.Strategy": "pinned",
            "Swarm.DisableNatPortMap": True,
        }
        for key, value in settings.items():
            self.run("config", "--json", key, json.dumps(value))

    def run(self, *arguments):
        command = [self.program, *arguments]
        done = subprocess.run(command, env=self.env(), capture_output=True, timeout=CELL_S, text=True)
        if done.returncode:
            raise Failed(f"ipfs {' '.join(arguments)}: {done.stderr.strip()[-200:]}")

    def env(self):
        return {**os.environ, "IPFS_PATH": str(self.folder), "IPFS_TELEMETRY": "off"}

    def start(self):
        self.process = Process([self.program, "daemon"], self.folder / "log", env=self.env())
        identity = until("the RPC of Kubo", lambda: self.ask("id"))
        self.peer = json.loads(identity)["ID"]
        self.address = f"/ip4/127.0.0.1/tcp/{self.port}/p2p/{self.peer}"
        return self

    def restart(self):
        self.process.end(signal.SIGKILL)
        for lock in ("repo.lock", "api"):
            (self.folder / lock).unlink(missing_ok=True)
        time.sleep(1)
        self.start()

    def ask(self, path, data=b"", headers=None, **query):
        query = urllib.parse.urlencode({key.replace("_", "-"): value for key, value in query.items()})
        url = f"http://127.0.0.1:{self.api}/api/v0/{path}?{query}"
        return call(urllib.request.Request(url, data, headers or {}, method="POST"))

    def connect(self, address):
        self.ask("swarm/connect", arg=address)

    def get(self, cid):
        return self.ask("block/get", arg=cid, timeout=f"{CELL_S - 5}s")

    def put(self, cid, data):
        self.put_all("dag-cbor", [data])

    def put_all(self, codec, blocks):
        """Puts blocks with one request."""
        boundary = "dunlin-interop"
        head = (f"--{boundary}\r\ncontent-disposition: form-data; name=\"data\"; filename=\"x\"\r\n"
                "content-type: application/octet-stream\r\n\r\n").encode()
        body = b"".join(head + block + b"\r\n" for block in blocks) + f"--{boundary}--\r\n".encode()
        headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
        self.ask("block/put", body, headers, cid_codec=codec, mhtype="sha2-256")

    def provide(self, cid):
        self.ask("routing/provide", arg=cid, timeout=f"{CELL_S}s")

    def end(self):
        if self.process:
            self.process.end()


class LineNode:
    """A node that is told what to do line by line: a JSON object goes in, and one comes back for each."""

    # It has none.
    gateway = None

    def __init__(self, folder):
        self.folder, self.process, self.port = folder, None, free_port()
        self.program = self.install()

    def command(self):
        raise NotImplementedError

    def start(self):
        self.process = Process(self.command(), self.folder / "log", subprocess.PIPE, subprocess.PIPE)
        self.waiting, self.last, self.lock = {}, 0, threading.Lock()
        threading.Thread(target=self.listen, args=(self.process.child.stdout,), daemon=True).start()
        self.address = until("the address of the peer", lambda: self.ask("address"))
        self.peer = self.address.rsplit("/", 1)[1]
        return self

    def listen(self, lines):
        try:
            for line in lines:
                answer = json.loads(line)
                waiting = self.waiting.pop(answer["id"], None)
                if waiting:
                    waiting["answer"] = answer
                    waiting["event"].set()
        except ValueError:
            pass  # The pipe was closed under its hands.
        for waiting in list(self.waiting.values()):
            waiting["event"].set()

    def ask(self, verb, *arguments):
        waiting = {"event": threading.Event(), "answer": None}
        try:
            with self.lock:
                self.last += 1
                self.waiting[self.last] = waiting
                request = {"id": self.last, "verb": verb, "args": arguments}
                self.process.child.stdin.write(json.dumps(request).encode() + b"\n")
                self.process.child.stdin.flush()
        except (OSError, ValueError) as cause:
            raise Failed("it is not running") from cause
        if not waiting["event"].wait(CELL_S + 5) or waiting["answer"] is None:
            raise Failed(f"no answer to {verb}")
        if "error" in waiting["answer"]:
            raise Failed(waiting["answer"]["error"].splitlines()[0])
        return waiting["answer"]["value"]

    def restart(self):
        self.process.end(signal.SIGKILL)
        time.sleep(1)
        self.start()

    def connect(self, address):
        self.ask("connect", address)

    def get(self, cid):
        return base64.b64decode(self.ask("get", cid))

    def put(self, cid, data):
        self.ask("put", cid, base64.b64encode(data).decode())

    def provide(self, cid):
        self.ask("provide", cid)

    def end(self):
        if self.process:
            self.process.end()


class Helia(LineNode):
    """Helia, on a Node of its own: it needs a newer one than most machines have."""

    name = "helia"
    dht = Kubo.dht
    faults = {}

    @staticmethod
    def install():
        folder = CACHE / "helia"
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "peer.mjs"):
            shutil.copy(HERE / "helia" / name, folder / name)
        if not (folder / "node_modules" / ".package-lock.json").exists():
            build(["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"], folder)
        return folder

    def __init__(self, folder):
        super().__init__(folder)
        self.blocks = {}

    def command(self):
        node = self.program / "node_modules" / ".bin" / "node"
        return [node, self.program / "peer.mjs", self.folder / "key", self.port, self.dht]

    def put(self, cid, data):
        self.blocks[cid] = data
        super().put(cid, data)

    def restart(self):
        super().restart()
        # It keeps blocks in memory.
        for cid, data in list(self.blocks.items()):
            super().put(cid, data)


class JsLibp2p(LineNode):
    """Plain js-libp2p, which only dials and asks, on a Node of its own like Helia's."""

    name = "js-libp2p"
    dht = Kubo.dht

    @staticmethod
    @functools.cache
    def install():
        folder = CACHE / "js-libp2p"
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "peer.mjs"):
            shutil.copy(HERE / "js-libp2p" / name, folder / name)
        if not (folder / "node_modules" / ".package-lock.json").exists():
            build(["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"], folder)
        return folder

    def command(self):
        return [self.program / "node_modules" / ".bin" / "node", self.program / "peer.mjs", self.dht]


class RustIpfs(LineNode):
    """rust-ipfs, an implementation in Rust that shares no line with ours."""

    name = "rust-ipfs"
    # Its DHT has this name and no other.
    dht = "/ipfs/kad/1.0.0"
    # Of version 0.16.0.
    faults = {
        "64 from us, while we restart": "it asks a peer that restarted for nothing more, Kubo neither",
        "64 from us, over our gateway": "it asks gateways for 16 blocks at once, and forgets the others",
    }

    @staticmethod
    @functools.cache
    def install():
        folder = CACHE / "rust-ipfs"
        folder.mkdir(parents=True, exist_ok=True)
        program = folder / "debug" / "dunlin-interop-rust-ipfs"
        command = ["cargo", "build", "--locked", "--manifest-path", HERE / "rust-ipfs" / "Cargo.toml"]
        build(command, folder, {"CARGO_TARGET_DIR": str(folder)})
        return program

    def __init__(self, folder, gateways=()):
        super().__init__(folder)
        self.gateways = gateways

    def command(self):
        return [self.program, self.folder, self.port, *self.gateways]
