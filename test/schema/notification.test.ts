import { randomUUID } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import type { Notification } from '../../src/data/generated/client.ts'
import { notifyAdmins } from '../../src/domain/notification.ts'
import { followNotifications } from '../../src/domain/notification-stream.ts'
import type { Scope } from '../../src/domain/scope.ts'
import { encodeId } from '../../src/schema/global-id.ts'
import { nodeQuery } from '../operations/node.ts'
import { notificationReceivedSubscription, notificationsQuery } from '../operations/notification.ts'
import { startTestPlatform, type TestPlatform } from '../support/platform.ts'
import { type TenantStory, withoutSignals } from '../support/story.ts'
import { addRows } from '../support/tenant-rows.ts'

// Much of each is waiting, for a machine that may be busy.
vi.setConfig({ testTimeout: 60_000 })

let platform: TestPlatform
const patience = { timeout: 20_000, interval: 20 }

beforeAll(async () => {
  platform = await startTestPlatform()
})

afterAll(() => platform.stop())

async function tell(scope: Scope, title: string): Promise<void> {
  const notice = {
    kind: 'QUOTA_THRESHOLD_REACHED',
    dedupeKey: title,
    title,
    body: `${title}, indeed.`,
    details: { threshold: 80 },
  } as const
  await notifyAdmins(scope, [notice])
}

/** What a tenant was told, by a row that says when. */
function addNotification(scope: Scope, title: string, createdAt: Date): Promise<void> {
  const row = {
    id: randomUUID(),
    tenantId: scope.tenant.id,
    kind: 'QUOTA_THRESHOLD_REACHED',
    dedupeKey: title,
    title,
    body: title,
  }
  return addRows(platform.story.database, { Notification: { ...row, details: {}, createdAt } })
}

/** Follows in the background, until `stop`. */
async function follow(scope: Scope, options: { after?: string | null; silence?: number } = {}) {
  const titles: string[] = []
  const leave = new AbortController()
  const { after = null, silence = 60_000 } = options
  const stream = followNotifications(scope, after, leave.signal, { silence })
  const ended = (async () => {
    for await (const { title } of stream) titles.push(title)
  })()
  return {
    titles,
    async stop() {
      leave.abort()
      await ended
    },
  }
}

describe('notifications', () => {
  it('are listed, the newest first, page by page', async () => {
    const acme = await platform.story.tenant()
    for (const title of ['one', 'two', 'three']) {
      await tell(acme.admin, title)
      platform.story.advance(10)
    }
    const api = platform.api(acme.keys.admin)
    const { notifications } = await api.data(notificationsQuery, { first: 2 })
    const { id, createdAt } = await acme.admin.db.notification.findFirstOrThrow({ where: { title: 'three' } })
    expect(notifications.edges[0]?.node).toEqual({
      ...{ id: encodeId('Notification', id), kind: 'QUOTA_THRESHOLD_REACHED', createdAt: createdAt.toISOString() },
      ...{ title: 'three', body: 'three, indeed.', details: { threshold: 80 } },
    })
    expect(notifications.pageInfo.hasNextPage).toBe(true)
    const rest = await api.data(notificationsQuery, { first: 2, after: notifications.edges[1]?.cursor ?? '' })
    expect(rest.notifications.edges.map(({ node }) => node.title)).toEqual(['one'])
    expect((await api.data(nodeQuery, { id: encodeId('Notification', id) })).node).toMatchObject({ __typename: 'Notification' })
  })

  it('are for admins', async () => {
    const { keys, admin } = platform.acme
    await tell(admin, 'guarded')
    const { id } = await admin.db.notification.findFirstOrThrow()
    for (const key of [keys.member, keys.endUser]) {
      const other = platform.api(key)
      const asked = [
        await other.client.request('{ notifications { edges { cursor } } }'),
        await other.ask(nodeQuery, { id: encodeId('Notification', id) }),
      ]
      for (const { errors } of asked) expect(errors?.[0]?.extensions?.['code']).toBe('FORBIDDEN')
      const events = other.client.events('subscription { notificationReceived { id } }')
      await expect(events.next()).rejects.toThrow('FORBIDDEN')
    }
  })
})

describe('following notifications', () => {
  it('shows, over the API, what is told from then on', async () => {
    const { keys, admin } = await platform.story.tenant()
    await tell(admin, 'before')
    const events = platform.api(keys.admin).follow(notificationReceivedSubscription, { after: null })
    const next = events.next()
    // Nobody says when it has begun to follow; what is told before that is not shown.
    const telling = setInterval(() => void tell(admin, `after ${Math.random()}`), 100)
    const { value } = await next
    clearInterval(telling)
    expect(value?.notificationReceived).toEqual({ id: expect.any(String), title: expect.stringMatching(/^after /) })
  })

  it('misses nothing and repeats nothing, for every one who follows', async () => {
    const { admin } = await platform.story.tenant()
    await tell(admin, 'before')
    const followers = await Promise.all([follow(admin), follow(admin), follow(admin)])
    const titles = Array.from({ length: 60 }, (_, n) => `t${n}`)
    await expect
      .poll(async () => {
        await tell(admin, `warm ${Math.random()}`)
        return followers.every((each) => each.titles.length > 0)
      }, patience)
      .toBe(true)
    // Some at the same time, and no more than there are connections for.
    for (let n = 0; n < titles.length; n += 5) await Promise.all(titles.slice(n, n + 5).map((title) => tell(admin, title)))
    for (const each of followers) {
      const heard = () => each.titles.filter((title) => title.startsWith('t')).length
      await expect.poll(heard, patience).toBe(60)
      await each.stop()
      expect(new Set(each.titles).size).toBe(each.titles.length)
      expect(each.titles).not.toContain('before')
    }
  })

  it('finds what no signal told of', async () => {
    const { admin } = await platform.story.tenant()
    const follower = await follow(admin, { silence: 50 })
    const other = withoutSignals(admin)
    await expect
      .poll(async () => {
        await tell(other, `unheard ${Math.random()}`)
        return follower.titles.length
      }, patience)
      .toBeGreaterThan(0)
    await follower.stop()
  })

  it('finds what is stored late, though others are younger', async () => {
    const { admin } = await platform.story.tenant()
    const follower = await follow(admin, { silence: 50 })
    const now = Date.now()
    await expect
      .poll(async () => {
        await addNotification(admin, `young ${Math.random()}`, new Date(now))
        return follower.titles.length
      }, patience)
      .toBeGreaterThan(0)
    await addNotification(admin, 'late', new Date(now - 4 * 60_000))
    await expect.poll(() => follower.titles.filter((title) => title === 'late'), patience).toEqual(['late'])
    await follower.stop()
    expect(new Set(follower.titles).size).toBe(follower.titles.length)
  })

  it('goes on after the one whose cursor is given', async () => {
    const acme = await platform.story.tenant()
    for (let n = 0; n < 5; n++) {
      await addNotification(acme.admin, `n${n}`, new Date(Date.UTC(2026, 0, 1, 0, n)))
    }
    const { notifications } = await platform.api(acme.keys.admin).data(notificationsQuery, { first: 5 })
    const cursor = notifications.edges.find(({ node }) => node.title === 'n2')?.cursor ?? ''
    const follower = await follow(acme.admin, { after: cursor })
    await expect.poll(() => follower.titles, patience).toEqual(['n3', 'n4'])
    await tell(acme.admin, 'new')
    await expect.poll(() => follower.titles, patience).toEqual(['n3', 'n4', 'new'])
    await follower.stop()
  })

  it('is refused for what is no cursor', async () => {
    const stream = followNotifications(platform.acme.admin, 'nonsense', new AbortController().signal)
    await expect(stream.next()).rejects.toThrow('after is not a cursor of this list.')
  })

  it('ends at once, also while nothing comes, and leaves nothing behind', async () => {
    const { admin }: TenantStory = await platform.story.tenant()
    let listeners = 0
    const subscribe: Scope['ports']['signals']['subscribe'] = async (listener) => {
      listeners += 1
      const unsubscribe = await admin.ports.signals.subscribe(listener)
      return async () => {
        listeners -= 1
        await unsubscribe()
      }
    }
    const signals = { ...admin.ports.signals, subscribe }
    const scope = { ...admin, ports: { ...admin.ports, signals } }
    const streams = [0, 1].map(() => followNotifications(scope, null, new AbortController().signal))
    const waiting = streams.map((stream) => stream.next())
    await expect.poll(() => listeners, patience).toBe(2)
    const ended = await Promise.all([...streams.map((stream) => stream.return(undefined)), ...waiting])
    expect(ended.map(({ done }: IteratorResult<Notification, void>) => done)).toEqual([true, true, true, true])
    expect(listeners).toBe(0)
  })
})
