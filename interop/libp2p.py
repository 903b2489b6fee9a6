#!/usr/bin/env python3
"""Has plain libp2p nodes of others connect, identify, ping and ask the DHT, and prints what worked.

    interop/libp2p.py [--dunlin PROGRAM] [--keep] [--skip-missing] [--limit SECONDS]

js-libp2p comes over TCP, WebSocket and QUIC, and is a client of the DHT that speaks nothing else of IPFS; Kubo
comes over TCP and QUIC. Each knows a Dunlin hub alone, and has to find another Dunlin node as the provider
of what that made public, by the DHT that the hub keeps. js-libp2p is installed as `interop/run` does it.
"""

import json
import pathlib
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import nodes  # noqa: E402
from nodes import Cells, Dunlin, Failed, JsLibp2p, Kubo, dunlin_program, until  # noqa: E402

# The longest that everything may take: building Kubo on a slow machine, and the cells.
ALL_S = 3600
# What a Dunlin node says to speak, whoever asks.
SPOKEN = ("/ipfs/ping/1.0.0", "/ipfs/id/1.0.0", "/ipfs/bitswap/1.2.0", "/dunlin/segments/1", Kubo.dht)


class Strangers(Cells):
    """The nodes that are met, and what each of the strangers does with them."""

    def __init__(self, program, folder, skips):
        super().__init__(folder, skips)
        self.program = program

    def dunlin(self, name):
        return Dunlin(self.program, self.folder_for(name), Kubo.dht)

    def run(self):
        self.hub = self.dunlin("hub").start(everywhere=True)
        self.ours = self.dunlin("ours").start(bootstrap=[self.hub.address])
        until("the connection to the hub", lambda: self.ours.is_connected(self.hub.peer))
        self.cids = self.ours.make_segments(2)
        self.ours.provide(self.cids)
        until("the records", lambda: self.ours.ask("GET", "/v1/archive")["providing"]["due"] == 0)
        for kind, work in ((JsLibp2p, self.js), (Kubo, self.kubo)):
            self.cell(f"{kind.name} is installed", lambda: kind.install() and None)
            if self.cells[-1][1].startswith(("FAILED", "SKIPPED")):
                continue
            work()

    def js(self):
        for way, address in self.hub.addresses.items():
            peer = JsLibp2p(self.folder_for(f"js-{way}")).start()
            name = f"js-libp2p over {way}"
            self.cell(f"{name}: connects", lambda: self.js_connects(peer, address))
            self.cell(f"{name}: identifies", lambda: self.js_identifies(peer))
            self.cell(f"{name}: finds our provider through the DHT", lambda: self.js_finds(peer))
            self.cell(f"{name}: pings", lambda: self.js_pings(peer, address))
            self.cell(f"{name}: is still connected after that", lambda: self.js_stays(peer))
            peer.end()

    def js_connects(self, peer, address):
        made = peer.ask("connect", address)
        return ", ".join(str(made[part]) for part in ("encryption", "multiplexer") if made.get(part))

    def js_identifies(self, peer):
        seen = until("that it knows what we are", lambda: peer.ask("identity", self.hub.peer))
        return check_identity(seen["protocolVersion"], seen["agentVersion"], seen["protocols"])

    def js_finds(self, peer):
        # The first question may come before the hub is in its routing table.
        found = until("that it finds us", lambda: peer.ask("find", self.cids[0]))
        if found["peer"] != self.ours.peer:
            raise Failed(f"it found {found}, not {self.ours.peer}")

    def js_pings(self, peer, address):
        # Its DHT pings whom it takes in, on the one stream that it has for that: this one comes after it, and perhaps again.
        return f"{until('the answer', lambda: str(peer.ask('ping', address)))} ms round trip"

    def js_stays(self, peer):
        if not self.hub.is_connected(peer.peer):
            raise Failed("it was sent away")

    def kubo(self):
        kubo = Kubo(self.folder_for("kubo"), has_quic=True).start()
        for way in ("TCP", "QUIC"):
            address = self.hub.addresses[way]
            name = f"Kubo over {way}"
            self.cell(f"{name}: connects", lambda: self.kubo_connects(kubo, address))
            self.cell(f"{name}: identifies", lambda: self.kubo_identifies(kubo))
            self.cell(f"{name}: pings", lambda: self.kubo_pings(kubo))
            kubo.ask("swarm/disconnect", arg=address)
        self.cell("Kubo: finds our provider through the DHT", lambda: self.kubo_finds(kubo))

    def kubo_connects(self, kubo, address):
        kubo.connect(address)
        peers = json.loads(kubo.ask("swarm/peers"))["Peers"]
        used = [peer["Addr"] for peer in peers if peer["Peer"] == self.hub.peer]
        if used != [address.rsplit("/p2p/", 1)[0]]:
            raise Failed(f"it uses {used}, not {address}")

    def kubo_identifies(self, kubo):
        seen = json.loads(kubo.ask("id", arg=self.hub.peer))
        # What Kubo calls the version of the protocol stands in its peer store, which `id` does not tell.
        return check_identity(None, seen["AgentVersion"], seen["Protocols"])

    def kubo_pings(self, kubo):
        # All on one stream, of which libp2p-ping 0.48 by itself answers but the first at once over QUIC (`pinging.rs`).
        lines = kubo.ask("ping", arg=self.hub.peer, count="3").splitlines()
        answers = [answer for answer in map(json.loads, lines) if answer["Success"] and answer["Time"]]
        slowest = max((answer["Time"] / 1e6 for answer in answers), default=0)
        if len(answers) < 3 or slowest > 1_000:
            raise Failed(f"{len(answers)} of 3 answers, the slowest after {slowest:.0f} ms")
        return f"{answers[-1]['Time'] / 1e6:.1f} ms round trip"

    def kubo_finds(self, kubo):
        kubo.connect(self.hub.address)

        def look():
            answer = kubo.ask("routing/findprovs", arg=self.cids[0], timeout="20s")
            found = [json.loads(line) for line in answer.splitlines()]
            return self.ours.peer in [peer["ID"] for line in found for peer in line.get("Responses") or []]

        until("that it finds us", look)


def check_identity(version, agent, protocols):
    missing = [protocol for protocol in SPOKEN if protocol not in protocols]
    if missing or not agent.startswith("dunlin/") or version not in (None, "/dunlin/interop/1"):
        raise Failed(f"{version}, {agent}, without {missing}")
    return f"{agent}, {len(protocols)} protocols"


def main():
    options = nodes.options_parser(__doc__, ALL_S).parse_args()
    with nodes.workplace("libp2p", options) as folder:
        strangers = Strangers(dunlin_program(options.dunlin), folder, options.skip_missing)
        try:
            strangers.run()
        except Failed as cause:
            strangers.cells.append(("the nodes", f"FAILED: {cause}"))
    return strangers.report()


if __name__ == "__main__":
    sys.exit(main())
