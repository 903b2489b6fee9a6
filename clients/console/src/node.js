// The node, as this page meets it: a peer that is dialled over WebSocket with Noise and Yamux.
//
// `docs/formats/messages.md` has the tables of `/dunlin/console/1`. One request and one response are on a
// stream, each to its end, in DAG-CBOR.

import { decode, encode } from 'cborg'
import { generateKeyPair } from '@libp2p/crypto/keys'
import { identify } from '@libp2p/identify'
import { noise } from '@libp2p/noise'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { ping } from '@libp2p/ping'
import { webSockets } from '@libp2p/websockets'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

const PROTOCOL = '/dunlin/console/1'

// Longest answer that is read, in bytes, as the node promises it.
const RESPONSE_BYTES_MAX = 2 << 20

// Longest wait for anything that the node is to do.
const TIMEOUT_MS = 10_000

/** A refusal, of the API or over libp2p. `isFinal`: the same request is refused the next time too. */
export class Refused extends Error {
  constructor (message, isFinal) {
    super(message)
    this.isFinal = isFinal
  }
}

/** A page's own peer, which knows one other: the node that served the page. */
export class Node {
  #addresses = []
  #peer
  #key

  /** Draws a key, which lives as long as the page. */
  static async create () {
    const node = new Node()
    node.#key = await generateKeyPair('Ed25519')
    node.#peer = await createLibp2p({
      privateKey: node.#key,
      transports: [webSockets()],
      connectionEncrypters: [noise()],
      streamMuxers: [yamux()],
      // The policy of the page lets it dial this node alone, which is on this machine as a rule.
      connectionGater: { denyDialMultiaddr: () => false },
      // It would ping as well, and one stream is for that; who asks every second notices by itself.
      connectionMonitor: { enabled: false },
      services: { identify: identify(), ping: ping() }
    })
    return node
  }

  /** The peer id of the page. */
  get id () {
    return peerIdFromPrivateKey(this.#key).toString()
  }

  /** Gets a ticket for a token or a pass, dials the node, and is let in. */
  async enter (credential) {
    const answer = await fetch('/v1/console/tickets', {
      method: 'POST',
      headers: { Authorization: `Bearer ${credential}`, 'Content-Type': 'application/json' },
      body: JSON.stringify({ peer: this.id }),
      signal: AbortSignal.timeout(TIMEOUT_MS)
    })
    const body = await answer.json()
    if (answer.status === 401) {
      throw new Refused('That is not the token of this node, or the address was used before or is too old.', true)
    }
    if (!answer.ok) {
      throw new Refused(body.message, answer.status < 500)
    }
    this.#addresses = body.addresses.map(address => multiaddr(address))
    const bytes = body.ticket.match(/../g).map(digits => parseInt(digits, 16))
    const { entered } = await this.#ask({ enter: { ticket: Uint8Array.from(bytes) } })
    if (entered === undefined) {
      throw new Refused('the node did not let this page in', true)
    }
  }

  /** Returns what the node knows now. Whoever entered may look, over a new connection as well. */
  async look () {
    const { shown } = await this.#ask({ look: {} })
    return shown.view
  }

  /** Returns the round-trip time to the node, in milliseconds. */
  ping () {
    return this.#peer.services.ping.ping(this.#addresses, { signal: AbortSignal.timeout(TIMEOUT_MS) })
  }

  async #ask (request) {
    const signal = AbortSignal.timeout(TIMEOUT_MS)
    const connection = await this.#peer.dial(this.#addresses, { signal })
    const stream = await connection.newStream(PROTOCOL, { signal })
    try {
      stream.send(encode(request))
      await stream.close({ signal })
      const response = decode(await readAll(stream))
      if (response.refused !== undefined) {
        const { reason } = response.refused
        throw new Refused(`the node answered: ${reason}`, reason === 'denied')
      }
      return response
    } catch (cause) {
      stream.abort(cause)
      if (!(cause instanceof Refused)) {
        // The next question gets a connection that works.
        connection.abort(cause)
      }
      throw cause
    }
  }
}

async function readAll (stream) {
  const chunks = []
  let length = 0
  for await (const chunk of stream) {
    const bytes = chunk.subarray()
    length += bytes.length
    if (length > RESPONSE_BYTES_MAX) {
      throw new Error('the node answered with more than it may')
    }
    chunks.push(bytes)
  }
  const whole = new Uint8Array(length)
  let at = 0
  for (const bytes of chunks) {
    whole.set(bytes, at)
    at += bytes.length
  }
  return whole
}
