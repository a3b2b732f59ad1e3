import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { newId } from '../../src/domain/ids.ts'
import { decodeId, encodeId, type NodeType, parseId } from '../../src/schema/global-id.ts'

const types: NodeType[] = ['Tenant', 'ApiKey', 'Agent', 'AgentConfig', 'Conversation', 'Message', 'Run']
const nil = '00000000-0000-0000-0000-000000000000'

describe('a global id', () => {
  it('says its type and its UUID', () => {
    for (const type of types) {
      const uuid = newId()
      const id = encodeId(type, uuid)
      expect(id).toMatch(/^[\w-]{23}$/)
      expect(parseId(id)).toEqual({ type, uuid })
      expect(decodeId(type, id)).toBe(uuid)
    }
  })

  it('of another type decodes to what nothing has', () => {
    expect(decodeId('Run', encodeId('Message', newId()))).toBe(nil)
  })

  it('has one spelling', () => {
    const id = encodeId('Run', newId())
    for (const other of [`${id}=`, ` ${id}`, `${id}\n`, `${id}A`, id.slice(1), `!${id}`, lastBitFlipped(id)]) {
      expect(parseId(other)).toBeNull()
      expect(decodeId('Run', other)).toBe(nil)
    }
  })

  it('is refused, never thrown at, when it is anything else', () => {
    fc.assert(
      fc.property(fc.oneof(fc.string({ unit: 'binary' }), fc.base64String(), fc.uuid()), (text) => {
        const parsed = parseId(text)
        return parsed === null || encodeId(parsed.type, parsed.uuid) === text
      }),
    )
  })
})

/** 17 bytes fill 23 characters but for two bits: another spelling of the same bytes. */
function lastBitFlipped(id: string): string {
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
  return id.slice(0, -1) + alphabet[alphabet.indexOf(id.at(-1) ?? '') ^ 1]
}
