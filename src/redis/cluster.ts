import { Cluster, Command, Redis, type RedisOptions } from 'ioredis'
import { accessOf, addressOf, type RedisClients, type RedisTarget } from './target.ts'
import { batchWrites } from './write-batches.ts'

/** Opens connections to all nodes of a cluster, and keeps up with which of them serves what. */
export function openCluster(
  { urls }: RedisTarget & { mode: 'cluster' },
  settings: RedisOptions,
  onError: (error: unknown) => void,
): RedisClients {
  const [first = ''] = urls
  const { retryStrategy, enableOfflineQueue, ...others } = settings
  const redisOptions = { ...others, ...accessOf(first), connectionName: 'bulkhead-commands' }
  const seeds = urls.map((url) => addressOf(url, 6_379))
  const cluster = new Cluster(seeds, { ...clusterOptions, redisOptions, clusterRetryStrategy: retryStrategy })
  cluster.on('+node', batchWrites)
  cluster.on('ready', () => connectAll(cluster))
  cluster.on('refresh', () => connectAll(cluster))
  cluster.on('node error', onError)
  // That no node answers, when each has told why.
  cluster.on('error', () => undefined)

  return {
    commands: cluster,
    shards: {
      nodes: () => mastersOf(cluster),
      nodeOf: (channel) => cluster.slots[slotOf(channel)]?.[0],
      open: (node, role) => {
        const options = { ...settings, ...accessOf(first), ...hostAndPort(node), connectionName: `bulkhead-${role}` }
        return new Redis(options).on('error', onError)
      },
      refresh: () => new Promise((resolve) => cluster.refreshSlotsCache(() => resolve())),
      onRefresh: (listener) => cluster.on('refresh', listener),
    },
    masters: () => {
      const nodes = new Map(cluster.nodes().map((node) => [`${node.options.host}:${node.options.port}`, node]))
      return mastersOf(cluster).map((name) => nodes.get(name))
    },
    close: async () => {
      const nodes = cluster.nodes().map((node) => new Promise((resolve) => node.once('end', resolve)))
      cluster.disconnect()
      await Promise.all(nodes)
    },
  }
}

const clusterOptions = {
  enableOfflineQueue: false,
  // These would send a command again whose reply was lost.
  retryDelayOnFailover: 0,
  retryDelayOnClusterDown: 0,
  // What is sent again was refused. It must be over within the time that a command may take.
  maxRedirections: 5,
  retryDelayOnTryAgain: 100,
  slotsRefreshInterval: 2_000,
  // Certificates name hosts, so they are not replaced by addresses.
  dnsLookup: (host: string, done: (error: null, address: string) => void) => done(null, host),
}

/** A node that is connected to at its first command fails all that come before the connection is there. */
function connectAll(cluster: Cluster): void {
  // Before that, the client needs a node that is not being connected to for its own first command.
  if (cluster.status !== 'ready') return
  for (const node of cluster.nodes()) {
    // What goes wrong is told as an event of the cluster too.
    if (node.status === 'wait') node.connect().catch(() => undefined)
  }
}

/** Each as `host:port`. */
function mastersOf({ slots }: Cluster): string[] {
  return [...new Set(slots.flatMap(([master]) => master ?? []))]
}

function slotOf(channel: string): number {
  return Number(new Command('ssubscribe', [channel]).getSlot())
}

function hostAndPort(node: string): { host: string; port: number } {
  const colon = node.lastIndexOf(':')
  return { host: node.slice(0, colon), port: Number(node.slice(colon + 1)) }
}
