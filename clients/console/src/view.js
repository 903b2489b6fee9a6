// Shows what the node knows. Names of peers and entities are what strangers chose: nothing of them becomes
// markup, all goes in as text.

const element = id => document.getElementById(id)

/** Says how it stands with the connection: `waiting`, `connected` or `lost`, and in words. */
export function showState (state, words) {
  element('state').dataset.state = state
  setText(element('state'), words)
}

/** Says what went wrong and what to do, or, without words, that nothing did. */
export function showProblem (words) {
  element('problem').hidden = !words
  setText(element('problem'), words ?? '')
}

/** Asks for the token, or ceases to. */
export function showForm (isShown) {
  element('enter').hidden = !isShown
  if (isShown) {
    element('token').focus()
  }
}

/** Calls back with the token that was given. */
export function onToken (callback) {
  element('enter').addEventListener('submit', event => {
    event.preventDefault()
    const token = element('token').value.trim()
    element('token').value = ''
    callback(token)
  })
}

/** Calls back when something else is to be shown of the same view. */
export function onChoice (callback) {
  element('away').addEventListener('change', callback)
}

/** Shows a view of the node. */
export function show (view, rttMs) {
  element('view').hidden = false
  setText(element('node'), `${view.peer} in network “${view.network}”, up for ${duration(view.uptime_s)}`)
  setText(element('version'), `Dunlin ${view.version}. Strangers reach it: ${REACH[view.reachability] ?? 'unknown'}.`)
  showState('connected', rttMs === undefined ? 'connected' : `connected, ${latency(rttMs * 1000)}`)
  element('unreachable').open = view.reachability === 'private' && view.peers.length === 0
  showProblems(view.problems)
  const connected = view.peers.filter(peer => peer.transport !== null)
  const away = view.peers_known - connected.length
  setText(element('peers-count'), `${connected.length} connected, ${away} away`)
  element('peers-none').hidden = connected.length > 0
  const peers = element('away').checked ? view.peers : connected
  fill(element('peers'), peers, peer => peer.peer, peerCells, peer => {
    return { standing: peer.standing, away: peer.transport === null ? '' : undefined }
  })
  element('segments-none').hidden = view.segments.length > 0
  fill(element('segments'), view.segments, segment => segment.cid, segmentCells, () => ({}))
}

const REACH = { public: 'yes', private: 'no, see below' }

function showProblems (problems) {
  const list = element('problems')
  list.hidden = problems.length === 0
  list.replaceChildren(...problems.map(problem => {
    const item = document.createElement('li')
    item.textContent = problem
    return item
  }))
}

function peerCells (peer) {
  const isConnected = peer.transport !== null
  const how = peer.relay === null ? `${peer.transport}, direct` : `${peer.transport}, relayed by ${peer.relay}`
  return [
    { class: 'id', lines: [peer.peer, peer.agent ?? ''] },
    { lines: [peer.address ?? '', isConnected ? how : 'away'] },
    { class: 'number', lines: [peer.rtt_us === null ? '' : latency(peer.rtt_us)] },
    { class: 'standing', lines: [`${peer.standing}${peer.own ? ', own' : ''}`, `score ${peer.score}\u00a0%`] },
    { class: 'number', lines: isConnected ? [size(peer.bytes_up), size(peer.bytes_down)] : [''] },
    { class: 'id', lines: [[...peer.protocols].sort().join(' ')] }
  ]
}

function segmentCells (segment) {
  return [
    { lines: [segment.collection] },
    { lines: [segment.entity] },
    { lines: [time(segment.start_us)] },
    { lines: [time(segment.end_us)] },
    { class: 'number', lines: [String(segment.count)] },
    { class: 'id', lines: [segment.cid], link: segment.link }
  ]
}

// Brings a table's rows to what they have to be. Rows and texts that stay are left alone, so that what a reader
// has selected, or a screen reader is reading, is not taken away every second.
function fill (table, items, keyOf, cellsOf, marksOf) {
  const body = table.tBodies[0]
  const labels = [...table.tHead.rows[0].cells].map(cell => cell.textContent)
  const keys = new Set(items.map(keyOf))
  const rows = new Map([...body.rows].map(row => [row.dataset.key, row]))
  rows.forEach((row, key) => keys.has(key) || row.remove())
  let next = body.firstElementChild
  for (const item of items) {
    const row = rows.get(keyOf(item)) ?? newRow(keyOf(item), cellsOf(item), labels)
    for (const [mark, value] of Object.entries(marksOf(item))) {
      if (value === undefined) {
        delete row.dataset[mark]
      } else if (row.dataset[mark] !== value) {
        row.dataset[mark] = value
      }
    }
    cellsOf(item).forEach((cell, index) => setCell(row.cells[index], cell))
    if (row === next) {
      next = next.nextElementSibling
    } else {
      body.insertBefore(row, next)
    }
  }
}

function newRow (key, cells, labels) {
  const row = document.createElement('tr')
  row.dataset.key = key
  cells.forEach((cell, index) => {
    const element = row.insertCell()
    element.className = cell.class ?? ''
    element.dataset.label = labels[index]
  })
  return row
}

function setCell (cell, { lines, link }) {
  const filled = lines.filter(line => line !== '')
  const kind = isWebLink(link) ? 'a' : 'span'
  while (cell.children.length > filled.length) {
    cell.lastElementChild.remove()
  }
  filled.forEach((line, index) => {
    let child = cell.children[index]
    if (child?.localName !== kind) {
      const made = document.createElement(kind)
      child ? child.replaceWith(made) : cell.append(made)
      child = made
    }
    if (kind === 'a' && child.href !== link) {
      child.href = link
      child.rel = 'noreferrer'
    }
    setText(child, line)
  })
}

// The gateway's links are HTTP; anything else would be a script.
function isWebLink (link) {
  return typeof link === 'string' && link.startsWith('http://')
}

function setText (element, text) {
  if (element.textContent !== text) {
    element.textContent = text
  }
}

function time (us) {
  const date = new Date(Math.floor(Number(us) / 1000))
  return Number.isNaN(date.getTime()) ? `${us} µs` : date.toISOString().replace('T', ' ').replace('.000Z', ' UTC').replace('Z', ' UTC')
}

function latency (us) {
  return us < 1000 ? '< 1 ms' : `${us < 10_000 ? (us / 1000).toFixed(1) : Math.round(us / 1000)} ms`
}

function size (bytes) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB']
  let value = Number(bytes)
  let unit = 0
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024
    unit++
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`
}

function duration (seconds) {
  const hours = Math.floor(Number(seconds) / 3600)
  const minutes = Math.floor(Number(seconds) / 60) % 60
  return hours >= 48 ? `${Math.floor(hours / 24)} days` : hours > 0 ? `${hours} h ${minutes} min` : `${minutes} min`
}
