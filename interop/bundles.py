#!/usr/bin/env python3
"""Carries a bundle through Kubo, and prints what worked.

    interop/bundles.py [--dunlin PROGRAM] [--keep]

A Dunlin node writes a bundle; Kubo imports it with `dag import`, which pins all of it; Kubo exports it again
with `dag export`, and that is the same file; `dunlin bundle verify` and a second node take Kubo's file. Then a
graph of Kubo's own comes to the node as a CAR file. The exit code says whether all went well.
"""

import base64
import json
import pathlib
import subprocess
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import nodes as run  # noqa: E402

# Segments of the bundle.
SEGMENTS = 200
# The longest that everything may take: building both programs on a slow machine, and the way there and back.
ALL_S = 3600


def dunlin(node, *arguments):
    """Runs a command against a node, and returns the JSON that it prints."""
    command = [node.program, *arguments, "--json", "--data-dir", node.folder]
    done = subprocess.run(command, capture_output=True, timeout=run.CELL_S, text=True)
    if done.returncode:
        raise run.Failed(done.stderr.strip()[-200:])
    return json.loads(done.stdout)


def ipfs(kubo, *arguments):
    """Runs a command of Kubo's, and returns its output as it is."""
    command = [kubo.program, *arguments]
    done = subprocess.run(command, env=kubo.env(), capture_output=True, timeout=run.CELL_S)
    if done.returncode:
        raise run.Failed(f"ipfs {' '.join(map(str, arguments))}: {done.stderr.decode().strip()[-200:]}")
    return done.stdout


def root_of(car):
    """Returns the root that the header of a CAR with one root names."""
    # A varint of 58, a map of two, "roots", a list of one, tag 42, 37 bytes that begin with a zero.
    return "b" + base64.b32encode(car[14:50]).decode().lower().rstrip("=")


def make_lossless_segments(node):
    """Seals segments that have payload blocks, and returns their CIDs when they are archived."""
    node.ask("POST", "/v1/collections", {"name": "pairs", "dim": 2, "fidelity": "lossless"})
    names = [f"entity-{number}" for number in range(SEGMENTS)]
    observations = [
        {"entity": name, "timestamp_us": step * 1_000_000, "vector": [number / SEGMENTS, step / 8]}
        for number, name in enumerate(names) for step in range(4)
    ]
    node.ask("POST", "/v1/collections/pairs/observations", {"observations": observations})
    for name in names:
        node.ask("POST", "/v1/collections/pairs/seal", {"entity": name})
    run.until("archiving", lambda: node.ask("GET", "/v1/archive")["archived"] >= SEGMENTS)
    query = {"collection": "pairs", "limit": 1000}
    return [segment["cid"] for segment in node.ask("POST", "/v1/query/segments", query)["segments"]]


def carry(program, folder, report):
    def node(name):
        path = folder / name
        path.mkdir()
        return run.Dunlin(program, path).start()

    sender, receiver = node("sender"), node("receiver")
    (folder / "kubo").mkdir()
    kubo = run.Kubo(folder / "kubo").start()
    cids = make_lossless_segments(sender)
    ours, theirs = folder / "ours.car", folder / "theirs.car"
    made = dunlin(sender, "bundle", "export", "-o", ours)["bundle"]
    if made["segments"] != SEGMENTS or made["blocks"] <= SEGMENTS:
        raise run.Failed(f"not all is in the bundle: {made}")
    root = root_of(ours.read_bytes())

    ipfs(kubo, "dag", "import", ours)
    pinned = ipfs(kubo, "pin", "ls", "--type=recursive", "--quiet").decode().split()
    if root not in pinned:
        raise run.Failed(f"Kubo has not pinned {root}")
    reached = set(ipfs(kubo, "refs", "-r", "--offline", root).decode().split())
    if not reached.issuperset(cids):
        raise run.Failed("Kubo does not reach every segment from the root")
    report(f"Kubo imports and pins {len(reached)} blocks of our bundle")

    theirs.write_bytes(ipfs(kubo, "dag", "export", "--progress=false", root))
    if theirs.read_bytes() != ours.read_bytes():
        raise run.Failed("Kubo's export is another file")
    report("Kubo exports the same file")

    verified = dunlin(sender, "bundle", "verify", theirs)
    if verified != made:
        raise run.Failed(f"verified as {verified}, made as {made}")
    dunlin(receiver, "bundle", "import", theirs, "--from", sender.peer)
    for cid in cids:
        if receiver.block(cid) != sender.block(cid):
            raise run.Failed(f"{cid} has other bytes")
    report(f"a node takes {len(cids)} segments from Kubo's file")

    file = folder / "file"
    file.write_bytes(b"a file of some pieces\n" * 50_000)
    added = ipfs(kubo, "add", "--cid-version=1", "--quieter", file).decode().strip()
    theirs.write_bytes(ipfs(kubo, "dag", "export", "--progress=false", added))
    imported = dunlin(receiver, "archive", "import", theirs)
    if imported["roots"] != [added] or imported["blocks"] < 5:
        raise run.Failed(f"not all of Kubo's file arrived: {imported}")
    try:
        dunlin(receiver, "bundle", "import", theirs, "--from", sender.peer)
    except run.Failed:
        report("a CAR of Kubo's own is imported as blocks, and is no bundle")
    else:
        raise run.Failed("what is no bundle was imported as one")


def main():
    options, failed = run.options_parser(__doc__, ALL_S).parse_args(), None
    with run.workplace("bundles", options) as folder:
        program = run.dunlin_program(options.dunlin)
        try:
            carry(program, folder, lambda text: print(f"passed  {text}", flush=True))
        except run.Missing as cause:
            failed = None if options.skip_missing else cause
            print(f"SKIPPED {cause}")
        except (run.Failed, OSError, subprocess.SubprocessError) as cause:
            failed = cause
            print(f"FAILED  {type(cause).__name__}: {cause}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
