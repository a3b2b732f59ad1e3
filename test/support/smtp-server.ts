import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { SMTPServer } from 'smtp-server'

export type ReceivedMail = { from: string; to: string[]; headers: Record<string, string>; text: string }

export type MailServer = {
  url: string
  received: ReceivedMail[]
  /** From now on answers recipients with this code, or takes them again. */
  refuseWith(code: number | null): void
  close(): Promise<void>
}

/** A mail server on loopback that takes everything from whoever comes. */
export async function startMailServer(): Promise<MailServer> {
  const received: ReceivedMail[] = []
  let refusal: number | null = null
  const server = new SMTPServer({
    ...{ authOptional: true, disabledCommands: ['STARTTLS', 'AUTH'], logger: false },
    onRcptTo(_address, _session, done) {
      if (refusal === null) done()
      else done(Object.assign(new Error('Not today.'), { responseCode: refusal }))
    },
    async onData(stream, { envelope }, done) {
      const from = envelope.mailFrom === false ? '' : envelope.mailFrom.address
      const to = envelope.rcptTo.map(({ address }) => address)
      received.push({ from, to, ...parse(Buffer.concat(await stream.toArray()).toString()) })
      done()
    },
  })
  server.on('error', () => undefined)
  const listening = server.listen(0, '127.0.0.1')
  await once(listening, 'listening')
  return {
    url: `smtp://127.0.0.1:${(listening.address() as AddressInfo).port}`,
    received,
    refuseWith: (code) => {
      refusal = code
    },
    close: () => new Promise((resolve) => server.close(resolve)),
  }
}

/** Headers, unfolded, by their names in lower case, and the text. */
function parse(message: string): Pick<ReceivedMail, 'headers' | 'text'> {
  const [head = '', ...body] = message.split('\r\n\r\n')
  const lines = head.replaceAll(/\r\n[ \t]+/g, ' ').split('\r\n')
  const headers = lines.map((line) => [line.slice(0, line.indexOf(':')).toLowerCase(), line.slice(line.indexOf(':') + 2)])
  return { headers: Object.fromEntries(headers), text: body.join('\r\n\r\n').trimEnd() }
}
