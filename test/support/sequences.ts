const asked = process.env['SEQUENCES']

/** How many random sequences of operations to try: `SEQUENCES`, by default as many as suit every run of the tests. */
export const sequenceCount = Number(asked ?? 20)

/** For how long, in milliseconds: as long as it takes when a number was asked for. By default slow machines try fewer. */
export const sequencesTakeAtMost = asked === undefined ? 5_000 : Number.POSITIVE_INFINITY
