import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { isIP } from 'node:net'

export type DnsServer = {
  /** As `dns.Resolver.setServers` takes it. */
  address: string
  /** The names that were asked for, one entry for each question. */
  questions: string[]
  close(): Promise<void>
}

/** A DNS server on loopback. `answer` is asked for the addresses of a name each time, and sees how often it was asked before. */
export async function startDnsServer(answer: (name: string, asked: number) => string[]): Promise<DnsServer> {
  const socket = createSocket('udp4')
  const questions: string[] = []
  socket.on('message', (query, { port, address }) => {
    const { name, type, end } = questionOf(query)
    const wanted = type === 28 ? 6 : 4
    const found = answer(name, questions.filter((each) => each === `${name}/${wanted}`).length).filter(
      (each) => isIP(each) === wanted,
    )
    questions.push(`${name}/${wanted}`)
    const header = Buffer.from([query[0] ?? 0, query[1] ?? 0, 0x81, 0x80, 0, 1, 0, found.length, 0, 0, 0, 0])
    const records = found.map((each) => {
      const data = bytesOf(each)
      return Buffer.concat([Buffer.from([0xc0, 12, 0, type, 0, 1, 0, 0, 0, 0, 0, data.length]), data])
    })
    socket.send(Buffer.concat([header, query.subarray(12, end), ...records]), port, address)
  })
  socket.bind(0, '127.0.0.1')
  await once(socket, 'listening')
  return {
    address: `127.0.0.1:${socket.address().port}`,
    questions,
    close: () => new Promise((resolve) => socket.close(() => resolve())),
  }
}

/** The one question of a query (RFC 1035, 4.1.2). */
function questionOf(query: Buffer): { name: string; type: number; end: number } {
  const labels: string[] = []
  let at = 12
  for (let length = query[at] ?? 0; length > 0; length = query[at] ?? 0) {
    labels.push(query.toString('latin1', at + 1, at + 1 + length))
    at += 1 + length
  }
  return { name: labels.join('.').toLowerCase(), type: query.readUInt16BE(at + 1), end: at + 5 }
}

function bytesOf(address: string): Buffer {
  if (isIP(address) === 4) return Buffer.from(address.split('.').map(Number))
  const [head = '', tail = ''] = new URL(`http://[${address}]`).hostname.slice(1, -1).split('::')
  const groups = (text: string) => (text === '' ? [] : text.split(':')).map((group) => group.padStart(4, '0'))
  const [before, after] = [groups(head), groups(tail)]
  const zeros = new Array(8 - before.length - after.length).fill('0000')
  return Buffer.from([...before, ...zeros, ...after].join(''), 'hex')
}
