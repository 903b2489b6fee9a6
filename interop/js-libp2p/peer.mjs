// A plain js-libp2p node that is told what to do: one JSON object a line comes in, one goes out for each, as
// `helia/peer.mjs` does it. It listens nowhere, is a client of the DHT, and speaks nothing of IPFS beside that.

import { createInterface } from 'node:readline'
import { quic } from '@chainsafe/libp2p-quic'
import { identify } from '@libp2p/identify'
import { kadDHT, passthroughMapper } from '@libp2p/kad-dht'
import { noise } from '@libp2p/noise'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { webSockets } from '@libp2p/websockets'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { CID } from 'multiformats/cid'

const [dhtProtocol] = process.argv.slice(2)
const LIMIT_MS = 60_000
const FIND_MS = 5_000

const node = await createLibp2p({
  transports: [tcp(), webSockets(), quic()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  connectionGater: { denyDialMultiaddr: () => false },
  // It pings as well, and a peer may have one stream for that.
  connectionMonitor: { enabled: false },
  services: {
    identify: identify(),
    ping: ping(),
    dht: kadDHT({ protocol: dhtProtocol, clientMode: true, peerInfoMapper: passthroughMapper })
  }
})

const limit = () => ({ signal: AbortSignal.timeout(LIMIT_MS) })

// What peers said of themselves.
const identities = new Map()
node.addEventListener('peer:identify', ({ detail }) => identities.set(detail.peerId.toString(), detail))

const verbs = {
  // It has no address; its id is what others know it by.
  async address () {
    return `/p2p/${node.peerId}`
  },
  async connect (address) {
    const connection = await node.dial(multiaddr(address), limit())
    const { encryption, multiplexer } = connection
    return { address: connection.remoteAddr.toString(), encryption, multiplexer }
  },
  async identity (peer) {
    const { protocolVersion, agentVersion, protocols } = identities.get(peer) ?? {}
    return protocols ? { protocolVersion, agentVersion, protocols } : null
  },
  async ping (address) {
    return node.services.ping.ping(multiaddr(address), limit())
  },
  async find (cid) {
    // The first question may come before the DHT knows anybody, and then waits in vain.
    const options = { signal: AbortSignal.timeout(FIND_MS) }
    for await (const peer of node.contentRouting.findProviders(CID.parse(cid), options)) {
      return { peer: peer.id.toString(), addresses: peer.multiaddrs.map(String) }
    }
    return null
  },
  async connections () {
    return node.getConnections().length
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const { id, verb, args } = JSON.parse(line)
  verbs[verb](...args).then(
    value => console.log(JSON.stringify({ id, value: value ?? null })),
    error => console.log(JSON.stringify({ id, error: String(error?.stack ?? error) }))
  )
}
process.exit(0)
