import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { Command, Redis } from 'ioredis'
import type { RedisTarget } from '../../src/redis/target.ts'
import { freePorts } from './local-server.ts'
import { type RedisServer, startRedisServer } from './redis-server.ts'

/** A node of a cluster, which may be a master or a replica, and change between the two. */
export type ClusterNode = RedisServer & {
  id: string
  busPort: number
  /** For commands to this very node. */
  client: Redis
}

/** A real cluster of the test's own, on loopback: three masters with a replica each. */
export type RedisCluster = {
  target: RedisTarget
  urls: string[]
  nodes: ClusterNode[]
  /** The node that serves the slot of `key`, by what one of them says. */
  masterOf(key: string): Promise<ClusterNode>
  /**
   * Resolves when all nodes that run see every slot served, by the same masters, `without` not among them, and
   * replicas have what their masters have.
   */
  settled(without?: ClusterNode): Promise<void>
  stop(): Promise<void>
}

const slots = 16_384

export type ClusterOptions = {
  /** After how many milliseconds of silence a master is replaced. Default 15,000, so that a busy machine replaces none. */
  nodeTimeout?: number
  /** Of every node. Default none. */
  password?: string
}

export async function startRedisCluster({ nodeTimeout = 15_000, password }: ClusterOptions = {}): Promise<RedisCluster> {
  const directory = await mkdtemp(join(tmpdir(), 'bulkhead-redis-'))
  const ports = await freePorts(12)
  const settings = {
    ...{ dir: directory, 'cluster-enabled': 'yes', 'cluster-node-timeout': nodeTimeout },
    // Shards that lost nobody go on; a replica takes over however long ago it heard of its master.
    ...{ 'cluster-require-full-coverage': 'no', 'cluster-replica-validity-factor': 0, 'repl-diskless-sync-delay': 0 },
    ...(password !== undefined && { requirepass: password, masterauth: password }),
  }
  const nodes = await Promise.all(
    [0, 1, 2, 3, 4, 5].map((index) =>
      startNode({ port: ports[2 * index] ?? 0, 'cluster-port': ports[2 * index + 1] ?? 0, ...settings }, password),
    ),
  )
  const access = password === undefined ? '' : `:${encodeURIComponent(password)}@`
  const urls = nodes.slice(0, 3).map(({ port }) => `redis://${access}127.0.0.1:${port}`)
  const cluster: RedisCluster = {
    target: { mode: 'cluster', urls },
    urls,
    nodes,
    masterOf: (key) => masterOf(nodes, slotOf(key)),
    settled: (without) => settled(nodes, without),
    stop: async () => {
      for (const { client } of nodes) client.disconnect()
      await Promise.all(nodes.map((node) => node.stop()))
      await rm(directory, { recursive: true, force: true })
    },
  }
  await form(nodes).catch(async (error) => {
    await cluster.stop()
    throw error
  })
  return cluster
}

export function slotOf(key: string): number {
  return Number(new Command('get', [key]).getSlot())
}

/** Begins to move a slot, as `redis-cli --cluster reshard` does. Until `finish`, keys are on either node, at first all where they were. */
export async function startSlotMove(slot: number, from: ClusterNode, to: ClusterNode) {
  const { password } = to.client.options
  const auth = password ? ['AUTH', password] : []
  await to.client.call('CLUSTER', 'SETSLOT', slot, 'IMPORTING', from.id)
  await from.client.call('CLUSTER', 'SETSLOT', slot, 'MIGRATING', to.id)
  return {
    async moveKeys() {
      for (;;) {
        const keys = (await from.client.call('CLUSTER', 'GETKEYSINSLOT', slot, 100)) as string[]
        if (keys.length === 0) return
        await from.client.call('MIGRATE', '127.0.0.1', to.port, '', 0, 5_000, ...auth, 'KEYS', ...keys)
      }
    },
    async finish() {
      for (const node of [to, from]) await node.client.call('CLUSTER', 'SETSLOT', slot, 'NODE', to.id)
    },
  }
}

type NodeSettings = { port: number; 'cluster-port': number } & Record<string, string | number>

async function startNode(settings: NodeSettings, password?: string): Promise<ClusterNode> {
  const { port, 'cluster-port': busPort } = settings
  const server = await startRedisServer({ ...settings, 'cluster-config-file': `nodes-${port}.conf` })
  const access = password === undefined ? {} : { password }
  const client = new Redis(server.url, { ...access, commandTimeout: 5_000, retryStrategy: () => 50 })
  // Nodes are killed.
  client.on('error', () => undefined)
  return {
    ...server,
    ...{ busPort, client, id: String(await client.call('CLUSTER', 'MYID')) },
    restart: async () => {
      await server.restart()
      await until(async () => client.status === 'ready')
    },
  }
}

async function form(nodes: ClusterNode[]): Promise<void> {
  const masters = nodes.slice(0, 3)
  await Promise.all(
    masters.map(async ({ client }, index) => {
      const [first, last] = [Math.ceil((index * slots) / 3), Math.ceil(((index + 1) * slots) / 3) - 1]
      await client.call('CLUSTER', 'ADDSLOTSRANGE', first, last)
    }),
  )
  for (const [index, { client }] of nodes.entries()) await client.call('CLUSTER', 'SET-CONFIG-EPOCH', index + 1)
  // Each the others, since gossip would take seconds to spread them.
  for (const { client } of nodes) {
    for (const { port, busPort } of nodes) await client.call('CLUSTER', 'MEET', '127.0.0.1', port, busPort)
  }
  await until(async () => {
    const known = await Promise.all(nodes.map(async ({ client }) => String(await client.call('CLUSTER', 'NODES'))))
    return known.every((text) => nodes.every(({ id }) => text.includes(id)) && !text.includes('handshake'))
  })
  for (const [index, { client }] of nodes.slice(3).entries()) await client.call('CLUSTER', 'REPLICATE', masters[index]?.id ?? '')
  await settled(nodes)
}

async function settled(nodes: ClusterNode[], without?: ClusterNode): Promise<void> {
  await until(async () => {
    const views = await Promise.all(nodes.filter((node) => node !== without && isUp(node)).map(viewOf))
    return (
      views.length > 0 && views.every((view) => view !== null && view === views[0] && !(without && view.includes(without.id)))
    )
  })
}

function isUp({ client }: ClusterNode): boolean {
  return client.status === 'ready'
}

type SlotRange = [first: number, last: number, master: [host: string, port: number, id: string]]

async function rangesOf({ client }: ClusterNode): Promise<SlotRange[]> {
  return (await client.call('CLUSTER', 'SLOTS')) as SlotRange[]
}

/** Which master serves what, as a node sees it; null when that is not everything, or the node has not all that its master has. */
async function viewOf(node: ClusterNode): Promise<string | null> {
  const [state, replication] = await Promise.all([node.client.call('CLUSTER', 'INFO'), node.client.info('replication')])
  const isComplete = /cluster_state:ok\s[\s\S]*cluster_slots_ok:16384\s/.test(String(state))
  if (!isComplete || !/role:master|master_link_status:up/.test(replication)) return null
  const ranges = await rangesOf(node)
  return ranges
    .map(([first, last, [, , id]]) => `${first}-${last} ${id}`)
    .sort()
    .join()
}

async function masterOf(nodes: ClusterNode[], slot: number): Promise<ClusterNode> {
  const asked = nodes.find(isUp)
  const range = asked && (await rangesOf(asked)).find(([first, last]) => first <= slot && slot <= last)
  const master = nodes.find(({ id }) => id === range?.[2][2])
  if (!master) throw new Error(`No node serves slot ${slot}.`)
  return master
}

async function until(isTrue: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 30_000
  while (!(await isTrue())) {
    if (performance.now() > deadline) throw new Error('The cluster did not settle within 30 seconds.')
    await delay(20)
  }
}
