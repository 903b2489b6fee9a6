// The page: gets in, and asks the node again and again.

import { Node, Refused } from './node.js'
import { onChoice, onToken, show, showForm, showProblem, showState } from './view.js'

// How often the node is asked while somebody looks, and how long a page waits that was not answered, in ms.
const LOOK_MS = 1_000
const RETRY_MS = 3_000

// The round trip is measured with every so many looks.
const LOOKS_PER_PING = 5

// Failures after which a page without a token asks whether the node is there at all: one that was started again sends
// a page that it does not know away without a word.
const FAILURES_MAX = 3

let node
// The token that was given, so that a page that was forgotten may enter again. A pass is good once.
let token
let hasEntered = false
let failures = 0
let seen

async function begin (credential) {
  showState('waiting', 'connecting …')
  try {
    await enter(credential)
  } catch (cause) {
    leave(cause instanceof Refused ? cause.message : `No connection: ${cause.message}. See below what to do.`)
    document.getElementById('unreachable').open = !(cause instanceof Refused)
  }
}

async function enter (credential) {
  node ??= await Node.create()
  await node.enter(credential)
  hasEntered = true
  failures = 0
  showProblem()
  showForm(false)
}

function leave (why) {
  hasEntered = false
  token = undefined
  showState('lost', 'not connected')
  showProblem(why)
  showForm(true)
}

async function look () {
  let rttMs
  for (let looks = 0; ; looks++) {
    // A hidden page rests.
    if (!hasEntered || document.hidden) {
      await sleep(LOOK_MS)
      continue
    }
    try {
      if (looks % LOOKS_PER_PING === 0) {
        rttMs = await node.ping()
      }
      seen = { view: await node.look(), rttMs }
      show(seen.view, seen.rttMs)
      showProblem()
      failures = 0
      await sleep(LOOK_MS)
    } catch (cause) {
      await recover(cause)
    }
  }
}

async function recover (cause) {
  failures++
  showState('lost', 'no answer')
  showProblem(`The node does not answer: ${cause.message}. What is shown is old; asking again …`)
  if (token) {
    try {
      return await enter(token)
    } catch (again) {
      if (isFinal(again)) {
        return leave(again.message)
      }
    }
  } else if (isFinal(cause) || (failures >= FAILURES_MAX && await isUp())) {
    return leave('The node does not know this page any more. Run “dunlin console” again, or give the token.')
  }
  await sleep(RETRY_MS)
}

const isFinal = cause => cause instanceof Refused && cause.isFinal

const isUp = () => fetch('/healthz').then(() => true, () => false)

const sleep = ms => new Promise(resolve => setTimeout(resolve, ms))

onToken(given => {
  token = given
  begin(given)
})
onChoice(() => seen && show(seen.view, seen.rttMs))

const pass = location.hash.slice(1)
// It is used up by the first try, and is no business of the history's.
history.replaceState(null, '', location.pathname)
if (!window.isSecureContext) {
  showState('lost', 'not connected')
  showProblem('Browsers let no page do cryptography here: open it at 127.0.0.1, as is told below.')
  document.getElementById('unreachable').open = true
} else if (/^[0-9a-f]{64}$/.test(pass)) {
  begin(pass)
} else {
  showForm(true)
}
look()
