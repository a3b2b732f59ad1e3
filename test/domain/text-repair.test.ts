import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { storable, TextRepair } from '../../src/domain/text-repair.ts'

describe('text in pieces', () => {
  it('comes out as the whole does, wherever it was cut', () => {
    const unit = fc.oneof(fc.constantFrom('\ud83d', '\udc4b', '\0', 'a', '語'), fc.string({ unit: 'binary', maxLength: 3 }))
    fc.assert(
      fc.property(fc.array(unit), (pieces) => {
        const repair = new TextRepair()
        const said = pieces.map((piece) => repair.push(piece))
        said.push(repair.end())
        expect(said.join('')).toBe(storable(pieces.join('')))
        for (const piece of said) expect(piece.isWellFormed()).toBe(true)
      }),
    )
  })
})
