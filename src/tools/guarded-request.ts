import { Agent, type Dispatcher, request } from 'undici'
import { EgressFailure } from '../domain/ports.ts'
import { connectorUnder, type EgressOptions, refusalUnder } from './egress.ts'

type GuardedRequest = (
  url: string,
  options?: Pick<Dispatcher.RequestOptions, 'method' | 'headers' | 'body' | 'signal'>,
) => Promise<Dispatcher.ResponseData>

/**
 * Requests to URLs that a tenant chooses, for answers that are read while they come. They reach what the egress reaches, and follow no
 * redirect. Who makes them bounds time and size.
 */
export function createGuardedRequest(options: EgressOptions = {}): GuardedRequest {
  const refusalOf = refusalUnder(options)
  const dispatcher = new Agent({
    connect: connectorUnder(options),
    // A connection for each request: every address is looked at, every time.
    pipelining: 0,
    allowH2: false,
    headersTimeout: 0,
    bodyTimeout: 0,
  })
  return async (url, asked) => {
    const refusal = refusalOf(url)
    if (refusal !== null) throw new EgressFailure('REFUSED', refusal)
    return request(url, { ...asked, dispatcher })
  }
}
