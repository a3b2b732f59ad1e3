/** What stands where a secret stood. */
const mark = '[redacted]'

/** How often what is escaped is looked into: what a server echoes may be escaped once by it and once by what it echoes. */
const levels = 3

/**
 * Replaces the secrets in a text: as they are, escaped as URLs, JSON and HTML do, in base64 wherever they begin in what was encoded, and in
 * hexadecimal. Takes time in proportion to the text. Secrets are of visible ASCII characters, as headers are.
 */
export function redactor(secrets: readonly string[]): (text: string) => string {
  // The longest first, so that one that holds another goes as a whole.
  const patterns = [...new Set(secrets)].sort((a, b) => b.length - a.length).flatMap(patternsOf)
  if (patterns.length === 0) return (text) => text
  return (text) => {
    const spans: Span[] = []
    let view: View | null = { text, from: null }
    for (let level = 0; level <= levels && view; level++) {
      for (const pattern of patterns) {
        for (const { index, 0: found } of view.text.matchAll(pattern))
          spans.push([placeIn(view, index), placeIn(view, index + found.length)])
      }
      view = unescaped(view)
    }
    return spans.length === 0 ? text : without(text, spans)
  }
}

/** From here to there, in the text as it is. */
type Span = [from: number, to: number]

/** A text, and where each of its characters, and its end, was before something was undone; null when nothing was. */
type View = { text: string; from: Uint32Array | null }

function placeIn({ from }: View, index: number): number {
  return from ? (from[index] ?? 0) : index
}

function patternsOf(secret: string): RegExp[] {
  // In forms a space is a plus sign.
  const plain = secret.replace(/[\\^$.*+?()[\]{}|/-]/g, '\\$&').replaceAll(' ', '[ +]')
  const hex = [...Buffer.from(secret)].map((byte) => byte.toString(16).padStart(2, '0')).join('[\\s:-]?')
  return [new RegExp(plain, 'g'), new RegExp(hex, 'gi'), ...[0, 1, 2].map((before) => base64Pattern(secret, before))]
}

/** The secret in base64 when `before` bytes of a group of three come before it. What else its first and last character hold is not known. */
function base64Pattern(secret: string, before: number): RegExp {
  const bytes = Buffer.concat([Buffer.alloc(before), Buffer.from(secret)])
  const first = Math.ceil((before * 8) / 6)
  const known = bytes.toString('base64').slice(first, Math.floor((bytes.length * 8) / 6))
  // Either alphabet of RFC 4648, and broken into lines.
  const letters = [...known].map((letter) => (letter === '+' ? '[+-]' : letter === '/' ? '[/_]' : letter))
  const shared = bytes.length % 3 === 0 ? '' : '[A-Za-z0-9+/_-]?=*'
  return new RegExp(`${first > 0 ? '[A-Za-z0-9+/_-]?' : ''}${letters.join('\\s*')}${shared}`, 'g')
}

/** The text with every escape in it undone, once; null when there is none. An escape means one character, so that places can be counted. */
function unescaped(view: View): View | null {
  const { text } = view
  if (!/[%\\&]/.test(text)) return null
  const units = new Uint16Array(text.length)
  const from = new Uint32Array(text.length + 1)
  let length = 0
  for (let at = 0; at < text.length; length++) {
    from[length] = placeIn(view, at)
    const [meaning, size] = escapeAt(text, at)
    units[length] = meaning
    at += size
  }
  if (length === text.length) return null
  from[length] = placeIn(view, text.length)
  return { text: Buffer.from(units.buffer, 0, length * 2).toString('utf16le'), from }
}

const [percent, ampersand, backslash] = [0x25, 0x26, 0x5c]

/** What stands at a place, as UTF-16 has it, and how many characters it takes. */
function escapeAt(text: string, at: number): [meaning: number, size: number] {
  const unit = text.charCodeAt(at)
  if (unit === percent) return hexAt(text, at, 1, 2)
  if (unit === ampersand) return entityAt(text, at)
  if (unit !== backslash || at + 1 === text.length) return [unit, 1]
  const next = text.charAt(at + 1)
  if (next === 'u') return hexAt(text, at, 2, 4)
  if (next === 'x') return hexAt(text, at, 2, 2)
  return [next.charCodeAt(0), 2]
}

function hexAt(text: string, at: number, before: number, digits: number): [number, number] {
  const hex = text.slice(at + before, at + before + digits)
  return hex.length === digits && /^[0-9a-f]+$/i.test(hex)
    ? [Number.parseInt(hex, 16), before + digits]
    : [text.charCodeAt(at), 1]
}

const entity = /&(?:#x([0-9a-f]{1,6})|#(\d{1,7})|(amp|lt|gt|quot|apos));/iy
const named: Readonly<Record<string, string>> = { amp: '&', lt: '<', gt: '>', quot: '"', apos: "'" }

function entityAt(text: string, at: number): [number, number] {
  entity.lastIndex = at
  const [whole = '', hex, decimal, name] = entity.exec(text) ?? []
  if (whole === '') return [text.charCodeAt(at), 1]
  const meaning = name ? named[name.toLowerCase()]?.charCodeAt(0) : hex ? Number.parseInt(hex, 16) : Number(decimal)
  return [meaning ?? 0, whole.length]
}

function without(text: string, spans: Span[]): string {
  let [kept, done] = ['', 0]
  for (const [from, to] of spans.sort(([a], [b]) => a - b)) {
    if (from >= done) kept += text.slice(done, from) + mark
    done = Math.max(done, to)
  }
  return kept + text.slice(done)
}
