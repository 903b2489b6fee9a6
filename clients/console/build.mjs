// Makes dist/ from src/ and the packages of package-lock.json: the same bytes wherever it runs.

import { copyFileSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'

const here = dirname(fileURLToPath(import.meta.url))
const dist = process.argv[2] ?? join(here, 'dist')

rmSync(dist, { recursive: true, force: true })
mkdirSync(dist, { recursive: true })
for (const file of ['index.html', 'console.css', 'console.svg']) {
  copyFileSync(join(here, 'src', file), join(dist, file))
}
const { metafile } = await build({
  absWorkingDir: here,
  entryPoints: ['src/main.js'],
  outfile: join(dist, 'console.js'),
  bundle: true,
  minify: true,
  format: 'esm',
  target: 'es2022',
  // Licenses are in a file of their own, whole.
  legalComments: 'none',
  metafile: true
})
writeFileSync(join(dist, 'licenses.txt'), licenses(metafile))

// The licenses of all that went into the script, equal texts once.
function licenses ({ inputs }) {
  const folders = new Set(Object.keys(inputs).map(path => path.match(/^(.*node_modules\/(?:@[^/]+\/)?[^/]+)\//)?.[1]))
  folders.delete(undefined)
  const texts = new Map()
  const apache = readFileSync(join(here, '../../LICENSE-APACHE'), 'utf8').trim()
  for (const folder of [...folders].sort()) {
    const { name, version, license } = JSON.parse(readFileSync(join(here, folder, 'package.json')))
    if (!license) {
      throw new Error(`${name} names no license`)
    }
    const files = readdirSync(join(here, folder)).filter(file => /^(licen[cs]e|copying|notice)/i.test(file)).sort()
    const found = files.map(file => readFileSync(join(here, folder, file), 'utf8').trim()).join('\n\n')
    if (!found && !license.includes('Apache-2.0')) {
      throw new Error(`${name} has no text of its license`)
    }
    // Some packages name the license and leave its text out.
    const text = found || apache
    texts.set(text, [...(texts.get(text) ?? []), `${name} ${version} (${license})`])
  }
  const parts = [...texts].map(([text, names]) => `${names.join('\n')}\n\n${text}`)
  return 'What is in console.js beside Dunlin itself, which is MIT OR Apache-2.0:\n\n' + parts.join(`\n\n${'-'.repeat(79)}\n\n`) + '\n'
}
