import fc from 'fast-check'

/** Any string that JavaScript has: control characters, astral planes and lone surrogates too. */
export const anyText = fc.array(fc.nat(0xffff)).map((units) => String.fromCharCode(...units))
