#!/usr/bin/env python3
"""Publishes names and resolves them, with Kubo as the stranger on this machine, and prints what worked.

    interop/ipns.py [--dunlin PROGRAM] [--keep] [--skip-missing]

A Dunlin node and a Kubo node know a Dunlin hub alone, which keeps the records of the DHT that they share.
Kubo must accept our record, resolve our name and fetch what it stands for; we must resolve Kubo's. Kubo is
installed as `interop/run` does it.
"""

import base64
import json
import pathlib
import struct
import subprocess
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import nodes as run  # noqa: E402

SEGMENTS = 8
# The longest that everything may take: building both programs on a slow machine, and the cells.
ALL_S = 3600


class Names:
    """The cells, one after the other: each needs what the ones before left."""

    def __init__(self, program, folder):
        self.program, self.folder, self.cells = program, folder, []

    def cell(self, name, work):
        started = time.monotonic()
        try:
            detail = work()
            result = f"{time.monotonic() - started:5.1f} s{f', {detail}' if detail else ''}"
        except Exception as cause:  # whatever fails, the other cells still say something
            result = f"FAILED: {cause}"
        self.cells.append((name, result))
        run.log(f"{name}: {result}")

    def folder_for(self, name):
        folder = self.folder / name
        folder.mkdir()
        return folder

    def dunlin(self, name):
        return run.Dunlin(self.program, self.folder_for(name), run.Kubo.dht)

    def matrix(self):
        self.hub = self.dunlin("hub").start()
        self.ours = self.dunlin("ours").start(bootstrap=[self.hub.address])
        self.kubo = run.Kubo(self.folder_for("kubo")).start()
        self.kubo.connect(self.hub.address)
        run.until("the connection of Kubo", lambda: self.hub.is_connected(self.kubo.peer))
        run.until("the connection to the hub", lambda: self.ours.is_connected(self.hub.peer))
        self.cell("a node without anything public publishes nothing", self.nothing)
        self.cell("we publish a name", self.publish)
        self.cell("Kubo inspects our record and verifies it", self.inspect)
        self.cell("Kubo resolves our name over the DHT", self.resolve_ours)
        self.cell("Kubo finds us as a provider of what the name stands for", self.find_provider)
        self.cell("the number rises over a restart, and Kubo sees the new root", self.restart)
        self.cell("we resolve Kubo's name over the DHT", self.resolve_theirs)
        self.cell("we see Kubo's newer record", self.resolve_newer)
        self.cell("Kubo fetches the catalog of sealed copies whole, and reads nothing", self.sealed)

    def nothing(self):
        self.segments = self.ours.make_segments(2 * SEGMENTS)
        time.sleep(2)
        status = self.ours.ask("GET", "/v1/archive")
        if status["published"] or status["providing"] != {"provided": 0, "due": 0, "failed": 0, "left_out": 0}:
            raise run.Failed(f"it did: {status}")
        for cid in self.segments:
            try:
                self.ours.ask("POST", "/v1/segments/provide", {"cids": [cid]})
            except run.Failed:
                continue
            raise run.Failed("a private segment was provided")

    def publish(self):
        self.ours.import_public(self.segments[:SEGMENTS])
        self.published = self.ours.ask("POST", "/v1/archive/publish", {})
        if self.published["peers"] < 1:
            raise run.Failed(f"nobody took it: {self.published}")
        return f"number {self.published['sequence']}, {self.published['peers']} peers took it"

    def record_of(self, name):
        """The record of a name as Kubo has it from the DHT."""
        answer = self.kubo.ask("routing/get", arg=f"/ipns/{name}", timeout="30s")
        lines = [json.loads(line) for line in answer.splitlines()]
        return next(base64_of(line["Extra"]) for line in lines if line.get("Extra"))

    def inspect(self):
        record = run.until("the record", lambda: self.record_of(self.published["name"]))
        file = self.folder / "record"
        file.write_bytes(record)
        command = [self.kubo.program, "name", "inspect", "--enc=json", "--verify", self.published["name"], file]
        done = subprocess.run(command, env=self.kubo.env(), capture_output=True, timeout=60, text=True)
        if done.returncode:
            raise run.Failed(done.stderr)
        seen = json.loads(done.stdout)
        if not seen["Validation"]["Valid"]:
            raise run.Failed(f"it is not valid: {seen['Validation']}")
        entry = seen["Entry"]
        if (entry["Value"], entry["Sequence"]) != (f"/ipfs/{self.published['root']}", self.published["sequence"]):
            raise run.Failed(f"it says something else: {entry}")
        return f"{len(record)} bytes, signature {seen['SignatureType']}"

    def kubo_resolves(self, root):
        def look():
            answer = self.kubo.ask("name/resolve", arg=self.published["name"], nocache="true", timeout="30s")
            return json.loads(answer)["Path"] == f"/ipfs/{root}"

        run.until("that Kubo resolves the name", look)

    def resolve_ours(self):
        self.kubo_resolves(self.published["root"])

    def find_provider(self):
        def look():
            answer = self.kubo.ask("routing/findprovs", arg=self.published["root"], timeout="20s")
            found = [json.loads(line) for line in answer.splitlines()]
            peers = [peer["ID"] for line in found for peer in line.get("Responses") or []]
            return self.ours.peer in peers

        run.until("that Kubo finds us", look)

    def restart(self):
        self.ours.restart()
        run.until("the connection to the hub", lambda: self.ours.is_connected(self.hub.peer))
        self.ours.import_public(self.segments[SEGMENTS:])
        again = self.ours.ask("POST", "/v1/archive/publish", {})
        if again["root"] == self.published["root"] or again["sequence"] <= self.published["sequence"]:
            raise run.Failed(f"{again} after {self.published}")
        self.kubo_resolves(again["root"])
        return f"number {again['sequence']}"

    def kubo_publishes(self, data):
        self.kubo.put_all("raw", [data])
        cid = json.loads(self.kubo.ask("block/stat", arg=raw_cid(data)))["Key"]
        self.kubo.ask("name/publish", arg=f"/ipfs/{cid}", timeout="60s")
        return cid

    def we_resolve(self, cid):
        def look():
            resolved = self.ours.ask("POST", "/v1/archive/resolve", {"name": self.kubo.peer})
            return resolved if resolved["root"] == cid else None

        return run.until("that we resolve the name", look)

    def resolve_theirs(self):
        resolved = self.we_resolve(self.kubo_publishes(b"what Kubo has to say"))
        return f"number {resolved['sequence']}"

    def resolve_newer(self):
        resolved = self.we_resolve(self.kubo_publishes(b"what Kubo says later"))
        return f"number {resolved['sequence']}"


    def sealed(self):
        self.ours.ask("POST", "/v1/collections/interop/share", {"share": "sealed"})
        count = len(self.segments)
        catalog = run.until("the copies", lambda: self.sealed_catalog(count))
        # Over bitswap from the connected peer: Kubo finds it as a provider of this CID.
        self.ours.ask("POST", "/v1/segments/provide", {"cids": [catalog]})
        self.kubo.ask("pin/add", arg=catalog, recursive="true", timeout=f"{run.CELL_S}s")
        cids = [json.loads(line)["Ref"] for line in self.kubo.ask(
            "refs", arg=catalog, recursive="true", unique="true").splitlines()]
        if len(cids) < count:
            raise run.Failed(f"{len(cids)} blocks under the catalog for {count} segments")
        blocks = [self.kubo.get(cid) for cid in [catalog, *cids]]
        for secret in [b"entity-", b"interop", *(self.plain_mean(cid) for cid in self.segments)]:
            if any(secret in block for block in blocks):
                raise run.Failed(f"{secret!r} is there to be read")
        return f"{len(cids)} blocks"

    def sealed_catalog(self, count):
        collections = self.ours.ask("GET", "/v1/archive")["sealed"]
        return next((one["root"] for one in collections if one["copies"] >= count), None)

    def plain_mean(self, cid):
        """A segment's mean, as it stands in the plain block."""
        mean = struct.pack("<2f", *self.ours.ask("GET", f"/v1/segments/{cid}")["mean"])
        if mean not in self.ours.block(cid):
            raise run.Failed("the test looks for what is not even in the plain segment")
        return mean


def base64_of(text):
    return base64.b64decode(text)


def raw_cid(data):
    """The CID of bytes: version 1, raw, sha2-256, in base 32."""
    import hashlib

    binary = bytes([1, 0x55, 0x12, 32]) + hashlib.sha256(data).digest()
    return "b" + base64.b32encode(binary).decode().lower().rstrip("=")


def main():
    options = run.options_parser(__doc__, ALL_S).parse_args()
    with run.workplace("ipns", options) as folder:
        names = Names(run.dunlin_program(options.dunlin), folder)
        try:
            run.Kubo.install()
            names.matrix()
        except run.Missing as cause:
            names.cells.append(("Kubo", f"{'SKIPPED' if options.skip_missing else 'FAILED'}: {cause}"))
        except run.Failed as cause:
            names.cells.append(("the nodes", f"FAILED: {cause}"))
    width = max(len(name) for name, _ in names.cells)
    for name, result in names.cells:
        print(f"{name:{width}}  {result}")
    failed = sum(result.startswith("FAILED") for _, result in names.cells)
    print(f"{len(names.cells) - failed} passed or skipped, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
