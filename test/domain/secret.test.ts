import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Conflict, Forbidden, NotFound, ValidationProblem } from '../../src/domain/errors.ts'
import { newId, tenantIdOf } from '../../src/domain/ids.ts'
import type { Scope } from '../../src/domain/scope.ts'
import { deleteSecret, findSecret, listSecrets, setSecret } from '../../src/domain/secret.ts'
import { Unreadable } from '../../src/secrets/sealing.ts'
import { columnsWith } from '../support/columns.ts'
import { type Story, startStory, type TenantStory } from '../support/story.ts'

let story: Story
let acme: TenantStory
let globex: TenantStory

beforeAll(async () => {
  story = await startStory()
  acme = await story.tenant()
  globex = await story.tenant()
})
afterAll(() => story.close())

/** The value as what uses it will read it: from the row, with the key that the row names. */
async function readValue({ db, ports, tenant }: Scope, name: string): Promise<string> {
  const { id, ciphertext, dataKey } = await db.secret.findFirstOrThrow({ where: { name }, include: { dataKey: true } })
  return (await ports.vault.unlock(tenant.id, dataKey)).decrypt(id, ciphertext)
}

async function auditOf({ db }: Scope, subjectId: string) {
  const events = await db.auditEvent.findMany({ where: { subjectId }, orderBy: [{ createdAt: 'asc' }, { id: 'asc' }] })
  return events.map(({ action, subject, actorName, details }) => ({ action, subject, actorName, details }))
}

describe('setSecret', () => {
  test('keeps a value that can be read with its tenant key, and shows nothing of it', async () => {
    const value = 'a key\nof two lines, ümlauts and a \0'
    const { secret } = await setSecret(acme.admin, { name: 'STRIPE_KEY', value })
    expect(secret).toEqual({
      id: expect.any(String),
      name: 'STRIPE_KEY',
      createdAt: expect.any(Date),
      updatedAt: secret.createdAt,
    })
    expect(await readValue(acme.admin, 'STRIPE_KEY')).toBe(value)
  })

  test('replaces the value of the name, and stays the same secret', async () => {
    const { secret: first } = await setSecret(acme.admin, { name: 'replaced', value: 'before' })
    story.advance(1_000)
    const { secret: second } = await setSecret(acme.admin, { name: 'replaced', value: 'after' })
    expect({ ...second, updatedAt: first.updatedAt }).toEqual(first)
    expect(second.updatedAt.getTime()).toBeGreaterThanOrEqual(first.updatedAt.getTime() + 1_000)
    expect(await findSecret(acme.admin, first.id)).toEqual(second)
    expect(await readValue(acme.admin, 'replaced')).toBe('after')
  })

  test('notes in the audit log who set which, never to what', async () => {
    const { secret } = await setSecret(acme.admin, { name: 'audited', value: 'unspeakable' })
    const entry = { action: 'setSecret', subject: 'Secret', actorName: acme.admin.actor.name, details: { name: 'audited' } }
    expect(await auditOf(acme.admin, secret.id)).toEqual([entry])
  })

  test('repeated under its idempotency key sets once; with another value it is a conflict', async () => {
    const input = { name: 'idempotent', value: 'one', idempotencyKey: newId() }
    const first = await setSecret(acme.admin, input)
    await setSecret(acme.admin, { name: 'idempotent', value: 'two' })
    expect((await setSecret(acme.admin, input)).secret.id).toBe(first.secret.id)
    expect(await readValue(acme.admin, 'idempotent')).toBe('two')
    await expect(setSecret(acme.admin, { ...input, value: 'other' })).rejects.toThrow(Conflict)
    await deleteSecret(acme.admin, { secretId: first.secret.id })
    await expect(setSecret(acme.admin, input)).rejects.toThrow(NotFound)
  })

  test('stores of its input what tells nobody without the key whether a value was guessed', async () => {
    const input = { name: 'hashed', value: 'guessable', idempotencyKey: newId() }
    const hashes = await Promise.all(
      [acme.admin, globex.admin].map(async (admin) => {
        await setSecret(admin, input)
        const row = await admin.db.idempotencyKey.findFirstOrThrow({ where: { key: input.idempotencyKey } })
        return Buffer.from(row.inputHash).toString('hex')
      }),
    )
    expect(hashes[0]).not.toBe(hashes[1])
  })

  test('of one name ten times at once makes one secret, with one of the values', async () => {
    const values = Array.from({ length: 10 }, (_, index) => `value ${index}`)
    const made = await Promise.all(values.map((value) => setSecret(acme.admin, { name: 'contended', value })))
    expect(new Set(made.map(({ secret }) => secret.id)).size).toBe(1)
    expect(values).toContain(await readValue(acme.admin, 'contended'))
  })

  test('repeated ten times at once under one idempotency key sets once', async () => {
    const input = { name: 'repeated', value: 'v', idempotencyKey: newId() }
    const made = await Promise.all(Array.from({ length: 10 }, () => setSecret(acme.admin, input)))
    expect(new Set(made.map(({ secret }) => secret.id)).size).toBe(1)
    expect(await auditOf(acme.admin, made[0]?.secret.id ?? '')).toHaveLength(1)
  })

  test('while others delete it holds, and leaves it there or not, and readable', async () => {
    const set = async () => void (await setSecret(acme.admin, { name: 'fleeting', value: 'v' }))
    const remove = async () => {
      const [secret] = (await listSecrets(acme.admin)).filter(({ name }) => name === 'fleeting')
      if (secret) await deleteSecret(acme.admin, { secretId: secret.id }).catch((error) => expect(error).toBeInstanceOf(NotFound))
    }
    await Promise.all(Array.from({ length: 30 }, (_, index) => (index % 2 === 0 ? set() : remove())))
    await set()
    expect(await readValue(acme.admin, 'fleeting')).toBe('v')
  })

  test.each([
    ['name', ''],
    ['name', '1st'],
    ['name', 'with space'],
    ['name', 'line\n'],
    ['name', 'ä'],
    ['name', `a${'b'.repeat(100)}`],
    ['value', ''],
    ['value', '\ud800'],
    ['value', 'a'.repeat(65_537)],
    ['value', 'ä'.repeat(32_769)],
  ])('refuses a bad %s, and does not repeat it', async (path, text) => {
    const refusal = await setSecret(acme.admin, { name: 'fine', value: 'fine', [path]: text }).catch((error) => error)
    expect(refusal).toBeInstanceOf(ValidationProblem)
    expect(refusal.path).toEqual([path])
    if (text !== '') expect(refusal.message).not.toContain(text)
  })

  test('takes the largest value and the longest name', async () => {
    const input = { name: `a${'.'.repeat(99)}`, value: 'ä'.repeat(32_768) }
    await setSecret(acme.admin, input)
    expect(await readValue(acme.admin, input.name)).toBe(input.value)
  })

  test('is for admins, whatever the input', async () => {
    for (const scope of [acme.member, acme.endUser]) {
      await expect(setSecret(scope, { name: '', value: '' })).rejects.toThrow(Forbidden)
    }
  })
})

describe('deleteSecret', () => {
  test('erases it, once, and notes who did', async () => {
    const { secret } = await setSecret(acme.admin, { name: 'deleted', value: 'v' })
    expect(await deleteSecret(acme.admin, { secretId: secret.id })).toEqual({ secret })
    expect(await findSecret(acme.admin, secret.id)).toBeNull()
    await expect(deleteSecret(acme.admin, { secretId: secret.id })).rejects.toThrow(NotFound)
    expect((await auditOf(acme.admin, secret.id)).map(({ action }) => action)).toEqual(['setSecret', 'deleteSecret'])
  })

  test('asked for ten times at once erases once', async () => {
    const { secret } = await setSecret(acme.admin, { name: 'hunted', value: 'v' })
    const deletions = await Promise.allSettled(
      Array.from({ length: 10 }, () => deleteSecret(acme.admin, { secretId: secret.id })),
    )
    expect(deletions.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
    expect(await auditOf(acme.admin, secret.id)).toHaveLength(2)
  })

  test('finds no secret of another tenant, exactly as none at all', { tags: ['rule-12', 'secrets', 'both-walls'] }, async () => {
    const { secret } = await setSecret(globex.admin, { name: 'theirs', value: 'v' })
    const failures = await Promise.all(
      [secret.id, newId(), 'nonsense', '\0'].map((secretId) => deleteSecret(acme.admin, { secretId }).catch((error) => error)),
    )
    for (const failure of failures) {
      expect(failure).toBeInstanceOf(NotFound)
      expect(failure.message).toBe(failures[1].message)
    }
    expect(await findSecret(acme.admin, secret.id)).toBeNull()
    expect(await findSecret(globex.admin, secret.id)).toEqual(secret)
  })

  test('is for admins', async () => {
    const { secret } = await setSecret(acme.admin, { name: 'kept', value: 'v' })
    for (const scope of [acme.member, acme.endUser]) {
      await expect(deleteSecret(scope, { secretId: secret.id })).rejects.toThrow(Forbidden)
    }
  })
})

describe('listSecrets', () => {
  test('shows names and times, in the order of the names, of one tenant', async () => {
    const { admin } = await story.tenant()
    expect(await listSecrets(admin)).toEqual([])
    for (const name of ['b', 'a']) await setSecret(admin, { name, value: 'v' })
    const secrets = await listSecrets(admin)
    expect(secrets.map(({ name }) => name)).toEqual(['a', 'b'])
    for (const secret of secrets) expect(Object.keys(secret).sort()).toEqual(['createdAt', 'id', 'name', 'updatedAt'])
  })

  test('is for admins, as is one of them', async () => {
    for (const scope of [acme.member, acme.endUser]) {
      await expect(listSecrets(scope)).rejects.toThrow(Forbidden)
      await expect(findSecret(scope, newId())).rejects.toThrow(Forbidden)
    }
  })
})

describe('what is stored', { tags: ['rule-15'] }, () => {
  test('is under one data key of the tenant, also when its first secrets are set at once', async () => {
    const { admin } = await story.tenant()
    const names = Array.from({ length: 10 }, (_, index) => `first-${index}`)
    await Promise.all(names.map((name) => setSecret(admin, { name, value: `value of ${name}` })))
    expect(await admin.db.dataKey.count()).toBe(1)
    for (const name of names) expect(await readValue(admin, name)).toBe(`value of ${name}`)
  })

  test('stays readable when a newer data key encrypts what is set from then on', async () => {
    const { admin } = await story.tenant()
    await setSecret(admin, { name: 'old', value: 'under the first key' })
    const id = newId()
    const createdAt = new Date(story.ports.now() + 1)
    const key = { id, tenantId: admin.tenant.id, createdAt, ...(await admin.ports.vault.createKey(admin.tenant.id)) }
    await admin.db.dataKey.createMany({ data: key })
    await setSecret(admin, { name: 'new', value: 'under the second' })
    expect((await admin.db.secret.findFirstOrThrow({ where: { name: 'new' } })).dataKeyId).toBe(id)
    expect(await readValue(admin, 'old')).toBe('under the first key')
    expect(await readValue(admin, 'new')).toBe('under the second')
  })

  test('does not open when whoever owns the database copies it to another row, or to another tenant', async () => {
    await setSecret(acme.admin, { name: 'mine', value: 'of acme' })
    await setSecret(acme.admin, { name: 'other', value: 'of acme, too' })
    await setSecret(globex.admin, { name: 'mine', value: 'of globex' })
    const copy = async (from: Scope, to: Scope, name: string) => {
      const { ciphertext } = await from.db.secret.findFirstOrThrow({ where: { name: 'mine' } })
      await to.db.secret.updateMany({ where: { name }, data: { ciphertext } })
    }
    await copy(acme.admin, acme.admin, 'other')
    await expect(readValue(acme.admin, 'other')).rejects.toThrow(Unreadable)
    await copy(acme.admin, globex.admin, 'mine')
    await expect(readValue(globex.admin, 'mine')).rejects.toThrow(Unreadable)
    expect(await readValue(acme.admin, 'mine')).toBe('of acme')

    // With the key row as well, and with every id as it was.
    const [secret, dataKey] = await Promise.all([
      acme.admin.db.secret.findFirstOrThrow({ where: { name: 'mine' } }),
      acme.admin.db.dataKey.findFirstOrThrow(),
    ])
    const thief = await story.tenant()
    const tenantId = tenantIdOf(thief.tenant.id)
    await thief.admin.db.dataKey.createMany({ data: { ...dataKey, tenantId } })
    await thief.admin.db.secret.createMany({ data: { ...secret, tenantId } })
    await expect(readValue(thief.admin, 'mine')).rejects.toThrow(Unreadable)
  })

  test('shows a value in no column of the database, in plain, base64 or hexadecimal', async () => {
    const canary = `canary-${randomBytes(12).toString('hex')}`
    const input = { name: 'with-canary', value: canary, idempotencyKey: newId() }
    const { secret } = await setSecret(acme.admin, input)
    await setSecret(acme.admin, { ...input, idempotencyKey: newId() })
    await deleteSecret(acme.admin, { secretId: secret.id })
    await setSecret(acme.admin, { name: 'with-canary', value: canary })
    expect(await columnsWith(story.database.adminUrl, canary)).toEqual([])
  })

  test('would be found if it were there', async () => {
    const canary = `canary-${randomBytes(12).toString('hex')}`
    const bytes = Buffer.from(canary)
    const { tenant, db } = acme.admin
    const key = { tenantId: tenant.id, resultId: newId(), actor: canary, mutation: bytes.toString('hex') }
    await db.idempotencyKey.createMany({ data: { ...key, key: `.${canary}`, inputHash: bytes } })
    await setSecret(acme.admin, { name: 'beside-canary', value: 'v' })
    await db.secret.updateMany({
      where: { name: 'beside-canary' },
      data: { ciphertext: Buffer.from(`{"a":"${Buffer.from(`ab${canary}`).toString('base64')}"}`) },
    })
    const forms = ['idempotency_keys.actor', 'idempotency_keys.input_hash', 'idempotency_keys.key', 'idempotency_keys.mutation']
    expect(await columnsWith(story.database.adminUrl, canary)).toEqual([...forms, 'secrets.ciphertext'])
  })
})
