// A Helia node that is told what to do: one JSON object a line comes in, one goes out for each.
//
// {"id": 1, "verb": "get", "args": ["<cid>"]} is answered by {"id": 1, "value": "<base64>"} or
// {"id": 1, "error": "<why>"}. Its key and its blocks live as long as the process, its key longer when
// the first argument names a file for it.

import { createInterface } from 'node:readline'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { withBitswap } from '@helia/bitswap'
import { withLibp2p } from '@helia/libp2p'
import { generateKeyPair, privateKeyFromProtobuf, privateKeyToProtobuf } from '@libp2p/crypto/keys'
import { identify } from '@libp2p/identify'
import { kadDHT, passthroughMapper } from '@libp2p/kad-dht'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createHeliaLight } from 'helia'
import { CID } from 'multiformats/cid'
import { sha256 } from 'multiformats/hashes/sha2'

const [keyFile, port, dhtProtocol] = process.argv.slice(2)
const LIMIT_MS = 60_000

async function key () {
  if (existsSync(keyFile)) {
    return privateKeyFromProtobuf(readFileSync(keyFile))
  }
  const made = await generateKeyPair('Ed25519')
  writeFileSync(keyFile, privateKeyToProtobuf(made))
  return made
}

const helia = await withBitswap(withLibp2p(createHeliaLight(), {
  privateKey: await key(),
  addresses: { listen: [`/ip4/127.0.0.1/tcp/${port}`] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  connectionGater: { denyDialMultiaddr: () => false },
  services: {
    identify: identify(),
    ping: ping(),
    dht: kadDHT({ protocol: dhtProtocol, clientMode: false, peerInfoMapper: passthroughMapper })
  }
})).start()

const verbs = {
  async address () {
    return helia.libp2p.getMultiaddrs().map(String)[0]
  },
  async connect (address) {
    await helia.libp2p.dial(multiaddr(address), { signal: AbortSignal.timeout(LIMIT_MS) })
  },
  async put (name, bytes) {
    const data = Buffer.from(bytes, 'base64')
    const wanted = CID.parse(name)
    // A block is stored as the bytes that it is; nothing here looks into it.
    const cid = CID.createV1(wanted.code, await sha256.digest(data))
    if (!cid.equals(wanted)) {
      throw new Error(`the bytes of ${wanted} have the CID ${cid}`)
    }
    await helia.blockstore.put(cid, data)
    return cid.toString()
  },
  async get (cid) {
    const chunks = []
    const options = { signal: AbortSignal.timeout(LIMIT_MS) }
    for await (const chunk of helia.blockstore.get(CID.parse(cid), options)) {
      chunks.push(chunk)
    }
    return Buffer.concat(chunks).toString('base64')
  },
  async provide (cid) {
    await helia.libp2p.contentRouting.provide(CID.parse(cid), { signal: AbortSignal.timeout(LIMIT_MS) })
  },
  async find (cid) {
    const found = []
    const options = { signal: AbortSignal.timeout(LIMIT_MS) }
    for await (const peer of helia.libp2p.contentRouting.findProviders(CID.parse(cid), options)) {
      found.push(peer.id.toString())
    }
    return found
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
