#!/usr/bin/env python3
"""Carries a bundle through Kubo, and prints what worked.

    interop/bundles.py [--dunlin PROGRAM] [--keep]

A Dunlin node writes a bundle; Kubo imports it with `dag import`, which pins all of it; Kubo exports it again
with `dag export`, and that is the same file; `dunlin bundle verify` and a second node take Kubo's file. Then a
graph of Kubo's own comes to the node as a CAR file. The exit code says whether all went well.
"""

import argparse
import base64
import importlib.machinery
import importlib.util
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
# The matrix is a program without a suffix; its nodes are used here, too.
loader = importlib.machinery.SourceFileLoader("run", str(HERE / "run"))
run = importlib.util.module_from_spec(importlib.util.spec_from_loader("run", loader))
loader.exec_module(run)

# Segments of the bundle.
SEGMENTS = 200


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


def carry(program, folder, nodes, report):
    def node(name):
        path = folder / name
        path.mkdir()
        made = run.Dunlin(program, path)
        nodes.append(made)
        return made.start()

    sender, receiver = node("sender"), node("receiver")
    (folder / "kubo").mkdir()
    kubo = run.Kubo(folder / "kubo")
    nodes.append(kubo)
    kubo.start()
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dunlin", help="the program to test; built when there is none")
    parser.add_argument("--skip-missing", action="store_true", help="that Kubo cannot be installed fails nothing")
    parser.add_argument("--keep", action="store_true", help="keep the folders and logs of all nodes")
    options = parser.parse_args()
    program = run.dunlin_program(options.dunlin)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="dunlin-bundles-"))
    nodes, failed = [], None
    try:
        carry(program, folder, nodes, lambda text: print(f"passed  {text}", flush=True))
    except run.Missing as cause:
        failed = None if options.skip_missing else cause
        print(f"SKIPPED {cause}")
    except (run.Failed, OSError, subprocess.SubprocessError) as cause:
        failed = cause
        print(f"FAILED  {type(cause).__name__}: {cause}")
    finally:
        for node in nodes:
            node.end()
        for process in list(run.Process.running):
            process.end(signal.SIGKILL)
        if options.keep:
            print(f"everything is in {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
