import { Agent, fetch as send } from 'undici'
import { EgressFailure } from '../domain/ports.ts'
import { connectorUnder, type EgressOptions, refusalUnder } from './egress.ts'

/**
 * `fetch` for URLs that a tenant chooses, for answers that are read while they come. It reaches what the egress reaches, and follows no
 * redirect. Who calls it bounds time and size.
 */
export function createGuardedFetch(options: EgressOptions = {}): typeof fetch {
  const refusalOf = refusalUnder(options)
  // A connection for each request: every address is looked at, every time.
  const dispatcher = new Agent({ connect: connectorUnder(options), pipelining: 0, allowH2: false })
  return async (input, init) => {
    const url = input instanceof Request ? input.url : String(input)
    const refusal = refusalOf(url)
    if (refusal !== null) throw new EgressFailure('REFUSED', refusal)
    // The runtime's types and the package's name the same things.
    const asked = { ...(init as Parameters<typeof send>[1]), redirect: 'error' as const, dispatcher }
    return (await send(url, asked)) as unknown as Response
  }
}
