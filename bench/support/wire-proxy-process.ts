import { startWireProxy, type WireProxyOptions, type WireTraffic } from './wire-proxy.ts'

/** What the proxy's process answers: once where it listens, then its traffic to any message. */
export type FromProxy = { kind: 'listening'; port: number } | ({ kind: 'traffic' } & WireTraffic)

// A process of its own, so that the proxy's work is neither in the measuring process' way nor in its CPU figures.
const answer = (message: FromProxy) => process.send?.(message)

const proxy = await startWireProxy(JSON.parse(process.argv[2] ?? '') as WireProxyOptions)
process.on('message', () => answer({ kind: 'traffic', ...proxy.traffic() }))
// It must not outlive the process that it serves.
process.on('disconnect', () => void proxy.close())
answer({ kind: 'listening', port: proxy.port })
